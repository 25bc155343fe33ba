"""`make demo`: a real MR and a real CT slice through the whole service, and a picture of each.

A stranger's view: the service is started, and everything else goes over HTTP.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import httpx2
import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.data import get_testdata_file
from tqdm import tqdm

from benchmarks.data.scans import written
from udig_recon.core import metrics
from udig_recon.core.cli import UDIG
from udig_recon.core.results.png import comparison_png
from udig_recon.core.simulation import WATER_1_PER_MM, birdcage_maps, cartesian_lines, simulate_ct, simulate_mri
from udig_recon.worker.standalone import processes
from udig_recon.worker.standalone.locate import ready_url

OUTPUT = Path("demo-output")
START_SECONDS = 180
STOP_SECONDS = 30
JOB_SECONDS = 270
SEED = 1


@dataclass(frozen=True)
class Scan:
    """A scan file and what its reconstruction is measured by."""

    title: str
    path: Path
    plain: str  # dataset of the plain reconstruction in the result
    plain_title: str
    reference: NDArray[np.float32]
    least_gain: float  # dB over the plain reconstruction


def main() -> int:
    """Run the demo. Gives the exit code: 0 when both reconstructions beat the plain ones by what they must."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="udig-demo-") as folder, running_service(Path(folder)) as url:
        print(f"service: {url} (its documentation: {url}/docs)")
        scans = [mr_scan(), ct_scan()]
        with httpx2.Client(base_url=url, timeout=60) as client:
            jobs = [submit(client, scan) for scan in scans]
            if not followed(client, scans, jobs):
                return 1
            gains = [compared(client, scan, job) for scan, job in zip(scans, jobs, strict=True)]
    print(f"pictures: {OUTPUT.resolve()} ({time.monotonic() - began:.0f} s in all)")
    return 0 if all(gain >= scan.least_gain for gain, scan in zip(gains, scans, strict=True)) else 1


@contextlib.contextmanager
def running_service(data: Path, **settings: str) -> Iterator[str]:
    """The embedded service on a free port; gives its URL once a job posted now would run."""
    servers = ("DATABASE_URL", "REDIS_URL")  # the demo keeps to servers of its own
    environment = {key: value for key, value in os.environ.items() if key not in servers}
    environment |= {"DATA": str(data), "HOST": "127.0.0.1", "PORT": "0", **settings}
    OUTPUT.mkdir(exist_ok=True)
    log = OUTPUT.resolve() / "service.log"
    log.unlink(missing_ok=True)
    print("starting Postgres, Valkey, the API and the workers ...")
    service = processes.start(
        [*UDIG, "serve"],
        death_signal=signal.SIGTERM,
        log=log,
        environment=environment,
    )
    try:
        yield awaited_url(service, data, log)
    finally:
        processes.stop([service], signal.SIGTERM, STOP_SECONDS)


def awaited_url(service: subprocess.Popen[bytes], data: Path, log: Path) -> str:
    """The URL that the service leaves in its data folder when it is ready."""
    alarm = time.monotonic() + START_SECONDS
    while (url := ready_url(data)) is None:
        if service.poll() is not None or time.monotonic() > alarm:
            raise SystemExit(f"the service did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.1)
    return url


def mr_scan() -> Scan:
    """A brain, seen by 8 coils through a quarter of k-space, with noise."""
    volume = nibabel.load(Path(nibabel.__file__).parent / "tests/data/example4d.nii.gz")
    # Stored (left, anterior, superior): transposed and turned over, the face looks up.
    image = np.asarray(volume.dataobj[:, :, 11, 0], np.float32).T[::-1]
    rng = np.random.default_rng(SEED)
    y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in image.shape), indexing="ij")
    phase = np.exp(1j * (0.8 * x + 0.5 * y**2 - 0.6 * x * y))
    scan = simulate_mri(
        (image * phase).astype(np.complex64),
        birdcage_maps(8, image.shape),
        cartesian_lines(image.shape, acceleration=4, center_fraction=0.08, rng=rng),
        rng,
        noise_level=0.005,
        pixel_spacing_mm=(2.0, 2.0),
    )
    return Scan(
        "MR 4x, 8 coils", written(scan, OUTPUT / "mr-scan.h5"), "zero_filled", "zero-filled", np.abs(image), 3.0
    )


def ct_scan() -> Scan:
    """A spine in 30 views of a million photons a ray."""
    dicom = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    hounsfield = dicom.pixel_array * float(dicom.RescaleSlope) + float(dicom.RescaleIntercept)
    attenuation = np.maximum(WATER_1_PER_MM * (1 + hounsfield / 1000), 0).astype(np.float32)
    scan = simulate_ct(attenuation, 30, 1e6, np.random.default_rng(SEED), pixel_size_mm=float(dicom.PixelSpacing[0]))
    return Scan("CT 30 views", written(scan, OUTPUT / "ct-scan.h5"), "fbp", "FBP", attenuation, 6.0)


