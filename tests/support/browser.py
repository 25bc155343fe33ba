"""Pages in a headless Chromium, and pages as a parser sees them."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
ARGUMENTS = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-gpu-sandbox", "--no-sandbox"]
expect.set_options(timeout=30_000)
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium; the test is skipped where it is missing. Not for a session: its loop would block others'."""
    if CHROMIUM is None:
        pytest.skip("needs chromium, which apt installs")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Tab:
    """A page in the browser, with all that it complained of and asked of other hosts.

    `expected` are beginnings of complaints that a test provokes.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.complaints: list[str] = []
        self.expected: tuple[str, ...] = ()
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self._complain(str(error)))
        page.on("request", self._look)

    def _hear(self, message: Any) -> None:
        if message.type == "error":
            self._complain(f"{message.text} {message.location.get('url', '')}")

    def _complain(self, text: str) -> None:
        self.complaints.append(text)

    def _look(self, request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("blob", "data", "about") and f"{parts.scheme}://{parts.netloc}" != self.url:
            self._complain(f"asked another host: {request.url}")

    def open(self, path: str) -> Page:
        """Go to a path of the service."""
        self.page.goto(self.url + path)
        return self.page

    def check(self) -> None:
        """Fail where anything was complained of that the test does not expect."""
        left = [each for each in self.complaints if not each.startswith(self.expected or ("\0",))]
        assert left == [], left


@contextmanager
def tab(browser: Browser, url: str, **options: Any) -> Iterator[Tab]:
    """A tab of a fresh browser profile; options are those of playwright's `new_context`."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
    context.set_default_timeout(30_000)
    try:
        made = Tab(context.new_page(), url)
        yield made
        made.check()
    finally:
        context.close()


def await_on(page: Page, found: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something is so. The policy of pages forbids `wait_for_function`, which evaluates text."""
    for _ in range(round(seconds / 0.05)):
        if found():
            return
        page.wait_for_timeout(50)
    raise AssertionError("waited in vain")


class Element:
    """An element of a page: its name, its attributes and the text within."""

    def __init__(self, name: str, attributes: dict[str, str]) -> None:
        self.name, self.attributes, self.text = name, attributes, ""
        self.within: tuple[str, ...] = ()  # names of the elements around it

    def __repr__(self) -> str:
        return f"<{self.name} {self.attributes}>"


class Html(HTMLParser):
    """The elements of a page; a page that is not well nested fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(text)
        self.close()
        assert self._open == [], "elements that are never closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        element.within = tuple(each.name for each in self._open)
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        opened = self._open.pop()
        assert opened.name == tag, f"</{tag}> closes {opened}"

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, *names: str) -> list[Element]:
        """The elements of these names."""
        return [element for element in self.elements if element.name in names]

    def faults(self) -> list[str]:
        """What a page must not have: inline scripts and styles, other hosts, controls and pictures without a name."""
        found = [f"inline script {each}" for each in self.all("script") if "src" not in each.attributes]
        found += [f"inline style {each}" for each in self.all("style")]
        labelled = {each.attributes.get("for") for each in self.all("label")}
        ids = [each.attributes["id"] for each in self.elements if "id" in each.attributes]
        found += [f"id {name} twice" for name in {each for each in ids if ids.count(each) > 1}]
        for each in self.elements:
            for name, value in each.attributes.items():
                if name == "style" or (name.startswith("on") and name != "on") or value.startswith("javascript:"):
                    found.append(f"inline {name} of {each}")
                if name in ("src", "href", "action") and "//" in value:
                    found.append(f"another host: {value}")
            named = {"aria-label", "aria-labelledby", "title"} & set(each.attributes)
            is_control = each.name in ("input", "select", "textarea") and each.attributes.get("type") != "hidden"
            has_label = "label" in each.within or each.attributes.get("id") in labelled
            if is_control and not named and not has_label:
                found.append(f"no label: {each}")
            if each.name in ("button", "a") and not named and not each.text.strip():
                found.append(f"no text: {each}")
            if each.name == "img" and "alt" not in each.attributes:
                found.append(f"no alt: {each}")
        return found
