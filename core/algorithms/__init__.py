"""The methods, one algorithm a file, each a generator of iterates; here each is given what it needs."""

import torch
from torch import Generator, Tensor, nn

from core.algorithms.classical import cg_sense, fbp, sirt, zero_filled
from core.algorithms.dip import dip
from core.algorithms.judged import judged
from core.algorithms.l1_wavelet import l1_wavelet
from core.algorithms.tv import tv
from core.algorithms.udig_dip import udig_dip
from core.cards import Folders, find_card
from core.errors import UnsupportedScan
from core.familiarity import strangeness_to
from core.iterates import Iterates, State
from core.networks.dip import ResidualUNet, UNet, initialise
from core.operators import LinearOperator, ParallelBeamCT
from core.parameters import DIP, FBP, SIRT, TV, CGSense, L1Wavelet, Parameters, UDiGDIP, ZeroFilled
from core.priors import load_prior
from core.solvers import conjugate_gradient
from core.volumes import Precedent

START_CG_ITERATIONS = 8
START_SIRT_ITERATIONS = 100


def run(
    y: Tensor,
    A: LinearOperator,
    method: Parameters,
    rng: Generator,
    priors: Folders,
    state: State | None,
    precedent: Precedent | None = None,
) -> Iterates:
    """Iterates of a method for one slice, in the unit of y; a judged one may follow the precedent of its leader."""
    device, channels = rng.device, A.image_shape[0]
    match method:
        case ZeroFilled():
            return zero_filled(y, A, method)
        case FBP() if isinstance(A, ParallelBeamCT):
            return fbp(y, A, method)
        case CGSense():
            return cg_sense(y, A, method, state)
        case SIRT():
            return sirt(y, A, method, state)
        case TV():
            return tv(y, A, method, rng, state)
        case L1Wavelet():
            return l1_wavelet(y, A, method, rng, state)
        case DIP():
            network = initialise(UNet(method.input_channels, channels).to(device), rng)
            return dip(y, A, network, method, rng, state)
        case UDiGDIP():
            prior = load_prior(method.prior, A.modality, priors, device)

            def fresh() -> nn.Module:
                made = UNet(channels, channels) if method.network == "unet" else ResidualUNet(channels)
                return initialise(made.to(device), rng)

            def first(y: Tensor, A: LinearOperator) -> Tensor:
                return start(y, A, method.start, rng)

            if method.held_out_share > 0:
                strangeness = strangeness_to(prior, find_card(method.prior, A.modality, priors))
                return judged(y, A, first, fresh, prior, strangeness, method, rng, state, precedent)
            return udig_dip(y, A, first(y, A), fresh(), prior, method, rng, state)
    raise UnsupportedScan(
        f"method {method.method} does not apply to this scan", field="parameters.method", found=method.method
    )


def start(y: Tensor, A: LinearOperator, name: str, rng: Generator) -> Tensor:
    """The first network input z_0 (1, C, H, W); `fbp` and `sirt` are for CT, as parameters.complete sees to."""
    rhs = A.adjoint(y)
    match name:
        case "adjoint":
            return rhs
        case "fbp" if isinstance(A, ParallelBeamCT):
            *_, last = fbp(y, A, FBP())
        case "sirt":
            *_, last = sirt(y, A, SIRT(iterations=START_SIRT_ITERATIONS))
        case "tv":
            *_, last = tv(y, A, TV(), rng)
            return last.image
        case _:
            return conjugate_gradient(A.normal, rhs, torch.zeros_like(rhs), START_CG_ITERATIONS)
    return last.image.clamp(min=0)
