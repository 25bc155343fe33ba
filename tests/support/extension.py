"""Distributions from outside the package, whose entry points add to its registries."""

import os
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent


def install(folder: Path, name: str, source: str, entry_points: Mapping[str, str]) -> Path:
    """A distribution with one module; `entry_points` maps groups to lines such as `toy = module:FORMAT`.

    The folder is to stand on PYTHONPATH.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(dedent(source))
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = [f"[{group}]\n{line}\n" for group, line in entry_points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(groups))
    return folder


def path_with(folder: Path) -> str:
    """PYTHONPATH with this folder before what it holds."""
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
