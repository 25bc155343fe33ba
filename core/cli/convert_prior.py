"""Turn a published diffusion checkpoint into a prior.

`python -m udig_recon.core convert-prior checkpoint.pt --name knees ...`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from udig_recon.core.acquisition import Modality
from udig_recon.core.errors import ReconstructionError, UnreadableCheckpoint
from udig_recon.core.priors.card import BUNDLED, ADMNetwork, Card, sha256_of, told
from udig_recon.core.priors.import_checkpoint import Checkpoint, Layout, read_checkpoint
from udig_recon.core.priors.load import save_prior

NAMES = {"adm": "ADM, variance preserving, predicts the noise", "ncsnpp": "NCSN++, variance exploding, gives the score"}
LIMITS = (
    "Published by others; not trained, tested or measured by this project. It may invent or remove structure, most "
    "where a scan is unlike its training data; research use only."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; 0 when the prior is written, 2 when the checkpoint cannot be used."""
    options = _parser().parse_args(arguments)
    try:
        convert(options)
    except ReconstructionError as error:
        found = f" ({error.found})" if error.found and error.found not in str(error) else ""
        sys.stderr.write(f"error: {error}{found}\n")
    except OSError as error:
        sys.stderr.write(f"error: {error.filename or options.checkpoint}: {error.strerror or error}\n")
    else:
        sys.stdout.write(f"{options.output / options.name}.json: ready; in DATA/priors jobs can name it\n")
        return 0
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m udig_recon.core convert-prior", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="file of torch.save, by any name; its code is never run")
    parser.add_argument("--layout", type=Layout, choices=list(Layout), default=Layout.AUTO)
    parser.add_argument("--modality", type=Modality, choices=list(Modality), required=True)
    parser.add_argument("--name", required=True, help="what jobs will call the prior")
    parser.add_argument("--output", type=Path, required=True, help="folder for weights and card, as DATA/priors")
    parser.add_argument("--terms", default="not stated", help="licence or terms of use of the weights")
    parser.add_argument("--half", action="store_true", help="write matrices and kernels in half precision")
    parser.add_argument(
        "--input-range",
        type=float,
        nargs=2,
        default=(0.0, 1.0),
        metavar=("LOW", "HIGH"),
        help="what black and the brightest pixel were in its training; 0 1 by default",
    )
    return parser


def convert(options: argparse.Namespace) -> None:
    """Write the checkpoint's weights and card. Raises ReconstructionError for what cannot be used, before it writes."""
    if (BUNDLED / f"{options.name}.json").exists():
        raise ReconstructionError(f"--name {options.name}: a bundled prior has this name", found=options.name)
    checkpoint = read_checkpoint(options.checkpoint, options.layout)
    card = _card(options, checkpoint)
    weights = {name: _halved(name, value) for name, value in checkpoint.weights.items()} if options.half else None
    save_prior(checkpoint.weights if weights is None else weights, card, options.output)


def _card(options: argparse.Namespace, checkpoint: Checkpoint) -> Card:
    kind = NAMES[checkpoint.network.architecture]
    network = checkpoint.network.model_dump() | {"input_range": tuple(options.input_range)}
    variance = isinstance(checkpoint.network, ADMNetwork) and checkpoint.network.learned_variance
    try:
        return Card(
            name=options.name,
            modality=options.modality,
            description=f"Published network: {kind}{', its learned variance unused' if variance else ''}",
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
        raise ReconstructionError(f"{options.name}: {told(error)}", field="card") from error


def _halved(name: str, value: Tensor) -> Tensor:
    # Vectors are small, and the Fourier features' W multiplies a phase: they stay as they are.
    if value.ndim < 2:
        return value
    half = value.half()
    if not bool(torch.isfinite(half).all()):
        raise UnreadableCheckpoint(f"{name} does not fit into half precision", field="checkpoint", found=name)
    return half
