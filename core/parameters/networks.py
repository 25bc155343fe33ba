"""Parameters of the deep image prior and its relatives without a diffusion prior."""

from typing import Literal

from pydantic import Field

from udig_recon.core.parameters.holdout import EARLY_STOPPING_SHARE, EarlyStoppingParameters


class Fit(EarlyStoppingParameters):
    """Base of the methods that fit a network to the scan."""

    iterations: int = Field(2000, ge=1, le=100_000, description="network updates")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Adam's step size", json_schema_extra={"symbol": "beta"})
    averaging: float = Field(0.99, ge=0, lt=1, description="decay of the running mean of outputs; 0 gives the last")


class RandomInput(Fit):
    """Base of those whose input is noise."""

    input_channels: int = Field(16, ge=1, le=128, description="channels of the random input")


class DIP(RandomInput):
    """Deep image prior: a network with a fixed random input is fitted to the scan (Ulyanov et al. 2018)."""

    implementation = "udig_recon.core.algorithms.dip:dip"
    method: Literal["dip"] = "dip"


class TVDIP(RandomInput):
    """Deep image prior with total variation of its output in the loss (Liu et al. 2019)."""

    implementation = "udig_recon.core.algorithms.tv_dip:tv_dip"
    method: Literal["tv_dip"] = "tv_dip"
    weight: float = Field(1e-3, ge=0, le=1e6, description="weight of TV, with |A| = 1 and an object of about 1")


class ESDIP(RandomInput):
    """Deep image prior that stops where its output varies least from update to update (ES-EMV, Wang et al. 2023)."""

    implementation = "udig_recon.core.algorithms.es_dip:es_dip"
    method: Literal["es_dip"] = "es_dip"
    iterations: int = Field(5000, ge=1, le=100_000, description="network updates at most")
    averaging: float = Field(0.9, ge=0, lt=1, description="decay of the running mean of outputs; 0 gives the last")
    memory: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="weight of the newest output in mean and variance",
        json_schema_extra={"symbol": "alpha"},
    )
    variance_patience: int = Field(
        1000,
        ge=1,
        le=100_000,
        description="updates without a lower variance that end the run",
        json_schema_extra={"symbol": "P"},
    )
    warm_up: int = Field(100, ge=0, le=100_000, description="first updates that are not compared")


class OES(RandomInput):
    """Optimal eye surgeon: weights pruned at initialisation by a learnt mask, the rest fitted (Ghosh et al. 2024)."""

    implementation = "udig_recon.core.algorithms.oes:oes"
    method: Literal["oes"] = "oes"
    mask_iterations: int = Field(300, ge=1, le=100_000, description="updates of the mask")
    mask_learning_rate: float = Field(0.1, gt=0, le=10, description="Adam's step size for the mask")
    sparsity: float = Field(0.05, gt=0, le=1, description="share of the weights that is kept")
    divergence_weight: float = Field(
        1e-6, ge=0, description="weight of the mask's divergence from one of that share, with |A| = 1"
    )


class RefGuidedDIP(Fit):
    """Reference-guided deep image prior: the input is a structural image, the loss is DIP's (Zhao et al. 2020)."""

    implementation = "udig_recon.core.algorithms.dip:ref_guided_dip"
    method: Literal["ref_guided_dip"] = "ref_guided_dip"
    guide: Literal["file_or_plain", "file", "plain"] = Field(
        "file_or_plain",
        description="input: the scan's `guide` image, the direct reconstruction, or that where there is no guide",
    )

    @property
    def needs(self) -> str | None:
        """The guide, where no other input is allowed."""
        return "guide" if self.guide == "file" else None

    @property
    def needs_cure(self) -> str:
        """Another input than the guide."""
        return "; the parameter guide may be plain"


class DIPProbe(Fit):
    """For study: deep image prior whose input is the truth with noise, figure 1 of Liang et al. (2025)."""

    implementation = "udig_recon.core.algorithms.dip:dip_probe"
    method: Literal["dip_probe"] = "dip_probe"
    iterations: int = Field(4000, ge=1, le=100_000, description="network updates")
    learning_rate: float = Field(1e-4, gt=0, le=1, description="Adam's step size", json_schema_extra={"symbol": "beta"})
    averaging: float = Field(0.0, ge=0, lt=1, description="decay of the running mean of outputs; 0 gives the last")
    holdout_share: float | None = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the measurements that is held out to validate images; "
        f"none: {EARLY_STOPPING_SHARE:g}; 0: nothing",
    )
    input_noise: float | None = Field(
        0.1,
        ge=0,
        le=1000,
        description="standard deviation of the noise on the truth, in units of the normalised image; none: noise alone",
        json_schema_extra={"symbol": "sigma"},
    )

    @property
    def needs(self) -> str | None:
        """The reference."""
        return "reference"


class SelfGuidedDIP(Fit):
    """Self-guided deep image prior: the input is learnt too, under noise (Liang et al., IEEE TCI 2025)."""

    implementation = "udig_recon.core.algorithms.self_guided_dip:self_guided_dip"
    method: Literal["self_guided_dip"] = "self_guided_dip"
    iterations: int = Field(1000, ge=1, le=100_000, description="updates of network and input")
    input_learning_rate: float = Field(0.1, gt=0, le=1, description="Adam's step size for the input")
    input_noise: float = Field(
        0.5, ge=0, le=10, description="standard deviation of the noise on the input, in units of its largest magnitude"
    )
    draws: int = Field(4, ge=1, le=64, description="of that noise in each update")
    autoencoding_weight: float = Field(
        0.1, ge=0, description="weight of |E f(z + n) - z|^2, with |A| = 1", json_schema_extra={"symbol": "alpha"}
    )


class ASeqDIP(Fit):
    """Autoencoding sequential deep image prior: uDiG-DIP whose input is f(z) itself (Alkhouri et al. 2024)."""

    implementation = "udig_recon.core.algorithms.aseq_dip:aseq_dip"
    method: Literal["aseq_dip"] = "aseq_dip"
    start: Literal["plain", "cg_sense"] = Field(
        "plain",
        description="first network input: A^H y or, in CT, filtered back-projection; or conjugate gradients",
        json_schema_extra={"symbol": "z_0"},
    )
    inner_iterations: int = Field(
        2, ge=1, le=1000, description="network updates from one input to the next", json_schema_extra={"symbol": "N"}
    )
    autoencoding_weight: float = Field(
        1.0, ge=0, description="weight of |f(z) - z|^2, with |A| = 1", json_schema_extra={"symbol": "lambda"}
    )
