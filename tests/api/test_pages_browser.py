"""Pages in a browser."""

from playwright.sync_api import Browser, expect

from tests.support.browser import tab


def test_swagger_runs_under_the_policy_of_pages(browser: Browser, server: str) -> None:
    with tab(browser, server) as opened:
        page = opened.open("/docs")
        expect(page.get_by_text("Upload a scan").first).to_be_visible()
