"""Total variation in CT against the same objective and weight over ASTRA's projector, on phantoms. Prints Markdown.

`python -m benchmarks.accuracy.ct_same_weight`: ellipses whose line integrals are known, with noise, on 96 x 96 pixels:
parallel beams, flat fans, and a helical scan (DICOM-CT-PD) that is rebinned to curved fans. The peer minimises by the
primal-dual method of Chambolle and Pock (2011) over ASTRA's strip kernel on the CPU (astra-toolbox), to convergence; of
curved detectors, for which it has none, over the mean of some lines. Ours runs its usual number of iterations.
"""

import math
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import astra
import numpy as np
import torch
from numpy.typing import NDArray

from tests.support.ct_pd_maker import CtPdScan, files, slice_image, zipped
from tests.support.ellipses import ellipse_image, ellipse_rays
from udig_recon.core import formats, metrics
from udig_recon.core.acquisition import CTAcquisition
from udig_recon.core.inputs import Inputs
from udig_recon.core.normalisation import intensity_scale
from udig_recon.core.operators.pixel_response import PixelResponse
from udig_recon.core.parameters import TV, complete
from udig_recon.core.preprocessing.sinograms import geometry_of
from udig_recon.core.problem import slice_problem
from udig_recon.core.reconstruct import reconstruct

CPU = torch.device("cpu")
SIZE = 96
WEIGHTS = (1e-3, 1e-2)
ITERATIONS = 200
PEER_ITERATIONS = 1500
NOISE = 0.01
RAYS = 4
"""Lines of an element of a curved detector."""
FAN: dict[str, Any] = {"geometry": "fan_flat", "source_origin_mm": 300.0, "source_detector_mm": 600.0}

Values = NDArray[np.float64]


def scan_of_ellipses(angles: Values, detectors: int, spacing: float, **beam: Any) -> CTAcquisition:
    """A noisy scan of the ellipses, with its truth."""
    empty = np.zeros((1, len(angles), detectors), np.float32)
    scan = CTAcquisition(
        sinogram=empty,
        angles=angles,
        image_size=SIZE,
        pixel_size_mm=1.0,
        detector_spacing_mm=spacing,
        reference=ellipse_image(SIZE)[None],
        **beam,
    )
    rays = ellipse_rays(geometry_of(scan))
    noise = np.random.default_rng(0).normal(scale=NOISE, size=rays.shape)
    return replace(scan, sinogram=(rays + noise)[None].astype(np.float32))


