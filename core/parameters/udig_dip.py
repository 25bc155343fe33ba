"""Parameters of uDiG-DIP and its presets."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from udig_recon.core.acquisition import Modality
from udig_recon.core.errors import UnsupportedScan
from udig_recon.core.parameters.base import FitMaps, Parameters, check_levels
from udig_recon.core.parameters.holdout import PRIOR_CHECK_SHARE

CT_STARTS = ("fbp", "sirt")


class UDiGDIP(Parameters):
    """Sequential diffusion-guided deep image prior, Algorithm 1 of Liang et al. (ICASSP 2025)."""

    needs_prior = True
    _levels_fall = model_validator(mode="after")(check_levels)
    implementation = "udig_recon.core.algorithms.udig_dip_guarded:udig_dip_guarded"
    method: Literal["udig_dip"] = "udig_dip"
    preset: Literal["paper", "standard", "preview", "fit"] = Field(
        "standard", description="preset that sets the parameters that are not given"
    )
    prior: str | None = Field(None, description="name of the diffusion prior; none: the modality's bundled one")
    start: Literal["adjoint", "cg_sense", "fbp", "sirt", "tv"] = Field(
        "tv", description="first network input", json_schema_extra={"symbol": "z_0"}
    )
    outer_iterations: int = Field(
        33, ge=1, le=100_000, description="outer iterations", json_schema_extra={"symbol": "K"}
    )
    inner_iterations: int = Field(
        0,
        ge=0,
        le=1000,
        description="network updates per outer iteration; 0: purification alone",
        json_schema_extra={"symbol": "N"},
    )
    autoencoding_weight: float = Field(
        0.1, ge=0, description="weight of |f(z) - z|^2, with |A| = 1", json_schema_extra={"symbol": "lambda"}
    )
    learning_rate: float = Field(1e-4, gt=0, le=1, description="Adam's step size", json_schema_extra={"symbol": "beta"})
    network: Literal["unet", "residual"] = Field(
        "residual",
        description="f: the paper's U-Net, or z + g(z) with a small U-Net g that starts at zero",
        json_schema_extra={"symbol": "f_theta"},
    )
    noise_level: float = Field(
        0.08,
        gt=0,
        le=10,
        description="first noise level of purification, in units of the normalised image",
        json_schema_extra={"symbol": "sigma(M)"},
    )
    final_noise_level: float = Field(
        0.005, gt=0, le=10, description="last noise level; levels fall geometrically over the outer iterations"
    )
    noise_scale: float = Field(
        0.0, ge=0, le=1, description="share of the noise that purification really adds; 1 is diffuse-denoise"
    )
    noise_until: float = Field(
        0.0,
        ge=0,
        le=10,
        description="noise level below which purification adds no noise, whatever its scale; 0: always",
    )
    noise: Literal["white", "homogenised"] = Field(
        "white",
        description="noise that purification adds: white, or what makes the image's error white (spectral "
        "homogenisation)",
    )
    antithetic: bool = Field(False, description="whether the samples' noise comes in pairs n, -n (antithetic variates)")
    samples: int = Field(
        1, ge=1, le=64, description="network inputs in parallel, each with its own noise; the image is their mean"
    )
    prior_calls: int = Field(
        1, ge=1, le=1000, description="prior evaluations per purification", json_schema_extra={"symbol": "S"}
    )
    sampler: Literal["ddim", "ancestral"] = Field(
        "ddim", description="walk of several prior evaluations: deterministic, or with fresh noise after each (eq. 3)"
    )
    purification_period: int = Field(
        1, ge=1, description="outer iterations from one purification to the next", json_schema_extra={"symbol": "P"}
    )
    consistency_iterations: int = Field(
        8, ge=0, le=100, description="conjugate gradient iterations that pull the purified input to the data; 0: none"
    )
    consistency_weight: float = Field(
        0.1,
        ge=0,
        description="weight of the purified input against the data, times the data's noise variance / sigma^2; "
        "twice that along trajectories",
    )
    dual_step: float = Field(
        0.0,
        ge=0,
        le=1,
        description="step of ADMM's scaled dual variable between purification and data; 0: none, 1: ADMM",
        json_schema_extra={"symbol": "u"},
    )
    symmetries: bool = Field(True, description="purify on a random rotation, flip and (MRI) global phase")
    fit_maps: FitMaps = True
    maps_period: int = Field(
        5,
        ge=0,
        description="outer iterations from one fit of the coil maps to the purified image to the next; 0: none (MRI)",
    )
    output: Literal["last", "mean", "consistent"] = Field(
        "last", description="image: the last f(z), the running mean of all, or the last pulled to the data"
    )
    momentum: float = Field(
        0.6,
        ge=0,
        lt=1,
        description="momentum of the purification's input, where no noise is added and no network is fitted; 0: none",
    )
    averaging: float = Field(0.9, ge=0, lt=1, description="decay of the running mean, where that is the output")
    holdout_share: float = Field(
        PRIOR_CHECK_SHARE,
        ge=0,
        le=0.5,
        description="share of lines, points or views that a trial run holds out, to compare the prior's image with "
        "total variation's; the final run uses all; 0: no comparison, the prior's image is taken",
    )

    def complete(self, modality: Modality) -> Self:
        """Fill in the preset. Raises UnsupportedScan for a start of the other modality."""
        filled = type(self)(**{**PRESETS[self.preset, modality], **self.model_dump(exclude_unset=True)})
        if modality is Modality.MRI and filled.start in CT_STARTS:
            raise UnsupportedScan(
                f"start {filled.start} needs a CT scan; an MRI scan starts from cg_sense, tv or adjoint",
                field="parameters.start",
                found=filled.start,
                expected="cg_sense | tv | adjoint",
            )
        return filled

    @property
    def checks_prior(self) -> bool:
        """Whether held-out measurements compare the prior's image with total variation's."""
        return self.holdout_share > 0

    @property
    def accepts_warm_start(self) -> bool:
        """Whether a slice can start from its reference slice: with a prior check, and without a network to fit."""
        return self.checks_prior and self.inner_iterations == 0

    @property
    def is_random(self) -> bool:
        """Whether another seed gives another image."""
        searches_weight = self.checks_prior or self.start == "tv"
        return searches_weight or self.inner_iterations > 0 or self.symmetries or self.noise_scale > 0


# Table 1 of the paper, literally: M = 150 steps of the linear VP schedule are the noise level 0.518 (hours per slice).
PAPER: dict[str, Any] = {
    "start": "adjoint",
    "outer_iterations": 2000,
    "inner_iterations": 2,
    "autoencoding_weight": 1.0,
    "learning_rate": 1e-4,
    "network": "unet",
    "noise_level": 0.518,
    "final_noise_level": 0.518,
    "noise_scale": 1.0,
    "noise_until": 0.0,
    "prior_calls": 150,
    "sampler": "ancestral",
    "consistency_iterations": 0,
    "symmetries": False,
    "momentum": 0.0,
    "maps_period": 0,
    "fit_maps": False,
    "holdout_share": 0.0,
}

MRI: dict[str, Any] = {"consistency_iterations": 12}
# Few views leave much undetermined: the mean of samples, drawn with noise in pairs n, -n, has the least error. With a
# dual variable data and prior may disagree on the way without a loss at the end (docs/decisions/0020).
CT: dict[str, Any] = {
    "noise_level": 0.1,
    "final_noise_level": 0.03,
    "noise_scale": 1.0,
    "noise_until": 0.0,
    "samples": 2,
    "antithetic": True,
    "dual_step": 1.0,
    "consistency_weight": 1.0,
    "outer_iterations": 25,
}
# Without a trial run and total variation the start is far from the image; noise helps to leave it.
PREVIEW: dict[str, Any] = {"start": "cg_sense", "outer_iterations": 30, "fit_maps": False, "holdout_share": 0.0}
PREVIEW_MRI: dict[str, Any] = {**PREVIEW, "noise_level": 0.5, "noise_scale": 0.6, "noise_until": 0.1}
PREVIEW_CT: dict[str, Any] = {**CT, **PREVIEW, "start": "sirt", "noise_level": 0.2, "outer_iterations": 16}

# `standard` with a network fitted to the scan: Algorithm 1 in the form that works best, a residual network.
FIT: dict[str, Any] = {"inner_iterations": 2, "network": "residual", "autoencoding_weight": 0.1, "learning_rate": 1e-4}

# What a preset sets for a modality, beside the defaults above.
PRESETS: dict[tuple[str, Modality], dict[str, Any]] = {
    ("paper", Modality.MRI): PAPER,
    ("paper", Modality.CT): PAPER,
    ("standard", Modality.MRI): MRI,
    ("standard", Modality.CT): CT,
    ("preview", Modality.MRI): PREVIEW_MRI,
    ("preview", Modality.CT): PREVIEW_CT,
    ("fit", Modality.MRI): {**MRI, **FIT},
    ("fit", Modality.CT): {**CT, **FIT, "dual_step": 0.0, "consistency_weight": 0.1, "final_noise_level": 0.01},
}
