"""Scan files of people held out of training, with references, for `udig compare`.

`python -m benchmarks.data.scans --images FOLDER --output FOLDER` writes a brain at 4x and 8x and an abdomen from 30 and
18 views, one slice a file, simulated as for `benchmarks.accuracy.quality` (see `benchmarks.data.cases`). `--middle 128`
writes the middle 128 x 128 pixels of the brain only, for methods that take thousands of updates.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import h5py

from benchmarks.data.cases import BODY, BRAIN, Case, ct_cases, mri_cases
from udig_recon.core.acquisition import Acquisition, MRIAcquisition

LINES = ("4x", "8x")


def written(scan: Acquisition, path: Path) -> Path:
    """The path, where the scan is now an HDF5 file as its user would have it."""
    with h5py.File(path, "w") as file:
        file["reference"] = scan.reference
        if isinstance(scan, MRIAcquisition):
            file["kspace"], file["mask"] = scan.kspace, scan.mask
            file.attrs["pixel_spacing_mm"] = scan.pixel_spacing_mm[0]
        else:
            file["sinogram"], file["angles"] = scan.sinogram, scan.angles
            file.attrs["geometry"] = "parallel"
            for name in ("image_size", "pixel_size_mm", "detector_spacing_mm"):
                file.attrs[name] = getattr(scan, name)
    return path


def held_out(images: Path, middle: int | None) -> list[Case]:
    """The cases of people that no bundled prior has seen, at the samplings of the paper."""
    if middle is not None:
        return mri_cases(images, BRAIN, LINES, middle)
    return [*mri_cases(images, BRAIN, LINES), *ct_cases(images, BODY)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with mri/ and ct/")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--middle", type=int, metavar="PIXELS", help="a side of the middle of the brain, alone")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for case in held_out(options.images, options.middle):
        print(written(case.scan, options.output / f"{case.name}.h5"), flush=True)


if __name__ == "__main__":
    main()
