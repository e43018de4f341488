"""Several indexes searched as one: the list of one index that holds all documents where scores mean
the same in all, else merged by rank; and what cannot be searched together."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.indexes import without_postings
from fakes.word_encoder import FakeEncoder, fake_spec
from moee_index.errors import CorpusError, FingerprintMismatchError, MisuseError, MoeeIndexError
from moee_index.index import (
    Index,
    Indexes,
    add_documents,
    build_index,
    delete_documents,
    save_alpha,
    save_weights,
)
from moee_index.index.filters import FilterError
from moee_index.index.hits import Hits
from moee_index.index.lexical.syntax import parse_query
from moee_index.index.search.request import SearchRequest
from moee_index.types import Document

WORDS = [f"w{number}" for number in range(40)]


def sample(name: str, count: int, seed: int) -> list[Document]:
    """Texts of 1 to 30 words, the first of which are frequent; some are equal to others."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, len(WORDS) + 1)
    share /= share.sum()
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 31), p=share)) for _ in range(count)]
    texts[count // 2 :: 3] = texts[: len(texts[count // 2 :: 3])]
    return [Document(f"{name}{n}", text, {"x": n % 5}) for n, text in enumerate(texts)]


PARTS = {"a": sample("a", 60, 1), "b": sample("b", 25, 2), "c": sample("c", 90, 1)}
GONE = {"a": ["a3", "a59"], "b": [], "c": ["c0", "c41", "c70"]}


def fill(directory: Path, *names: str, build: bool = True, **options: Any) -> None:
    """Put the documents of some parts into an index, in several segments, and delete some again."""
    every = [document for name in names for document in PARTS[name]]
    if build:
        build_index(directory, every[:20], FakeEncoder(), **options)
        every = every[20:]
    add_documents(directory, every[: len(every) // 3], FakeEncoder())
    add_documents(directory, every[len(every) // 3 :], FakeEncoder())
    if gone := [identifier for name in names for identifier in GONE[name]]:
        delete_documents(directory, gone)


@pytest.fixture(scope="module", params=["none", "none 8:2", "both"])
def parts_and_whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[Path], Path]:
    """Three indexes that share a standardizer, and one of all their documents in their order."""
    folder = tmp_path_factory.mktemp("several")
    standardize, _, chunk = request.param.partition(" ")
    parts, whole = [folder / name for name in PARTS], folder / "whole"
    if standardize == "none":
        for part in parts:
            fill(part, part.name, standardize="none", chunk=chunk or None)
        fill(whole, *PARTS, standardize="none", chunk=chunk or None)
        return parts, whole
    # Fitted once, on documents that all begin with and then lose.
    first = sample("z", 100, 7)
    build_index(folder / "first", first, FakeEncoder(), standardize="both")
    for directory in (*parts, whole):
        shutil.copytree(folder / "first", directory)
        fill(directory, *(PARTS if directory == whole else [directory.name]), build=False)
        delete_documents(directory, [document.id for document in first])
    return parts, whole


def check_same(merged: Hits, whole: Hits, directories: Sequence[Path]) -> None:
    assert merged.exact == whole.exact
    assert [replace(hit, index=None) for hit in merged] == list(whole)
    assert [hit.index for hit in merged] == [
        next(str(each) for each in directories if each.name == hit.id[0]) for hit in merged
    ]


HOWS = [("sum", None), ("sum", 0.3), ("hs", None), ("rw", None), ("concat", None)]
words = st.lists(st.sampled_from([*WORDS, "nowhere"]), min_size=1, max_size=6).map(" ".join)
requests = st.fixed_dictionaries(
    {
        "k": st.sampled_from([1, 7, 40, 400]),
        "filter": st.sampled_from([None, "x < 3", "x = 9", 'id contains "1"']),
        "min_score": st.sampled_from([None, 0.2]),
        "passages": st.booleans(),
    }
)


@settings(max_examples=60)
@given(
    query=words,
    options=requests,
    how=st.sampled_from(HOWS),
    lexical=st.sampled_from([0.0, 0.4, 0.999, 1.0]),
    signs=st.sampled_from([None, "", " +w2", " -w5", ' "w0 w1"', ' -"w1 w0" +w3']),
)
def test_the_list_is_that_of_one_index(
    parts_and_whole: tuple[list[Path], Path],
    query: str,
    options: dict[str, Any],
    how: tuple[Any, float | None],
    lexical: float,
    signs: str | None,
) -> None:
    """To the bit, equal scores in the same order: vectors, words, both, filtered or not, with
    conditions or without."""
    parts, whole = parts_and_whole
    given = {**options, "method": how[0], "alpha": how[1], "lexical": lexical}
    with Indexes.open(parts, FakeEncoder()) as several, Index.open(whole, FakeEncoder()) as one:
        assert several.merged_by(SearchRequest.checked(**given))[0] == "scores"
        given["syntax"], query = signs is not None, query + (signs or "")
        check_same(several.search(query, **given), one.search(query, **given), parts)


@settings(max_examples=30)
@given(
    identifier=st.sampled_from(["a0", "a45", "b7", "c1", "c89"]),
    options=requests,
    alpha=st.sampled_from([None, 0.0, 2.0]),
)
def test_more_like_is_that_of_one_index(
    parts_and_whole: tuple[list[Path], Path],
    identifier: str,
    options: dict[str, Any],
    alpha: float | None,
) -> None:
    parts, whole = parts_and_whole
    with Indexes.open(parts) as several, Index.open(whole) as one:
        merged = several.like(identifier, alpha=alpha, **options)
        check_same(merged, one.like(identifier, alpha=alpha, **options), parts)
        if merged:
            again = several.answer_like(SearchRequest.checked(**options), merged[0])
            name = several.document(merged[0]).id
            assert again == several.like(name, **options) and name in merged[0].id


def test_many_queries_at_once_and_counts(parts_and_whole: tuple[list[Path], Path]) -> None:
    parts, whole = parts_and_whole
    queries = [f"w{n % 7} w{n}" for n in range(30)]
    with Indexes.open(parts, FakeEncoder()) as several, Index.open(whole, FakeEncoder()) as one:
        assert len(several) == len(one)
        for weight in (0.0, 0.4, 1.0):
            merged = several.search(queries, 5, lexical=weight)
            for ours, theirs in zip(merged, one.search(queries, 5, lexical=weight), strict=True):
                check_same(ours, theirs, parts)
        (facet,) = several.count_values(["x"], "x > 1")
        (expected,) = Indexes([one]).count_values(["x"], "x > 1")
        assert facet == expected and facet.missing == 0
        conditions = parse_query("w1 +w2 -w3").conditions
        (facet,) = several.count_values(["x"], None, conditions)
        (expected,) = Indexes([one]).count_values(["x"], None, conditions)
        assert facet == expected and 0 < sum(count for _, count in facet.counts) < len(one)


# By rank


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    """Two indexes with standardizers of their own, and one document that both have."""
    shared = Document("both", "w1 w2 w3", {"y": 1})
    build_index(tmp_path / "one", [*PARTS["a"], shared], FakeEncoder(), standardize="both")
    build_index(tmp_path / "two", [*PARTS["b"], shared], FakeEncoder(), standardize="both")
    return [tmp_path / "one", tmp_path / "two"]


def test_ranks_are_merged_where_standardizers_differ(pair: list[Path]) -> None:
    with Indexes.open(pair, FakeEncoder()) as several:
        request = SearchRequest.checked()
        way, reason = several.merged_by(request)
        assert way == "ranks" and reason == (
            f"scores cannot be compared, for {pair[0]} and {pair[1]} have different standardizers"
        )
        merged = several.search("w1 w2 w3", 9, lexical=0.4)
        own = [index.search("w1 w2 w3", 9, lexical=0.4, encoder=FakeEncoder()) for index in
               several.indexes]  # fmt: skip
        expected = [hits[rank] for rank in range(9) for hits in own][:9]
        assert [(hit.id, hit.score, hit.lexical) for hit in merged] == [
            (hit.id, hit.score, hit.lexical) for hit in expected
        ]
        assert [hit.rank for hit in merged] == list(range(1, 10))
        assert [hit.rrf for hit in merged] == [1 / (60 + hit.rank) for hit in expected]
        assert [hit.index for hit in merged[:2]] == [str(each) for each in pair]
        # Words alone mean the same whatever the standardizers.
        alone = several.search("w1 w2 w3", 9, lexical=1)
        assert several.merged_by(SearchRequest.checked(lexical=1))[0] == "scores"
        assert [hit.score for hit in alone] == sorted((hit.score for hit in alone), reverse=True)
        assert alone[0].score == 1.0 and alone[0].rrf is None
        assert several.search("w1", min_score=9.0) == []
        assert len(several.search("w1", 1000)) == len(several) == 87


def test_scores_are_not_merged_where_they_mean_different_things(pair: list[Path]) -> None:
    with Indexes.open(pair, FakeEncoder(), merge="scores") as several:
        with pytest.raises(MisuseError, match=r"different standardizers; .* \(--merge ranks\)"):
            several.search("w1")
        with pytest.raises(MisuseError, match="different standardizers"):
            several.like("a1")
        assert several.search("w1", lexical=1)
    with Indexes.open(pair, FakeEncoder(), merge="ranks") as several:
        assert several.search("w1", lexical=1)[0].rrf == 1 / 61


def test_other_weights_and_languages(tmp_path: Path) -> None:
    for name, language in (("a", "none"), ("b", "en")):
        build_index(tmp_path / name, PARTS[name], FakeEncoder(), standardize="none",
                    language=language)  # fmt: skip
    save_alpha(tmp_path / "b", 0.5)
    parts = [tmp_path / "a", tmp_path / "b"]
    ways = {
        "default α (1 and 0.5; --alpha": {},
        "stemmed differently (language none and en)": {"alpha": 1.0, "lexical": 0.2},
        "stemmed differently": {"lexical": 1.0},
    }
    with Indexes.open(parts, FakeEncoder()) as several:
        for words_told, options in ways.items():
            way, reason = several.merged_by(SearchRequest.checked(**options))
            assert way == "ranks" and words_told in reason
            assert several.search("w1", **options)[0].rrf is not None
        for options in ({"alpha": 2.0}, {"method": "hs"}):
            assert several.merged_by(SearchRequest.checked(**options))[0] == "scores"
        assert several.details(SearchRequest.checked()) == {
            "index": [str(each) for each in parts], "method": "sum", "alpha": [1.0, 0.5],
            "merge": "ranks",
        }  # fmt: skip


def test_default_weights_of_words(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        build_index(tmp_path / name, PARTS[name], FakeEncoder(), standardize="none")
    save_weights(tmp_path / "a", 1.0, 0.4)
    save_weights(tmp_path / "b", 1.0, 0.4)
    open_request = SearchRequest.checked()
    with Indexes.open([tmp_path / "a", tmp_path / "b"], FakeEncoder()) as several:
        assert several.search("w1 w30") == several.search("w1 w30", lexical=0.4)
        assert several.details(open_request)["lexical"] == 0.4 and several.embeds(open_request)
        # More like a document is asked by vectors alone, and so are embeddings without a text.
        assert several.like("a1")[0].lexical is None
        embeddings = FakeEncoder().encode(["w1"])
        assert several.answer(open_request, embeddings)[0][0].lexical is None
    with Indexes.open([tmp_path / "a", tmp_path / "c"], FakeEncoder()) as several:
        assert "weights of words (0.4 and 0; --lexical" in several.merged_by(open_request)[1]
        first, second = several.search("w1 w30", 2)
        assert first.lexical is not None and second.lexical is None
        assert several.details(open_request)["lexical"] == [0.4, 0.0]
        assert several.search("w1 w30", lexical=0.1)[0].rrf is None
        assert several.like("a1")[0].rrf is None
    save_weights(tmp_path / "a", 1.0, 1.0)
    save_weights(tmp_path / "b", 1.0, 1.0)
    with Indexes.open([tmp_path / "a", tmp_path / "b"]) as several:
        assert not several.embeds(open_request) and several.search("w30")


# Ids, filters, fields


def test_an_id_that_two_have(pair: list[Path]) -> None:
    with Indexes.open(pair, FakeEncoder()) as several:
        hits = [hit for hit in several.search("w1 w2 w3", 100) if hit.id == "both"]
        assert [hit.index for hit in hits] == [str(each) for each in pair]
        assert several.document(hits[1]).text == "w1 w2 w3"
        with pytest.raises(MisuseError, match=r"'both' is in .*one and .*two; name one of them"):
            several.like("both")
        like = several.answer_like(SearchRequest.checked(), hits[1])
        assert (like[0].id, like[0].index) == ("both", str(pair[0]))
        with pytest.raises(MisuseError, match="there is no document 'zz' in"):
            several.like("zz")
        with pytest.raises(MisuseError, match="not one of these"):
            several.document(replace(hits[0], index="elsewhere"))


def test_ids_of_a_run(pair: list[Path]) -> None:
    with Indexes.open(pair) as several:
        with pytest.raises(CorpusError, match=r"a hit 'both' may be of .*one or of .*two"):
            several.check_run_ids(SearchRequest.checked())
        several.check_run_ids(SearchRequest.checked(filter="not exists(y)"))
        several.check_run_ids(SearchRequest.checked(filter="x = 1"))
    delete_documents(pair[0], ["both"])
    with Indexes.open(pair) as several:
        several.check_run_ids(SearchRequest.checked())


def test_a_passage_called_as_a_document_elsewhere(tmp_path: Path) -> None:
    long = Document("d", " ".join(WORDS))
    build_index(tmp_path / "a", [long], FakeEncoder(), chunk="8:2")
    build_index(tmp_path / "b", [Document("d#2", "w1")], FakeEncoder())
    for order in (("a", "b"), ("b", "a")):
        with Indexes.open([tmp_path / name for name in order]) as several:
            several.check_run_ids(SearchRequest.checked())
            with pytest.raises(CorpusError, match="a hit 'd#2' may be of"):
                several.check_run_ids(SearchRequest.checked(passages=True))


def test_filters_and_fields_that_one_has(pair: list[Path]) -> None:
    build_index(pair[1], [Document("q", "w1", {"z": "t"})], FakeEncoder(), overwrite=True)
    with Indexes.open(pair, FakeEncoder()) as several:
        assert [hit.id for hit in several.search("w1", filter='z = "t"')] == ["q"]
        assert {hit.id for hit in several.search("w1", filter='z = "t" or y = 1')} == {"q", "both"}
        with pytest.raises(FilterError, match=r"no document has the field zz; .* z, y, x"):
            several.search("w1", filter="zz = 1")
        with pytest.raises(FilterError, match="field z holds text, not numbers"):
            several.search("w1", filter="z = 1")
        facet, other = several.count_values(["z", "x"])
        assert facet.counts == (("t", 1),) and facet.missing == 61
        assert sum(count for _, count in other.counts) == 60 and other.missing == 2
        with pytest.raises(MisuseError, match="no document has the field 'zz'; there are x, y, z"):
            several.count_values(["zz"])
        # What was checked against both is no pass for one alone.
        with pytest.raises(FilterError, match="no document has the field z"):
            several.indexes[0].search("w1", filter='z = "t"', encoder=FakeEncoder())


def test_an_index_that_has_become_empty(pair: list[Path]) -> None:
    build_index(pair[1], [Document("q", "w1", {"z": "t"})], FakeEncoder(), overwrite=True)
    delete_documents(pair[1], ["q"])
    with Indexes.open(pair, FakeEncoder()) as several:
        for options in ({}, {"lexical": 0.4}, {"lexical": 1.0}, {"filter": "y = 1"}):
            assert {hit.index for hit in several.search("w1 w2", **options)} == {str(pair[0])}


# What cannot be searched together


@pytest.mark.parametrize(
    ("changes", "words_told"),
    [
        ({"fingerprint": "e" * 64}, "built with different models (fake, fingerprint ffffffff"),
        ({"bits": 16}, "built with different options: bits 32 and 16; search them one by one"),
        ({"prompt": "p", "max_tokens": 9}, "prompt 'none' and 'p', max-tokens 32 and 9"),
    ],
)
def test_indexes_of_other_models(tmp_path: Path, changes: dict[str, Any], words_told: str) -> None:
    build_index(tmp_path / "a", PARTS["a"], FakeEncoder())
    build_index(tmp_path / "b", PARTS["b"], FakeEncoder(spec=fake_spec(**changes)))
    with pytest.raises(FingerprintMismatchError) as raised:
        Indexes.open([tmp_path / "a", tmp_path / "b"])
    assert words_told in str(raised.value)


def test_wrong_calls(pair: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pair[0].parent)
    wrong: list[tuple[Any, Any, str]] = [
        ([], "auto", "there is no index to search"),
        (["one", pair[0]], "auto", "is named twice"),
        (pair, "score", "merge is 'score'; it is one of auto, scores, ranks"),
        ([*pair, "nowhere"], "auto", "nowhere: no such directory"),
    ]
    for directories, merge, words_told in wrong:
        with pytest.raises(MoeeIndexError, match=words_told):
            Indexes.open(directories, merge=merge)
    with Indexes.open(pair) as several:
        with pytest.raises(MisuseError, match="opened without an encoder"):
            several.search("w1")
        with pytest.raises(MisuseError, match="an encoder is needed, not int"):
            several.search("w1", encoder=3)  # type: ignore[call-overload]
        for query in (" ", 3, b"w1"):
            with pytest.raises(MisuseError, match="the query is "):
                several.search(query)  # type: ignore[call-overload]
        assert several.search([]) == []
    with pytest.raises(MisuseError, match="is closed"):
        several.search("w1", encoder=FakeEncoder())
    without_postings(pair[1])
    for options in ({"lexical": 0.4}, {"syntax": True}):
        with Indexes.open(pair) as several, pytest.raises(MisuseError, match="two has no postings"):
            several.search("w1 +w2", encoder=FakeEncoder(), **options)
