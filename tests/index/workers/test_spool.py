"""How a corpus is divided by ids, and moments that are merged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.indexes import fake_documents
from moee_index.fusion import Moments, PartStandardizer
from moee_index.index.store.documents import PreparedDocument
from moee_index.index.store.passage_names import passage_name
from moee_index.index.workers.spool import (
    LARGE_SHARD,
    MANY_SHARDS,
    SHARD_DOCUMENTS,
    Spool,
    bucket_of,
    choose_buckets,
    choose_shards,
    read_spool,
)
from moee_index.types import Document

IDS = st.text(st.characters(exclude_categories=["Cs"]))


@given(IDS, st.integers(1, 5000))
def test_an_id_has_one_bucket(identifier: str, buckets: int) -> None:
    found = bucket_of(identifier, buckets)
    assert 0 <= found < buckets
    assert found == bucket_of(identifier, buckets)
    # More buckets only divide the ranges: the order of documents by bucket stays.
    assert bucket_of(identifier, 2 * buckets) // 2 == found


@given(IDS, st.integers(1, 999), st.integers(1, 999))
def test_a_document_and_one_named_as_its_passage_are_in_one_bucket(
    identifier: str, first: int, second: int
) -> None:
    passage = passage_name(identifier, first)
    assert bucket_of(passage, 1024) == bucket_of(identifier, 1024)
    assert bucket_of(passage_name(passage, second), 1024) == bucket_of(identifier, 1024)


def test_buckets_never_change() -> None:
    """Runs of different versions and machines go on with one another's shards."""
    assert [bucket_of(each, 1024) for each in ("", "d1", "ä#3", "ä", "x" * 99)] == [
        914, 1011, 961, 961, 458,
    ]  # fmt: skip


def test_ids_spread_evenly() -> None:
    counts = np.bincount([bucket_of(f"s{number}", 64) for number in range(64_000)], minlength=64)
    assert counts.min() > 850 and counts.max() < 1150


@given(st.integers(0, 10**10), st.integers(1, 3000))
def test_shards_are_enough_and_share_out_evenly(documents: int, workers: int) -> None:
    buckets = choose_buckets(workers)
    shards = choose_shards(documents, workers, buckets)
    assert workers <= shards <= buckets
    if documents <= MANY_SHARDS * SHARD_DOCUMENTS:
        assert documents <= shards * SHARD_DOCUMENTS
    elif documents <= buckets * LARGE_SHARD:
        assert documents <= shards * LARGE_SHARD
    if documents <= buckets * LARGE_SHARD // 2:
        assert shards % workers == 0 or shards == buckets


def test_what_is_spooled_is_read_again(tmp_path: Path) -> None:
    documents = [
        *fake_documents(50),
        Document("ä\u2028\n", "two\nlines\r", {"title": "t", "x": [1, 2.5, None]}, made_id=True),
        Document("u", "x", {"n": "7"}, source="a.csv:3", untyped=True),
    ]
    spool = Spool(tmp_path, 64)
    for document in documents:
        spool.add(PreparedDocument.of(document))
    shards = spool.finish(3)
    found: list[Document] = []
    for shard in shards:
        part = list(read_spool(tmp_path, range(shard.first, shard.end)))
        assert len(part) == shard.documents
        found += part
    assert sorted(each.id for each in found) == sorted(each.id for each in documents)
    by_id = {each.id: each for each in found}
    for document in documents:
        again = by_id[document.id]
        assert vars(again) == vars(document)


def test_digests_tell_another_corpus(tmp_path: Path) -> None:
    def digests(documents: list[Document]) -> list[str]:
        spool = Spool(tmp_path, 64)
        for document in documents:
            spool.add(PreparedDocument.of(document))
        return [shard.digest for shard in spool.finish(4)]

    documents = fake_documents(40)
    whole = digests(documents)
    assert digests(documents) == whole
    # Another path to the same file, and fields in another order.
    moved = [
        replace(each, source=f"/other/{each.source}", metadata={"b": 1, **each.metadata, "a": 2})
        for each in documents
    ]
    again = [replace(each, metadata={"a": 2, "b": 1, **each.metadata}) for each in documents]
    assert digests(moved) == digests(again) != whole
    other = digests([*documents[:-1], Document(documents[-1].id, "another text")])
    assert sum(one != two for one, two in zip(whole, other, strict=True)) == 1


# Moments


@st.composite
def groups(draw: st.DrawFn) -> list[np.ndarray]:
    sizes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    scale = 10.0 ** draw(st.integers(-3, 3))
    rows = (rng.standard_normal((sum(sizes), 5)) * scale + 7).astype(np.float32)
    rows[:, 1] = 3.25  # constant
    rows[:, 2] *= 1e-9  # varies by less than counts
    return np.split(rows, np.cumsum(sizes)[:-1])


@given(groups())
def test_merged_moments_are_those_of_all_rows(parts: list[np.ndarray]) -> None:
    whole = np.concatenate(parts)
    moments = Moments.of(parts[0], "hs")
    for part in parts[1:]:
        moments = moments.merged(Moments.of(part, "hs"))
    assert moments.count == len(whole)
    merged, fitted = PartStandardizer.of(moments), PartStandardizer.fit(whole, "hs")
    np.testing.assert_allclose(merged.mean, fitted.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(merged.deviation, fitted.deviation, rtol=1e-9, atol=1e-12)
    assert merged.kept.tolist() == fitted.kept.tolist()
    if len(whole) > 1:
        expected = whole.astype(np.float64)
        np.testing.assert_allclose(merged.mean, expected.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(
            merged.deviation, expected.std(axis=0, ddof=1), rtol=1e-7, atol=1e-12
        )


def test_no_rows_have_no_moments() -> None:
    empty = Moments.of(np.empty((0, 3), np.float32), "hs")
    assert empty.merged(empty).count == 0
    assert not PartStandardizer.of(empty).kept.any()
    assert pytest.approx(0) == empty.merged(empty).squares.sum()
