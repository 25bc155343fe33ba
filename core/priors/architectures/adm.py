"""ADM (guided diffusion) of Dhariwal and Nichol (2021): variance preserving, predicts the noise."""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from udig_recon.core.priors.architectures.description import PublishedNetwork


class ADMNetwork(PublishedNetwork):
    """ADM (guided diffusion): variance preserving, predicts the noise (Dhariwal and Nichol 2021)."""

    loader: ClassVar[str] = "udig_recon.core.priors.published:load_adm"
    importer: ClassVar[str | None] = "udig_recon.core.priors.import_checkpoint:ADM"

    architecture: Literal["adm"] = "adm"
    attention: tuple[PositiveInt, ...] = Field(
        (), description="levels with attention, by how many times smaller than the image they are"
    )
    learned_variance: bool = Field(True, description="whether a second half of the output channels is a variance")
    head_channels: PositiveInt = Field(64, description="channels of an attention head")
    first_beta: float = Field(1e-4, gt=0, lt=1, description="beta of the first time step")
    last_beta: float = Field(0.02, gt=0, lt=1, description="beta of the last time step; linear in between")
    steps: int = Field(1000, ge=2, le=100_000, description="time steps")

    @model_validator(mode="after")
    def _groups_and_heads_divide(self) -> "ADMNetwork":
        for level, multiplier in enumerate(self.multipliers):
            has_attention = 2**level in self.attention or level == len(self.multipliers) - 1
            channels = self.width * multiplier
            divisor = self.head_channels if has_attention else 1
            if channels % divisor or channels % 32:
                raise ValueError(f"level {level} has {channels} channels, which must be a multiple of 32 and {divisor}")
        return self

    @property
    def summary(self) -> str:
        """The parametrisation, and whether a learned variance is ignored."""
        ignored = ", its learned variance unused" if self.learned_variance else ""
        return f"ADM, variance preserving, predicts the noise{ignored}"
