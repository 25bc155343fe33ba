"""The state of one training: weights, their running mean, optimiser and schedule; saved and resumed as one."""

import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn

from udig_recon.core.errors import UnreadableScan, UnsupportedScan
from udig_recon.core.files.atomic import atomic_write
from udig_recon.core.priors.edm import SIGMA_DATA, EDMPrior

SIGMA_RANGE = (0.004, 1.2)
WIDTHS = (64, 128, 224)
BLOCKS = 2

Settings = Mapping[str, int | float | str | list[int]]
"""What must be the same for a run to go on: one entry a setting."""


def step_generator(seed: int, step: int, rank: int = 0) -> Generator:
    """The random numbers of one step of one process: a resumed run draws what the unbroken one would have drawn."""
    # The CPU's generator looks at 32 bits only: 2^24 steps for each of 256 processes, seeds spread over them.
    return Generator().manual_seed((seed * 0x9E3779B9 + rank * 2**24 + step) % 2**32)


class Training:
    """A prior under training; with several processes, each takes the step of the mean of all their gradients."""

    def __init__(
        self,
        channels: int,
        steps: int,
        learning_rate: float,
        decay: float,
        *,
        widths: Sequence[int] = WIDTHS,
        blocks: int = BLOCKS,
        device: torch.device | None = None,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.prior = EDMPrior(channels, widths, blocks).to(
            device=self.device,
            memory_format=torch.channels_last,  # type: ignore[call-overload]
        )
        self.optimiser = torch.optim.AdamW(self.prior.parameters(), learning_rate, weight_decay=1e-4, betas=(0.9, 0.99))
        self.mean = {key: value.clone() for key, value in self.prior.state_dict().items()}
        self.steps, self.learning_rate, self.decay, self.step = steps, learning_rate, decay, 0

    def loss(self, clean: Tensor, rng: Generator) -> Tensor:
        """Denoising loss of clean images (B, C, H, W), of one size at every sigma (Karras et al. 2022)."""
        low, high = (math.log(sigma) for sigma in SIGMA_RANGE)
        # Drawn on the CPU: the same numbers whatever the device.
        sigma = torch.exp(low + (high - low) * torch.rand(clean.shape[0], generator=rng))
        noisy = clean + sigma[:, None, None, None] * torch.randn(clean.shape, generator=rng)
        clean, noisy, sigma = (part.to(self.device) for part in (clean, noisy, sigma))
        weight = 1 / sigma**2 + 1 / SIGMA_DATA**2
        loss: Tensor = (weight * ((self.prior(noisy, sigma) - clean) ** 2).mean((1, 2, 3))).mean()
        return loss

    def update(self, clean: Tensor, rng: Generator, *, stop: bool = False) -> tuple[Tensor, bool]:
        """One step on clean images (B, C, H, W) of this process; gives the loss and whether any process wants to stop.

        All processes hear the same answer, so that they stop after the same step.
        """
        self.optimiser.zero_grad()
        loss = self.loss(clean, rng)
        torch.autograd.backward(loss)
        stop = _shared([p.grad for p in self.prior.parameters() if p.grad is not None], stop=stop)
        self.descend()
        return loss.detach(), stop

    def descend(self) -> None:
        """One AdamW step along the gradients that the parameters hold."""
        self._follow_schedule()
        torch.nn.utils.clip_grad_norm_(self.prior.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        self._average()

    def _follow_schedule(self) -> None:
        warm = min(1.0, (self.step + 1) / 200)
        fall = 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate * warm * fall

    def _average(self) -> None:
        # A short memory at first: the first weights are far from anything.
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        for key, value in self.prior.state_dict().items():
            self.mean[key].lerp_(value, 1 - decay)

    def start_from(self, prior: nn.Module) -> None:
        """Take the weights of a trained prior of the same network."""
        self.prior.load_state_dict(prior.state_dict())
        self.mean = {key: value.clone() for key, value in self.prior.state_dict().items()}

    def weights(self) -> dict[str, Tensor]:
        """The running mean of the weights in half precision, as a prior's file holds them."""
        return {key: value.half().cpu().contiguous() for key, value in self.mean.items()}

    def save(self, path: Path, settings: Settings) -> None:
        """Write everything needed to go on."""
        state = {"prior": self.prior.state_dict(), "mean": self.mean, "step": self.step}
        with atomic_write(path) as part:
            torch.save({**state, "optimiser": self.optimiser.state_dict(), "settings": dict(settings)}, part)

    def load(self, path: Path, settings: Settings) -> None:
        """Go on from a file of `save`.

        Raises UnreadableScan when it is none, UnsupportedScan when it was written with other settings.
        """
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            _refuse_others(path, state.get("settings", {}), settings)
            self.prior.load_state_dict(state["prior"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.mean = {key: value.to(self.device) for key, value in state["mean"].items()}
            self.step = int(state["step"])
        except (RuntimeError, ValueError, KeyError, AttributeError, EOFError, pickle.UnpicklingError) as error:
            expected = "a checkpoint of a training with this network; delete it to begin anew"
            raise UnreadableScan(f"{path.name} cannot be read, expected {expected}", found=path.name) from error


def _refuse_others(path: Path, then: Settings, now: Settings) -> None:
    """Checkpoints written before settings were kept in them have none, and are trusted."""
    changed = [name for name in now if name in then and then[name] != now[name]]
    if changed:
        found = ", ".join(_difference(name, then[name], now[name]) for name in changed)
        raise UnsupportedScan(
            f"{path.name} is of another training: {found}; give what it had, another --name, or delete it",
            field="checkpoint",
            found=found,
            expected="the settings that the training began with",
        )


def _difference(name: str, then: Any, now: Any) -> str:
    return "other images" if name == "images" else f"{name} {then}, now {now}"


def _shared(gradients: Sequence[Tensor], *, stop: bool) -> bool:
    """Replace gradients by their mean over all processes; whether any of them says stop."""
    if not (dist.is_available() and dist.is_initialized()):
        return stop
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), gradients[0].new_tensor([float(stop)])])
    dist.all_reduce(flat)
    parts = torch.split(flat[:-1] / dist.get_world_size(), [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view(gradient.shape))
    return bool(flat[-1] > 0)
