"""Cards of the diffusion priors: what a prior is, where it comes from, which file holds it. Torch-free."""

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from core.acquisition import Modality
from core.errors import MissingPrior
from core.parameters import Parameters

BUNDLED = Path(__file__).parent / "weights"


class Card(BaseModel):
    """A prior's card, `<name>.json` beside `<name>.safetensors`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    modality: Modality
    description: str
    channels: int = Field(description="image channels: 2 for MRI (re, im), 1 for CT")
    widths: tuple[int, ...] = Field(description="channels of the network's levels, finest first")
    blocks: int = Field(description="residual blocks per level")
    sha256: str = Field(description="hash of the weights file")
    data: tuple[str, ...] = Field(description="what it was trained on, with terms")
    held_out: tuple[str, ...] = Field(description="people kept out of training")
    training: dict[str, float | int | str] = Field(description="settings of the training run")
    scores: dict[str, float] = Field(description="measured on the people kept out")
    limits: str = Field(description="what it must not be trusted with")
    weights: Path = Field(Path(), exclude=True, description="the weights file, set when the card is read")

    def __hash__(self) -> int:
        return hash(self.sha256)


def cards(folder: Path | None = None) -> list[Card]:
    """All priors: the bundled ones, then those in `folder`, by name. A user's prior may not take a bundled name."""
    found = [_read(path) for path in sorted(BUNDLED.glob("*.json"))]
    if folder is not None and folder.is_dir():
        taken = {card.name for card in found}
        found += [card for card in map(_read, sorted(folder.glob("*.json"))) if card.name not in taken]
    return found


def find_card(name: str | None, modality: Modality, folder: Path | None = None) -> Card:
    """The card of that name, or of the modality's bundled prior. Raises MissingPrior with what there is."""
    wanted = modality.value if name is None else name
    known = cards(folder)
    for card in known:
        if card.name == wanted and card.modality == modality:
            return card
    fitting = ", ".join(card.name for card in known if card.modality == modality) or "none installed"
    raise MissingPrior(
        f"no {modality} prior is named {wanted!r}; there are: {fitting}",
        field="parameters.prior",
        found=wanted,
        expected=fitting,
    )


def card_of(method: Parameters, modality: Modality, folder: Path | None = None) -> Card | None:
    """The card of the prior that a method names or takes by default; None: it needs none. Raises MissingPrior."""
    return find_card(getattr(method, "prior", None), modality, folder) if method.needs_prior else None


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> Card:
    weights = path.with_suffix(".safetensors")
    try:
        card = Card(**{**json.loads(path.read_text()), "weights": weights})
    except (ValueError, ValidationError) as error:
        raise MissingPrior(f"{path.name} is not a prior's card: {error}", field="prior", found=path.name) from error
    if not weights.is_file():
        raise MissingPrior(f"{path.name} has no weights file {weights.name} beside it", field="prior", found=path.name)
    return card
