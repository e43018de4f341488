"""What a build would cost: counts are exact, and no more than a window of texts is in memory."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest

from fakes.word_encoder import FakeEncoder
from moee_index.index import estimate as estimates
from moee_index.types import Document


class _Watched(Document):
    """A document that can be held weakly."""

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def test_counts_do_not_depend_on_the_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [Document(str(n), f"words {n} " * (n % 5)) for n in range(100)]
    whole = estimates.estimate(documents, FakeEncoder())
    assert (whole.documents, whole.skipped) == (80, 20)
    monkeypatch.setattr(estimates, "_CHARACTERS", 50)
    small = estimates.estimate(documents, FakeEncoder())
    assert (small.documents, small.skipped, small.tokens) == (80, 20, whole.tokens)
    assert small.bytes == whole.bytes


def test_few_long_texts_are_held_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "_CHARACTERS", 10_000)
    alive: weakref.WeakSet[_Watched] = weakref.WeakSet()
    most = 0

    def documents() -> Iterator[Document]:
        nonlocal most
        for n in range(60):
            document = _Watched(str(n), f"{n} " + "word " * 600)
            alive.add(document)
            most = max(most, len(alive))
            yield document

    assert estimates.estimate(documents(), FakeEncoder()).documents == 60
    assert most <= 2 * 4 + 1
