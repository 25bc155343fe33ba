"""Parameters of the diffusion samplers, with defaults for the bundled priors; docs/methods.md has published ones."""

from typing import Literal, Self

from pydantic import Field, model_validator

from udig_recon.core.acquisition import Modality
from udig_recon.core.parameters.base import check_levels
from udig_recon.core.parameters.holdout import EarlyStoppingParameters, MinProgress


class Sampler(EarlyStoppingParameters):
    """Base of the samplers: a chain of images that walks down falling noise levels."""

    needs_prior = True
    _levels_fall = model_validator(mode="after")(check_levels)

    prior: str | None = Field(None, description="name of the diffusion prior; none: the modality's bundled one")
    steps: int = Field(100, ge=1, le=100_000, description="noise levels walked down", json_schema_extra={"symbol": "N"})
    noise_level: float = Field(
        1.0,
        gt=0,
        le=1000,
        description="first noise level, in units of the normalised image; chains start from CG-SENSE and such noise",
        json_schema_extra={"symbol": "sigma_max"},
    )
    final_noise_level: float = Field(
        0.01, gt=0, le=10, description="last noise level", json_schema_extra={"symbol": "sigma_min"}
    )
    schedule: Literal["geometric", "linear_vp"] = Field(
        "geometric",
        description="levels between: a geometric series, or those of evenly spaced times of DDPM's linear schedule",
    )
    samples: int = Field(1, ge=1, le=64, description="chains that run in parallel; the image is their mean")
    min_progress: MinProgress = 0.5


class DPS(Sampler):
    """Diffusion posterior sampling: each step is corrected by the gradient of |A D(x) - y| (Chung et al. 2023)."""

    implementation = "udig_recon.core.algorithms.dps:dps"
    method: Literal["dps"] = "dps"
    step_size: float = Field(
        3.0, ge=0, le=1000, description="of the gradient of |A D(x) - y|", json_schema_extra={"symbol": "zeta"}
    )


class DDS(Sampler):
    """Decomposed diffusion sampling: a few conjugate gradient steps on each denoised image (Chung et al. 2024)."""

    implementation = "udig_recon.core.algorithms.dds:dds"
    method: Literal["dds"] = "dds"
    steps: int = Field(50, ge=1, le=100_000, description="noise levels walked down", json_schema_extra={"symbol": "N"})
    consistency_iterations: int = Field(
        5, ge=0, le=100, description="conjugate gradient iterations on each denoised image"
    )
    consistency_weight: float | None = Field(
        10.0,
        gt=0,
        description="weight of the data against the denoised image, with |A| = 1; none: the data alone",
        json_schema_extra={"symbol": "gamma"},
    )
    stochasticity: float = Field(
        0.85, ge=0, le=1, description="share of fresh noise in each step; 0: DDIM", json_schema_extra={"symbol": "eta"}
    )


class DAPS(Sampler):
    """Decoupled annealing posterior sampling: draw x0 given x_t and y, then add noise anew (Zhang et al. 2025)."""

    implementation = "udig_recon.core.algorithms.daps:daps"
    method: Literal["daps"] = "daps"
    prior_calls: int = Field(
        1, ge=1, le=100, description="prior evaluations of the flow from x_t to x0; 1: D(x_t), as sampling needs"
    )
    spread: float = Field(
        1.0,
        gt=0,
        le=1,
        description="standard deviation of the draw about D(x_t), in noise levels",
        json_schema_extra={"symbol": "r / sigma"},
    )
    langevin_steps: int = Field(
        50, ge=0, le=10_000, description="Langevin steps of a draw, 0: it is drawn at once by conjugate gradients"
    )
    langevin_rate: float = Field(
        0.1, gt=0, lt=2, description="step of Langevin in units of the steepest direction's variance"
    )
    consistency_iterations: int = Field(
        15, ge=1, le=1000, description="conjugate gradient iterations of a draw, where Langevin does not make it"
    )


