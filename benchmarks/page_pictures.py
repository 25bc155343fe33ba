"""Pictures of the web page in the documents, from the running service: `python -m benchmarks.page_pictures`.

A real MR slice is brought, reconstructed and compared, and a headless Chromium looks at it (`apt install chromium`).
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
from playwright.sync_api import Browser, sync_playwright

from benchmarks.demo import checked, ct_scan, mr_scan, running_service

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
WIDTH = 1280
METHODS = ("udig_dip", "tv", "l1_wavelet", "cg_sense", "zero_filled")
MOST_SECONDS = 600


def main() -> None:
    """Write page-job.png, page-jobs.png and page-comparison.png."""
    with (
        tempfile.TemporaryDirectory(prefix="udig-pictures-") as folder,
        running_service(Path(folder)) as url,
        httpx2.Client(base_url=url, timeout=60) as client,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        scans = [_post(client, each.path, name) for each, name in ((mr_scan(), "brain.h5"), (ct_scan(), "spine.h5"))]
        methods = [{"parameters": {"method": name} | _preset(name)} for name in METHODS]
        body = {"scan_ids": [scans[0]], "methods": methods, "seeds": [0, 1], "tags": {"study": "brain-4x"}}
        comparison = checked(client.post("/v1/comparisons", json=body)).json()
        jobs = [
            checked(client.post("/v1/jobs", json={"scan_id": scan, "tags": {"study": "first look"}, **asked})).json()
            for scan, asked in (
                (scans[1], {"parameters": {"method": "fbp"}}),
                (scans[0], {"parameters": {"method": "udig_dip", "preset": "standard"}}),
            )
        ]
        _await(client, comparison["links"]["self"])
        job = _await(client, jobs[-1]["links"]["self"])
        client.post("/v1/jobs", json={"scan_id": scans[1], "parameters": {"method": "udig_dip", "preset": "standard"}})
        _draw(browser, f"{url}/jobs/{job['id']}", "page-job", 1060)
        _draw(browser, f"{url}/jobs", "page-jobs", 620)
        _draw(browser, f"{url}/comparisons/{comparison['id']}", "page-comparison", 1500)


def _preset(method: str) -> dict[str, str]:
    return {"preset": "preview"} if method == "udig_dip" else {}


def _post(client: httpx2.Client, path: Path, name: str) -> str:
    return str(checked(client.post("/v1/scans", content=path.read_bytes(), headers={"X-Filename": name})).json()["id"])


def _await(client: httpx2.Client, address: str) -> dict[str, Any]:
    alarm = time.monotonic() + MOST_SECONDS
    while True:
        found: dict[str, Any] = checked(client.get(address, params={"wait": 10})).json()
        if found["status"] not in ("queued", "running"):
            return found
        if time.monotonic() > alarm:
            raise SystemExit(f"{address} did not end within {MOST_SECONDS} s")


def _draw(browser: Browser, address: str, name: str, height: int) -> None:
    """The page, from its top down to at most `height`."""
    page = browser.new_page(viewport={"width": WIDTH, "height": height})
    page.goto(address)
    page.wait_for_timeout(2000)  # for pictures and curves
    page.screenshot(path=str(PICTURES / f"{name}.png"))
    page.close()


if __name__ == "__main__":
    main()