def helical_scan() -> CTAcquisition:
    """The middle slice of a helical scan, rebinned to curved fans, every fourth view."""
    made = CtPdScan(views_a_turn=288, feed_mm=10.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.zip"
        path.write_bytes(zipped(files(made)))
        index = formats.probe(path).slices // 2
        scan = formats.read(path, [index])
        header = formats.probe(path)
    assert isinstance(scan, CTAcquisition)
    z = (
        0.0
        if header.affine is None
        else float(np.asarray(header.affine)[2, 3] + index * np.asarray(header.affine)[2, 2])
    )
    noise = np.random.default_rng(0).normal(scale=NOISE, size=scan.sinogram.shape)
    pixel = scan.pixel_size_mm * scan.image_size / SIZE
    return replace(
        scan,
        sinogram=(scan.sinogram + noise)[:, ::4].astype(np.float32),
        angles=scan.angles[::4],
        image_size=SIZE,
        pixel_size_mm=pixel,
        reference=slice_image(z, SIZE, pixel)[None].astype(np.float32),
    )


def curved_model(scan: CTAcquisition, volume: Any) -> Any:
    """ASTRA's line kernel for a curved detector: each of RAYS rays of an element is a view of one detector."""
    geometry = geometry_of(scan)
    places = (np.arange(geometry.detectors * RAYS) + 0.5) / RAYS - 0.5
    theta = np.repeat(np.asarray(geometry.angles), len(places))
    turned = theta - np.tile(geometry.fan_angles(places), len(geometry.angles))
    source = geometry.source_origin_mm * np.stack((np.sin(theta), -np.cos(theta)), 1)
    ends = source + geometry.source_detector_mm * np.stack((-np.sin(turned), np.cos(turned)), 1)
    width = geometry.detector_spacing_mm / RAYS * np.stack((np.cos(turned), np.sin(turned)), 1)
    vectors = np.concatenate((source, ends, width), 1)
    return astra.OpTomo(
        astra.create_projector("line_fanflat", astra.create_proj_geom("fanflat_vec", 1, vectors), volume)
    )


def by_astra(scan: CTAcquisition, weight: float, unit: float, gain: float) -> NDArray[np.float32]:
    """Minimum of |g A x - g y / u|^2 / 2 + weight TV(x), x >= 0, times u, by ASTRA's strip kernel."""
    half = scan.image_size * scan.pixel_size_mm / 2
    volume = astra.create_vol_geom(scan.image_size, scan.image_size, -half, half, -half, half)
    model, rays = _model(scan, volume)
    shape = (scan.image_size, scan.image_size)
    response = PixelResponse(geometry_of(scan))  # a projector of pixel means, as ours

    def respond(y: Values) -> Values:
        return np.asarray(response.apply(torch.from_numpy(y)[None])[0])

    def forward(x: Values) -> Values:
        found = np.asarray(model @ x.ravel().astype(np.float32), np.float64)
        return gain * respond(found.reshape(-1, rays).mean(1))

    def adjoint(y: Values) -> Values:
        spread = np.repeat(respond(y) / rays, rays).astype(np.float32)
        return gain * np.asarray(model.T @ spread, np.float64).reshape(shape)

    y = gain * scan.sinogram[0].ravel().astype(np.float64) / unit
    x = np.ones(shape)
    for _ in range(30):
        x = adjoint(forward(x)) + _divergence(_gradient(x))
        norm = float(np.linalg.norm(x))
        x /= norm
    step = 0.95 / math.sqrt(norm)
    x, p, q = np.zeros(shape), np.zeros(y.shape), np.zeros((2, *shape))
    ahead = x
    for _ in range(PEER_ITERATIONS):
        p = (p + step * (forward(ahead) - y)) / (1 + step)
        q += step * _gradient(ahead)
        q /= np.maximum(1.0, np.sqrt((q**2).sum(0)) / weight)
        new = np.maximum(x - step * (adjoint(p) + _divergence(q)), 0)
        x, ahead = new, 2 * new - x
    return (unit * x).astype(np.float32)


def _model(scan: CTAcquisition, volume: Any) -> tuple[Any, int]:
    """ASTRA's projector of a scan, and how many of its rays make one of the scan's."""
    if scan.geometry == "fan_curved":
        return curved_model(scan, volume), RAYS
    beams: tuple[Any, ...] = ("parallel", scan.detector_spacing_mm, scan.sinogram.shape[-1], scan.angles)
    kernel = "strip"
    if scan.source_origin_mm is not None and scan.source_detector_mm is not None:
        beyond = scan.source_detector_mm - scan.source_origin_mm
        beams, kernel = ("fanflat", *beams[1:], scan.source_origin_mm, beyond), "strip_fanflat"
    return astra.OpTomo(astra.create_projector(kernel, astra.create_proj_geom(*beams), volume)), 1


def _gradient(x: Values) -> Values:
    d = np.zeros((2, *x.shape))
    d[0, :-1], d[1, :, :-1] = np.diff(x, axis=0), np.diff(x, axis=1)
    return d


def _divergence(d: Values) -> Values:
    """The transpose of `_gradient`."""
    x = np.zeros(d.shape[1:])
    x[1:] += d[0, :-1]
    x[:-1] -= d[0, :-1]
    x[:, 1:] += d[1, :, :-1]
    x[:, :-1] -= d[1, :, :-1]
    return x


def row(case: str, scan: CTAcquisition, weight: float) -> str:
    problem = slice_problem(scan, 0, CPU)
    *_, last = reconstruct(problem, complete(TV(weight=weight, iterations=ITERATIONS), problem.modality), seed=0)
    mine = problem.magnitude(last.image)
    unit = intensity_scale(Inputs(problem.measurements, problem.operator).cg_estimate())
    peer = by_astra(scan, weight, unit, float(problem.operator.scale))  # type: ignore[arg-type]
    assert scan.reference is not None
    levels = [metrics.psnr(image, scan.reference[0]) for image in (mine, peer)]
    cells = f"{levels[0]:.2f} | {levels[1]:.2f} | {levels[0] - levels[1]:+.2f} | {metrics.psnr(mine, peer):.1f}"
    return f"| {case} | {weight:g} | {cells} |"


def main() -> None:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    half, turn = np.arange(60) * np.pi / 60, np.arange(72) * np.pi / 36
    cases = {
        "parallel, 60 views": scan_of_ellipses(half, 140, 1.0),
        "flat fan, 72 views of a turn": scan_of_ellipses(turn, 160, 1.8, **FAN),
        "flat fan, 60 views of 220 degrees": scan_of_ellipses(np.deg2rad(np.arange(60) * 220 / 60), 160, 1.8, **FAN),
        "helical, rebinned to a curved fan": helical_scan(),
    }
    print("| case | weight | ours dB | ASTRA dB | difference | ours against ASTRA dB |\n|---|---|---|---|---|---|")
    for case, scan in cases.items():
        for weight in WEIGHTS:
            print(row(case, scan, weight), flush=True)


if __name__ == "__main__":
    main()
