"""An index of which some segments are opened: rows and segments are numbered as in the whole, and
no file of the others is needed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from fakes.word_encoder import FakeEncoder
from moee_index.errors import IndexDamagedError, MisuseError
from moee_index.index import Index, Segments, add_documents, build_index, delete_documents
from moee_index.types import Document


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Segments of 40, 20 and 10 documents, two of which are gone."""
    documents = [Document(f"d{n}", f"w{n} w{n % 7}", {f"f{n // 40}": n}) for n in range(70)]
    build_index(tmp_path / "i", documents[:40], FakeEncoder(), standardize="none")
    add_documents(tmp_path / "i", documents[40:60], FakeEncoder())
    add_documents(tmp_path / "i", documents[60:], FakeEncoder())
    delete_documents(tmp_path / "i", ["d1", "d45"])
    return tmp_path / "i"


def test_what_is_opened_is_a_part_of_the_whole(directory: Path, tmp_path: Path) -> None:
    with Index.open(directory) as whole:
        names, rows = list(whole.ids()), list(whole.named_rows())
        every, folders = whole.vectors(names), [each.name for each in whole.manifest.segments]
    part = shutil.copytree(directory, tmp_path / "part")
    shutil.rmtree(part / folders[0])
    with pytest.raises(IndexDamagedError, match=folders[0]):
        Index.open(part)
    with Index.open(part, FakeEncoder(), segments=Segments(1)) as held:
        assert len(held) == 29 and held.manifest.documents == 68
        assert list(held.named_rows()) == rows[39:] and list(held.ids()) == names[39:]
        found = held.vectors_at([row for _, row in rows[39:]])
        assert np.array_equal(found.hs, every.hs[39:]) and np.array_equal(found.rw, every.rw[39:])
        assert held.passages(["d69"])["d69"][0].row == 69
        assert held.documents(["d0", "d45", "d46"]).keys() == {"d46"}
        assert held.fields is not None and held.fields.keys() == {"f1"}
        assert [hit.id for hit in held.search("w46 w4", 1)] == ["d46"]
        assert len(held.search("w3", 100, lexical=0.5)) == 29
        assert held.like("d46", 100)[0].id != "d46"


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0", range(1)), ("1-2", range(1, 3)), ("0-", range(3)), (" 2- ", range(2, 3))],
)
def test_segments_are_written_as_ranges(directory: Path, text: str, numbers: range) -> None:
    segments = Segments.parse(text)
    assert segments.of(directory, 3) == numbers and str(segments) == text.strip()
    with Index.open(directory, segments=segments) as held:
        assert len(held.snapshot.segments) == len(numbers)


@pytest.mark.parametrize("text", ["", "-", "-1", "a", "1-0", "0-3", "3", "3-", "0,1", "1-2-3"])
def test_others_are_refused(directory: Path, text: str) -> None:
    with pytest.raises(MisuseError, match=r"segments? ") as raised:
        Index.open(directory, segments=Segments.parse(text))
    assert "\n" not in str(raised.value)