class DiffPIR(Sampler):
    """Plug-and-play restoration: the proximal map of the data on each denoised image (Zhu et al. 2023)."""

    implementation = "udig_recon.core.algorithms.diffpir:diffpir"
    method: Literal["diffpir"] = "diffpir"
    consistency_weight: float = Field(
        1.0,
        ge=0,
        description="weight of the denoised image against the data, times noise variance / sigma^2",
        json_schema_extra={"symbol": "lambda"},
    )
    consistency_iterations: int = Field(10, ge=1, le=1000, description="conjugate gradient iterations of the map")
    stochasticity: float = Field(
        0.3,
        ge=0,
        le=1,
        description="share of fresh noise's variance in each step",
        json_schema_extra={"symbol": "zeta"},
    )


class REDDiff(Sampler):
    """Variational mode of the posterior: Adam on misfit and lambda x . (x - D(x + sigma n)) (Mardani et al. 2024)."""

    implementation = "udig_recon.core.algorithms.red_diff:red_diff"
    method: Literal["red_diff"] = "red_diff"
    steps: int = Field(200, ge=1, le=100_000, description="updates", json_schema_extra={"symbol": "N"})
    weight: float = Field(
        0.1, ge=0, description="weight of the prior, with |A| = 1", json_schema_extra={"symbol": "lambda"}
    )
    learning_rate: float = Field(0.05, gt=0, le=1, description="Adam's step size", json_schema_extra={"symbol": "beta"})


class PredictorCorrector(Sampler):
    """Base of the samplers with a predictor and a Langevin corrector (Song et al. 2021)."""

    corrector_ratio: float = Field(
        0.16, ge=0, le=1, description="signal-to-noise ratio of the corrector", json_schema_extra={"symbol": "r"}
    )


class ScoreMRI(PredictorCorrector):
    """Score-MRI: predictor and corrector, the data put in after each (Chung and Ye 2022)."""

    modalities = (Modality.MRI,)
    implementation = "udig_recon.core.algorithms.score_mri:score_mri"
    method: Literal["score_mri"] = "score_mri"
    coils: Literal["combined", "separate"] = Field(
        "combined", description="one complex image, or each coil's by itself and the root of their sum of squares"
    )

    @model_validator(mode="after")
    def _one_chain_a_coil(self) -> Self:
        if self.coils == "separate" and self.samples > 1:
            raise ValueError(f"coils separate leads one chain a coil, so samples must be 1, found {self.samples}")
        return self


class MCG(PredictorCorrector):
    """Manifold constrained gradient: predictor, corrector, gradient off the data, Kaczmarz (Chung et al. 2022)."""

    modalities = (Modality.CT,)
    implementation = "udig_recon.core.algorithms.mcg:mcg"
    method: Literal["mcg"] = "mcg"
    steps: int = Field(200, ge=1, le=100_000, description="noise levels walked down", json_schema_extra={"symbol": "N"})
    gradient_weight: float = Field(0.1, ge=0, le=100, description="of the manifold constrained gradient")
    projection_iterations: int = Field(
        5, ge=1, le=100, description="conjugate gradient iterations that take from the gradient what views measure"
    )


class DCDP(Sampler):
    """Data consistency and diffusion purification in turn, at falling noise levels (Li et al. 2024)."""

    implementation = "udig_recon.core.algorithms.dcdp:dcdp"
    method: Literal["dcdp"] = "dcdp"
    steps: int = Field(50, ge=1, le=100_000, description="rounds", json_schema_extra={"symbol": "K"})
    consistency_iterations: int = Field(
        3, ge=1, le=1000, description="conjugate gradient iterations on |A x - y|^2 in each round"
    )
    prior_calls: int = Field(1, ge=1, le=1000, description="prior evaluations per purification")
    sampler: Literal["ddim", "ancestral"] = Field("ddim", description="walk of several prior evaluations")
    noise_scale: float = Field(1.0, ge=0, le=1, description="share of the noise that purification really adds")
    noise_until: float = Field(
        0.0, ge=0, le=10, description="noise level below which purification adds no noise; 0: always"
    )
    symmetries: bool = Field(False, description="purify on a random rotation, flip and (MRI) global phase")

    @property
    def is_random(self) -> bool:
        """Whether another seed gives another image."""
        return self.symmetries or self.noise_scale > 0
