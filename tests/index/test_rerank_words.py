"""Words in a reranking beside an index: scores are those that a search of the index gives."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from commands import one_line_error, run
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.indexes import fake_documents
from fakes.word_encoder import FakeEncoder
from moee_index.errors import MisuseError
from moee_index.fusion import Method
from moee_index.index import (
    Index,
    add_documents,
    build_index,
    delete_documents,
    save_weights,
)
from moee_index.readers.candidates import CandidateList
from moee_index.readers.trec import RunLine
from moee_index.reranking import rerank, rerank_lists, rerank_run
from moee_index.types import Document, Hit

METHODS: tuple[Method, ...] = ("sum", "concat", "hs", "rw")
QUERIES = ("w3 w4", "w1 w2 w2 w9", "w0 nowhere", "w17 w18 w19 w20 head", "🙂", "nowhere")


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Index]:
    """Of several segments with deleted documents; split into passages, and not."""
    opened = {}
    for split in (False, True):
        folder = tmp_path_factory.mktemp("i") / "i"
        some = [
            Document(
                f"d{n}",
                " ".join(f"w{(n * k) % 23}" for k in range(1, 3 + n % 29)),
                {"x": n % 5},
                title=f"head w{n % 7}" if n % 3 else "",
            )
            for n in range(90)
        ]
        options: dict[str, Any] = {"chunk": "10:2"} if split else {}
        build_index(folder, some[:70], FakeEncoder(), **options)
        add_documents(folder, some[70:], FakeEncoder())
        delete_documents(folder, ["d3", "d75"])
        opened[split] = Index.open(folder, FakeEncoder())
    return opened


@cache
def lines(ids: tuple[int, ...]) -> list[RunLine]:
    return [RunLine("q", f"d{n}", rank, 0.0) for rank, n in enumerate(ids, 1)]


def fields(hit: Hit) -> tuple[Any, ...]:
    return (hit.score, hit.hs, hit.rw, hit.lexical, hit.bm25, hit.words)


@settings(deadline=None, max_examples=80)
@given(
    st.booleans(),
    st.sampled_from(QUERIES),
    st.sampled_from([0.0, 0.01, 0.4, 0.999, 1.0]) | st.floats(0, 1),
    st.sampled_from(METHODS),
    st.sampled_from([None, 0.0, 0.3, 4.0]),
    st.lists(st.integers(0, 89).filter(lambda n: n not in (3, 75)), min_size=1, unique=True),
    st.sampled_from([(1.2, 0.75), (0.0, 0.0), (2.0, 1.0)]),
)
def test_a_run_has_the_scores_of_a_search(
    indexes: dict[bool, Index],
    split: bool,
    query: str,
    weight: float,
    method: Method,
    alpha: float | None,
    ids: list[int],
    bm25: tuple[float, float],
) -> None:
    index = indexes[split]
    options: dict[str, Any] = {"method": method, "alpha": alpha if method == "sum" else None}
    options |= {"lexical": weight, "k1": bm25[0], "b": bm25[1]}
    searched = {hit.id: fields(hit) for hit in index.search(query, 999, **options)}
    encoder = None if weight == 1 else FakeEncoder()
    (ranked,) = rerank_run([("q", lines(tuple(ids)))], {"q": query}, index, encoder, **options)
    assert {hit.id for hit in ranked.hits} == {f"d{n}" for n in ids}
    assert [hit.score for hit in ranked.hits] == sorted(
        (h.score for h in ranked.hits), reverse=True
    )
    for hit in ranked.hits:
        # By words alone a search leaves out what holds none, a reranking nothing.
        nothing = (0.0, math.nan, math.nan, 0.0, 0.0, ())
        assert fields(hit) == searched.get(hit.id, nothing)
        assert hit.id in searched or weight == 1


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(QUERIES),
    st.floats(0.01, 1),
    st.sampled_from(METHODS),
    st.lists(st.integers(0, 89).filter(lambda n: n not in (3, 75)), min_size=1, unique=True),
)
def test_texts_have_the_scores_of_a_search(
    indexes: dict[bool, Index], query: str, weight: float, method: Method, ids: list[int]
) -> None:
    """Also beside texts that are not in the index, which change nothing for the others."""
    index = indexes[False]
    searched = {hit.id: hit for hit in index.search(query, 999, method=method, lexical=weight)}
    stored = index.documents([f"d{n}" for n in ids])
    candidates = [
        Document(one.id, one.text, one.metadata) for one in (stored[f"d{n}"] for n in ids)
    ]
    strangers = [Document("x", query), Document("y", f"{query} " * 9 + "of another corpus")]
    options: dict[str, Any] = {"method": method, "words": index.words(weight)}
    options["standardizer"] = index.standardizer
    alone = rerank(query, candidates, FakeEncoder(), **options)
    beside = rerank(query, [*candidates, *strangers], FakeEncoder(), **options)
    assert [fields(hit) for hit in beside if hit.id[0] == "d"] == [fields(hit) for hit in alone]
    for hit in alone:
        if hit.id in searched:
            found = searched[hit.id]
            assert hit.score == pytest.approx(found.score, abs=1e-6)
            assert (hit.lexical, hit.bm25, hit.words) == (found.lexical, found.bm25, found.words)
    for hit in beside:
        assert hit.lexical is not None and 0 <= hit.lexical <= 1


def test_a_text_beside_the_index_counts_no_more_than_its_best_document(
    indexes: dict[bool, Index],
) -> None:
    index, words = indexes[False], indexes[False].words(1)
    (best,) = index.search("w3 w4", 1, lexical=1)
    query = best.words and " ".join(best.words)
    assert query == "w3 w4"
    candidates = [Document("a", "w3 w4"), Document("b", "w3 nowhere"), Document("c", "nowhere")]
    hits = {hit.id: hit for hit in rerank(f"{query} nowhere", candidates, None, words=words)}
    assert (hits["a"].score, hits["a"].lexical) == (1.0, 1.0)
    assert (hits["a"].bm25 or 0) > (best.bm25 or 0)
    assert 0 < hits["b"].score < 1
    assert hits["b"].words == ("w3",), "a word that no document holds weighs nothing"
    assert (hits["c"].score, hits["c"].words) == (0.0, ())


def test_what_words_need(indexes: dict[bool, Index], tmp_path: Path) -> None:
    index = indexes[False]
    assert index.words() is None and index.words(0) is None
    for wrong in ({"lexical": 2.0}, {"lexical": 0.4, "k1": -1.0}, {"lexical": 0.4, "b": 2.0}):
        with pytest.raises(MisuseError, match=r"must be a finite number, 0"):
            index.words(**wrong)
    with pytest.raises(MisuseError, match="the encoder is of type NoneType"):
        rerank("w3", ["a"], None, words=index.words(0.9))
    build_index(tmp_path / "i", fake_documents(20), FakeEncoder())
    save_weights(tmp_path / "i", 1.0, 0.4)
    with Index.open(tmp_path / "i") as opened:
        words = opened.words()
        assert words is not None and words.weight == 0.4
        asked = [CandidateList("w3", [Document("a", "w3 w4")])]
        run_of_one = [("q", [RunLine("q", "d1", 1, 0.0)])]
        (by_default,) = rerank_run(run_of_one, {"q": "w3"}, opened, FakeEncoder())
        (found,) = (hit for hit in opened.search("w3", 99, encoder=FakeEncoder()) if hit.id == "d1")
        assert fields(by_default.hits[0]) == fields(found)
        query = words.query("w3")
    for late in (
        lambda: words.query("w3"),
        lambda: query.of_rows([0]),
        lambda: list(rerank_lists(asked, FakeEncoder(), words=words)),
    ):
        with pytest.raises(MisuseError, match="is closed"):
            late()


def test_the_command(tmp_path: Path) -> None:
    corpus, index = tmp_path / "c.jsonl", tmp_path / "i"
    corpus.write_text(
        '{"id": "a", "text": "The ferry was late because of the fog."}\n'
        '{"id": "b", "text": "Bakeries on the corner close at noon."}\n'
    )
    run("build", corpus, "--index", index)
    (tmp_path / "q.tsv").write_text("q1\tfog on the ferry\n")
    (tmp_path / "r.trec").write_text("q1 Q0 b 1 2.0 x\nq1 Q0 a 2 1.0 x\n")
    asked = ("--index", index, "--json", "--lexical", "0.4")
    searched = json.loads(run("query", "fog on the ferry", *asked).stdout)
    by_run = ("--candidates", tmp_path / "r.trec", "--queries", tmp_path / "q.tsv")
    ranked = json.loads(run("rerank", *by_run, *asked).stdout)
    assert ranked["lexical"] == 0.4
    # What a text looks like is told of an answer to a query alone.
    of_query = [
        {name: value for name, value in hit.items() if name not in ("snippet", "marks")}
        for hit in searched["hits"]
    ]
    assert ranked["hits"] == of_query
    plain = run("rerank", "fog on the ferry", *asked, stdin="A ferry in fog.\nNoon.\n")
    first, second = json.loads(plain.stdout)["hits"]
    assert (first["lexical"], first["words"], second["lexical"]) == (1.0, ["fog", "ferry"], 0.0)
    alone = run("rerank", *by_run, "--index", index, "--lexical", "1", "--trec")
    assert [line.split()[2] for line in alone.stdout.splitlines()] == ["a", "b"]
    assert "model" not in alone.stderr
    dense = run("rerank", *by_run, *asked[:3], "--lexical", "0")
    assert "lexical" not in json.loads(dense.stdout)
    save_weights(index, 1.0, 0.4)
    told = run("rerank", *by_run, *asked[:3])
    assert told.stderr.count(f"lexical weight 0.4, the default of index {index};") == 1
    assert json.loads(told.stdout)["hits"] == of_query
    for arguments, reason in (
        (("rerank", "x", "--lexical", "0.4"), "name it with --index"),
        (("rerank", "x", "--index", index, "--lexical", "2"), "lexical is 2.0"),
        (("rerank", "x", "--index", index, "--lexical", "1", "--k1", "-1"), "k1 is -1.0"),
    ):
        assert reason in one_line_error(run(*arguments, stdin="a\n", status=2))
