"""A diffusion prior is a denoiser D(x, sigma), and nothing else."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from core.acquisition import Modality
from core.cards import Card, find_card, sha256_of
from core.errors import MissingPrior
from core.files import replacing
from core.networks.denoiser import DenoiserUNet

SIGMA_DATA = 0.3
"""Standard deviation of the training images, scaled to about [0, 1] (Karras et al. 2022)."""


class DiffusionPrior(nn.Module):
    """E[x0 | x0 + sigma n = x] with the preconditioning of Karras et al. (2022), table 1.

    Images (B, C, H, W) are scaled so that the object lies in about [0, 1]; sigma is in the same unit.
    """

    def __init__(self, channels: int, widths: Sequence[int], blocks: int = 2) -> None:
        super().__init__()
        self.network = DenoiserUNet(channels, widths, blocks)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise x (B, C, H, W) at noise level sigma, a number or (B,)."""
        level = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).expand(x.shape[0])
        s = level[:, None, None, None]
        total = (s**2 + SIGMA_DATA**2).sqrt()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=has_fast_bfloat16(x.device)):
            residual = self.network(x / total, level.log())
        c_skip, c_out = (SIGMA_DATA / total) ** 2, s * SIGMA_DATA / total
        denoised: Tensor = c_skip * x + c_out * residual.float()
        return denoised


@lru_cache(maxsize=1)
def _cpu_has_bfloat16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported())


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 convolutions beat float32 here: on a CPU 1.8 times with AVX512-BF16, 3 to 8 times with AMX."""
    return torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bfloat16()


def load_prior(name: str | None, modality: Modality, folder: Path | None, device: torch.device) -> DiffusionPrior:
    """Load the prior of that name, or the modality's bundled one, ready to evaluate.

    Raises MissingPrior when there is none, it belongs to the other modality, or its file differs from its card.
    """
    return _load(find_card(name, modality, folder), device)


@lru_cache(maxsize=4)
def _load(card: Card, device: torch.device) -> DiffusionPrior:
    if sha256_of(card.weights) != card.sha256:
        raise MissingPrior(
            f"prior {card.name}: its weights are not those its card names (sha256 {card.sha256}); install it again",
            field="parameters.prior",
            found=card.name,
            expected="weights that match their card",
        )
    prior = DiffusionPrior(card.channels, card.widths, card.blocks)
    prior.load_state_dict({key: value.float() for key, value in load_file(card.weights).items()})
    prior.requires_grad_(False).eval()
    return prior.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def save_prior(weights: dict[str, Tensor], card: Card, folder: Path) -> None:
    """Write `<name>.safetensors`, then `<name>.json` with its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{card.name}.safetensors"
    with replacing(path) as part:
        save_file(weights, part)
    complete = card.model_copy(update={"sha256": sha256_of(path)})
    with replacing(folder / f"{card.name}.json") as part:
        part.write_text(json.dumps(complete.model_dump(mode="json"), indent=2) + "\n")
