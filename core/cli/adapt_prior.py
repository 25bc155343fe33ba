"""`udig adapt-prior`: tune a prior on undersampled scans, without references."""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from udig_recon.core.acquisition import Modality, ScanHeader
from udig_recon.core.cli.arguments import refuse
from udig_recon.core.cli.failures import describe_failure
from udig_recon.core.device import select_device
from udig_recon.core.errors import ReconstructionError
from udig_recon.core.formats.sandbox.local import ScanReader
from udig_recon.core.formats.sandbox.pool import ReaderLost
from udig_recon.core.priors.architectures import EDMNetwork
from udig_recon.core.priors.card import BUNDLED, NAME, Card, cards, find_card
from udig_recon.core.priors.load import load_card, save_prior
from udig_recon.core.problem import slice_problem
from udig_recon.core.training.adaptation import Adaptation, OnProgress, TrainingSlice, Tuning, adapt_prior

NOT_BETTER = 1
"""Exit status where the tuned prior is not better and nothing is written."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `udig adapt-prior`."""

    scans: Sequence[Path]
    output: Path
    name: str
    prior: str | None
    priors: Path | None
    slices_per_scan: int
    steps: int
    learning_rate: float
    terms: str
    seed: int
    device: str
    threads: int


def run(options: Options) -> int:
    """Adapt; 0 when the prior is written, 1 when it is not better, 2 for input it cannot use."""
    reading: list[Path] = []
    try:
        return _run(options, reading)
    except (ReconstructionError, ReaderLost, OSError) as error:
        where = f"{reading[-1].name}: " if reading else ""
        return refuse(where + describe_failure(error, reading[-1] if reading else options.output))
    except KeyboardInterrupt:
        return 130


def _run(options: Options, reading: list[Path]) -> int:
    _check(options)
    torch.set_num_threads(max(1, options.threads))
    device = select_device(options.device)
    with ScanReader() as reader:
        headers = []
        for path in options.scans:
            reading.append(path)
            headers.append(reader.probe(path))
        modality = _modality(options.scans, [header for header, _ in headers])
        reading.clear()
        card, network = _prior(options, modality)
        slices: list[TrainingSlice] = []
        sources: dict[str, int] = {}
        rng = torch.Generator(device).manual_seed(options.seed)
        for path, (header, sha256) in zip(options.scans, headers, strict=True):
            if sha256 in sources:
                continue  # the same scan twice
            reading.append(path)
            split = list(_split(reader, path, header, options.slices_per_scan, rng, device))
            slices += split
            sources[sha256] = len(split)
        reading.clear()
    if not slices:
        raise ReconstructionError.at(
            "scans", "no slice with signal from which lines or views can be left out", "undersampled scans with signal"
        )
    tuning = Tuning(steps=options.steps, learning_rate=options.learning_rate, seed=options.seed)
    with _bars() as show:
        found = adapt_prior(load_card(card, device), network, slices, modality, tuning, show)
    residuals = f"residual on measurements left out: {found.before:.4f} before, {found.after:.4f} after"
    if not found.is_better:
        sys.stderr.write(f"{residuals}; the prior {card.name} stays the better one, nothing is written\n")
        return NOT_BETTER
    save_prior(found.weights, _card(options, card, sources, tuning, found), options.output)
    sys.stderr.write(f"{residuals}; written: {options.output / options.name}.safetensors and its card\n")
    return 0


def _check(options: Options) -> None:
    """Raises ReconstructionError for an option that cannot be."""
    if not re.fullmatch(NAME, options.name):
        expected = "up to 64 letters, digits, dots, dashes and underscores"
        raise ReconstructionError.at("--name", repr(options.name), expected)
    if (BUNDLED / f"{options.name}.json").exists() or (options.output / f"{options.name}.json").exists():
        raise ReconstructionError.at("--name", f"{options.name}, which a prior has already", "another name")
    for name, value in (("steps", options.steps), ("slices-per-scan", options.slices_per_scan)):
        if value < 1:
            raise ReconstructionError.at(f"--{name}", str(value), "1 or more")
    if not 0 < options.learning_rate <= 1:
        raise ReconstructionError.at("--learning-rate", f"{options.learning_rate:g}", "a number above 0, at most 1")
    if not 0 <= options.seed < 2**31:
        raise ReconstructionError.at("--seed", str(options.seed), f"0 to {2**31 - 1}")


def _modality(paths: Sequence[Path], headers: Sequence[ScanHeader]) -> Modality:
    """The modality of all scans. Raises ReconstructionError where they are of two."""
    first = headers[0].modality
    for path, header in zip(paths, headers, strict=True):
        if header.modality is not first:
            found = f"{path.name} of {header.modality}, while {paths[0].name} is of {first}"
            raise ReconstructionError.at("scans", found, "scans of one modality")
    return first


def _prior(options: Options, modality: Modality) -> tuple[Card, EDMNetwork]:
    """The prior to begin with. Raises MissingPrior, and ReconstructionError for a network not trained here."""
    card = find_card(options.prior, modality, options.priors)
    if not isinstance(card.network, EDMNetwork):
        trained = [each.name for each in cards(options.priors) if isinstance(each.network, EDMNetwork)]
        found = f"{card.name} of architecture {card.network.architecture}"
        raise ReconstructionError.at("--prior", found, f"a prior of train-prior: {', '.join(trained)}")
    return card, card.network


def _split(
    reader: ScanReader, path: Path, header: ScanHeader, count: int, rng: torch.Generator, device: torch.device
) -> Iterator[TrainingSlice]:
    """Slices of a scan at equal distances, those without signal left out."""
    count = min(count, header.slices)
    with reader.open(path) as scan:
        for part in range(count):
            number = (2 * part + 1) * header.slices // (2 * count)
            problem = slice_problem(scan.read([number]), 0, device, fit_maps=True)
            if (split := TrainingSlice.split(problem, rng)) is not None:
                yield split


def _card(options: Options, base: Card, sources: dict[str, int], tuning: Tuning, found: Adaptation) -> Card:
    """The card of the adapted prior: it names scans by their hash, never by file, and no people."""
    scans = [
        f"scan {sha256[:16]}, {count} slices, undersampled, people not known: {options.terms}"
        for sha256, count in sources.items()
    ]
    return Card(
        name=options.name,
        modality=base.modality,
        description=f"{base.name}, adapted to undersampled scans without references. {base.description}",
        network=base.network,
        sha256="",
        data=(*scans, *(f"{entry} (by the prior {base.name}, to begin with)" for entry in base.data)),
        held_out=base.held_out,
        training={
            "steps": tuning.steps,
            "batch": tuning.batch,
            "patch": tuning.patch,
            "learning_rate": tuning.learning_rate,
            "ema": tuning.decay,
            "seed": tuning.seed,
            "people": "not known",
            "scans": len(sources),
            "slices": sum(sources.values()),
            "started_from": base.name,
            "started_from_sha256": base.sha256,
        },
        scores={"left_out_residual_before": round(found.before, 5), "left_out_residual": round(found.after, 5)},
        limits="Adapted to its own reconstructions of undersampled scans of an unknown number of people: it may have "
        f"learnt their artefacts. Scores are of the same scans' measurements left out, not of other people. "
        f"{base.limits}",
    )


@contextmanager
def _bars() -> Iterator[OnProgress]:
    """A progress bar for each part of the work."""
    bar: tqdm[None] | None = None

    def show(label: str, done: int, total: int) -> None:
        nonlocal bar
        if bar is None or bar.desc != f"{label}: ":
            if bar is not None:
                bar.close()
            bar = tqdm(desc=label, total=total)
        bar.update(done - bar.n)

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()
