"""One server for all tests that only ask: tiny, an index of articles, one of passages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Served, build_news, serving

from moee_index import Encoder


@pytest.fixture(scope="session")
def tiny() -> Encoder:
    return Encoder.load()


@pytest.fixture(scope="session")
def news_index(tmp_path_factory: pytest.TempPathFactory, tiny: Encoder) -> Path:
    return build_news(tmp_path_factory.mktemp("served") / "news", 120, tiny)


@pytest.fixture(scope="session")
def passages_index(tmp_path_factory: pytest.TempPathFactory, tiny: Encoder) -> Path:
    return build_news(tmp_path_factory.mktemp("served") / "passages", 30, tiny, chunk="60:10")


@pytest.fixture(scope="session")
def served(news_index: Path, passages_index: Path) -> Iterator[Served]:
    with serving(news_index, passages_index) as running:
        yield running
