"""`udig train-prior`: train a diffusion prior on images, with several processes under torchrun."""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from udig_recon.core.acquisition import Modality
from udig_recon.core.cli.arguments import refuse
from udig_recon.core.device import select_device
from udig_recon.core.errors import ReconstructionError
from udig_recon.core.priors.architectures import EDMNetwork
from udig_recon.core.priors.card import BUNDLED, IMAGE_CHANNELS, NAME, Card, find_card, read_card
from udig_recon.core.priors.load import load_prior
from udig_recon.core.training import loop
from udig_recon.core.training.dataset import Split, TrainingImage, find_sources, load_images, split_by_person
from udig_recon.core.training.loop import Outputs, Plan, Validator
from udig_recon.core.training.ood import calibrate_ood
from udig_recon.core.training.state import SIGMA_RANGE, Settings, Training
from udig_recon.core.training.validation import Validation

MINIMA = {"steps": 1, "batch": 1, "patch": 8, "blocks": 1, "score_every": 1, "seed": 0, "threads": 0}


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `udig train-prior`."""

    modality: Modality
    images: Path
    output: Path
    name: str | None
    hold_out: Sequence[str]
    leave_out: Sequence[str]
    people: Path | None
    sources: Path | None
    start_from: str | None
    steps: int
    batch: int
    patch: int
    learning_rate: float
    decay: float
    widths: Sequence[int]
    blocks: int
    score_every: int
    keep: str
    seed: int
    device: str
    threads: int


MakeValidator = Callable[[Sequence[TrainingImage], Modality, torch.device], Validator]


def run(options: Options, make_validator: MakeValidator = Validation) -> int:
    """Train; 0 when the prior is trained, 2 for input it cannot use, 128 + n when signal n ended it."""
    try:
        with _process_group(options.device) as (rank, device):
            return train(options, rank, device, make_validator)
    except ReconstructionError as error:
        return refuse(str(error))
    except OSError as error:
        return refuse(f"{error.filename or options.images}: {error.strerror or error}")
    except KeyboardInterrupt:
        return 130


@contextmanager
def _process_group(name: str) -> Iterator[tuple[int, torch.device]]:
    """Rank and device of this process, in a process group where torchrun started several."""
    if not (dist.is_available() and dist.is_torchelastic_launched()):
        yield 0, select_device(name)
        return
    gpus = name in ("auto", "cuda") and torch.cuda.is_available()
    device = select_device(f"cuda:{dist.get_node_local_rank()}" if gpus else name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # The other processes wait while the first one validates.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=2))
    try:
        yield dist.get_rank(), device
    finally:
        dist.destroy_process_group()


def train(options: Options, rank: int, device: torch.device, make_validator: MakeValidator) -> int:
    """Run or resume one training as one of its processes; returns the exit code."""
    outputs = _check_options(options)
    initial = _initial_prior(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    sources, people = _read_json(options.sources, "sources", dict), _read_json(options.people, "people", str)
    split = split_by_person(find_sources(options.images, people), options.hold_out, options.leave_out, options.seed)
    images = load_images(split.training, options.modality, sources)
    settings = _resume_settings(options, images)
    training = _training(options, outputs, settings, device)
    validator: Validator | None = None
    if rank == 0:
        outputs.folder.mkdir(parents=True, exist_ok=True)
        _write_warnings(options, outputs.name, split)
        held_out = load_images(split.validation, options.modality, only_native=True)
        validator = make_validator(held_out, options.modality, device)
    plan = Plan(
        modality=options.modality,
        images=images,
        batch=options.batch,
        patch=options.patch,
        seed=options.seed,
        score_every=options.score_every,
        keep_best=options.keep == "best",
    )
    data = (*_describe_data(split, sources), *_inherited_data(initial))
    card = partial(_card, outputs.name, options, data, split, len(images))
    stop_signal = loop.train(training, plan, settings, outputs, validator, card, rank)
    if stop_signal is None:
        if rank == 0:
            calibrate_ood(read_card(outputs.path(".json")), images, split.training, device)
        return 0
    if rank == 0:
        where = f"stopped after step {training.step} of {training.steps}"
        sys.stderr.write(f"{where}; the same command goes on from there\n")
    return 128 + stop_signal


def _training(options: Options, outputs: Outputs, settings: Settings, device: torch.device) -> Training:
    """A new training, or the one of the checkpoint."""
    torch.manual_seed(options.seed)
    training = Training(
        IMAGE_CHANNELS[options.modality],
        options.steps,
        options.learning_rate,
        options.decay,
        widths=options.widths,
        blocks=options.blocks,
        device=device,
    )
    if outputs.path(".checkpoint").exists():
        training.load(outputs.path(".checkpoint"), settings)
    elif options.start_from:
        training.start_from(load_prior(options.start_from, options.modality, options.output, device))
    return training


def _check_options(options: Options) -> Outputs:
    """Where to write. Raises ReconstructionError for a number or a name that cannot be."""
    for name, least in MINIMA.items():
        if (value := getattr(options, name)) < least:
            raise _wrong(name, value, f"{least} or more")
    if min(options.widths) < 1:
        raise _wrong("widths", options.widths, "channels of 1 or more")
    if options.steps >= 2**24 or options.seed >= 2**31:
        raise _wrong("steps and --seed", f"{options.steps} and {options.seed}", f"less than {2**24} and {2**31}")
    if not 0 <= options.decay < 1:
        raise _wrong("decay", options.decay, "a number from 0 to less than 1")
    if not 0 < options.learning_rate <= 1:
        raise _wrong("learning_rate", options.learning_rate, "a number above 0, at most 1")
    name = options.name or options.modality.value
    if not re.fullmatch(NAME, name):
        raise _wrong("name", repr(name), "up to 64 letters, digits, dots, dashes and underscores")
    return Outputs(folder=options.output, name=name)


def _wrong(option: str, found: object, expected: str) -> ReconstructionError:
    return ReconstructionError.at(f"--{option.replace('_', '-')}", str(found), expected)


def _read_json(path: Path | None, option: str, kind: type) -> dict[str, Any]:
    """A JSON object with values of one kind; an empty one where there is no file."""
    if path is None:
        return {}
    try:
        read = json.loads(path.read_text())
    except ValueError as error:
        raise _wrong(option, f"{path.name}, which is no JSON ({error})", "a JSON object") from error
    if not isinstance(read, dict) or not all(isinstance(value, kind) for value in read.values()):
        meaning = "names to people" if kind is str else "names to {weight, terms}"
        raise _wrong(option, f"something else in {path.name}", f"a JSON object from {meaning}")
    return read


def _write_warnings(options: Options, name: str, split: Split) -> None:
    if not options.hold_out:
        people = ", ".join(_person_names(split.validation))
        sys.stderr.write(
            f"warning: nobody was named by --hold-out; kept out of training, drawn by the seed: {people}\n"
        )
    if (BUNDLED / f"{name}.json").exists():
        sys.stderr.write(f"warning: a bundled prior is named {name} too and is found first; --name gives another\n")


def _resume_settings(options: Options, images: Sequence[TrainingImage]) -> Settings:
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.source} {image.weight} {tuple(image.pixels.shape)}".encode())
        digest.update(image.pixels.numpy().tobytes())
    names = ("steps", "batch", "patch", "learning_rate", "decay", "widths", "blocks", "seed")
    return {
        "modality": options.modality.value,
        **{name: getattr(options, name) for name in names},
        "start_from": options.start_from or "",
        "processes": _process_count(),
        "images": digest.hexdigest(),
    }


def _process_count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _person_names(sources: Sequence[Any]) -> list[str]:
    return sorted({source.person for source in sources})


def _describe_data(split: Split, sources: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The sources that the prior is trained on, with their terms of use."""
    return [
        f"{source.name if source.name == source.person else f'{source.name} ({source.person})'}: "
        f"{sources.get(source.name, {}).get('terms', 'terms not stated')}"
        for source in split.training
    ]


