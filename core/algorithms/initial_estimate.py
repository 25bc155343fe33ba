"""Initial estimates: the image that a method starts from, or a network's first input."""

from torch import Generator, Tensor

from udig_recon.core.algorithms.sirt import sirt
from udig_recon.core.algorithms.tv import tv
from udig_recon.core.inputs import Inputs
from udig_recon.core.parameters import SIRT, TV

SIRT_ITERATIONS = 100


def initial_estimate(inputs: Inputs, name: str, rng: Generator) -> Tensor:
    """An image (1, C, H, W): `adjoint`, `direct` (in CT `fbp`), `cg_sense`, `tv`, or in CT `sirt`."""
    y, A = inputs.y, inputs.A
    match name:
        case "adjoint":
            return A.adjoint(y)
        case "direct" | "fbp":
            image = A.direct(y)
            return image.clamp(min=0) if A.nonnegative else image
        case "cg_sense":
            return inputs.cg_estimate()
        case "tv":
            *_, last = tv(inputs, TV(), rng)
            return last.image
        case "sirt":
            *_, last = sirt(inputs, SIRT(iterations=SIRT_ITERATIONS), rng)
            return last.image.clamp(min=0)
    raise ValueError(f"no initial estimate has the name {name!r}")
