"""CG-SENSE: least squares by conjugate gradients, stopped early (Pruessmann et al. 2001)."""

from itertools import islice

from torch import Generator

from udig_recon.core.inputs import Inputs
from udig_recon.core.iterates import Iterate, Iterates, Misfit, State, snapshot, to_device
from udig_recon.core.operators.solvers import Descent, conjugate_gradient_iterates
from udig_recon.core.parameters import CGSense


def cg_sense(inputs: Inputs, p: CGSense, _: Generator, state: State | None = None) -> Iterates:
    """Conjugate gradients on (A^H A + ridge) x = A^H y from zero."""
    y, A = inputs.y, inputs.A
    rhs = A.adjoint(y)
    first, descent = 0, None
    if state is not None:
        first, descent = state["step"], Descent(**to_device(state["descent"], y.device))
    points = conjugate_gradient_iterates(lambda x: A.normal(x) + p.ridge * x, rhs, None, descent)
    for step, point in enumerate(islice(points, p.iterations - first), first + 1):
        loss = Misfit.mean(A, point.x, y)
        yield Iterate(step, p.iterations, point.x, loss, snapshot(descent=point._asdict(), step=step))
