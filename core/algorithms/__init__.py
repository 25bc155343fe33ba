"""The methods, one algorithm a file, each a generator of iterates; here each is given what it needs."""

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor, nn

from udig_recon.core.algorithms.aseq_dip import aseq_dip
from udig_recon.core.algorithms.classical import cg_sense, fbp, sirt, zero_filled
from udig_recon.core.algorithms.daps import daps
from udig_recon.core.algorithms.dcdp import dcdp
from udig_recon.core.algorithms.dds import dds
from udig_recon.core.algorithms.diffpir import diffpir
from udig_recon.core.algorithms.dip import dip
from udig_recon.core.algorithms.dps import dps
from udig_recon.core.algorithms.es_dip import es_dip
from udig_recon.core.algorithms.fitting import noise_input
from udig_recon.core.algorithms.l1_wavelet import l1_wavelet
from udig_recon.core.algorithms.mcg import mcg
from udig_recon.core.algorithms.oes import oes
from udig_recon.core.algorithms.red_diff import red_diff
from udig_recon.core.algorithms.score_mri import score_mri
from udig_recon.core.algorithms.self_guided_dip import self_guided_dip
from udig_recon.core.algorithms.tv import tv
from udig_recon.core.algorithms.tv_dip import tv_dip
from udig_recon.core.algorithms.udig_dip import udig_dip
from udig_recon.core.algorithms.udig_dip_guarded import judged
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.iterates import Iterates, State
from udig_recon.core.networks.dip import ResidualUNet, UNet, initialise
from udig_recon.core.operators import LinearOperator
from udig_recon.core.operators.solvers import conjugate_gradient
from udig_recon.core.parameters import (
    DAPS,
    DCDP,
    DDS,
    DIP,
    DPS,
    ESDIP,
    FBP,
    MCG,
    OES,
    SIRT,
    TV,
    TVDIP,
    ASeqDIP,
    CGSense,
    DiffPIR,
    DIPProbe,
    EarlyStoppingParameters,
    Fit,
    L1Wavelet,
    Parameters,
    RandomInput,
    REDDiff,
    RefGuidedDIP,
    Sampler,
    ScoreMRI,
    SelfGuidedDIP,
    UDiGDIP,
    ZeroFilled,
    require,
)
from udig_recon.core.priors.card import Folders, find_card
from udig_recon.core.priors.load import load_prior
from udig_recon.core.priors.noise_levels import normal_like
from udig_recon.core.priors.ood import load_ood_scorer
from udig_recon.core.selection.early_stopping import Method, at_once, watched
from udig_recon.core.slice_order import WarmStart

START_CG_ITERATIONS = 8
START_SIRT_ITERATIONS = 100

SAMPLERS: Mapping[type[Parameters], Callable[..., Iterates]] = {
    DPS: dps,
    DDS: dds,
    DAPS: daps,
    DiffPIR: diffpir,
    REDDiff: red_diff,
    ScoreMRI: score_mri,
    MCG: mcg,
    DCDP: dcdp,
}
"""Called with y, A, first image, prior, parameters, rng, state."""
FITS: Mapping[type[Parameters], Callable[..., Iterates]] = {
    DIP: dip,
    RefGuidedDIP: dip,
    DIPProbe: dip,
    TVDIP: tv_dip,
    ESDIP: es_dip,
    ASeqDIP: aseq_dip,
    SelfGuidedDIP: self_guided_dip,
    OES: oes,
}
"""Called with y, A, first network input, network, parameters, rng, state."""


