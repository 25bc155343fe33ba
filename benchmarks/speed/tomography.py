"""Seconds and memory of a synchrotron scan: `python -m benchmarks.speed.tomography [detectors views [image.npy]]`.

A Data Exchange file of four rows, counts with flat and dark frames, is prepared in the sandbox as at upload, and a
slice is reconstructed by filtered back-projection on one core, as a job does it: with a held-out share, metrics and
rating. Beside it stand one projection and one back-projection, and filtered back-projection alone, of ours and of
ASTRA on the CPU (linear kernel, `pip install astra-toolbox`) on the same grid. Prints a Markdown row for each step;
memory is the step's own process at its largest. Images are compared with the phantom, away from its edges.
"""

import math
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

ROWS = 4
PHOTONS, DARK = 40_000.0, 100.0
SPACING_MM = 1e-3
# (x, y, radius, attenuation): lengths as shares of the field's radius, attenuation of a ray along that radius.
DISCS = ((0.0, 0.1, 0.75, 1.0), (-0.3, 0.3, 0.15, 1.0), (0.35, -0.2, 0.2, -0.7), (0.1, 0.55, 0.05, 3.0))


def main() -> None:
    """Make the file, and print a row for each step."""
    detectors, views = (int(each) for each in sys.argv[1:3]) if len(sys.argv) > 1 else (2560, 3000)
    print("| step | seconds | CPU seconds | MiB of memory | median error within the object |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path, prepared = Path(folder) / "scan.h5", Path(folder) / "scan.prepared"
        write_scan(path, detectors, views)
        size = path.stat().st_size >> 20
        _print(f"prepare {ROWS} rows of {detectors} detectors x {views} views ({size} MiB)", _apart(_prepare, path))
        _apart(_write_prepared, path, prepared)
        job = _apart(_reconstruct, prepared)
        _print("a job: fbp of a slice, at most 1024 x 1024 pixels", job)
        if len(sys.argv) > 3:
            np.save(sys.argv[3], job["image"])
        _print("projection and back-projection", _apart(_project, prepared))
        _print("filtered back-projection alone", _apart(_back_project, prepared))
        if find_spec("astra") is not None:
            _print("filtered back-projection alone, ASTRA", _apart(_back_project_by_astra, prepared))


def write_scan(path: Path, detectors: int, views: int) -> None:
    """A Data Exchange file of discs."""
    rng = np.random.default_rng(0)
    places = (np.arange(detectors) - (detectors - 1) / 2) / (detectors / 2)
    beam = PHOTONS * (1 + 0.2 * np.cos(3 * places)) * rng.normal(1, 0.01, (ROWS, detectors))
    with h5py.File(path, "w") as file:
        data = file.create_dataset("exchange/data", (views, ROWS, detectors), np.uint16, chunks=(1, ROWS, detectors))
        for view in range(views):
            theta = math.pi * view / views
            rays = np.zeros(detectors)
            for x, y, radius, value in DISCS:
                away = places - x * math.cos(theta) - y * math.sin(theta)
                rays += 2 * value * np.sqrt(np.clip(radius**2 - away**2, 0, None))
            data[view] = rng.poisson(beam * np.exp(-rays)) + DARK
        file["exchange/data_white"] = (rng.poisson(beam, (20, ROWS, detectors)) + DARK).astype(np.uint16)
        file["exchange/data_dark"] = np.full((10, ROWS, detectors), DARK, np.uint16)
        theta = file.create_dataset("exchange/theta", data=np.arange(views) * 180 / views)
        theta.attrs["units"] = "deg"
        pixel = file.create_dataset("measurement/instrument/detector/pixel_size_x", data=1e3 * SPACING_MM)
        pixel.attrs["units"] = "um"


def _phantom(pixels: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Attenuation in 1/mm for a field of radius 1 mm, and where no edge is near."""
    places = (np.arange(pixels) - (pixels - 1) / 2) / (pixels / 2)
    image, clear = np.zeros((pixels, pixels)), np.ones((pixels, pixels), bool)
    for x, y, radius, value in DISCS:
        distance = np.hypot(places - x, -places[:, None] - y)
        image += value * (distance < radius)
        clear &= np.abs(distance - radius) > 6 / pixels
    return image, clear & (image > 0)


def _apart(task: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(task, *arguments).result()


def _write_prepared(path: Path, prepared: Path) -> None:
    from udig_recon.core.formats.limits import DEFAULT_LIMITS
    from udig_recon.core.formats.sandbox.client import Prober

    prober = Prober()
    with prepared.open("w+b") as file:
        prober.prepare_scan(path, file.fileno(), "0" * 64, DEFAULT_LIMITS)
    prober.close()


def _prepare(path: Path) -> Mapping[str, float]:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        _write_prepared(path, Path(folder) / "prepared")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "seconds": time.perf_counter() - began,
        "cpu": used.ru_utime + used.ru_stime,
        "mebibytes": used.ru_maxrss / 1024,
        "error": math.nan,
    }


def _reconstruct(prepared: Path) -> Mapping[str, Any]:
    from udig_recon.core import reconstruct_volume
    from udig_recon.core.formats.containers.scan_file import open_scan_file
    from udig_recon.core.formats.prepared import PreparedScan

    def job() -> NDArray[np.float32]:
        with open_scan_file(prepared) as file:
            return reconstruct_volume(PreparedScan(file), {"method": "fbp"}, slices=[1]).images[0]

    return _measured(job, _acquisition(prepared))


def _project(prepared: Path) -> Mapping[str, Any]:
    import torch

    scan = _acquisition(prepared)
    operator = _problem(scan).operator
    image = torch.rand(1, *operator.image_shape)

    def normal() -> None:
        with torch.no_grad():
            operator.adjoint(operator.forward(image))

    return _measured(normal, scan)


def _back_project(prepared: Path) -> Mapping[str, Any]:
    scan = _acquisition(prepared)
    problem = _problem(scan)
    return _measured(lambda: problem.magnitude(problem.direct()), scan)


def _back_project_by_astra(prepared: Path) -> Mapping[str, Any]:
    import astra

    scan = _acquisition(prepared)

    def run() -> NDArray[np.float32]:
        half = scan.image_size * scan.pixel_size_mm / 2
        volume = astra.create_vol_geom(scan.image_size, scan.image_size, -half, half, -half, half)
        rays = astra.create_proj_geom("parallel", scan.detector_spacing_mm, scan.sinogram.shape[-1], scan.angles)
        settings = astra.astra_dict("FBP")
        settings["ProjectorId"] = astra.create_projector("linear", rays, volume)
        settings["ProjectionDataId"] = astra.data2d.create("-sino", rays, scan.sinogram[0])
        settings["ReconstructionDataId"] = astra.data2d.create("-vol", volume)
        astra.algorithm.run(astra.algorithm.create(settings))
        image: NDArray[np.float32] = astra.data2d.get(settings["ReconstructionDataId"])
        return image

    return _measured(run, scan)


def _acquisition(prepared: Path) -> Any:
    from udig_recon.core.formats.containers.scan_file import open_scan_file
    from udig_recon.core.formats.prepared import PreparedScan

    with open_scan_file(prepared) as file:
        return PreparedScan(file).read([1])


def _problem(scan: Any) -> Any:
    import torch

    from udig_recon.core.problem import slice_problem

    return slice_problem(scan, 0, torch.device("cpu"))


def _measured(run: Callable[[], NDArray[np.float32] | None], scan: Any) -> Mapping[str, Any]:
    """Time of a call on one thread, and memory of this process; of an image its error too."""
    import torch

    torch.set_num_threads(1)
    began, before = time.perf_counter(), time.process_time()
    image = run()
    found = {
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - before,
        "mebibytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "error": math.nan,
    }
    if image is None:
        return found
    truth, clear = _phantom(len(image))
    radius = SPACING_MM * scan.sinogram.shape[-1] / 2
    return {**found, "error": float(np.median(np.abs(image * radius - truth)[clear] / truth[clear])), "image": image}


def _print(step: str, found: Mapping[str, float]) -> None:
    error = "" if math.isnan(found["error"]) else f"{found['error']:.4f}"
    print(f"| {step} | {found['seconds']:.1f} | {found['cpu']:.1f} | {found['mebibytes']:.0f} | {error} |", flush=True)


if __name__ == "__main__":
    main()
