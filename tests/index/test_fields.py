"""fields.sqlite: which fields have columns, and that a filter finds the same without them."""

from __future__ import annotations

import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes.indexes import Interrupted, interrupt_at
from fakes.word_encoder import FakeEncoder
from moee_index.errors import CorpusError, IndexDamagedError
from moee_index.index import Index, add_documents, build_index, compact_index, verify_index
from moee_index.index.filters import Filter, FilterError
from moee_index.index.store import fields as fields_module
from moee_index.index.store.fields import FieldReader
from moee_index.index.store.manifest import Manifest, file_entry
from moee_index.types import Document


def documents(*metadata: dict[str, Any], first: int = 0) -> list[Document]:
    return [
        Document(f"d{number}", f"w{number} w{number + 1}", one)
        for number, one in enumerate(metadata, first)
    ]


def opened(directory: Path) -> FieldReader:
    return FieldReader(directory / "segment-0001/fields.sqlite", lambda file: None)


def found(directory: Path, condition: str) -> list[str]:
    with Index.open(directory, FakeEncoder()) as index:
        return sorted(hit.id for hit in index.search("w1 w2", k=1000, filter=condition))


def has_column(directory: Path, name: str, *, own: bool = False) -> bool:
    with opened(directory) as fields:
        return fields.column((name,), own) is not None


def test_the_fields_of_most_documents_have_columns(tmp_path: Path) -> None:
    several = [{f"x{number:02}": at for number in range(70) if at >= number} for at in range(80)]
    build_index(tmp_path / "i", documents(*several), FakeEncoder())
    names = [f"x{number:02}" for number in range(70)]
    assert [has_column(tmp_path / "i", name) for name in names] == [True] * 64 + [False] * 6
    # With a column, without one, both, and a field that is nowhere.
    assert found(tmp_path / "i", "x00 = 7") == ["d7"]
    assert found(tmp_path / "i", "x69 >= 78") == ["d78", "d79"]
    assert found(tmp_path / "i", "x69 exists and x00 < 70") == ["d69"]
    with pytest.raises(FilterError, match="no document has the field y"):
        found(tmp_path / "i", "y = 1")


def test_long_texts_stay_where_they_are(tmp_path: Path) -> None:
    metadata = [
        {"long": f"{number} " * 150, "short": "s" * 100, "id": "own" if number == 1 else None}
        for number in range(5)
    ]
    build_index(tmp_path / "i", documents(*metadata), FakeEncoder())
    assert not has_column(tmp_path / "i", "long")
    assert not has_column(tmp_path / "i", "text", own=True)
    assert has_column(tmp_path / "i", "short") and has_column(tmp_path / "i", "id", own=True)
    assert found(tmp_path / "i", 'long contains "3 3"') == ["d3"]
    assert found(tmp_path / "i", 'text contains "w3"') == ["d2", "d3"]
    assert found(tmp_path / "i", '.id = "own"') == ["d1"]
    assert found(tmp_path / "i", 'id = "own"') == []


def test_more_fields_than_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields_module, "MOST_FIELDS", 5)
    metadata = [{"both": number, f"own{number}": number} for number in range(10)]
    build_index(tmp_path / "i", documents(*metadata), FakeEncoder())
    with opened(tmp_path / "i") as fields:
        assert fields.known() is None
        assert fields.column(("both",)) is not None
        assert fields.column(("own9",)) is None is fields.column(("nowhere",))
    assert found(tmp_path / "i", "both >= 8") == ["d8", "d9"]
    assert found(tmp_path / "i", "own9 = 9 or both = 1") == ["d1", "d9"]
    assert found(tmp_path / "i", "nowhere = 9") == []


def test_segments_have_columns_of_their_own(tmp_path: Path) -> None:
    build_index(tmp_path / "i", documents({"a": 1}, {"b": "x"}), FakeEncoder())
    add_documents(tmp_path / "i", documents({"b": 2}, {"c": [1.0, "y"]}, first=2), FakeEncoder())
    expected = {"a = 1": ["d0"], "b exists": ["d1", "d2"], "b = 2 or c contains 1": ["d2", "d3"]}
    expected |= {"not c exists": ["d0", "d1", "d2"], 'id in ("d0", "d3")': ["d0", "d3"]}
    for condition, ids in expected.items():
        assert found(tmp_path / "i", condition) == ids
    compact_index(tmp_path / "i")
    for condition, ids in expected.items():
        assert found(tmp_path / "i", condition) == ids
    assert verify_index(tmp_path / "i", full=True).problems == []


def test_every_passage_of_a_document_is_found_by_its_fields(tmp_path: Path) -> None:
    texts = [" ".join(f"w{i}" for i in range(1 + 10 * (number % 3))) for number in range(9)]
    some = [Document(f"d{number}", text, {"x": number}) for number, text in enumerate(texts)]
    build_index(tmp_path / "i", some, FakeEncoder(), chunk="8")
    with Index.open(tmp_path / "i") as index, opened(tmp_path / "i") as fields:
        rows = [document.rows for document in index.snapshot.segments[0].live_documents()]
        assert max(map(len, rows)) > 1
        written = Filter.parse("x >= 4 and x != 6").over_columns(fields.column)
        assert written is not None
        mask = fields.matching(*written)
    wanted = [row for number in (4, 5, 7, 8) for row in rows[number]]
    assert np.flatnonzero(mask).tolist() == wanted


