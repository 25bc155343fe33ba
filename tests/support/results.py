"""Result files for tests."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from udig_recon.core.files.atomic import Digest
from udig_recon.core.results.output_format import ResultInfo, ResultSlice
from udig_recon.core.results.outputs import OUTPUTS, write_result


def write_hdf5(path: Path, slices: Iterable[ResultSlice], attributes: Mapping[str, Any]) -> Digest:
    """A result file of these slices."""
    listed = list(slices)
    return write_result(listed, ResultInfo(len(listed), attributes), {path: OUTPUTS["h5"]})[path]