def submit(client: httpx2.Client, scan: Scan) -> str:
    """Post the file and a job for it. Gives the job's path."""
    posted = checked(client.post("/v1/scans", content=scan.path.read_bytes(), headers={"X-Filename": scan.path.name}))
    job = {"scan_id": posted.json()["id"], "parameters": {"method": "udig_dip", "preset": "standard"}, "seed": SEED}
    return f"/v1/jobs/{checked(client.post('/v1/jobs', json=job)).json()['id']}"


def followed(client: httpx2.Client, scans: list[Scan], jobs: list[str]) -> bool:
    """Draw a bar for each job until all have ended. Gives whether all succeeded."""
    alarm = time.monotonic() + JOB_SECONDS
    seconds = 0.5 if sys.stderr.isatty() else 10
    with contextlib.ExitStack() as stack:
        bars = [
            stack.enter_context(
                tqdm(total=100, desc=scan.title, position=row, mininterval=seconds, bar_format=BAR, leave=True)
            )
            for row, scan in enumerate(scans)
        ]
        while True:
            states = [drawn(client, job, bar) for job, bar in zip(jobs, bars, strict=True)]
            if all(state["status"] in ("succeeded", "failed", "cancelled") for state in states):
                break
            if time.monotonic() > alarm:
                raise SystemExit(f"the jobs did not end within {JOB_SECONDS} s")
            time.sleep(0.5)
    for scan, state in zip(scans, states, strict=True):
        if state["status"] != "succeeded":
            print(f"{scan.title}: {state['status']}: {(state['error'] or {}).get('detail')}", file=sys.stderr)
    return all(state["status"] == "succeeded" for state in states)


BAR = "{desc:15} {percentage:3.0f}% |{bar:25}| {elapsed}{postfix}"


def drawn(client: httpx2.Client, job: str, bar: "tqdm[Any]") -> dict[str, Any]:
    """Bring one bar up to date. Gives the job."""
    state: dict[str, Any] = checked(client.get(job)).json()
    snapshots = checked(client.get(f"{job}/progress")).json()["items"]
    if snapshots and snapshots[-1]["psnr"] is not None:
        last = snapshots[-1]
        bar.set_postfix_str(f"PSNR {last['psnr']:.2f} dB, data residual {last['data_residual']:.4f}", refresh=False)
    bar.update(round(100 * state["progress"]["fraction"]) - bar.n)
    return state


def compared(client: httpx2.Client, scan: Scan, job: str) -> float:
    """Download the result, draw it beside the reference and the plain reconstruction. Gives the gain in dB."""
    path = scan.path.with_name(scan.path.name.replace("scan", "result"))
    path.write_bytes(checked(client.get(f"{job}/result", params={"format": "h5"})).content)
    with h5py.File(path) as file:
        ours, plain = file["reconstruction"][0], file[scan.plain][0]
    picture = path.with_suffix(".png")
    panels = [
        ("reference", scan.reference),
        (titled(scan.plain_title, plain, scan.reference), plain),
        (titled("uDiG-DIP", ours, scan.reference), ours),
        ("error x5", 5 * np.abs(ours - scan.reference)),
    ]
    picture.write_bytes(comparison_png(panels))
    psnr = metrics.psnr(ours, scan.reference)
    gain = psnr - metrics.psnr(plain, scan.reference)
    verdict = "" if gain >= scan.least_gain else f", less than the {scan.least_gain:g} dB it must win"
    print(f"{scan.title}: PSNR {psnr:.2f} dB, {gain:+.2f} dB over {scan.plain_title}{verdict}: {picture}")
    rating = checked(client.get(job)).json()["quality"]
    print(f"{scan.title}: rated {rating['rating']}: {'; '.join(rating['reasons'])}")
    return gain


def titled(name: str, image: NDArray[np.float32], reference: NDArray[np.float32]) -> str:
    """Title of a panel."""
    return f"{name}\nPSNR {metrics.psnr(image, reference):.2f} dB, SSIM {metrics.ssim(image, reference):.3f}"


def checked(response: httpx2.Response) -> httpx2.Response:
    """The response, or the end of the demo with what the service said."""
    if response.is_error:
        raise SystemExit(f"{response.request.method} {response.request.url}: {response.status_code} {response.text}")
    return response


if __name__ == "__main__":
    sys.exit(main())
