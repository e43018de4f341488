"""Leaving documents early: bytes are counted as they would be read, and no document is missed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from measuring import SCRIPTS, run

from moee_index import Document, Encoder, Index
from moee_index.types import PARTS, Pair

DIMS = Pair(64, 32)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS / "speed"))
    import early_exit

    return early_exit


@pytest.fixture
def parts(script: ModuleType) -> Pair[Any]:
    """Documents in clusters, more than a block, and queries near some of them."""
    rng = np.random.default_rng(5)
    made = {}
    for part, dim in DIMS:
        centers = rng.standard_normal((40, dim)) * np.arange(1, dim + 1) ** -0.5
        rows = centers[rng.integers(40, size=1500)] + 0.3 * rng.standard_normal((1500, dim))
        asked = rows[:3] + 0.2 * rng.standard_normal((3, dim))
        documents, queries = script.standardized(rows.astype("f4"), asked.astype("f4"))
        made[part] = script.RotatedPart.made(documents, queries)
    return Pair(made["hs"], made["rw"])


def naively(script: ModuleType, parts: Pair[Any], row: dict[str, Any], levels: int) -> float:
    """The share of bytes read, one document after another."""
    errors = PARTS.map(lambda part: parts[part].error)
    setting = script.Setting.of(row["method"], row["alpha"], errors)
    weights = {part: np.float64(weight) for part, weight in setting.weights.items()}
    scores = sum(w * (parts[part].codes @ parts[part].queries.T) for part, w in weights.items())
    step, read, whole = 16 // levels, 0.0, 0.0
    for query, document in itertools.product(range(scores.shape[1]), range(len(scores))):
        seen = len(scores) if row["threshold"] == "ideal" else document // 1024 * 1024
        best = np.sort(scores[:seen, query])[::-1]
        least = best[row["k"] - 1] - setting.margin if seen else -np.inf
        for level in range(levels):
            read += sum(DIMS[part] * 2 / levels + 2 * (level < levels - 1) for part in weights)
            bound = 0.0
            for part, weight in weights.items():
                end = DIMS[part] // levels * (level + 1)
                codes, asked = parts[part].codes[document], parts[part].queries[query]
                bound += weight * (codes[:end] @ asked[:end])
                at = (level + 1) * step - 1
                bound += (
                    weight * parts[part].tails[document, at] * parts[part].query_tails[query, at]
                )
            if bound < least:
                break
        whole += sum(DIMS[part] * 2 for part in weights)
    return read / whole


def test_bytes_are_those_of_reading_one_document_after_another(
    script: ModuleType, parts: Pair[Any]
) -> None:
    rows = list(script.measure(parts))
    assert [(row["method"], row["alpha"]) for row in rows[::4]] == list(script._METHODS)
    looked_at = [row for row in rows if row["k"] == 10 and row["alpha"] in (4.0, None)]
    assert len(looked_at) == 6
    for row in looked_at:
        for levels in (4, 16):
            share = row["share_read"][str(levels)]["rows"]
            assert share == pytest.approx(naively(script, parts, row, levels), rel=1e-3)


def test_more_must_be_read_for_more_answers_and_without_knowing_them(
    script: ModuleType, parts: Pair[Any]
) -> None:
    for rows in batched(list(script.measure(parts)), 4):
        ten, ten_running, hundred, hundred_running = (row["share_read"]["8"] for row in rows)
        assert ten["rows"] <= hundred["rows"] and ten["rows"] <= ten_running["rows"]
        assert hundred["rows"] <= hundred_running["rows"]
        for share in (ten, ten_running, hundred, hundred_running):
            assert 0 < share["rows"] <= share["lines"] <= share["pages"]


def batched(rows: list[Any], size: int) -> Iterator[list[Any]]:
    return (rows[i : i + size] for i in range(0, len(rows), size))


def test_a_document_that_is_left_wrongly_stops_the_script(
    script: ModuleType, parts: Pair[Any]
) -> None:
    parts.hs.tails[:] = 0
    parts.rw.tails[:] = 0
    with pytest.raises(SystemExit, match="was left"):
        list(script.measure(parts))


def test_norms_are_never_too_small(script: ModuleType) -> None:
    import levels

    norms = np.random.default_rng(0).random(1000, dtype=np.float32)
    up = levels.rounded_up(norms)
    assert (up >= norms).all() and (up <= norms + 1e-3).all()
    assert (up == up.astype(np.float16)).all()
    rows = np.random.default_rng(1).standard_normal((3, 32), dtype=np.float32)
    for level in range(16):
        rest = np.linalg.norm(rows[:, 2 * (level + 1) :], axis=1)
        assert levels.tails(rows)[:, level] == pytest.approx(rest, abs=1e-6)


@pytest.mark.parametrize("grain", [1, 64, 4096])
def test_what_is_touched_is_whole_grains(script: ModuleType, grain: int) -> None:
    remain = np.random.default_rng(2).random((3, 200, 2)) < 0.1
    width = 32
    by_hand = [0.0, 0.0]
    for level, query in itertools.product(range(3), range(2)):
        rows = np.flatnonzero(remain[level, :, query])
        by_hand[query] += len({row * width // grain for row in rows}) * max(grain, width)
    assert script.touched(remain, width, grain).tolist() == by_hand


def test_dimensions_that_do_not_divide_are_told(script: ModuleType) -> None:
    with pytest.raises(SystemExit, match="40 dimensions do not divide into 16 levels"):
        script.RotatedPart.made(*(np.ones((3, 40), dtype=np.float32),) * 2)


def test_levels_of_a_block_lie_together(script: ModuleType) -> None:
    import levels

    codes = np.arange(1030 * 32, dtype=np.float32).reshape(1030, 32).astype(np.float16)
    first, second = levels.level_major(codes)
    assert first.shape == (16, 1024, 2) and second.shape == (16, 6, 2)
    assert (second[3, 5] == codes[1029, 6:8]).all() and second.flags.c_contiguous


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_widened_vectors_have_the_wanted_spectrum(script: ModuleType, exponent: float) -> None:
    from spectrum import Widening, decay, principal

    rng = np.random.default_rng(3)
    rows = rng.standard_normal((3000, 24), dtype=np.float32)
    near = rows[:50] + 0.05 * rng.standard_normal((50, 24), dtype=np.float32)
    widening = Widening.fit(rows, 96, exponent, seed=1)
    made, made_near = widening(rows), widening(near)
    variances = principal(made)[1]
    assert decay(variances) == pytest.approx(exponent, abs=0.01)
    assert np.square(made).mean() == pytest.approx(1, rel=0.01)
    # What is near stays nearer than all else.
    units = made / np.linalg.norm(made, axis=1, keepdims=True)
    assert ((units @ made_near.T).argmax(axis=0) == np.arange(50)).mean() > 0.95
    with pytest.raises(SystemExit, match="more rows"):
        Widening.fit(rows[:96], 96, exponent, seed=1)


def test_the_script_over_an_index(tmp_path: Path) -> None:
    words = ("ferry", "bakery", "violin", "glacier", "lantern", "museum", "orchard")
    texts = [f"the {a} near the {b} in {year}" for a in words for b in words for year in range(3)]
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    Index.build(tmp_path / "index", documents, Encoder.load()).close()
    queries = tmp_path / "queries.jsonl"
    queries.write_text("".join(json.dumps({"text": f"a {word}"}) + "\n" for word in words))
    given = ("speed/early_exit.py", tmp_path / "index", "--queries", queries, "--most", 5)
    out = run(*given, "--rows", 120, "--vectors", "index", "--json")
    costs, *rows = [json.loads(line) for line in out.splitlines()]
    assert (costs["documents"], costs["queries"], costs["bytes_of_codes"]) == (120, 5, 1024)
    assert len(rows) == 20
    for row in rows:
        assert 0 < row["share_read"]["4"]["rows"] < 1.1
    assert "| sum, α = 1 | 10 | running |" in run(*given, "--vectors", "index")
    few = run(*given, "--rows", 50, "--vectors", "index", status=1)
    assert "more than 100" in few
