"""NCSN++ of Song et al. (2021): variance exploding, gives the score."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from udig_recon.core.priors.architectures.description import PublishedNetwork


class NCSNppNetwork(PublishedNetwork):
    """NCSN++: variance exploding, gives the score of images in [0, 1], centres them itself (Song et al. 2021)."""

    loader: ClassVar[str] = "udig_recon.core.priors.published:load_ncsnpp"
    importer: ClassVar[str | None] = "udig_recon.core.priors.import_checkpoint:NCSNPP"

    architecture: Literal["ncsnpp"] = "ncsnpp"
    scales: PositiveInt = Field(description="noise levels listed in its weights")
    noise_range: tuple[float, float] = Field(description="least and highest noise level it was trained at")

    @model_validator(mode="after")
    def _levels_rise(self) -> "NCSNppNetwork":
        if not 0 < self.noise_range[0] < self.noise_range[1]:
            raise ValueError(f"noise_range {self.noise_range} does not rise from above zero")
        return self

    @property
    def summary(self) -> str:
        """The parametrisation."""
        return "NCSN++, variance exploding, gives the score"
