"""The loop of a training: steps, checkpoints, scores, pictures, and an end at any step when one is asked for."""

import json
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from udig_recon.core.acquisition import Modality
from udig_recon.core.files.atomic import atomic_write
from udig_recon.core.priors.card import Card
from udig_recon.core.priors.load import load_prior, save_prior
from udig_recon.core.training.augmentation import batch
from udig_recon.core.training.dataset import TrainingImage
from udig_recon.core.training.state import Settings, Training, step_generator
from udig_recon.core.training.validation import Validation

SAVED_EVERY = 500
SHOWN_EVERY = 10
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
        """Scores so far, a dict for each time; those after step `until` are forgotten."""
        path = self.path(".history.jsonl")
        lines = path.read_text().splitlines() if path.exists() else []
        return [entry for entry in map(json.loads, lines) if entry["step"] <= until]

    def write_history(self, history: list[dict[str, Any]]) -> None:
        """Write all scores, a line each."""
        with atomic_write(self.path(".history.jsonl")) as part:
            part.write_text("".join(json.dumps(entry) + "\n" for entry in history))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a training draws from and how often it looks at itself."""

    modality: Modality
    images: list[TrainingImage]
    batch: int
    patch: int
    seed: int
    score_every: int
    keep_best: bool


def follow(
    training: Training,
    plan: Plan,
    settings: Settings,
    outputs: Outputs,
    validation: Validation | None,
    card: Callable[[int, dict[str, float]], Card],
    rank: int = 0,
) -> int | None:
    """Train to the last step; gives the signal that ended it before that, or None. Only rank 0 writes."""
    history = outputs.history(training.step)
    losses: list[Tensor] = []
    patience = 0.5 if sys.stderr.isatty() else 10
    with (
        _signals() as heard,
        closing(drawn(plan, training.step, rank, ahead=training.device.type == "cuda")) as batches,
        tqdm(total=training.steps, initial=training.step, unit="step", mininterval=patience, disable=rank > 0) as bar,
    ):
        while True:
            due = training.step > 0 and (training.step % plan.score_every == 0 or training.step == training.steps)
            if due and validation is not None and (not history or history[-1]["step"] < training.step):
                _score(training, plan, outputs, validation, card, history, losses)
                losses.clear()
            if training.step == training.steps:
                return None
            clean, rng = next(batches)
            loss, stopped = training.update(clean, rng, stop=bool(heard))
            if validation is not None:
                losses.append(loss)
            bar.update()
            if training.step % SHOWN_EVERY == 0:
                bar.set_postfix(loss=f"{float(loss):.3f}", refresh=False)
            last = stopped or training.step == training.steps
            if rank == 0 and (last or training.step % SAVED_EVERY == 0 or training.step % plan.score_every == 0):
                training.save(outputs.path(".checkpoint"), settings)
            if stopped:
                return heard[0] if heard else int(signal.SIGTERM)


def drawn(plan: Plan, step: int, rank: int, *, ahead: bool) -> Generator[tuple[Tensor, torch.Generator], None, None]:
    """Batches (B, C, H, W) from a step on, each with the generator of its step.

    With `ahead` the next one is drawn while the last one is used: a GPU would wait for it.
    """

    def draw(number: int) -> tuple[Tensor, torch.Generator]:
        rng = step_generator(plan.seed, number, rank)
        return batch(plan.images, plan.modality, plan.patch, plan.batch, rng), rng

    if not ahead:
        for number in count(step):
            yield draw(number)
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(draw, step)
        for number in count(step + 1):
            current = following.result()
            following = pool.submit(draw, number)
            yield current


def _score(
    training: Training,
    plan: Plan,
    outputs: Outputs,
    validation: Validation,
    card: Callable[[int, dict[str, float]], Card],
    history: list[dict[str, Any]],
    losses: list[Tensor],
) -> None:
    """Judge the weights as they would be written, write them if they are to be kept, and a picture and a line."""
    weights = training.weights()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # A name of its own: a bundled prior's would be found in the bundle.
        save_prior(weights, card(training.step, {}).model_copy(update={"name": _CANDIDATE}), folder)
        prior = load_prior(_CANDIDATE, plan.modality, folder, training.device)
        scores = validation.denoising(prior)
        reconstruction, images = validation.reconstruction(_CANDIDATE, folder)
        picture = validation.picture(prior, images)
    scores |= reconstruction
    best = max((entry["reconstruction_psnr"] for entry in history), default=-torch.inf)
    if not plan.keep_best or scores["reconstruction_psnr"] > best:
        save_prior(weights, card(training.step, scores), outputs.folder)
    with atomic_write(outputs.path(".png")) as part:
        part.write_bytes(picture)
    loss = {"loss": round(float(torch.stack(losses).mean()), 4)} if losses else {}
    history.append({"step": training.step, **loss, **scores})
    outputs.write_history(history)
    shown = ", ".join(f"{name} {value:.2f}" for name, value in scores.items())
    tqdm.write(f"{training.step}: {shown}", file=sys.stderr)


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM, as a list of those that came, rather than an end at any place."""
    heard: list[int] = []

    def listen(number: int, _: FrameType | None) -> None:
        heard.append(number)

    former = {number: signal.signal(number, listen) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield heard
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
