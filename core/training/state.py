"""Training state of a prior: weights, their exponential moving average, optimiser and learning-rate schedule."""

import math
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel

from udig_recon.core.errors import UnreadableScan, UnsupportedScan
from udig_recon.core.files.atomic import atomic_write
from udig_recon.core.priors.edm import SIGMA_DATA, EDMPrior

SIGMA_RANGE = (0.004, 1.2)
WIDTHS = (64, 128, 224)
BLOCKS = 2
WARM_UP_STEPS = 200

Settings = Mapping[str, int | float | str | list[int]]
"""Settings that a resumed training must share with its checkpoint, by name."""
ParameterList = tuple[Tensor, ...] | list[Tensor]


def step_generator(seed: int, step: int, rank: int = 0) -> Generator:
    """The random numbers of one step of one process: a resumed training draws those of an unbroken one."""
    # The CPU's generator uses 32 bits only: 2^24 steps for each of 256 processes, seeds spread over them.
    return Generator().manual_seed((seed * 0x9E3779B9 + rank * 2**24 + step) % 2**32)


class Training:
    """A prior under training. With several processes each step follows the mean of all their gradients."""

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
        warm_up: int = WARM_UP_STEPS,
    ) -> None:
        self.device = device or torch.device("cpu")
        self.prior = EDMPrior(channels, widths, blocks).to(
            device=self.device,
            memory_format=torch.channels_last,  # type: ignore[call-overload]
        )
        self.steps, self.learning_rate, self.decay, self.step = steps, learning_rate, decay, 0
        self.warm_up = warm_up
        self.averaged = AveragedModel(self.prior, multi_avg_fn=self._average)
        # The initial weights are the first of the average: the first update does not replace them.
        self.averaged.n_averaged.fill_(1)
        # The schedule gives the learning rate itself, so the optimiser's own is 1.
        self.optimiser = torch.optim.AdamW(self.prior.parameters(), lr=1.0, weight_decay=1e-4, betas=(0.9, 0.99))
        self.schedule = LambdaLR(self.optimiser, self._learning_rate)
        is_distributed = dist.is_available() and dist.is_initialized()
        self.model: nn.Module = DistributedDataParallel(self.prior) if is_distributed else self.prior

    def _learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to zero."""
        warm_up = min(1.0, (step + 1) / self.warm_up)
        return self.learning_rate * warm_up * (0.5 * (1 + math.cos(math.pi * step / self.steps)))

    def _average(self, averaged: ParameterList, current: ParameterList, _: Tensor | int) -> None:
        """Exponential moving average, with a short memory at first: the first weights are far from good ones."""
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        for mean, value in zip(averaged, current, strict=True):
            mean.lerp_(value, 1 - decay)

    def loss(self, clean: Tensor, rng: Generator) -> Tensor:
        """Denoising loss of clean images (B, C, H, W), of the same size at every sigma (Karras et al. 2022)."""
        low, high = (math.log(sigma) for sigma in SIGMA_RANGE)
        # Drawn on the CPU: the same numbers on every device.
        sigma = torch.exp(low + (high - low) * torch.rand(clean.shape[0], generator=rng))
        noisy = clean + sigma[:, None, None, None] * torch.randn(clean.shape, generator=rng)
        clean, noisy, sigma = (part.to(self.device) for part in (clean, noisy, sigma))
        weight = 1 / sigma**2 + 1 / SIGMA_DATA**2
        loss: Tensor = (weight * ((self.model(noisy, sigma) - clean) ** 2).mean((1, 2, 3))).mean()
        return loss

    def update(self, clean: Tensor, rng: Generator, *, stop: bool = False) -> tuple[Tensor, bool]:
        """One step on clean images (B, C, H, W) of this process; returns the loss and whether any process asks to stop.

        All processes get the same answer, so they stop after the same step.
        """
        self.optimiser.zero_grad()
        loss = self.loss(clean, rng)
        torch.autograd.backward(loss)
        self.descend()
        return loss.detach(), _any_process(stop, self.device)

    def descend(self) -> None:
        """One AdamW step along the gradients that the parameters hold."""
        torch.nn.utils.clip_grad_norm_(self.prior.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.step += 1
        self.averaged.update_parameters(self.prior)

    def start_from(self, prior: nn.Module) -> None:
        """Take the weights of a trained prior with the same network."""
        self.prior.load_state_dict(prior.state_dict())
        self.averaged.module.load_state_dict(prior.state_dict())

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights in half precision, as a prior's file holds them."""
        return {key: value.half().cpu().contiguous() for key, value in self.averaged.module.state_dict().items()}

    def save(self, path: Path, settings: Settings) -> None:
        """Write a checkpoint: weights, average, optimiser, step and settings."""
        state = {
            "prior": self.prior.state_dict(),
            "mean": self.averaged.module.state_dict(),
            "step": self.step,
            "optimiser": self.optimiser.state_dict(),
            "settings": dict(settings),
        }
        with atomic_write(path) as part:
            torch.save(state, part)

    def load(self, path: Path, settings: Settings) -> None:
        """Resume from a checkpoint.

        Raises UnreadableScan when the file is none, UnsupportedScan when it was written with other settings.
        """
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            _check_settings(path, state.get("settings", {}), settings)
            self.prior.load_state_dict(state["prior"])
            self.averaged.module.load_state_dict(state["mean"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step = int(state["step"])
        except (RuntimeError, ValueError, KeyError, AttributeError, EOFError, pickle.UnpicklingError) as error:
            expected = "a checkpoint of a training with this network; delete it to begin anew"
            raise UnreadableScan(f"{path.name} cannot be read, expected {expected}", found=path.name) from error
        for group in self.optimiser.param_groups:
            group["initial_lr"] = 1.0  # absent from checkpoints of version 0.1
        self.schedule = LambdaLR(self.optimiser, self._learning_rate, last_epoch=self.step - 1)


def _check_settings(path: Path, saved: Settings, current: Settings) -> None:
    """Raise UnsupportedScan for settings that differ. Checkpoints of before settings were saved have none."""
    changed = [name for name in current if name in saved and saved[name] != current[name]]
    if changed:
        found = ", ".join(
            "other images" if name == "images" else f"{name} {saved[name]}, now {current[name]}" for name in changed
        )
        raise UnsupportedScan(
            f"{path.name} is of another training: {found}; give what it had, another --name, or delete it",
            field="checkpoint",
            found=found,
            expected="the settings that the training began with",
        )


def _any_process(stop: bool, device: torch.device) -> bool:
    """Whether any process says stop."""
    if not (dist.is_available() and dist.is_initialized()):
        return stop
    flag = torch.tensor(float(stop), device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag > 0)
