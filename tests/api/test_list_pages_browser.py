"""Lists of jobs, comparisons, priors and workers in a browser: refreshed in place, by keyboard, on a phone."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from playwright.sync_api import Browser, Page, expect
from sqlalchemy.orm import Session, sessionmaker

from tests.support.browser import Tab, tab
from tests.support.fake_worker import Drive
from udig_recon.core.quality.rating import Rating
from udig_recon.worker.database.tables import Worker

CHECK = Rating("check", ("the data are noisy: share of noise is 0.31, limit 0.2",))
PHONE = {"viewport": {"width": 400, "height": 860}, "has_touch": True, "is_mobile": True}


class Api:
    """The service as a client of its API sees it."""

    def __init__(self, url: str, mri_file: bytes) -> None:
        self.url = url
        self.client = httpx2.Client(base_url=url, timeout=30)
        self.scan = self.client.post("/v1/scans", content=mri_file, params={"filename": "knee.h5"}).json()

    def job(self, method: str = "zero_filled", **more: Any) -> dict[str, Any]:
        body = {"scan_id": self.scan["id"], "parameters": {"method": method}, "slices": [0], **more}
        posted: dict[str, Any] = self.client.post("/v1/jobs", json=body).json()
        return posted


@pytest.fixture
def api(server: str, mri_file: bytes) -> Iterator[Api]:
    made = Api(server, mri_file)
    yield made
    made.client.close()


def focused(page: Page) -> Any:
    return page.evaluate("document.activeElement.name || document.activeElement.textContent.trim()")


def tab_to(page: Page, wanted: str) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if focused(page) == wanted:
            return
    raise AssertionError(f"the keyboard does not reach {wanted}")


def test_a_list_of_jobs_is_filtered_by_keyboard_and_refreshed_in_place(
    browser: Browser, api: Api, drive: Drive
) -> None:
    first = api.job(tags={"study": "knee-7"})
    with tab(browser, api.url) as opened:
        page = opened.open("/jobs")
        expect(page.get_by_role("row")).to_have_count(2)
        page.evaluate("window.wasHere = true")
        second = api.job("cg_sense")
        expect(page.locator(f"#job-{second['id']}")).to_be_visible()
        drive.finish(drive.claim(first), rating=CHECK)
        row = page.locator(f"#job-{first['id']}")
        expect(row.get_by_text("check", exact=True)).to_be_visible()
        row.get_by_text("Why").click()
        expect(row.get_by_text(CHECK.reasons[0])).to_be_visible()
        third = api.job("cg_sense")
        expect(page.locator(f"#job-{third['id']}")).to_be_visible()
        expect(row.get_by_text(CHECK.reasons[0])).to_be_visible()  # what is open stays open
        assert page.evaluate("window.wasHere")

        tab_to(page, "rating")
        page.keyboard.type("check")
        page.keyboard.press("Tab")
        tab_to(page, "Filter")
        page.keyboard.press("Enter")
        expect(page.get_by_role("row")).to_have_count(2)
        assert page.url.startswith(f"{api.url}/jobs?")
        assert "rating=check" in page.url
        expect(page.get_by_label("Rating")).to_have_value("check")
        page.get_by_role("link", name="study: knee-7").click()
        expect(page.get_by_label("Tag")).to_have_value("study:knee-7")
        page.get_by_role("link", name="zero_filled").click()
        expect(page).to_have_url(f"{api.url}/jobs/{first['id']}")


def test_a_comparison_is_begun_followed_looked_at_and_another_cancelled(
    browser: Browser, api: Api, drive: Drive
) -> None:
    with tab(browser, api.url) as opened:
        page = opened.open("/comparisons")
        page.get_by_role("link", name="Compare methods").click()
        for method in ("udig_dip", "tv"):
            page.locator(f"input[value={method}]").uncheck()
        for method in ("zero_filled", "cg_sense"):
            page.locator(f"input[value={method}]").check()
        page.get_by_label("Parameters of cg_sense").fill("iterations=zero")
        page.get_by_label("Seeds", exact=True).fill("0 1")
        page.get_by_label("Slices", exact=True).fill("1")
        page.get_by_label("Tags", exact=True).fill("study:knee-7")
        opened.expected = ("Failed to load resource: the server responded with a status of 422",)
        page.get_by_role("button", name="Compare").click()
        expect(page.get_by_role("alert")).to_contain_text("iterations")
        page.get_by_label("Parameters of cg_sense").fill("iterations=4")
        page.get_by_role("button", name="Compare").click()
        expect(page.get_by_text("0 of 4 have ended")).to_be_visible()
        made = api.client.get("/v1/comparisons").json()["items"][0]
        assert made["seeds"] == [0, 1]
        asked = {each["label"]: each["parameters"] for each in made["methods"]}
        assert asked == {
            "cg_sense": {"method": "cg_sense", "iterations": 4},
            "zero_filled": {"method": "zero_filled"},
        }
        assert (made["slices"], made["tags"]) == ([1], {"study": "knee-7"})

        jobs = api.client.get(made["links"]["jobs"]).json()["items"]
        drive.complete(jobs[-1])
        picture = page.get_by_role("img", name="The reference, if the scan")
        expect(picture).to_be_visible()
        expect(page.get_by_role("heading", name="Ranking, MRI")).to_be_visible()
        expect(page.get_by_role("heading", name="Results, 1x")).to_be_visible()
        page.get_by_label("Seed", exact=True).select_option("1")
        expect(page.get_by_text("No method has an image of this slice and seed")).to_be_visible()
        opened.expected += ("Failed to load resource: the server responded with a status of 409",)  # no picture yet
        for job in jobs[:-1]:
            drive.complete(job)
        expect(page.get_by_text("4 of 4 have ended")).to_be_visible()
        expect(picture).to_be_visible()
        expect(page.get_by_label("Seed", exact=True)).to_have_value("1")
        assert page.evaluate("document.getElementById('panel').naturalWidth") > 0
        page.reload()
        expect(page.get_by_role("button", name="Cancel")).to_have_count(0)

        body = {"scan_ids": [api.scan["id"]], "methods": [{"parameters": {"method": "zero_filled"}}]}
        page = opened.open(f"/comparisons/{api.client.post('/v1/comparisons', json=body).json()['id']}")
        page.get_by_role("button", name="Cancel").click()
        expect(page.get_by_text("cancelled", exact=True)).to_be_visible()


def test_no_page_is_wider_than_a_phone_and_all_are_reached_by_its_links(
    browser: Browser, api: Api, drive: Drive, database: sessionmaker[Session]
) -> None:
    job = api.job(tags={"study": "a-very-long-name-of-a-study-that-nobody-would-break-by-hand-0123456789"})
    drive.finish(drive.claim(job), rating=CHECK)
    body = {
        "scan_ids": [api.scan["id"]],
        "methods": [{"parameters": {"method": name}} for name in ("zero_filled", "cg_sense", "tv", "l1_wavelet")],
        "slices": [0],
    }
    made = api.client.post("/v1/comparisons", json=body).json()
    for each in api.client.get(made["links"]["jobs"]).json()["items"]:
        drive.complete(each)
    with database.begin() as session:
        session.add(Worker(name="a-host-with-a-long-name.radiology.example.org:4711:1770109901", device="cuda"))
    with tab(browser, api.url, **PHONE) as opened:
        page = opened.open("/")
        for name in ("Jobs", "Comparisons", "Priors", "Workers"):
            page.get_by_role("navigation", name="Pages").get_by_role("link", name=name).click()
            expect(page.get_by_role("heading", level=1)).to_contain_text(name)
            narrow(opened, name)
        for path in ("/comparisons/new", f"/comparisons/{made['id']}"):
            opened.open(path)
            narrow(opened, path)


def narrow(opened: Tab, what: str) -> None:
    wide = opened.page.evaluate("document.documentElement.scrollWidth")
    assert wide <= PHONE["viewport"]["width"], (what, wide)