def test_verify_finds_fields_that_are_not_those_of_the_documents(tmp_path: Path) -> None:
    build_index(tmp_path / "i", documents({"a": 1}, {"a": 2}), FakeEncoder())
    build_index(tmp_path / "j", documents({"a": 1}, {"a": 3}), FakeEncoder())
    path = tmp_path / "i/segment-0001/fields.sqlite"
    shutil.copy(tmp_path / "j/segment-0001/fields.sqlite", path)
    with pytest.raises(IndexDamagedError, match=r"fields\.sqlite is altered"):
        found(tmp_path / "i", "a = 2")
    report = verify_index(tmp_path / "i", full=True)
    assert [str(path) in problem for problem in report.problems] == [True]
    # As if it had been written so.
    manifest = Manifest.read(tmp_path / "i")
    files = {**manifest.files, "segment-0001/fields.sqlite": file_entry(path)}
    replace(manifest, files=files).write(tmp_path / "i")
    report = verify_index(tmp_path / "i", full=True)
    assert report.problems == [f"{path}: it does not follow from the documents"]
    assert verify_index(tmp_path / "i").problems == []


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    build_index(tmp_path / "i", documents({"a": 1}, {"a": 2}), FakeEncoder())
    path = tmp_path / "i/segment-0001/fields.sqlite"
    size = path.stat().st_size
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE fields SET place = 'f0; DROP TABLE documents'")
    connection.close()
    with opened(tmp_path / "i") as fields, pytest.raises(IndexDamagedError, match="is damaged"):
        fields.column(("a",))
    path.write_bytes(b"x" * size)
    with opened(tmp_path / "i") as fields, pytest.raises(IndexDamagedError, match="is damaged"):
        fields.known()
    path.unlink()
    with pytest.raises(IndexDamagedError, match=r"fields\.sqlite cannot be read"):
        Index.open(tmp_path / "i")


def untyped(*metadata: dict[str, object], changed: int = -1) -> list[Document]:
    return [
        Document(f"d{n}", f"w{n} w1" if n != changed else "other", dict(one), untyped=True)
        for n, one in enumerate(metadata)
    ]


def test_numbers_that_texts_spell_outlive_a_crash_and_a_merge(tmp_path: Path) -> None:
    metadata = [{"n": str(n) if n % 3 else f"0{n}", "x": {"y": f"{n}.5"}} for n in range(60)]
    build_index(tmp_path / "whole", untyped(*metadata), FakeEncoder(batch_tokens=16), window=16)
    with pytest.raises(Interrupted):
        build_index(tmp_path / "i", untyped(*metadata), interrupt_at(5), window=16)
    build_index(tmp_path / "i", untyped(*metadata), FakeEncoder(batch_tokens=16), window=16)
    for condition, expected in (
        ("n > 55", ["d56", "d58", "d59"]),
        ("x.y = 7.5", ["d7"]),
        ('x.y = "7.5"', ["d7"]),
        ("n < 3 and x.y > 1", ["d1", "d2"]),
    ):
        assert found(tmp_path / "i", condition) == found(tmp_path / "whole", condition) == expected
    with Index.open(tmp_path / "i") as index:
        assert index.fields is not None and index.fields["n"] == {"number", "text"}
        assert {d.metadata["n"] for d in index.documents(["d1", "d3"]).values()} == {"1", "03"}
    add_documents(tmp_path / "i", [Document("e1", "w1", {"n": "7"})], FakeEncoder())
    add_documents(tmp_path / "i", untyped({"n": "8"}, changed=0), FakeEncoder(), update=True)
    compact_index(tmp_path / "i")
    assert found(tmp_path / "i", "n in (7, 8)") == ["d0", "d7", "d8"]
    assert found(tmp_path / "i", 'n = "7"') == ["d7", "e1"]
    verify_index(tmp_path / "i", full=True)
    with pytest.raises(CorpusError, match="are read with other types"):
        add_documents(tmp_path / "i", [Document("d8", "w8 w1", metadata[8])], FakeEncoder())


def test_metadata_deeper_than_sqlite_reads(tmp_path: Path) -> None:
    deep: dict[str, object] = {}
    for _ in range(895):
        deep = {"a": deep}
    build_index(tmp_path / "i", documents({"x": deep}, {"y": 1}), FakeEncoder())
    assert found(tmp_path / "i", "x.a.a exists and text exists") == ["d0"]
    with pytest.raises(CorpusError, match="nested more than 900 deep"):
        build_index(tmp_path / "j", documents({"x": {"a": [[[[deep]]]]}}), FakeEncoder())
    wide = {f"f{n}": [] for n in range(1000)}
    build_index(tmp_path / "k", documents(wide), FakeEncoder())
