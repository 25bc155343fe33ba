"""Description of a prior's network, as its card holds it: a pydantic model for each architecture. Torch-free."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class ConvolutionLevel(NamedTuple):
    """One resolution of a U-Net."""

    channels: int
    pixel_share: float  # pixels of the level as a share of the image's
    blocks: int  # residual blocks, on the way down and on the way up together


class NetworkDescription(BaseModel):
    """Base class of the descriptions.

    A subclass fixes `architecture` to a `Literal`, adds the fields that its loader needs, and names the loader. It
    imports neither torch nor a module that does: the API reads cards too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    loader: ClassVar[str]
    """`module:function`; the function takes a description and the tensors of the weights file by name (float32), and
    returns the denoiser D(x, sigma), a `torch.nn.Module`. It raises RuntimeError or ValueError for tensors that do not
    fit."""
    importer: ClassVar[str | None] = None
    """`module:object`, a CheckpointImporter that reads published checkpoints for `convert-prior`; None: unsupported."""
    takes_complex_parts: ClassVar[bool] = False
    """Whether a network of one channel denoises MR images by taking real and imaginary part as a batch."""

    architecture: str
    channels: PositiveInt = Field(description="image channels: 2 for MRI (re, im), 1 for CT")

    @property
    def summary(self) -> str:
        """The kind of network in a few words, for the card of a converted checkpoint."""
        return self.architecture

    @property
    def levels(self) -> Sequence[ConvolutionLevel]:
        """Size of each level, finest first, for estimates of time and memory; none: as the bundled networks."""
        return ()


class PublishedNetwork(NetworkDescription):
    """A U-Net whose checkpoints others have published."""

    takes_complex_parts: ClassVar[bool] = True

    width: PositiveInt = Field(description="channels of the finest level, before its multiplier")
    multipliers: tuple[PositiveInt, ...] = Field(min_length=1, description="channels of the levels in `width`")
    blocks: PositiveInt = Field(description="residual blocks per level")
    input_range: tuple[float, float] = Field(
        (0.0, 1.0), description="what image values 0 and 1 were in its training; the parts of MR images are signed"
    )

    @model_validator(mode="after")
    def _range_rises(self) -> "PublishedNetwork":
        if not self.input_range[1] > self.input_range[0]:
            raise ValueError(f"input_range {self.input_range} does not rise")
        return self

    @property
    def levels(self) -> Sequence[ConvolutionLevel]:
        """One block more on the way up than on the way down."""
        return [
            ConvolutionLevel(self.width * multiplier, 4.0**-level, 2 * self.blocks + 1)
            for level, multiplier in enumerate(self.multipliers)
        ]
