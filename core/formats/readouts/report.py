"""What is said of a sorted measurement: whether its samples are k-space, what was corrected of them, what is odd."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from udig_recon.core.errors import UnreadableScan
from udig_recon.core.formats.containers.arrays import BOMB_BYTES, BOMB_RATIO
from udig_recon.core.formats.kspace import content_checks as checks
from udig_recon.core.formats.kspace.statistics import KspaceStatistics, cross_check
from udig_recon.core.formats.readouts.placement import Grid
from udig_recon.core.formats.readouts.readouts import Flag

_FOURIER = "numpy.fft.fftshift(numpy.fft.fft2(numpy.fft.ifftshift(image)))"


def check_content(statistics: KspaceStatistics, where: NDArray[np.bool_]) -> None:
    """Raise UnreadableScan where the sorted samples are no k-space."""
    if axes := checks.axes_with_strong_ends(statistics.energy, where):
        raise UnreadableScan.at(
            "data",
            f"the strongest samples at both ends of {' and '.join(axes)}",
            "zero frequency where the header's limits and center_sample put it",
        )
    if checks.looks_like_an_image(statistics.planes):
        raise UnreadableScan.at("data", "what looks like an image", f"its k-space, {_FOURIER}")


def refuse_bomb(declared_bytes: int, lines: NDArray[Any]) -> None:
    """Raise UnreadableScan where k-space of so many bytes is declared, of which readouts measure next to nothing."""
    held = 8 * int((lines["samples"].astype(np.int64) * lines["coils"]).sum())
    if declared_bytes > BOMB_BYTES and declared_bytes > BOMB_RATIO * held:
        found = f"a matrix of {declared_bytes} bytes, of which {held} were measured"
        raise UnreadableScan.at("xml", found, f"at most {BOMB_RATIO} times what was measured")


def content_warnings(statistics: KspaceStatistics, where: NDArray[np.bool_]) -> list[str]:
    """Warnings about the sorted samples, measured `where` (ky, kx)."""
    warnings = []
    if axes := checks.one_sided_axes(where):
        warnings.append(
            f"k-space reaches less far to one side along {' and '.join(axes)} (partial Fourier, asymmetric echo): the "
            "image is blurred there, as the other side is not filled in"
        )
    return warnings + cross_check(statistics, where, None, None)


def corrections_of(lines: NDArray[Any], grid: Grid, averages: int) -> list[str]:
    """What was done to the image's readouts, in sentences."""
    done = []
    if grid.kept != grid.columns:
        done.append(f"readout oversampling was removed: {grid.kept} of {grid.columns} columns are kept")
    reverse = int(((lines["flags"] & np.uint64(Flag.REVERSE)) != 0).sum())
    if reverse:
        done.append(f"{reverse} reversed readouts were turned round")
    if averages > 1:
        done.append(f"averages were taken of up to {averages} measurements of a readout")
    return done
