"""The pictures of the page in docs/images, taken anew: `python docs/screenshots.py`.

Needs the extras `serve` and `dev`, and a Chromium of this machine.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moee_index import Document, Encoder, Index

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
sys.path.insert(0, str(ROOT / "tests"))

from browsing import chromium  # noqa: E402
from serving import serving  # noqa: E402

ARTICLES = 1500
QUERY = "election results disputed by the opposition"
_YEAR = re.compile(r"\b20[01]\d\b")
_DAY = re.compile(r"\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day\b")


def articles() -> Iterator[Document]:
    """News with what their texts say of themselves as metadata."""
    with (ROOT / "corpora" / "wikinews.jsonl").open(encoding="utf-8") as lines:
        for line, _ in zip(lines, range(ARTICLES), strict=False):
            article = json.loads(line)
            metadata: dict[str, Any] = {"words": len(article["text"].split())}
            metadata["length"] = "short" if metadata["words"] < 70 else "long"
            if year := _YEAR.search(article["text"]):
                metadata["year"] = int(year[0])
            if day := _DAY.search(article["text"]):
                metadata["weekday"] = day[0]
            yield Document(article["id"], article["text"], metadata, title=article["title"])


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "wikinews"
        Index.build(directory, list(articles()), Encoder.load()).close()
        with serving(directory) as served, chromium() as browser:
            page = browser.new_context(
                viewport={"width": 1240, "height": 1010}, device_scale_factor=1.5,
                color_scheme="light",
            ).new_page()  # fmt: skip
            # The first search finds nothing warm, and its time is no user's.
            page.goto(f"{served.url}/#q=warm")
            page.wait_for_selector(".hit")
            page.goto(f"{served.url}/#q={QUERY.replace(' ', '+')}&words=0.4")
            page.wait_for_selector(".hit[data-id=wn115216]")
            page.wait_for_selector(".facet")
            page.evaluate("document.activeElement.blur()")
            page.screenshot(path=IMAGES / "page.png")
            page.locator("[data-routing]").nth(1).click()
            page.wait_for_selector(".uses li")
            page.evaluate("document.activeElement.blur()")
            page.mouse.move(0, 0)
            page.locator(".hit").nth(1).screenshot(path=IMAGES / "routing.png")


if __name__ == "__main__":
    main()
