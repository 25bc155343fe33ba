"""How the engine computes in a command: CPU threads, and the folder of stored projectors."""

import sys
from pathlib import Path

import torch

from udig_recon.core.operators.pair_cache import use_projector_cache


def prepare_engine(threads: int, projectors: Path | None, max_projector_bytes: int) -> None:
    """Use so many CPU threads, and keep projectors in a folder where one is given."""
    torch.set_num_threads(max(1, threads))
    use_projector_cache(projectors, max_projector_bytes, _warn_of_projector)


def _warn_of_projector(_: str, file: str, error: str) -> None:
    sys.stderr.write(f"warning: the stored projector {file} is not used: {error}\n")
