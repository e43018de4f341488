"""`query --index A --index B`: as a user types it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from commands import one_line_error, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Indexes `a` and `b`, which share a standardizer (none), and `other` of other options."""
    folder = tmp_path_factory.mktemp("several")
    texts = {
        "a": {"a1": "ships at sea", "a2": "boats on the ocean", "both": "a lighthouse"},
        "b": {"b1": "sailing ships and the sea", "b2": "bread and butter", "both": "a lamp"},
    }
    for name, documents in texts.items():
        lines = [json.dumps({"id": i, "text": text, name: 1}) for i, text in documents.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        run("-q", "build", folder / f"{name}.jsonl", "--index", folder / name)
    run("-q", "build", folder / "b.jsonl", "--index", folder / "other", "--max-tokens", "9")
    return folder


@pytest.fixture
def pair(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.chdir(folder)
    return "query", "--index", "a", "--index", "b"


def answer(*args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("-q", *args, "--json").stdout)
    return found


def test_one_list(pair: tuple[str, ...]) -> None:
    found = answer(*pair, "ships at sea", "-k", "9")
    assert (found["index"], found["merge"]) == (["a", "b"], "scores")
    assert {(hit["index"], hit["id"]) for hit in found["hits"][:2]} == {("a", "a1"), ("b", "b1")}
    assert len(found["hits"]) == 6 and not any("rrf" in hit for hit in found["hits"])
    scores = [hit["score"] for hit in found["hits"]]
    assert scores == sorted(scores, reverse=True)
    later = answer(*pair, "ships at sea", "-k", "2", "--offset", "3")
    assert later["hits"] == found["hits"][3:5]
    table = run(*pair, "ships at sea", "-k", "1").stdout
    assert "  a  a1  ships" in table or "  b  b1  sailing" in table
    one = answer("query", "--index", "a", "ships")
    assert one["index"] == "a" and "merge" not in one and "index" not in one["hits"][0]


def test_by_rank(pair: tuple[str, ...]) -> None:
    found = answer(*pair, "ships at sea", "--merge", "ranks", "-k", "3")
    assert [hit["index"] for hit in found["hits"]] == ["a", "b", "a"]
    assert [hit["rrf"] for hit in found["hits"]] == [1 / 61, 1 / 61, 1 / 62]
    assert found["merge"] == "ranks"
    assert "merged by rank" not in run(*pair, "ships", "--merge", "ranks").stderr
    assert "merged by rank" not in run(*pair, "ships", "--merge", "scores").stderr
    query = ("ships at sea", "--filter", "not id = 'both'", "-k", "3", "--merge", "ranks")
    lines = run(*pair, *query, "--trec").stdout.splitlines()
    scores = [float(line.split()[4]) for line in lines]
    assert scores == sorted(set(scores), reverse=True) and len(scores) == 3


def test_filters_facets_and_more_like(pair: tuple[str, ...]) -> None:
    found = answer(*pair, "ships", "--filter", "b = 1", "--facet", "a", "--facet", "b")
    assert {hit["index"] for hit in found["hits"]} == {"b"}
    assert found["facets"] == [
        {"field": "a", "values": [], "missing": 3},
        {"field": "b", "values": [{"value": 1, "count": 3}], "missing": 0},
    ]
    found = answer(*pair, "ships -bread", "--facet", "b", "-k", "9")
    assert found["facets"][0] == {"field": "b", "values": [{"value": 1, "count": 2}], "missing": 3}
    assert len(found["hits"]) == 5
    for hit in found["hits"]:
        marked = [hit["snippet"][start:stop] for start, stop in hit["marks"]]
        assert marked == (["ships"] if "ships" in hit["text"] else [])
    found = answer(*pair, "--like", "a1", "-k", "1")
    assert (found["like"], found["hits"][0]["id"]) == ("a1", "b1")


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("--trec", "ships"), 1, "a hit 'both' may be of a or of b"),
        (("--like", "both"), 2, "document 'both' is in a and b; name one of them alone"),
        (("--like", "zz"), 2, "there is no document 'zz' in a and b"),
        (("--filter", "zz = 1", "ships"), 2, "no document has the field zz"),
        (("--index", "./a", "ships"), 2, "the index a is named twice"),
        (("--index", "zz", "ships"), 1, "zz: no such directory"),
        (("--index", "other", "ships"), 1, "different options: max-tokens 512 and 9; search them"),
    ],
)
def test_what_is_refused(
    pair: tuple[str, ...], arguments: tuple[str, ...], status: int, told: str
) -> None:
    assert told in one_line_error(run(*pair, *arguments, status=status))


def test_merging_one_index_is_no_merging(pair: tuple[str, ...]) -> None:
    result = run(*pair[:3], "--merge", "ranks", "ships", status=2)
    assert "--merge says how hits of several --index become one list" in one_line_error(result)


def test_several_in_a_variable(pair: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOEE_INDEX_QUERY_INDEX", "b")
    assert answer("query", "ships")["index"] == "b"
    monkeypatch.setenv("MOEE_INDEX_QUERY_INDEX", f"b{os.pathsep}a")
    assert answer("query", "ships")["index"] == ["b", "a"]
    named = f"of{os.pathsep}that name"
    Path("a").rename(named)
    monkeypatch.setenv("MOEE_INDEX_QUERY_INDEX", named)
    assert answer("query", "ships")["index"] == named
    Path(named).rename("a")
