"""Direct reconstructions: zero-filled k-space and filtered back-projection, without iterations."""

import torch
from torch import Generator

from udig_recon.core.inputs import Inputs
from udig_recon.core.iterates import Iterate, Iterates, State
from udig_recon.core.parameters import FBP, ZeroFilled


def zero_filled(inputs: Inputs, _: ZeroFilled, __: Generator, ___: State | None = None) -> Iterates:
    """The direct image: measurements that are missing count as zero; along a trajectory, compensated for density."""
    yield Iterate(1, 1, inputs.A.direct(inputs.y), torch.zeros(()))


def fbp(inputs: Inputs, p: FBP, _: Generator, __: State | None = None) -> Iterates:
    """Filtered back-projection, in 1/mm: the direct inverse of a CT geometry."""
    yield Iterate(1, 1, inputs.A.direct(inputs.y, p.filter), torch.zeros(()))
