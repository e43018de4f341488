"""A headless Chromium of this machine, and the page in it.

Whatever a test does, the page may not say an error, load anything from elsewhere, or run what is
not its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from serving import Served

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE = 60_000.0


def browser_path() -> str:
    """Where a browser is; skips a test where there is none."""
    named = os.environ.get("MOEE_TEST_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None or not Path(found).exists():
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    return found


@contextmanager
def chromium() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    path = browser_path()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


@dataclass
class Tab:
    """The page of a server, open. requests: (method, path) of all; complaints: what the console
    said, and what was asked of others."""

    page: Any
    served: Served
    requests: list[tuple[str, str]] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    refused: bool = False

    def listen(self) -> None:
        self.page.set_default_timeout(PATIENCE)
        self.page.on("request", self._asked)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog {dialog.message}"))

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.served.url, "blob:" + self.served.url)):
            self.complaints.append(f"asked {request.url}")
        self.requests.append((request.method, request.url.removeprefix(self.served.url)))

    def _said(self, message: Any) -> None:
        # A refused request is said by the browser itself.
        if message.type == "error" and not (self.refused and "Failed to load" in message.text):
            self.complaints.append(message.text)

    def open(self, **state: Any) -> None:
        """The page with this state in its address; waits for hits if it asks for some."""
        hash_ = f"#{urlencode(state, doseq=True)}" if state else ""
        self.page.goto("about:blank")
        self.page.goto(f"{self.served.url}/{hash_}")
        if state.get("q") or state.get("like"):
            self.settled()
        else:
            self.page.wait_for_selector(".welcome")

    def search(self, query: str) -> None:
        self.page.fill("#query", query)
        self.page.press("#query", "Enter")
        self.settled()

    def settled(self) -> None:
        """Wait until hits, or the lack of some, are there."""
        self.until(
            "() => document.querySelector('#hits').getAttribute('aria-busy') === 'false' && "
            "document.querySelector('.hit, .empty') !== null"
        )

    def until(self, condition: str, value: Any = None) -> None:
        self.page.wait_for_function(condition, arg=value)

    @property
    def ids(self) -> list[str]:
        """Names of the hits in their order."""
        found: list[str] = self.page.eval_on_selector_all(
            ".hit", "hits => hits.map((hit) => hit.dataset.id)"
        )
        return found

    def text(self, selector: str) -> str:
        found: str = self.page.locator(selector).first.inner_text()
        return found

    def searches(self) -> int:
        return sum(path == "/v1/search" for _, path in self.requests)


Opened = Callable[..., Tab]


@contextmanager
def tabs(browser: Any, served: Served) -> Iterator[Opened]:
    """Opens tabs of their own; what they complained of is told in the end."""
    opened: list[tuple[Any, Tab]] = []

    def one(**options: Any) -> Tab:
        context = browser.new_context(
            **{"viewport": {"width": 1200, "height": 900}, "reduced_motion": "reduce", **options}
        )
        tab = Tab(context.new_page(), served)
        tab.listen()
        opened.append((context, tab))
        return tab

    yield one
    for context, _ in opened:
        context.close()
    assert [complaint for _, tab in opened for complaint in tab.complaints] == []
