"""Cards of the diffusion priors: what a prior is, where it comes from, which file holds it. Torch-free."""

import hashlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, model_validator

from udig_recon.core.acquisition import Modality
from udig_recon.core.errors import MissingPrior
from udig_recon.core.parameters import Parameters

BUNDLED = Path(__file__).parent / "weights"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Names that a prior, and so its files, may have."""
Folders = Path | Sequence[Path] | None
"""Where priors lie beside the bundled ones; a name belongs to the first that bears it."""
IMAGE_CHANNELS = {Modality.MRI: 2, Modality.CT: 1}
"""Channels of an image: real and imaginary part of MRI, attenuation of CT."""


class _Network(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: PositiveInt = Field(description="image channels: 2 for MRI (re, im), 1 for CT")


class EDMNetwork(_Network):
    """The network that this project trains: denoiser D(x, sigma) preconditioned after Karras et al. (2022)."""

    architecture: Literal["edm_unet"] = "edm_unet"
    widths: tuple[PositiveInt, ...] = Field(min_length=1, description="channels of its levels, finest first")
    blocks: PositiveInt = Field(description="residual blocks per level")


class _PublishedNetwork(_Network):
    width: PositiveInt = Field(description="channels of the finest level, before its multiplier")
    multipliers: tuple[PositiveInt, ...] = Field(min_length=1, description="channels of the levels in `width`")
    blocks: PositiveInt = Field(description="residual blocks per level")
    input_range: tuple[float, float] = Field(
        (0.0, 1.0), description="what image values 0 and 1 were in its training; the parts of MR images are signed"
    )

    @model_validator(mode="after")
    def _range_rises(self) -> "_PublishedNetwork":
        if not self.input_range[1] > self.input_range[0]:
            raise ValueError(f"input_range {self.input_range} does not rise")
        return self


class ADMNetwork(_PublishedNetwork):
    """ADM (guided diffusion): variance preserving, predicts the noise (Dhariwal and Nichol 2021)."""

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
            attends = 2**level in self.attention or level == len(self.multipliers) - 1
            wide, share = self.width * multiplier, self.head_channels if attends else 1
            if wide % share or wide % 32:
                raise ValueError(f"level {level} has {wide} channels, which must be a multiple of 32 and {share}")
        return self


class NCSNppNetwork(_PublishedNetwork):
    """NCSN++: variance exploding, gives the score of images in [0, 1], centres them itself (Song et al. 2021)."""

    architecture: Literal["ncsnpp"] = "ncsnpp"
    scales: PositiveInt = Field(description="noise levels listed in its weights")
    noise_range: tuple[float, float] = Field(description="least and highest noise level it was trained at")

    @model_validator(mode="after")
    def _levels_rise(self) -> "NCSNppNetwork":
        if not 0 < self.noise_range[0] < self.noise_range[1]:
            raise ValueError(f"noise_range {self.noise_range} does not rise from above zero")
        return self


class Card(BaseModel):
    """A prior's card, `<name>.json` beside `<name>.safetensors`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=NAME)
    modality: Modality
    description: str
    network: Annotated[EDMNetwork | ADMNetwork | NCSNppNetwork, Field(discriminator="architecture")]
    sha256: str = Field(description="hash of the weights file")
    data: tuple[str, ...] = Field(description="what it was trained on, with terms")
    held_out: tuple[str, ...] = Field(description="people kept out of training")
    training: dict[str, float | int | str] = Field(description="settings of the training run")
    scores: dict[str, float] = Field(description="measured on the people kept out")
    limits: str = Field(description="what it must not be trusted with")
    weights: Path = Field(Path(), exclude=True, description="the weights file, set when the card is read")

    @model_validator(mode="before")
    @classmethod
    def _name_the_architecture(cls, card: Any) -> Any:
        # Cards once described the one architecture there was, at their top level.
        if not isinstance(card, dict) or "network" in card or "widths" not in card:
            return card
        described = {"architecture": "edm_unet"} | {
            key: card[key] for key in ("channels", "widths", "blocks") if key in card
        }
        return {key: value for key, value in card.items() if key not in described} | {"network": described}

    @model_validator(mode="after")
    def _channels_fit(self) -> "Card":
        fitting = {IMAGE_CHANNELS[self.modality]}
        if not isinstance(self.network, EDMNetwork):
            fitting |= {1}  # real and imaginary part one after the other
        if self.network.channels not in fitting:
            raise ValueError(
                f"its network has {self.network.channels} channels; {self.modality} images need "
                f"{' or '.join(map(str, sorted(fitting)))}"
            )
        return self

    def __hash__(self) -> int:
        return hash(self.sha256)


def cards(folder: Folders = None) -> list[Card]:
    """All usable priors: the bundled ones, then those in `folder`, by name. The first prior of a name keeps it."""
    return _survey(folder)[0]


def find_card(name: str | None, modality: Modality, folder: Folders = None) -> Card:
    """The card of that name, or of the modality's bundled prior. Raises MissingPrior with what there is.

    A broken card in `folder` hides no other; whoever asks for its prior is told what is wrong with it.
    """
    wanted = modality.value if name is None else name
    known, broken = _survey(folder)
    for card in known:
        if card.name == wanted and card.modality == modality:
            return card
    if wanted in broken:
        raise broken[wanted]
    fitting = ", ".join(card.name for card in known if card.modality == modality) or "none installed"
    others = f"; not usable: {', '.join(sorted(broken))}" if broken else ""
    raise MissingPrior(
        f"no {modality} prior is named {wanted!r}; there are: {fitting}{others}",
        field="parameters.prior",
        found=wanted,
        expected=fitting,
    )


def card_of(method: Parameters, modality: Modality, folder: Folders = None) -> Card | None:
    """The card of the prior that a method names or takes by default; None: it needs none. Raises MissingPrior."""
    return find_card(getattr(method, "prior", None), modality, folder) if method.needs_prior else None


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def told(error: ValidationError) -> str:
    """The first thing that is wrong with a card, in one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")


def _survey(folder: Folders) -> tuple[list[Card], dict[str, MissingPrior]]:
    """The usable cards, and by the names of their files what is wrong with the others."""
    known: dict[str, Card] = {}
    broken: dict[str, MissingPrior] = {}
    further = [folder] if isinstance(folder, Path) else folder or ()
    for path in chain.from_iterable(sorted(each.glob("*.json")) for each in (BUNDLED, *further) if each.is_dir()):
        try:
            card = read_card(path)
        except MissingPrior as error:
            broken[path.stem] = error
            continue
        if card.name in known:
            broken[path.stem] = _broken(path, f"names its prior {card.name!r}, as another does")
        else:
            known[card.name] = card
    return list(known.values()), broken


def read_card(path: Path) -> Card:
    """The card in a file, its weights beside it. Raises MissingPrior."""
    weights = path.with_suffix(".safetensors")
    try:
        card = Card.model_validate_json(path.read_bytes()).model_copy(update={"weights": weights})
    except ValidationError as error:
        raise _broken(path, f"is not a prior's card: {told(error)}") from error
    except OSError as error:
        raise _broken(path, f"cannot be read: {error.strerror or error}") from error
    if not weights.is_file():
        raise _broken(path, f"has no weights file {weights.name} beside it")
    return card


def _broken(path: Path, why: str) -> MissingPrior:
    return MissingPrior(
        f"{path.name} {why}", field="parameters.prior", found=path.stem, expected="a card and its weights"
    )
