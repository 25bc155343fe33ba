"""A diffusion prior is a denoiser D(x, sigma), and nothing else."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from udig_recon.core.acquisition import Modality
from udig_recon.core.device import has_fast_bfloat16
from udig_recon.core.errors import MissingPrior
from udig_recon.core.files.atomic import replacing
from udig_recon.core.networks.adm import ADMUNet
from udig_recon.core.networks.denoiser import DenoiserUNet
from udig_recon.core.networks.ncsnpp import NCSNppUNet
from udig_recon.core.priors.card import ADMNetwork, Card, EDMNetwork, Folders, NCSNppNetwork, find_card, sha256_of
from udig_recon.core.priors.published import EpsilonPrior, LinearSchedule, ScorePrior

SIGMA_DATA = 0.3
"""Standard deviation of the training images, scaled to about [0, 1] (Karras et al. 2022)."""


class DiffusionPrior(nn.Module):
    """E[x0 | x0 + sigma n = x] with the preconditioning of Karras et al. (2022), table 1.

    Images (B, C, H, W) are scaled so that the object lies in about [0, 1]; sigma is in the same unit.
    """

    def __init__(self, channels: int, widths: Sequence[int], blocks: int = 2) -> None:
        super().__init__()
        self.channels = channels
        self.network = DenoiserUNet(channels, widths, blocks)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, C, H, W) at noise level sigma, a number or (B,)."""
        level, s = _level(x, sigma)
        total = (s**2 + SIGMA_DATA**2).sqrt()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=has_fast_bfloat16(x.device)):
            residual = self.network(x / total, level.log())
        c_skip, c_out = (SIGMA_DATA / total) ** 2, s * SIGMA_DATA / total
        denoised: Tensor = c_skip * x + c_out * residual.float()
        return denoised

    def encoder_features(self, x: Tensor, sigma: float | Tensor, above: int = 0) -> Tensor:
        """What the network's coarsest level, or one `above` it, makes of x (B, C, H, W) at level sigma, in float32."""
        level, s = _level(x, sigma)
        return self.network.encoder_features(x / (s**2 + SIGMA_DATA**2).sqrt(), level.log(), above)


def _level(x: Tensor, sigma: float | Tensor) -> tuple[Tensor, Tensor]:
    """The noise level of each image, as (B,) and (B, 1, 1, 1)."""
    level = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).expand(x.shape[0])
    return level, level[:, None, None, None]


def load_prior(name: str | None, modality: Modality, folder: Folders, device: torch.device) -> nn.Module:
    """Load the prior of that name, or the modality's bundled one, ready to evaluate as D(x, sigma).

    Raises MissingPrior when there is none, it belongs to the other modality, or its file differs from its card.
    """
    return prior_of(find_card(name, modality, folder), device)


@lru_cache(maxsize=4)
def prior_of(card: Card, device: torch.device) -> nn.Module:
    """Load the prior of a card, ready to evaluate as D(x, sigma). Raises MissingPrior."""
    if sha256_of(card.weights) != card.sha256:
        raise _unusable(card, f"its weights are not those its card names (sha256 {card.sha256}); install it again")
    try:
        weights = {key: value.float() for key, value in load_file(card.weights).items()}
        prior = _built(card, weights)
    except (SafetensorError, RuntimeError, ValueError) as error:
        told = " ".join(str(error).split())
        raise _unusable(card, f"its weights do not fit the network that its card describes: {told:.300}") from error
    prior.requires_grad_(False).eval()
    return prior.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _unusable(card: Card, why: str) -> MissingPrior:
    return MissingPrior(
        f"prior {card.name}: {why}",
        field="parameters.prior",
        found=card.name,
        expected="weights that match their card",
    )


def _built(card: Card, weights: dict[str, Tensor]) -> nn.Module:
    described = card.network
    if isinstance(described, EDMNetwork):
        prior = DiffusionPrior(described.channels, described.widths, described.blocks)
        prior.load_state_dict(weights)
        return prior
    # Hundreds of millions of weights are neither drawn at random nor held twice.
    with torch.device("meta"):
        network = network_of(described)
    network.load_state_dict(weights, assign=True)
    if isinstance(described, ADMNetwork):
        schedule = LinearSchedule(described.first_beta, described.last_beta, described.steps)
        return EpsilonPrior(network, described.channels, schedule, described.input_range)
    return ScorePrior(network, described.channels, described.noise_range, described.input_range)


def network_of(described: ADMNetwork | NCSNppNetwork) -> nn.Module:
    """A published network, its weights at random."""
    d = described
    if isinstance(d, ADMNetwork):
        return ADMUNet(d.channels, d.width, d.multipliers, d.blocks, d.attention, d.learned_variance, d.head_channels)
    return NCSNppUNet(d.channels, d.width, d.multipliers, d.blocks, d.scales)


def save_prior(weights: dict[str, Tensor], card: Card, folder: Path) -> None:
    """Write `<name>.safetensors`, then `<name>.json` with its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{card.name}.safetensors"
    with replacing(path) as part:
        save_file(weights, part)
        part.chmod(0o644)  # safetensors writes for the owner alone; a worker may be someone else
    complete = card.model_copy(update={"sha256": sha256_of(path)})
    with replacing(folder / f"{card.name}.json") as part:
        part.write_text(json.dumps(complete.model_dump(mode="json"), indent=2) + "\n")
