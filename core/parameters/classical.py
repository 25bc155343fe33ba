"""Parameters of the methods without a network."""

from typing import Literal

from pydantic import Field

from udig_recon.core.acquisition import Modality
from udig_recon.core.parameters.base import FitMaps, Parameters
from udig_recon.core.parameters.holdout import Discrepancy, EarlyStoppingParameters, HoldoutParameters


class Deterministic(Parameters):
    """Base of the methods that draw nothing at random."""

    @property
    def is_random(self) -> bool:
        """Whether another seed gives another image: never."""
        return False


class ZeroFilled(Deterministic, HoldoutParameters):
    """Coil-combined inverse Fourier transform of the measured k-space, zeros elsewhere: A^H y."""

    modalities = (Modality.MRI,)
    is_direct = True
    implementation = "udig_recon.core.algorithms.direct:zero_filled"
    method: Literal["zero_filled"] = "zero_filled"


class CGSense(Deterministic, EarlyStoppingParameters):
    """Least squares by conjugate gradients on A^H A x = A^H y, stopped early (Pruessmann et al. 2001)."""

    modalities = (Modality.MRI,)
    implementation = "udig_recon.core.algorithms.cg_sense:cg_sense"
    method: Literal["cg_sense"] = "cg_sense"
    iterations: int = Field(12, ge=1, le=1000, description="conjugate gradient iterations")
    ridge: float = Field(0.0, ge=0, description="weight of |x|^2, with |A| = 1")


class FBP(Deterministic, HoldoutParameters):
    """Filtered back-projection."""

    modalities = (Modality.CT,)
    is_direct = True
    implementation = "udig_recon.core.algorithms.direct:fbp"
    method: Literal["fbp"] = "fbp"
    filter: Literal["ramp", "hann"] = Field("ramp", description="window on the ramp filter")


class SIRT(Deterministic, EarlyStoppingParameters):
    """Simultaneous iterative reconstruction, non-negative: x <- max(x + C A^T R (y - A x), 0)."""

    modalities = (Modality.CT,)
    implementation = "udig_recon.core.algorithms.sirt:sirt"
    method: Literal["sirt"] = "sirt"
    iterations: int = Field(200, ge=1, le=20000, description="iterations")
    discrepancy: Discrepancy = 0.45


class TV(Parameters):
    """Total variation: min |A x - y|^2 / 2 + weight TV(x), non-negative in CT (Rudin, Osher, Fatemi 1992)."""

    implementation = "udig_recon.core.algorithms.tv:tv"
    method: Literal["tv"] = "tv"
    weight: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="weight of TV, with |A| = 1 and an object of about 1; none: by held-out measurements",
    )
    fit_maps: FitMaps = True
    iterations: int = Field(100, ge=1, le=100_000, description="iterations with the final weight")

    @property
    def is_random(self) -> bool:
        """Whether another seed gives another image, since it holds out other measurements."""
        return self.weight is None


class L1Wavelet(Parameters):
    """Sparse wavelets with cycle spinning: min |A x - y|^2 / 2 + weight |W x|_1 (Lustig et al. 2007)."""

    modalities = (Modality.MRI,)
    implementation = "udig_recon.core.algorithms.l1_wavelet:l1_wavelet"
    method: Literal["l1_wavelet"] = "l1_wavelet"
    weight: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="weight of |W x|_1, with |A| = 1 and an object of about 1; none: by held-out measurements",
    )
    fit_maps: FitMaps = True
    iterations: int = Field(150, ge=1, le=100_000, description="iterations with the final weight")
    vanishing_moments: int = Field(
        1, ge=1, le=8, description="of Daubechies' wavelet, half its filter's length; 1: Haar"
    )
    levels: int = Field(4, ge=1, le=8, description="levels of the decomposition")