def run(
    y: Tensor,
    A: LinearOperator,
    method: Parameters,
    rng: Generator,
    priors: Folders,
    state: State | None,
    images: Mapping[str, Tensor] | None = None,
    warm_start: WarmStart | None = None,
) -> Iterates:
    """Iterates of a method for one slice, in the unit of y; `warm_start` has its reference slice's results.

    `images` (1, C, H, W) are what a scan may hold beside its measurements: `reference`, the truth, and
    `guide`, a structural image. Raises UnsupportedScan when the method needs one that is not there.
    """
    images = images or {}
    require(method, images)
    device, channels = rng.device, A.image_shape[0]
    match method:
        case ZeroFilled():
            return at_once(lambda y, A: zero_filled(y, A, method), y, A, method, rng)
        case FBP() if A.modality in method.modalities:
            return at_once(lambda y, A: fbp(y, A, method), y, A, method, rng)
        case TV():
            return tv(y, A, method, rng, state)
        case L1Wavelet():
            return l1_wavelet(y, A, method, rng, state)
        case EarlyStoppingParameters():
            return watched(_iterative(method, rng, priors, images), y, A, method, rng, state)
        case UDiGDIP():
            prior = load_prior(method.prior, A.modality, priors, device)

            def fresh() -> nn.Module:
                made = UNet(channels, channels) if method.network == "unet" else ResidualUNet(channels)
                return initialise(made.to(device), rng)

            def first(y: Tensor, A: LinearOperator) -> Tensor:
                return start(y, A, method.start, rng)

            if method.holdout_share > 0:
                ood_score = load_ood_scorer(prior, find_card(method.prior, A.modality, priors))
                return judged(y, A, first, fresh, prior, ood_score, method, rng, state, warm_start)
            return udig_dip(y, A, first(y, A), fresh(), prior, method, rng, state)
    raise inapplicable(method)


def inapplicable(method: Parameters) -> UnsupportedScan:
    """What is wrong with a method that no scan of this modality can be given to."""
    message = f"method {method.method} does not apply to this scan"
    return UnsupportedScan(message, field="parameters.method", found=method.method)


def _iterative(
    method: EarlyStoppingParameters, rng: Generator, priors: Folders, images: Mapping[str, Tensor]
) -> Method:
    """A method whose iterates are watched, as a function of measurements, model and state."""

    def iterates(y: Tensor, A: LinearOperator, state: State | None) -> Iterates:
        match method:
            case CGSense():
                return cg_sense(y, A, method, state)
            case SIRT():
                return sirt(y, A, method, state)
            case Fit():
                z = network_input(y, A, method, images, rng)
                network = initialise(UNet(z.shape[1], A.image_shape[0]).to(rng.device), rng)
                return FITS[type(method)](y, A, z, network, method, rng, state)
            case Sampler():
                prior = load_prior(method.prior, A.modality, priors, rng.device)
                return SAMPLERS[type(method)](y, A, start(y, A, "cg_sense", rng), prior, method, rng, state)
        raise inapplicable(method)

    return iterates


def network_input(y: Tensor, A: LinearOperator, method: Fit, images: Mapping[str, Tensor], rng: Generator) -> Tensor:
    """The first input z (1, C, H, W) of a network that is fitted."""
    match method:
        case RandomInput():
            return noise_input(A, method, rng)
        case RefGuidedDIP() if method.guide != "plain" and "guide" in images:
            return images["guide"]
        case DIPProbe(input_noise=sigma):
            noise = normal_like(images["reference"], rng)
            return noise if sigma is None else images["reference"] + sigma * noise
        case ASeqDIP(start="cg_sense"):
            return start(y, A, "cg_sense", rng)
    return direct_estimate(y, A)


def direct_estimate(y: Tensor, A: LinearOperator) -> Tensor:
    """Direct reconstruction (1, C, H, W), without negative attenuation."""
    x = A.direct(y)
    return x.clamp(min=0) if A.nonnegative else x


def start(y: Tensor, A: LinearOperator, name: str, rng: Generator) -> Tensor:
    """The first network input z_0 (1, C, H, W); `fbp` and `sirt` are for CT, as parameters.complete sees to."""
    rhs = A.adjoint(y)
    match name:
        case "adjoint":
            return rhs
        case "fbp":
            return direct_estimate(y, A)
        case "sirt":
            *_, last = sirt(y, A, SIRT(iterations=START_SIRT_ITERATIONS))
        case "tv":
            *_, last = tv(y, A, TV(), rng)
            return last.image
        case _:
            return conjugate_gradient(A.normal, rhs, torch.zeros_like(rhs), START_CG_ITERATIONS)
    return last.image.clamp(min=0)
