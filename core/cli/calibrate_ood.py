"""`udig calibrate-ood`: calibrate a prior's out-of-distribution score on its training images."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from udig_recon.core.cli.arguments import refuse
from udig_recon.core.device import select_device
from udig_recon.core.errors import ReconstructionError
from udig_recon.core.priors.card import read_card
from udig_recon.core.training.dataset import find_sources, load_images
from udig_recon.core.training.ood import calibrate_ood


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `udig calibrate-ood`."""

    prior: Path
    images: Path
    leave_out: Sequence[str]
    people: Path | None
    device: str


def run(options: Options) -> int:
    """Calibrate; 0 when the file is written, 2 for input it cannot use."""
    try:
        _run(options)
    except ReconstructionError as error:
        return refuse(str(error))
    except OSError as error:
        return refuse(f"{error.filename or options.images}: {error.strerror or error}")
    return 0


def _run(options: Options) -> None:
    card = read_card(options.prior)
    people = _people(options.people) if options.people else {}
    unused = (*options.leave_out, *card.held_out)
    sources = [source for source in find_sources(options.images, people) if not source.is_named(unused)]
    statistics = calibrate_ood(card, load_images(sources, card.modality), sources, select_device(options.device))
    limits = " or ".join(f"{float(each.limit):.2f}" for each in statistics.values())
    sys.stderr.write(f"{card.name}: images are unlike its own from a distance of {limits}\n")


def _people(path: Path) -> dict[str, str]:
    try:
        return TypeAdapter(dict[str, str]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise ReconstructionError(f"--people: {path.name} is no JSON object from names to people") from error
