"""A real browser: Chromium, driven by Playwright; tests skip with a reason where one of them is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str | None:
    """The program, if it is installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium with a fresh profile."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    program = chromium()
    if program is None:
        pytest.skip("no Chromium on this machine; on Debian: apt-get install chromium")
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=program, headless=True, args=FLAGS)
        yield started
        started.close()


class Page:
    """A page that remembers its errors, and every request that did not go to disk or to this machine."""

    def __init__(self, browser: Any, width: int, height: int, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.away: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.on("request", lambda request: self._note(request.url))

    def _note(self, url: str) -> None:
        local = ("file:", "data:", "blob:", "http://127.0.0.1", "http://localhost", "ws://127.0.0.1")
        if not url.startswith(local):
            self.away.append(url)


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Opens pages of a width and a height; afterwards checks that none had an error or left the machine."""
    opened: list[Page] = []

    def open_(width: int = 1280, height: int = 800, **options: Any) -> Any:
        opened.append(Page(browser, width, height, **options))
        return opened[-1].page

    yield open_
    for page in opened:
        page.context.close()
    assert [error for page in opened for error in page.errors] == []
    assert [url for page in opened for url in page.away] == []
