"""The maths against plain float64 numpy, written another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moee_index.errors import MisuseError, ModelError
from moee_index.fusion import (
    FIT_BLOCK,
    METHODS,
    Standardizer,
    check_search,
    choose_standardize,
    fuse,
    one_vector,
    score,
    standardise_batch,
    top_k,
    unit_vectors,
    unseen_bound,
)
from moee_index.types import Embeddings


def random_embeddings(n: int, seed: int = 0, hs: int = 16, rw: int = 8) -> Embeddings:
    rng = np.random.default_rng(seed)
    return Embeddings(
        rng.standard_normal((n, hs), dtype=np.float32) * 3 + 5,
        rng.standard_normal((n, rw), dtype=np.float32) * 0.1 - 2,
    )


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else 0.0


def test_standardizer_is_the_unbiased_one_over_all_blocks() -> None:
    embeddings = random_embeddings(2 * FIT_BLOCK + 7)
    fitted = Standardizer.fit(embeddings)
    assert fitted.hs is not None
    assert fitted.rw is not None
    rows = embeddings.hs.astype(np.float64)
    np.testing.assert_allclose(fitted.hs.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(fitted.hs.deviation, rows.std(axis=0, ddof=1), rtol=1e-12)
    applied = fitted.apply(embeddings)
    assert applied.rw.dtype == np.float32
    np.testing.assert_allclose(applied.rw.std(axis=0, ddof=1), 1.0, rtol=1e-5)
    again = Standardizer.fit(embeddings)
    assert again.hs is not None
    assert np.array_equal(again.hs.deviation, fitted.hs.deviation)


@pytest.mark.parametrize("which", ["both", "hs", "rw", "none"])
def test_standardizer_survives_storage(which: str) -> None:
    embeddings = random_embeddings(70)
    fitted = Standardizer.fit(embeddings, which)  # type: ignore[arg-type]
    read = Standardizer.from_arrays(fitted.to_arrays())
    assert read.which == fitted.which == which
    assert np.array_equal(read.apply(embeddings).hs, fitted.apply(embeddings).hs)
    assert np.array_equal(read.apply(embeddings).rw, fitted.apply(embeddings).rw)
    if which in ("none", "rw"):
        assert np.array_equal(fitted.apply(embeddings).hs, embeddings.hs)


def test_incomplete_standardizer_is_refused() -> None:
    arrays = Standardizer.fit(random_embeddings(70)).to_arrays()
    with pytest.raises(ValueError, match="not complete"):
        Standardizer.from_arrays({k: v for k, v in arrays.items() if k != "rw.mean"})


def test_dimensions_that_do_not_vary_are_dropped() -> None:
    embeddings = random_embeddings(100)
    embeddings.hs[:, 3] = 0.1
    embeddings.hs[:, 4] = np.where(np.arange(100) % 2, 1.0, 1.0 + 1e-6)
    fitted = Standardizer.fit(embeddings)
    assert fitted.dropped == {"hs": 2, "rw": 0}
    applied = fitted.apply(embeddings).hs
    assert not applied[:, 3:5].any()
    assert np.isfinite(applied).all()


@pytest.mark.parametrize("constant", ["hs", "rw", "both"])
def test_where_nothing_varies_nothing_is_standardised(constant: str) -> None:
    row, other = random_embeddings(1), random_embeddings(50)
    equal = row.map(lambda values: values.repeat(50, axis=0))
    parts = {part: values if constant in (part, "both") else other[part] for part, values in equal}
    embeddings = Embeddings(parts["hs"], parts["rw"])
    fitted = Standardizer.fit(embeddings)
    assert fitted.fitted == "both"
    assert fitted.which == {"hs": "rw", "rw": "hs", "both": "none"}[constant]
    told = fitted.not_standardized(50)
    assert told is not None
    assert "varies over 50 rows" in told
    assert ("HS" in told, "RW" in told) == (constant != "rw", constant != "hs")
    assert Standardizer.from_arrays(fitted.to_arrays()).which == fitted.which
    raw, vectors = unit_vectors(embeddings), unit_vectors(embeddings, fitted)
    for part, values in vectors.parts:
        same = np.array_equal(values, raw.parts[part])
        assert same == (constant in (part, "both"))
    # Not 0 for everything: an equal text is the nearest there is.
    assert score(vectors[:1], vectors, "sum", 1.0).score[0] == pytest.approx(2.0)


def test_what_varies_in_one_dimension_is_standardised() -> None:
    embeddings = random_embeddings(50)
    embeddings.hs[:, 1:] = 0.5
    fitted = Standardizer.fit(embeddings)
    assert fitted.not_standardized(50) is None
    assert fitted.which == "both"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_name_their_row(bad: float) -> None:
    embeddings = random_embeddings(FIT_BLOCK + 20)
    embeddings.rw[FIT_BLOCK + 5, 2] = bad
    with pytest.raises(ModelError, match=f"RW of row {FIT_BLOCK + 5} "):
        Standardizer.fit(embeddings)
    with pytest.raises(ModelError, match=f"RW of row {FIT_BLOCK + 5} "):
        unit_vectors(embeddings)


def test_standardize_rule() -> None:
    assert choose_standardize(64)[0] == "both"
    which, reason = choose_standardize(63)
    assert which == "none"
    assert "63" in reason
    assert choose_standardize(2, "rw")[0] == "rw"
    with pytest.raises(MisuseError, match="both, rw, hs, none"):
        choose_standardize(100, "all")


def test_standardise_batch_is_the_authors() -> None:
    rows = random_embeddings(5).hs
    rows[:, 0] = 7.0
    expected = (rows - rows.mean(axis=0)) / (rows.std(axis=0, ddof=1) + 1e-8)
    np.testing.assert_allclose(standardise_batch(rows), expected, atol=1e-4)
    assert not standardise_batch(rows)[:, 0].any()
    assert not standardise_batch(rows[:1]).any()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 50.0])
@pytest.mark.parametrize("standardized", [True, False])
def test_scores_are_cosines(alpha: float, standardized: bool) -> None:
    embeddings = random_embeddings(40)
    embeddings.hs[7] = 0
    embeddings.rw[7] = 0
    frozen = Standardizer.fit(embeddings) if standardized else Standardizer()
    vectors = unit_vectors(embeddings, frozen)
    query = vectors[3:4]
    hs = embeddings.hs.astype(np.float64)
    rw = embeddings.rw.astype(np.float64)
    if standardized:
        hs = (hs - hs.mean(axis=0)) / hs.std(axis=0, ddof=1)
        rw = (rw - rw.mean(axis=0)) / rw.std(axis=0, ddof=1)
    expected = {
        "hs": [cosine(hs[3], row) for row in hs],
        "rw": [cosine(rw[3], row) for row in rw],
        "concat": [cosine(np.r_[hs[3], rw[3]], np.r_[h, r]) for h, r in zip(hs, rw, strict=True)],
    }
    expected["sum"] = [h + alpha * r for h, r in zip(expected["hs"], expected["rw"], strict=True)]
    for method in METHODS:
        found = score(query, vectors, method, alpha if method == "sum" else None)
        assert found.score.dtype == np.float32
        np.testing.assert_allclose(found.score, expected[method], atol=1e-6 * (1 + alpha))
        np.testing.assert_allclose(found.hs, expected["hs"], atol=1e-6)
        np.testing.assert_allclose(found.rw, expected["rw"], atol=1e-6)
        joined = one_vector(vectors, method, alpha)
        np.testing.assert_allclose(joined @ joined[3], expected[method], atol=2e-6 * (1 + alpha))
    one_sided = np.concatenate([query.hs, alpha * query.rw], axis=1)
    plain = one_vector(vectors, "sum", 1.0)
    np.testing.assert_allclose(plain @ one_sided[0], expected["sum"], atol=2e-6 * (1 + alpha))


def test_equal_rows_have_equal_scores_wherever_they_stand() -> None:
    embeddings = random_embeddings(1001, hs=333, rw=77)
    embeddings.hs[::10] = embeddings.hs[0]
    embeddings.rw[::10] = embeddings.rw[0]
    vectors = unit_vectors(embeddings)
    for method in METHODS:
        found = score(vectors[5:6], vectors, method, 0.7).score[::10]
        assert len(set(found.tolist())) == 1


@settings(deadline=None)
@given(
    scores=st.lists(st.sampled_from([-1.0, -0.0, 0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=60),
    k=st.integers(1, 70),
)
def test_top_k_keeps_document_order_among_equals(scores: list[float], k: int) -> None:
    found = top_k(np.array(scores, dtype=np.float32), k)
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]
    assert found.tolist() == expected


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), depth=st.integers(1, 30), alpha=st.floats(0, 20))
def test_no_unseen_document_beats_the_bound(seed: int, depth: int, alpha: float) -> None:
    vectors = unit_vectors(random_embeddings(60, seed, 6, 3))
    query = vectors[:1]
    for method in METHODS:
        found = score(query, vectors, method, alpha)
        by_hs, by_rw = np.argsort(-found.hs), np.argsort(-found.rw)
        seen = set(by_hs[:depth]) | set(by_rw[:depth])
        last_hs, last_rw = float(found.hs[by_hs[depth - 1]]), float(found.rw[by_rw[depth - 1]])
        bound = unseen_bound(method, last_hs, last_rw, alpha, query.norms[0])
        unseen = [found.score[i] for i in range(60) if i not in seen]
        assert max(unseen, default=-math.inf) <= bound + 1e-5 * (1 + alpha)


def test_fuse_keeps_float32() -> None:
    similarities = np.array([0.5, -0.5], dtype=np.float32)
    norms = np.array([[1.0, 2.0], [0.0, 0.0]], dtype=np.float32)
    for method in METHODS:
        fused = fuse(method, similarities, similarities, 0.5, np.array([1.0, 1.0]), norms)
        assert fused.dtype == np.float32
        assert np.isfinite(fused).all()


@pytest.mark.parametrize("alpha", [-1.0, math.nan, math.inf, True, "1", 1e31])
def test_alpha_out_of_range(alpha: object) -> None:
    with pytest.raises(MisuseError, match="alpha"):
        check_search("sum", alpha, 10)  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [0, -3, 1.5, True, "3"])
def test_k_out_of_range(k: object) -> None:
    with pytest.raises(MisuseError, match="k is"):
        check_search("hs", None, k)  # type: ignore[arg-type]


def test_alpha_belongs_to_sum() -> None:
    assert check_search("sum", None, 1, default_alpha=0.5) == 0.5
    assert check_search("sum", 0, np.int64(3)) == 0.0
    assert check_search("concat", None, 1) is None
    with pytest.raises(MisuseError, match="sum only"):
        check_search("hs", 1.0, 1)
    with pytest.raises(MisuseError, match="hs, rw, concat, sum"):
        check_search("cosine", None, 1)


def test_a_row_that_is_the_mean_is_zero() -> None:
    """float32 cannot hold the mean to the last bit: what is left of it is no direction."""
    rows = np.where(np.arange(64)[:, None] % 2, 0.1, 0.3) * np.ones((64, 4))
    embeddings = Embeddings(rows.astype(np.float32), random_embeddings(64).rw)
    frozen = Standardizer.fit(embeddings)
    mean = Embeddings(np.full((1, 4), 0.2, np.float32), embeddings.rw[:1])
    assert frozen.hs is not None
    assert frozen.hs.apply(mean.hs).any()
    vectors = unit_vectors(mean, frozen)
    assert not vectors.hs.any()
    assert vectors.norms[0, 0] == 0 < vectors.norms[0, 1]
