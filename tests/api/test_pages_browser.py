"""Pages in a browser: from a dropped scan to a download, with and without keys, over a service that goes away."""

import socket
import uuid
from pathlib import Path
from typing import Any

import nibabel
import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy import select, update
from sqlalchemy.orm import Session, sessionmaker

from tests.support import scans
from tests.support.api_server import serving
from tests.support.browser import Tab, await_on, tab
from tests.support.fake_worker import Drive
from tests.support.worker_processes import working
from udig_recon.core.quality.rating import Rating
from udig_recon.worker.access import keys
from udig_recon.worker.access.limits import NewKey, Scope
from udig_recon.worker.database.tables import Job, LoginSession
from udig_recon.worker.settings import Settings

pytestmark = pytest.mark.long
NOTHING_YET = "Failed to load resource: the server responded with a status of 409"
"""What the browser writes down where a slice has no picture yet."""


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MR scan of two slices with a reference."""
    path: Path = scans.write_hdf5(tmp_path_factory.mktemp("scan") / "knee größe.h5", **scans.mri())
    return path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def fits(page: Page) -> None:
    """Nothing of the page lies beside it."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def bring(page: Page, path: Path) -> None:
    page.set_input_files("#file", path)
    expect(page.locator("#scan-name")).to_have_text(path.name)
    expect(page.locator("#go")).to_be_enabled()


def job_of(page: Page) -> uuid.UUID:
    page.wait_for_url("**/jobs/*")
    return uuid.UUID(page.url.rsplit("/", 1)[-1])


def is_drawn(page: Page, locator: str = "#picture") -> None:
    expect(page.locator(locator)).to_be_visible()
    await_on(page, lambda: page.locator(locator).evaluate("image => image.complete && image.naturalWidth > 0"))


def test_a_scan_is_dropped_reconstructed_seen_and_downloaded(
    browser: Browser, settings: Settings, scan_file: Path, tmp_path: Path
) -> None:
    with serving(settings) as served, working(settings), tab(browser, served.url) as opened:
        opened.expected = (NOTHING_YET,)
        page = opened.open("/docs")  # Swagger lives under the policy of all pages
        expect(page.get_by_text("Upload a scan").first).to_be_visible()
        page = opened.open("/")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        bring(page, scan_file)
        assert [url for url in asked if "knee" in url] == []  # proxies write URLs down
        assert any(url.endswith("/v1/scans") for url in asked)
        expect(page.locator("#scan-facts")).to_contain_text("32 × 32")
        is_drawn(page, "#scan-picture")
        assert page.url.endswith(f"/?scan={page.url.split('=')[-1]}")
        page.reload()  # the scan is still chosen
        expect(page.locator("#scan-name")).to_have_text("knee größe.h5")
        page.click("#parameters summary")
        expect(page.locator("#parameter-outer_iterations")).to_have_value("33")
        page.fill("#parameter-outer_iterations", "0")
        page.click("#go")  # what the service says of a wrong value
        expect(page.locator("#form-problem")).to_contain_text("outer_iterations")
        opened.complaints.clear()
        page.select_option("#method", "zero_filled")
        page.click("#options summary")
        page.fill("#tags", "study: knee-7")
        page.fill("#slices", "0-1")
        page.click("#go")
        job_of(page)
        expect(page.locator("#chips .status")).to_have_text("succeeded")
        is_drawn(page)
        page.check("#beside")
        is_drawn(page, "#picture-direct")
        page.click("[data-view=error]")
        is_drawn(page)
        page.locator("#panes").press("ArrowDown")
        expect(page.locator("#slice-name")).to_have_text("1 (2 of 2)")
        page.locator("#high").fill("50")
        page.wait_for_timeout(300)
        with page.expect_download() as download:
            page.get_by_role("link", name="nifti").click()
        download.value.save_as(tmp_path / "result.nii.gz")
        assert nibabel.load(tmp_path / "result.nii.gz").shape == (32, 32, 2)
        page.click("#open-volume")
        expect(page.locator("#volume-box")).to_be_visible()
        expect(page.locator("#open-volume")).to_be_hidden()
        page.click("#delete")
        page.click("#confirm button[value=yes]")
        page.wait_for_url(served.url + "/jobs")


