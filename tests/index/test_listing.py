"""Documents listed, sorted and counted by their metadata, and deleted by a filter: as a walk over
all of them would."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import one_line_error, run
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.word_encoder import FakeEncoder
from moee_index.errors import MisuseError
from moee_index.index import (
    Index,
    add_documents,
    build_index,
    delete_documents,
    delete_matching,
    verify_index,
)
from moee_index.index.listing import Facet, count_values, list_documents
from moee_index.types import Document

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.5, 1.0, -2.5, 2**63, 10**30]),
    st.sampled_from(["", "a", "B", "é", "10", "x" * 300]),
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.fixed_dictionaries({"n": SCALARS}))
METADATA = st.dictionaries(st.sampled_from(["year", "odd name"]), VALUES)
ORDER = ((int, float), (str,), (bool,), (type(None),), (list, dict))


def indexed(directory: Path, metadata: Sequence[dict[str, Any]], chunk: str | None) -> list[str]:
    """An index of two segments with deleted documents; the ids that are left, in order."""
    documents = [
        Document(f"d{number}", f"w{number} " * (1 + 9 * (number % 2)), fields)
        for number, fields in enumerate(metadata)
    ]
    half = (len(documents) + 1) // 2
    build_index(directory, documents[:half], FakeEncoder(), chunk=chunk)
    if documents[half:]:
        add_documents(directory, documents[half:], FakeEncoder())
    gone = [document.id for document in documents[1::5]]
    delete_documents(directory, gone)
    return [document.id for document in documents if document.id not in gone]


def key(value: Any) -> tuple[int, Any]:
    place = next(
        number
        for number, kinds in enumerate(ORDER)
        if isinstance(value, kinds) and not (isinstance(value, bool) and number == 0)
    )
    if place == 0 and abs(value) > 2**62:
        value = float(value)
    return place, 0 if place > 2 else value


@given(
    metadata=st.lists(METADATA, min_size=1, max_size=12),
    chunk=st.sampled_from([None, "8:2"]),
    falling=st.booleans(),
    field=st.sampled_from(["year", "odd name"]),
    offset=st.integers(0, 3),
    k=st.integers(1, 12),
)
@settings(max_examples=60, deadline=None)
def test_a_listing_is_what_a_walk_finds(
    metadata: list[dict[str, Any]],
    chunk: str | None,
    falling: bool,
    field: str,
    offset: int,
    k: int,
) -> None:
    with tempfile.TemporaryDirectory() as name:
        ids = indexed(Path(name) / "i", metadata, chunk)
        fields = {f"d{number}": one for number, one in enumerate(metadata)}
        written = field if field == "year" else f"`{field}`"
        with Index.open(Path(name) / "i") as index:
            snapshot = index.snapshot
            assert [one.id for one in list_documents(snapshot, k=100).documents] == ids
            there = [identifier for identifier in ids if field in fields[identifier]]
            if not any(field in fields[identifier] for identifier in fields):
                with pytest.raises(MisuseError, match="no document has the field"):
                    list_documents(snapshot, sort=written)
                return
            if written not in (snapshot.fields or {}):
                return  # only in documents of a segment that is gone
            scalar = all(not isinstance(fields[one][field], list | dict) for one in there)
            sort = f"-{written}" if falling else written
            found = list_documents(snapshot, sort=sort, k=k, offset=offset)
            assert found.matching == len(ids)
            if scalar:
                there.sort(key=lambda one: key(fields[one][field]), reverse=falling)
                wanted = there + [one for one in ids if one not in there]
                assert [one.id for one in found.documents] == wanted[offset : offset + k]
            (facet,) = count_values(snapshot, [written])
            assert facet.missing == len(ids) - len(there)
            assert dict(as_text(facet.counts)) == expected_counts(
                [fields[identifier][field] for identifier in there]
            )


def as_text(counts: Sequence[tuple[Any, int]]) -> list[tuple[str, int]]:
    return [(json.dumps(number(value)), count) for value, count in counts]


def number(value: Any) -> Any:
    """As it is compared: whole floats are integers, those beyond 64 bits doubles."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return {} if isinstance(value, dict) else value
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        value = float(value)
    return int(value) if float(value).is_integer() else value


