"""Model cards of the diffusion priors: network, training data, scores and limits of each. Torch-free."""

import hashlib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from udig_recon.core.acquisition import Modality
from udig_recon.core.errors import MissingPrior
from udig_recon.core.parameters import Parameters
from udig_recon.core.priors.architectures import ARCHITECTURES, NetworkDescription

BUNDLED = Path(__file__).parent / "weights"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Valid names of priors, and so of their files."""
Folders = Path | Sequence[Path] | None
"""Folders of priors beside the bundled ones. Of several priors with one name the first is used."""
IMAGE_CHANNELS = {Modality.MRI: 2, Modality.CT: 1}
"""Channels of an image: real and imaginary part of MRI, attenuation of CT."""


if TYPE_CHECKING:
    Network = NetworkDescription
else:
    Network = Annotated[Union[tuple(ARCHITECTURES.values())], Field(discriminator="architecture")]  # noqa: UP007


class Card(BaseModel):
    """A prior's card, `<name>.json` beside `<name>.safetensors`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=NAME)
    modality: Modality
    description: str
    network: Network
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
        if self.network.takes_complex_parts:
            fitting |= {1}
        if self.network.channels not in fitting:
            raise ValueError(
                f"its network has {self.network.channels} channels; {self.modality} images need "
                f"{' or '.join(map(str, sorted(fitting)))}"
            )
        return self

    def __hash__(self) -> int:
        return hash(self.sha256)


def cards(folder: Folders = None) -> list[Card]:
    """All usable priors: the bundled ones, then those in `folder`. Of several with one name the first counts."""
    return _read_all(folder)[0]


def find_card(name: str | None, modality: Modality, folder: Folders = None) -> Card:
    """The card of that name, or of the modality's bundled prior.

    Raises MissingPrior, which names the available priors. A broken card in `folder` hides no other; the error for its
    own prior says what is wrong with it.
    """
    wanted = modality.value if name is None else name
    known, broken = _read_all(folder)
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
    """The card of the prior that a method names or uses by default; None: it needs none. Raises MissingPrior."""
    return find_card(getattr(method, "prior", None), modality, folder) if method.needs_prior else None


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_error(error: ValidationError) -> str:
    """The first validation error of a card, in one line."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else first["msg"].removeprefix("Value error, ")


def _read_all(folder: Folders) -> tuple[list[Card], dict[str, MissingPrior]]:
    """The usable cards, and what is wrong with the others, by the names of their files."""
    known: dict[str, Card] = {}
    broken: dict[str, MissingPrior] = {}
    folders = [BUNDLED, *([folder] if isinstance(folder, Path) else folder or ())]
    for path in chain.from_iterable(sorted(each.glob("*.json")) for each in folders if each.is_dir()):
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
        raise _broken(path, f"is not a prior's card: {first_error(error)}") from error
    except OSError as error:
        raise _broken(path, f"cannot be read: {error.strerror or error}") from error
    if not weights.is_file():
        raise _broken(path, f"has no weights file {weights.name} beside it")
    return card


def _broken(path: Path, why: str) -> MissingPrior:
    return MissingPrior(
        f"{path.name} {why}", field="parameters.prior", found=path.stem, expected="a card and its weights"
    )