def log_in(page: Page, secret: str) -> None:
    page.fill("#key", secret)
    page.get_by_role("button", name="Log in").click()


def rated() -> Rating:
    return Rating.from_json({"rating": "check", "reasons": ["misfit 1.7 of 1.5"]})


def test_a_job_is_followed_by_a_key_over_the_end_of_the_login_and_a_service_that_is_away(
    browser: Browser, settings: Settings, database: sessionmaker[Session], drive: Drive, scan_file: Path
) -> None:
    keyed = settings.model_copy(update={"authentication": "on", "port": free_port()})
    with database.begin() as session:
        _, secret = keys.make(session, "default", NewKey(name="reader", scopes=[Scope.READ, Scope.WRITE]))
    with tab(browser, f"http://127.0.0.1:{keyed.port}", viewport={"width": 400, "height": 800}) as opened:
        opened.expected = (NOTHING_YET,)
        with serving(keyed):
            page = opened.open("/")
            assert page.url.endswith("/login?next=%2F")
            fits(page)
            log_in(page, secret)
            page.wait_for_url("**/")
            bring(page, scan_file)
            fits(page)
            page.click("#go")
            job_id = job_of(page)
            job = follow_progress(page, drive, database, job_id)
            lose_the_login(opened, page, secret, database, job_id)
        expect(page.locator("#connection")).to_be_visible()
        opened.complaints.clear()
        with serving(keyed):
            expect(page.locator("#connection")).to_be_hidden()
            opened.complaints.clear()
            claim = drive.claim(job, 1)
            drive.report(claim, 10)
            drive.finish(claim, rating=rated())
            expect(page.locator("#chips")).to_contain_text("succeeded")
            expect(page.locator("#chips")).to_contain_text("check")
            expect(page.locator(".reasons")).to_contain_text("misfit 1.7 of 1.5")
            is_drawn(page)
            fits(page)
            page.get_by_role("button", name="Log out").click()
            page.wait_for_url("**/login")
            assert opened.open("/").url.endswith("/login?next=%2F")


def follow_progress(page: Page, drive: Drive, database: sessionmaker[Session], job_id: uuid.UUID) -> dict[str, Any]:
    """The first slice is computed before the page's eyes."""
    expect(page.locator("#time-left")).to_have_text("waiting for a worker")
    with database() as session:
        row = session.scalars(select(Job).where(Job.id == job_id)).one()
    job = {"id": str(job_id), "slice_numbers": row.slices}
    claim = drive.claim(job, 0)
    drive.show(job, 0)
    for iteration in (2, 4, 6):
        drive.report(claim, iteration)
    expect(page.locator("#chips .status")).to_have_text("running")
    expect(page.locator("#curve canvas")).to_be_visible()
    expect(page.locator("#progress-text")).to_contain_text("30 %")
    expect(page.locator("#steps")).to_contain_text("iteration 6 of 10, data residual 0.1")
    is_drawn(page)
    fits(page)
    drive.finish(claim, rating=rated())
    expect(page.locator("#progress-text")).to_have_text("50 %, 1 of 2 slices")
    return job


def lose_the_login(opened: Tab, page: Page, secret: str, database: sessionmaker[Session], job_id: uuid.UUID) -> None:
    """The login ends: the page shows the login, and after it the job again."""
    with database.begin() as session:
        session.execute(update(LoginSession).values(expires_at=LoginSession.created_at))
    page.click("#cancel")
    page.wait_for_url(f"**/login?next=%2Fjobs%2F{job_id}")
    log_in(page, secret)
    page.wait_for_url(f"**/jobs/{job_id}")
    expect(page.locator("#progress-text")).to_contain_text("50 %")
    opened.complaints.clear()
