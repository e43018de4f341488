"""Windows of a build: full by passages or by characters, and the same after an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fakes.indexes import Interrupted, index_bytes, interrupt_at
from fakes.word_encoder import FakeEncoder
from moee_index.index import Index, build_index
from moee_index.index.estimate import estimate
from moee_index.index.store.layout import BUILDING, segment_folders
from moee_index.index.write import segment
from moee_index.index.write.windows import Batch, Counts, Rejects, windows
from moee_index.types import Document

LONG = [Document(f"d{n}", f"w{n} " * (100 if n % 3 else 1)) for n in range(20)]


def grouped(size: int, characters: int | None) -> list[Batch]:
    counts = Counts()
    return list(
        windows(
            LONG,
            size,
            lambda identifier, before: None,
            Rejects(None, counts),
            counts,
            skip_bad=False,
            characters=characters,
        )
    )


@pytest.mark.parametrize("characters", [None, 1, 500, 10_000])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_a_window_is_full_by_passages_or_characters(size: int, characters: int | None) -> None:
    found = grouped(size, characters)
    documents = [prepared.document for window in found for prepared in window.documents]
    assert documents == LONG
    for window, after in zip(found, [*found[1:], None], strict=True):
        lengths = [len(prepared.document.text) for prepared in window.documents]
        within = sum(lengths[:-1]) < (characters or 10**9) and len(lengths) - 1 < size
        full = sum(lengths) >= (characters or 10**9) or len(lengths) >= size
        assert within and (full or after is None)


def test_a_resumed_build_has_the_windows_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment, "WINDOW", 4)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    build_index(whole, LONG, FakeEncoder(), window=4)
    with pytest.raises(Interrupted):
        build_index(resumed, LONG, interrupt_at(3), window=4)
    # An earlier version did not count characters.
    (folder,) = segment_folders(resumed)
    settings = json.loads((folder / BUILDING).read_text())
    assert settings.pop("characters") == 2**24
    (folder / BUILDING).write_text(json.dumps(settings))
    build_index(resumed, LONG, FakeEncoder(), window=4)
    assert index_bytes(resumed) == index_bytes(whole)
    with Index.open(whole) as index:
        assert len(index) == len(LONG)


def test_an_estimate_holds_no_more_than_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moee_index.index.estimate.WINDOW_CHARACTERS", 500)
    encoder = FakeEncoder()
    planned: list[int] = []
    plan = encoder.plan
    monkeypatch.setattr(encoder, "plan", lambda texts: planned.append(len(texts)) or plan(texts))
    found = estimate(LONG, encoder)
    assert found.documents == len(LONG)
    assert max(planned) <= 4
