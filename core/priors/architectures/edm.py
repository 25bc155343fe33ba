"""EDM U-Net: the denoiser that this project trains, preconditioned after Karras et al. (2022)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from udig_recon.core.priors.architectures.description import ConvolutionLevel, NetworkDescription


class EDMNetwork(NetworkDescription):
    """The network that this project trains: denoiser D(x, sigma) preconditioned after Karras et al. (2022)."""

    loader: ClassVar[str] = "udig_recon.core.priors.edm:load_edm"

    architecture: Literal["edm_unet"] = "edm_unet"
    widths: tuple[PositiveInt, ...] = Field(min_length=1, description="channels of its levels, finest first")
    blocks: PositiveInt = Field(description="residual blocks per level")

    @property
    def levels(self) -> Sequence[ConvolutionLevel]:
        """The finest level works on half the image's resolution."""
        return [
            ConvolutionLevel(width, 4.0 ** -(level + 1), 2 * self.blocks) for level, width in enumerate(self.widths)
        ]
