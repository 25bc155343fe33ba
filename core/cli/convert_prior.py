"""`udig convert-prior`: turn a published diffusion checkpoint into a prior."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from udig_recon.core.acquisition import Modality
from udig_recon.core.cli.arguments import refuse
from udig_recon.core.errors import ReconstructionError, UnreadableCheckpoint
from udig_recon.core.priors.card import BUNDLED, Card, first_error, sha256_of
from udig_recon.core.priors.import_checkpoint import Checkpoint, read_checkpoint
from udig_recon.core.priors.load import save_prior

LIMITS = (
    "Published by others; not trained, tested or measured by this project. It may invent or remove structure, most "
    "where a scan is unlike its training data; research use only."
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `udig convert-prior`."""

    checkpoint: Path
    layout: str
    modality: Modality
    name: str
    output: Path
    terms: str
    half: bool
    input_range: tuple[float, float]


def run(options: Options) -> int:
    """Convert; 0 when the prior is written, 2 when the checkpoint cannot be used."""
    try:
        convert(options)
    except ReconstructionError as error:
        found = f" ({error.found})" if error.found and error.found not in str(error) else ""
        return refuse(f"{error}{found}")
    except OSError as error:
        return refuse(f"{error.filename or options.checkpoint}: {error.strerror or error}")
    sys.stdout.write(f"{options.output / options.name}.json: ready; in DATA/priors jobs can name it\n")
    return 0


def convert(options: Options) -> None:
    """Write the checkpoint's weights and card. Raises ReconstructionError for what cannot be used, before it writes."""
    if (BUNDLED / f"{options.name}.json").exists():
        raise ReconstructionError(f"--name {options.name}: a bundled prior has this name", found=options.name)
    checkpoint = read_checkpoint(options.checkpoint, options.layout)
    card = _card(options, checkpoint)
    weights = {name: _to_half(name, value) for name, value in checkpoint.weights.items()} if options.half else None
    save_prior(checkpoint.weights if weights is None else weights, card, options.output)


def _card(options: Options, checkpoint: Checkpoint) -> Card:
    network = checkpoint.network.model_dump()
    if "input_range" in network:
        network["input_range"] = options.input_range
    try:
        return Card(
            name=options.name,
            modality=options.modality,
            description=f"Published network: {checkpoint.network.summary}",
            network=type(checkpoint.network).model_validate(network),
            sha256="",
            data=(f"not stated by the checkpoint; terms: {options.terms}",),
            held_out=(),
            training={
                "checkpoint": options.checkpoint.name,
                "checkpoint_sha256": sha256_of(options.checkpoint),
                "weights": "running mean of training (EMA)" if checkpoint.averaged else "as the file names them",
            },
            scores={},
            limits=LIMITS,
        )
    except ValidationError as error:
        raise ReconstructionError(f"{options.name}: {first_error(error)}", field="card") from error


def _to_half(name: str, value: Tensor) -> Tensor:
    # Vectors are small, and the Fourier features' W multiplies a phase: they stay as they are.
    if value.ndim < 2:
        return value
    half = value.half()
    if not bool(torch.isfinite(half).all()):
        raise UnreadableCheckpoint(f"{name} does not fit into half precision", field="checkpoint", found=name)
    return half
