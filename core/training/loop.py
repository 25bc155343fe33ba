"""Training loop: steps with periodic hooks that save checkpoints, validate and report, and a stop at any step."""

import json
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from udig_recon.core.acquisition import Modality
from udig_recon.core.files.atomic import atomic_write
from udig_recon.core.priors.card import Card
from udig_recon.core.priors.load import load_prior, save_prior
from udig_recon.core.training.augmentation import batch
from udig_recon.core.training.dataset import TrainingImage
from udig_recon.core.training.state import Settings, Training, step_generator

SAVE_EVERY = 500
REPORT_EVERY = 10
_CANDIDATE = "under-training"


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """The files of one training, all in one folder and named after the prior."""

    folder: Path
    name: str

    def path(self, suffix: str) -> Path:
        """The file with a suffix: .checkpoint, .history.jsonl, .png, .safetensors, .json."""
        return self.folder / f"{self.name}{suffix}"

    def history(self, until: int) -> list[dict[str, Any]]:
        """The scores of each validation up to step `until`."""
        path = self.path(".history.jsonl")
        lines = path.read_text().splitlines() if path.exists() else []
        return [entry for entry in map(json.loads, lines) if entry["step"] <= until]

    def write_history(self, history: list[dict[str, Any]]) -> None:
        """Write all scores, a line each."""
        with atomic_write(self.path(".history.jsonl")) as part:
            part.write_text("".join(json.dumps(entry) + "\n" for entry in history))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The images that a training draws from, and when it validates."""

    modality: Modality
    images: list[TrainingImage]
    batch: int
    patch: int
    seed: int
    score_every: int
    keep_best: bool


class Validator(Protocol):
    """Scores of a prior under training."""

    def evaluate(self, prior: nn.Module, name: str, folder: Path) -> tuple[dict[str, float], bytes]:
        """Scores with `reconstruction_psnr` among them, and a PNG, of the prior of that name in a folder."""
        ...


@dataclass(frozen=True)
class Hook:
    """An action after every step that is a multiple of one of its periods, and after the last step."""

    action: Callable[[], None]
    periods: Sequence[int]
    on_stop: bool = False  # whether to act after a step at which a signal stops the training

    def is_due(self, training: Training, stopped: bool = False) -> bool:
        """Whether to act after the current step, at which a signal may have stopped the training."""
        if stopped:
            return self.on_stop
        if training.step == training.steps:
            return True
        return training.step > 0 and any(training.step % period == 0 for period in self.periods)


def train(
    training: Training,
    plan: Plan,
    settings: Settings,
    outputs: Outputs,
    validator: Validator | None,
    card: Callable[[int, dict[str, float]], Card],
    rank: int = 0,
) -> int | None:
    """Train to the last step; returns the signal that stopped it before that, or None. Only rank 0 writes."""
    patience = 0.5 if sys.stderr.isatty() else 10
    with (
        _stop_signals() as signals,
        closing(batches(plan, training.step, rank, ahead=training.device.type == "cuda")) as source,
        tqdm(total=training.steps, initial=training.step, unit="step", mininterval=patience, disable=rank > 0) as bar,
    ):
        losses: list[Tensor] = []
        hooks = [Hook(lambda: bar.set_postfix(loss=f"{float(losses[-1]):.3f}", refresh=False), (REPORT_EVERY,))]
        if rank == 0:
            save = partial(training.save, outputs.path(".checkpoint"), settings)
            hooks.append(Hook(save, (SAVE_EVERY, plan.score_every), on_stop=True))
        if validator is not None:
            validate = Hook(_Validation(training, plan, outputs, validator, card, losses), (plan.score_every,))
            hooks.append(validate)
            if validate.is_due(training):
                validate.action()  # a training that was stopped between its checkpoint and its scores
        while training.step < training.steps:
            clean, rng = next(source)
            loss, stopped = training.update(clean, rng, stop=bool(signals))
            if validator is None:
                losses.clear()
            losses.append(loss)
            bar.update()
            for hook in hooks:
                if hook.is_due(training, stopped):
                    hook.action()
            if stopped:
                return signals[0] if signals else int(signal.SIGTERM)
    return None


class _Validation:
    """Hook that scores the weights as they would be written, and writes weights, picture and history."""

    def __init__(
        self,
        training: Training,
        plan: Plan,
        outputs: Outputs,
        validator: Validator,
        card: Callable[[int, dict[str, float]], Card],
        losses: list[Tensor],
    ) -> None:
        self.training, self.plan, self.outputs, self.validator, self.card = training, plan, outputs, validator, card
        self.losses = losses  # since the last validation; emptied by each
        self.history = outputs.history(training.step)

    def __call__(self) -> None:
        step = self.training.step
        if self.history and self.history[-1]["step"] == step:
            return
        weights = self.training.weights()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            # A name of its own: a bundled prior's would be found in the bundle.
            save_prior(weights, self.card(step, {}).model_copy(update={"name": _CANDIDATE}), folder)
            prior = load_prior(_CANDIDATE, self.plan.modality, folder, self.training.device)
            scores, picture = self.validator.evaluate(prior, _CANDIDATE, folder)
        best = max((entry["reconstruction_psnr"] for entry in self.history), default=-torch.inf)
        if not self.plan.keep_best or scores["reconstruction_psnr"] > best:
            save_prior(weights, self.card(step, scores), self.outputs.folder)
        with atomic_write(self.outputs.path(".png")) as part:
            part.write_bytes(picture)
        loss = {"loss": round(float(torch.stack(self.losses).mean()), 4)} if self.losses else {}
        self.losses.clear()
        self.history.append({"step": step, **loss, **scores})
        self.outputs.write_history(self.history)
        summary = ", ".join(f"{name} {value:.2f}" for name, value in scores.items())
        tqdm.write(f"{step}: {summary}", file=sys.stderr)


def batches(plan: Plan, step: int, rank: int, *, ahead: bool) -> Generator[tuple[Tensor, torch.Generator], None, None]:
    """Batches (B, C, H, W) from a step on, each with the generator of its step, without end.

    With `ahead` the next one is drawn while the last one is used: a GPU would wait for it.
    """

    def draw(number: int) -> tuple[Tensor, torch.Generator]:
        rng = step_generator(plan.seed, number, rank)
        return batch(plan.images, plan.modality, plan.patch, plan.batch, rng), rng

    if ahead:
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(draw, step)
            for number in count(step + 1):
                current = following.result()
                following = pool.submit(draw, number)
                yield current
    else:
        for number in count(step):
            yield draw(number)


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """The numbers of Ctrl-C and SIGTERM that came, which are recorded instead of ending the process."""
    received: list[int] = []

    def record(number: int, _: FrameType | None) -> None:
        received.append(number)

    former = {number: signal.signal(number, record) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