def _network(options: Options) -> EDMNetwork:
    return EDMNetwork(channels=IMAGE_CHANNELS[options.modality], widths=tuple(options.widths), blocks=options.blocks)


def _initial_prior(options: Options) -> Card | None:
    """The card of the prior to start from. Raises ReconstructionError when its network is not the one to be trained."""
    if not options.start_from:
        return None
    card = find_card(options.start_from, options.modality, options.output)
    network, wanted = card.network, _network(options)
    if not isinstance(network, EDMNetwork):
        found, expected = f"{card.name} of architecture {network.architecture}", f"{wanted.architecture}, trained here"
        raise _wrong("start_from", found, expected)
    if network != wanted:
        raise _wrong("start_from", f"{card.name} of {_shape(network)}", f"{_shape(wanted)}, or these options as found")
    return card


def _shape(network: EDMNetwork) -> str:
    return f"--widths {' '.join(map(str, network.widths))} --blocks {network.blocks}"


def _inherited_data(initial: Card | None) -> list[str]:
    """The data that the prior to start from was trained on."""
    if initial is None:
        return []
    return [f"{entry} (by the prior {initial.name}, to begin with)" for entry in initial.data]


def _card(
    name: str,
    options: Options,
    data: tuple[str, ...],
    split: Split,
    slices: int,
    step: int,
    scores: dict[str, float],
) -> Card:
    people = _person_names(split.training)
    count = "one person" if len(people) == 1 else f"{len(people)} people"
    return Card(
        name=name,
        modality=options.modality,
        description=f"Denoiser of {options.modality.value} images for purification, noise levels {SIGMA_RANGE}",
        network=_network(options),
        sha256="",
        data=data,
        held_out=tuple(_person_names(split.validation)),
        training={
            "steps": step,
            "of_steps": options.steps,
            "batch": options.batch,
            "patch": options.patch,
            "learning_rate": options.learning_rate,
            "ema": options.decay,
            "seed": options.seed,
            "processes": _process_count(),
            "people": len(people),
            "slices": slices,
            **({"started_from": options.start_from} if options.start_from else {}),
        },
        scores=scores,
        limits=f"Trained on {count}. It has not seen other anatomy, contrasts or disease and may invent or remove "
        "structure there; research use only.",
    )
