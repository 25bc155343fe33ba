"""Load and save diffusion priors. A prior is a denoiser D(x, sigma), and nothing else."""

import json
import pkgutil
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from udig_recon.core.acquisition import Modality
from udig_recon.core.errors import MissingPrior
from udig_recon.core.files.atomic import atomic_write
from udig_recon.core.priors.card import Card, Folders, find_card, sha256_of


def load_prior(name: str | None, modality: Modality, folder: Folders, device: torch.device) -> nn.Module:
    """Load the prior of that name, or the modality's bundled one, ready to evaluate as D(x, sigma).

    Raises MissingPrior when there is none, it belongs to the other modality, or its file differs from its card.
    """
    return load_card(find_card(name, modality, folder), device)


@lru_cache(maxsize=4)
def load_card(card: Card, device: torch.device) -> nn.Module:
    """Load the prior of a card, ready to evaluate as D(x, sigma). Raises MissingPrior."""
    if sha256_of(card.weights) != card.sha256:
        raise _unusable(card, f"its weights are not those its card names (sha256 {card.sha256}); install it again")
    try:
        weights = {key: value.float() for key, value in load_file(card.weights).items()}
        prior: nn.Module = pkgutil.resolve_name(card.network.loader)(card.network, weights)
    except (SafetensorError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise _unusable(card, f"its weights do not fit the network that its card describes: {reason:.300}") from error
    prior.requires_grad_(False).eval()
    return prior.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _unusable(card: Card, reason: str) -> MissingPrior:
    return MissingPrior(
        f"prior {card.name}: {reason}",
        field="parameters.prior",
        found=card.name,
        expected="weights that match their card",
    )


def save_prior(weights: dict[str, Tensor], card: Card, folder: Path) -> None:
    """Write `<name>.safetensors`, then `<name>.json` with its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{card.name}.safetensors"
    with atomic_write(path) as part:
        save_file(weights, part)
        part.chmod(0o644)  # safetensors writes for the owner alone; a worker may run as another user
    complete = card.model_copy(update={"sha256": sha256_of(path)})
    with atomic_write(folder / f"{card.name}.json") as part:
        part.write_text(json.dumps(complete.model_dump(mode="json"), indent=2) + "\n")
