"""Teach a prior which images it was trained on.

`python -m udig_recon.core calibrate-ood --images DIR --prior FOLDER/NAME.json`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from udig_recon.core.device import prepared
from udig_recon.core.errors import ReconstructionError
from udig_recon.core.priors.card import read_card
from udig_recon.core.training.dataset import find_sources, load_images
from udig_recon.core.training.ood import calibrate_ood


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when the file is written, 2 for input it cannot use."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except ReconstructionError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"error: {error.filename or options.images}: {error.strerror or error}\n")
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m udig_recon.core calibrate-ood", description=__doc__)
    add = parser.add_argument
    add("--prior", type=Path, required=True, metavar="CARD", help="the prior's card, its weights beside it")
    add("--images", type=Path, required=True, help="folder of the images that it was trained on, as of train-prior")
    add("--leave-out", nargs="*", default=[], metavar="NAME", help="files or sub-folders that it was not trained on")
    add("--people", type=Path, metavar="JSON", help="file or sub-folder -> person, where a person has several")
    add("--device", default="auto", help="cpu, cuda, cuda:N; a GPU by default where there is one")
    return parser


def _run(options: argparse.Namespace) -> None:
    card = read_card(options.prior)
    people = _people(options.people) if options.people else {}
    unused = {*options.leave_out, *card.held_out}
    sources = [each for each in find_sources(options.images, people) if not {each.name, each.person} & unused]
    learned = calibrate_ood(card, load_images(sources, card.modality), sources, prepared(options.device))
    limits = " or ".join(f"{float(each.limit):.2f}" for each in learned.values())
    sys.stderr.write(f"{card.name}: images are unlike its own from a distance of {limits}\n")


def _people(path: Path) -> dict[str, str]:
    try:
        return TypeAdapter(dict[str, str]).validate_json(path.read_bytes())
    except ValidationError as error:
        raise ReconstructionError(f"--people: {path.name} is no JSON object from names to people") from error