def expected_counts(values: Sequence[Any]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for value in values:
        elements = value if isinstance(value, list) else [value]
        plain = [one for one in elements if not isinstance(one, list)]
        counts.update({json.dumps(number(one)) for one in plain})
    return dict(counts)


def test_a_filter_deletes_what_it_finds(tmp_path: Path) -> None:
    metadata = [{"year": 2000 + number % 4, "tags": ["x"] * (number % 3)} for number in range(30)]
    for number, chunk in enumerate((None, "8:2")):
        directory = tmp_path / str(number)
        ids = indexed(directory, metadata, chunk)
        with Index.open(directory) as index:
            matching = list_documents(index.snapshot, filter="year >= 2002", k=100)
        gone = {document.id for document in matching.documents}
        assert 0 < len(gone) < len(ids)
        report = delete_matching(directory, "year >= 2002")
        assert report.changed == len(gone) == matching.matching
        assert verify_index(directory, full=True).problems == []
        with Index.open(directory, FakeEncoder()) as index:
            left = [document.id for document in list_documents(index.snapshot, k=100).documents]
            assert left == [identifier for identifier in ids if identifier not in gone]
            assert {hit.id for hit in index.search("w1 w2", k=100)} == set(left)
        assert delete_matching(directory, "year >= 2002").unchanged
        assert delete_matching(directory, "year < 2002").documents == 0


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    metadata = [
        {"year": 2001, "tags": ["x", "y"]},
        {"year": 1999.5, "tags": ["x"], "who": {"n": 1}},
        {"open": True, "year": None},
        {"year": "later\x1b[2J", "who": {"n": 2}},
    ]
    documents = [Document(f"d{n}", f"w{n}", one, "A title") for n, one in enumerate(metadata)]
    build_index("i", documents, FakeEncoder())
    return "i"


def test_list_prints_documents(small: str) -> None:
    assert run("list", small, "--sort", "-year").stdout == (
        "d2  A title · w2\nd3  A title · w3\nd0  A title · w0\nd1  A title · w1\n4 of 4 documents\n"
    )
    (line,) = run("list", small, "--filter", "who.n = 2", "--json").stdout.splitlines()
    found = json.loads(line)
    assert found["id"] == "d3" and found["metadata"]["who"] == {"n": 2}
    assert run("list", small, "-k", 1, "--offset", 3).stdout.startswith("d3")


def test_list_counts_values(small: str) -> None:
    shown = run("list", small, "--facet", "tags", "--facet", "year").stdout
    assert "        2  x\n        1  y\n        2  without the field\n" in shown
    assert "\x1b" not in shown and "later\\x1b[2J" in shown
    lines = run("list", small, "--facet", "who.n", "--json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "field": "who.n",
            "values": [{"value": 1, "count": 1}, {"value": 2, "count": 1}],
            "missing": 2,
        }
    ]
    with Index.open(small) as index:
        (facet,) = count_values(index.snapshot, ["open"], "open = true")
    assert facet == Facet("open", ((True, 1),), 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sort", "zz"], "no document has the field 'zz'; there are"),
        (["--sort", "a b"], "'a b' is no field's name"),
        (["--sort", ""], "is no field's name"),
        (["--facet", "tags", "--sort", "year"], "--facet counts documents"),
        (["--filter", "year >"], "filter, position"),
        (["-k", "0"], "Invalid value for '-k'"),
    ],
)
def test_lists_that_cannot_be_meant(small: str, arguments: list[str], words: str) -> None:
    assert words in one_line_error(run("list", small, *arguments, status=2))


def test_delete_asks_before_it_deletes_by_filter(small: str) -> None:
    refused = run("delete", small, "--filter", "exists(tags)", status=2)
    assert "2 documents of 4 match; give --yes" in one_line_error(refused)
    deleted = run("delete", small, "--filter", "exists(tags)", "--yes")
    assert "2 deleted, 2 documents" in deleted.stdout
    both = run("delete", small, "d1", "--filter", "exists(tags)", status=2)
    assert "or a --filter" in one_line_error(both)


def test_a_query_counts_and_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [{"id": f"d{n}", "text": f"ships {n}", "kind": "ab"[n % 2]} for n in range(5)]
    Path("c.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    run("-q", "build", "c.jsonl", "--index", "i")
    query = ("query", "ships", "--index", "i", "--json")
    whole = json.loads(run(*query).stdout)["hits"]
    page = json.loads(run(*query, "--offset", 2, "-k", 2, "--facet", "kind").stdout)
    assert [hit["id"] for hit in page["hits"]] == [hit["id"] for hit in whole[2:4]]
    assert [hit["rank"] for hit in page["hits"]] == [3, 4]
    counted = {value["value"]: value["count"] for value in page["facets"][0]["values"]}
    assert counted == {"a": 3, "b": 2}
    left = run(*query[:-1], "--facet", "kind", "--filter", 'kind = "b"').stdout
    assert left.endswith("kind\n        2  b\n")
    assert json.loads(run(*query, "--offset", 9).stdout)["hits"] == []
    liked = json.loads(run("query", "--index", "i", "--json", "--like", "d0", "--offset", 1).stdout)
    assert [hit["rank"] for hit in liked["hits"]] == [2, 3, 4]
    refused = run(*query[:-1], "--facet", "zz", status=2)
    assert "no document has the field 'zz'" in one_line_error(refused)
    assert "no counts" in one_line_error(run(*query[:-1], "--trec", "--facet", "kind", status=2))


def test_no_filter_deletes_nothing(small: str) -> None:
    run("delete", small, "d1")
    for nothing in (None, "", " ", 3):
        with pytest.raises(MisuseError):
            delete_matching(small, nothing)  # type: ignore[arg-type]
    with Index.open(small) as index:
        assert len(index) == 3
    assert "filter" in one_line_error(run("delete", small, "--filter", "", "--yes", status=2))
