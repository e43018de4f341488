"""An index whose segments several servers hold gives the answers of one that is in one place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import PARITY
from shards import sharded

from fakes.indexes import without_postings
from fakes.word_encoder import FakeEncoder
from moee_index import Encoder
from moee_index.errors import MisuseError
from moee_index.index import add_documents, build_index, delete_documents
from moee_index.index.filters import FilterError
from moee_index.index.hits import Hits
from moee_index.index.lexical.syntax import parse_query, plain_query
from moee_index.index.search.request import SearchRequest
from moee_index.serve.local import LocalIndex
from moee_index.serve.settings import Spread
from moee_index.serve.shards.index import SpreadIndex
from moee_index.serve.shards.source import Shards
from moee_index.types import Document

WORDS = [f"w{number}" for number in range(40)]


def sample(count: int) -> list[Document]:
    """Texts of 1 to 30 words, the first of which are frequent; some are equal to others."""
    rng = np.random.default_rng(3)
    share = 1 / np.arange(1, len(WORDS) + 1)
    share /= share.sum()
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 31), p=share)) for _ in range(count)]
    texts[count // 2 :: 3] = texts[: len(texts[count // 2 :: 3])]
    # A field that the first segments lack, and one that only they have.
    return [
        Document(
            f"d{n}", text, {"x": n % 5} | ({"late": str(n % 3)} if n > 106 else {"y": [n % 2]})
        )
        for n, text in enumerate(texts)
    ]


def build(directory: Path, before: int = 0, **options: Any) -> Path:
    """Five segments, each of fewer documents than would be joined, some of which are gone. before:
    documents that the first begins with besides."""
    every = sample(180)
    more = [replace(document, id=f"e{document.id}") for document in sample(before)]
    build_index(directory, [*more, *every[:106]], FakeEncoder(), **options)
    for first, stop in ((106, 148), (148, 169), (169, 176), (176, 180)):
        add_documents(directory, every[first:stop], FakeEncoder())
    delete_documents(directory, ["d3", "d99", "d120", "d150"])
    with LocalIndex.open(directory) as index:
        assert len(index.manifest.segments) == 5
    return directory


@pytest.fixture(scope="module", params=["both", "both 8:2", "none", "approximate", "approx"])
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[SpreadIndex, LocalIndex]]:
    """The same index on three servers, and in one place."""
    folder = tmp_path_factory.mktemp("shards")
    standardize, _, chunk = request.param.partition(" ")
    options: dict[str, Any] = {"standardize": standardize, "chunk": chunk or None}
    if standardize == "approximate":
        options = {"standardize": "both", "index_type": "HNSW4,SQfp16", "before": 1500}
    elif standardize == "approx":
        options = {"standardize": "both", "index_type": "approx", "before": 1500}
    whole = build(folder / "whole", **options)
    with sharded(whole, folder, ["0", "1-2", "3-"]) as running:
        source = Shards(Spread(tuple(each.url for each in reversed(running))))
        found = source.open().index
        assert isinstance(found, SpreadIndex)
        with LocalIndex.open(whole) as one:
            yield found, one


def check_same(found: Hits, expected: Hits) -> None:
    assert list(found) == list(expected)
    assert found.how() == expected.how()


HOWS = [("sum", None), ("sum", 0.3), ("hs", None), ("rw", None), ("concat", None)]
words = st.lists(st.sampled_from([*WORDS, "nowhere"]), min_size=1, max_size=6).map(" ".join)
requests = st.fixed_dictionaries(
    {
        "k": st.sampled_from([1, 7, 40, 400]),
        "filter": st.sampled_from([None, "x < 3", "x = 9", 'id contains "1"', 'late = "1"']),
        "min_score": st.sampled_from([None, 0.2]),
        "passages": st.booleans(),
    }
)


@settings(max_examples=70)
@given(
    queries=st.lists(words, min_size=1, max_size=3),
    options=requests,
    how=st.sampled_from(HOWS),
    lexical=st.sampled_from([None, 0.0, 0.4, 0.999, 1.0]),
    recall=st.sampled_from([None, None, 0.8, 0.99]),
    signs=st.sampled_from([None, "", " +w2", " -w5", ' "w0 w1"', ' -"w1 w0" +w3']),
    bm25=st.sampled_from([{}, {"k1": 0.5, "b": 1.0}]),
)
def test_answers_are_those_of_one_index(
    both: tuple[SpreadIndex, LocalIndex],
    queries: list[str],
    options: dict[str, Any],
    how: tuple[Any, float | None],
    lexical: float | None,
    signs: str | None,
    bm25: dict[str, float],
    recall: float | None,
) -> None:
    """To the bit, equal scores in the same order: vectors, words, both, filtered or not, with
    conditions or without."""
    spread, one = both
    request = SearchRequest.checked(
        method=how[0], alpha=how[1], lexical=lexical, recall=recall, **options, **bm25
    )
    read = plain_query if signs is None else parse_query
    parsed = [read(query + (signs or "")) for query in queries]
    embeddings = None
    if lexical != 1.0:
        embeddings = FakeEncoder().encode([query.text for query in parsed])
    found = spread.for_request(partial=False).answer_parsed(request, embeddings, parsed)
    expected = one.answer_parsed(request, embeddings, parsed)
    for ours, theirs in zip(found, expected, strict=True):
        check_same(ours, theirs)
        if theirs:
            text = parsed[0].text
            assert spread.snippets(text).snippet(theirs[0].text) == one.snippets(text).snippet(
                theirs[0].text
            )


@settings(max_examples=30)
@given(
    identifier=st.sampled_from(["d0", "d45", "d110", "d121", "d179"]),
    options=requests,
    alpha=st.sampled_from([None, 0.0, 2.0]),
)
def test_more_like_is_that_of_one_index(
    both: tuple[SpreadIndex, LocalIndex],
    identifier: str,
    options: dict[str, Any],
    alpha: float | None,
) -> None:
    spread, one = both
    request = SearchRequest.checked(alpha=alpha, **options)
    check_same(spread.answer_like(request, identifier), one.answer_like(request, identifier))


def test_many_queries_are_asked_in_parts(both: tuple[SpreadIndex, LocalIndex]) -> None:
    spread, one = both
    texts = [f"w{number % 40} w{number % 7}" for number in range(150)]
    request = SearchRequest.checked(3, lexical=0.4)
    embeddings = FakeEncoder().encode(texts)
    found = spread.answer(request, embeddings, texts)
    for ours, theirs in zip(found, one.answer(request, embeddings, texts), strict=True):
        check_same(ours, theirs)


def test_documents_passages_and_vectors(both: tuple[SpreadIndex, LocalIndex]) -> None:
    spread, one = both
    names = ["d0", "d3", "d107", "d120", "d179", "nothing"]
    stored = one.documents(names)
    assert {name: (each.text, each.metadata) for name, each in spread.documents(names).items()} == {
        name: (each.text, each.metadata) for name, each in stored.items()
    }
    named = [name for name in one.ids() if name.partition("#")[0] in names]
    assert spread.passages([*names, *named]) == one.passages([*names, *named])
    ours, theirs = spread.vectors(named[::-1]), one.vectors(named[::-1])
    assert np.array_equal(ours.hs, theirs.hs) and np.array_equal(ours.rw, theirs.rw)
    first, expected = spread.first(), one.first()
    assert first is not None and expected is not None and first.id == expected.id
    for index in (spread, one):
        with pytest.raises(MisuseError, match="has no document 'nothing'"):
            index.vectors(["nothing"])
        with pytest.raises(MisuseError, match="no document"):
            index.answer_like(SearchRequest.checked(), "nothing")
    if one.manifest.chunk is not None:
        several = next(name.partition("#")[0] for name in one.ids() if name.endswith("#2"))
        for index in (spread, one):
            with pytest.raises(MisuseError, match=f"has . passages; name one, as in {several}#1"):
                index.vectors([several])


def test_values_and_filters(both: tuple[SpreadIndex, LocalIndex]) -> None:
    spread, one = both
    conditions = parse_query('w1 +w2 -"w0 w1"').conditions
    for condition in (None, "x < 3", 'late = "1"', "y exists"):
        for some in ((), conditions):
            assert spread.count_documents(condition, some) == one.count_documents(condition, some)
            fields = ["x", "late", "y", "id"]
            assert spread.count_values(fields, condition, some) == one.count_values(
                fields, condition, some
            )
    assert spread.fields == one.fields
    for index in (spread, one):
        with pytest.raises(FilterError, match="no document has the field later"):
            index.check_filter("later = 1")
        with pytest.raises(MisuseError, match="no document has the field 'z'"):
            index.count_values(["z"])


def test_candidates_are_weighed_by_the_words_of_all(both: tuple[SpreadIndex, LocalIndex]) -> None:
    spread, one = both
    for options in ({"lexical": 0.4}, {"lexical": 1.0, "k1": 0.7, "b": 0.2}):
        ours, theirs = spread.words(**options), one.words(**options)
        assert ours is not None and theirs is not None and ours.weight == theirs.weight
        texts = ["w0 w1 w1", "w39", "nowhere", ""]
        query = "w1 w39 w0 w0"
        assert ours.query(query).of_texts(texts) == theirs.query(query).of_texts(texts)
    assert spread.words(lexical=0.0) is None


def test_what_describes_the_index_is_that_of_all(both: tuple[SpreadIndex, LocalIndex]) -> None:
    spread, one = both
    assert spread.manifest == one.manifest and spread.spec == one.spec
    assert (spread.alpha, spread.lexical) == (one.alpha, one.lexical)
    ours, theirs = spread.standardizer.to_arrays(), one.standardizer.to_arrays()
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert not spread.missing and replace(spread.manifest) == spread.manifest


def test_token_weights_are_those_of_the_index(tmp_path: Path) -> None:
    """What texts are pooled by is on every shard, and the head's encoder has it from one."""
    encoder = Encoder.load(PARITY / "olmoe", bits=32, pooling="idf", prompt="none")
    build_index(tmp_path / "weighed", sample(8), encoder, idf="corpus")
    with (
        LocalIndex.open(tmp_path / "weighed") as one,
        sharded(tmp_path / "weighed", tmp_path / "parts", ["0-"]) as running,
    ):
        spread = Shards(Spread((running[0].url,))).open().index
        assert spread.token_weights is not None and one.token_weights is not None
        assert (
            spread.token_weights.checksum
            == one.token_weights.checksum
            == (spread.spec.token_weights)
        )


def test_an_index_without_postings_has_no_words(tmp_path: Path) -> None:
    index = build(tmp_path / "plain", standardize="none")
    without_postings(index)
    with (
        LocalIndex.open(index) as one,
        sharded(index, tmp_path / "parts", ["0-1", "2-"]) as running,
    ):
        spread = Shards(Spread(tuple(each.url for each in running))).open().index
        texts, condition = ["w1 w7"], parse_query("w1 +w2")
        embeddings = FakeEncoder().encode(texts)
        request = SearchRequest.checked()
        (found,), (expected,) = (each.answer(request, embeddings, texts) for each in (spread, one))
        check_same(found, expected)
        text = found[0].text
        assert spread.snippets("w1").snippet(text) == one.snippets("w1").snippet(text)
        for index_of in (spread, one):
            with pytest.raises(MisuseError, match="has no postings, which a search by words"):
                index_of.answer(SearchRequest.checked(lexical=0.5), embeddings, texts)
            with pytest.raises(MisuseError, match=r"has no postings, by which \+words"):
                index_of.check_conditions([condition])
            with pytest.raises(MisuseError, match="has no postings"):
                index_of.count_documents(None, condition.conditions)
            assert index_of.words() is None
