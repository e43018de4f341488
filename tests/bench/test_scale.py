"""What a large index takes: formulas by hand, how figures are shown, that the page shows them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import rates
from measuring import run
from rates import APPROXIMATE, MODELS, OLMOE, RATES, TINY
from reckoning import Setting, formulas, gpu_tokens, machines_for, scale
from scale_tables import DOCUMENTS, figures, shown_bytes, shown_count, shown_hours, shown_seconds

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


def test_a_million_of_olmoe_by_hand() -> None:
    row = scale(OLMOE, 10**6, Setting(tokens=100, price=3.0))
    assert row.tokens == 1e8
    assert row.core_hours == pytest.approx(80.5153, rel=1e-5)  # 1e8 / 345 / 3600
    assert row.machines_for_a_day == 4
    # 16 layers of 67,239,936 weights, two operations each, at 330 TFLOP/s
    assert gpu_tokens(OLMOE) == pytest.approx(330e12 / 2_151_677_952)
    assert row.gpu_hours == pytest.approx(0.181116, rel=1e-5)
    assert row.money == pytest.approx(0.543348, rel=1e-5)
    assert (row.rows_bytes, row.half_rows_bytes, row.codes_bytes) == (12.288e9, 6.144e9, 6.144e9)
    assert row.scan_s == pytest.approx(0.0439)
    assert row.beside_s == pytest.approx(0.0439 + 0.0053 * 6.144)
    assert row.disk_s == pytest.approx(1168 * 1e6 / 3e9 + 0.0053 * 6.144)
    assert row.machines == 1 and row.over_machines_s == row.scan_s
    parts = (row.rows_bytes, row.codes_bytes, row.documents_bytes, row.postings_bytes)
    assert row.disk_bytes == pytest.approx(sum(parts) + 1168 * 1e6 + 16e6)
    # Bytes a document of the bundled corpus's index, for 120 tokens; here they are 100.
    assert row.documents_bytes == pytest.approx(1e6 * (935.25 + 122.88) * 100 / 120, rel=1e-4)


def test_a_thousand_million_of_tiny_by_hand() -> None:
    row = scale(TINY, 10**9, Setting(memory_gb=100, share=0.5))
    assert row.codes_bytes == 1.024e12 and row.machines == 26  # with 264 GB of components
    assert row.scan_s == pytest.approx(0.0129 * 1000)
    assert row.over_machines_s == pytest.approx(0.0129 * 1000 / 26)
    assert row.gpu_hours is None and row.money is None
    assert row.core_hours == pytest.approx(1.2e11 / (288_000 / 9.7) / 3600)


def test_candidates_of_an_approximate_index(monkeypatch: pytest.MonkeyPatch) -> None:
    way = rates.Approximate(4, 28, {"OLMoE-1B-7B": 20, "tiny": 5}, 0.97, "a test")
    monkeypatch.setitem(APPROXIMATE, "4 bits", way)
    large, small = (scale(model, 10**8, Setting()) for model in MODELS)
    assert large.approximate_bytes["4 bits"] == 1_564e8
    assert small.approximate_bytes["4 bits"] == 284e8
    assert large.approximate_s["4 bits"] == 2.0 and small.approximate_s["4 bits"] == 0.5
    assert large.approximate_machines["4 bits"] == 1
    assert "over a million OLMoE-1B-7B 20 ms, tiny 5 ms; recall@10 0.97 | a test |" in figures(
        Setting()
    )


@pytest.mark.parametrize(("size", "machines"), [(1, 1), (200e9, 1), (201e9, 2), (1e12, 5)])
def test_machines_are_as_many_as_hold_the_codes(size: float, machines: int) -> None:
    assert machines_for(size, Setting(memory_gb=250, share=0.8)) == machines


def test_every_rate_says_where_it_is_from() -> None:
    for name, given in RATES.items():
        assert given.value > 0 and given.source, name
    assumed = {name for name, given in RATES.items() if given.assumed}
    assert assumed == {
        "products of a GPU",
        "share of a GPU's products",
        "reading a disk",
        "reading rows apart from a disk",
    }
    lab = (ROOT / "LAB.md").read_text(encoding="utf-8")
    for given in (*RATES.values(), *APPROXIMATE.values()):
        named = re.match(r"LAB\.md, (\d{4}-\d\d-\d\d), ([^:]+):", given.source)
        if named is not None:
            heads = re.findall(rf"^## {named[1]}, (.*)$", lab, re.M)
            assert any(named[2] in head for head in heads), given.source


def test_figures_are_shown_in_the_unit_that_reads_best() -> None:
    assert [shown_bytes(size) for size in (7, 614.4e6, 1.564e9, 12.288e12, 2e15)] == [
        "7.0 bytes", "614 MB", "1.6 GB", "12 TB", "2.0 PB",
    ]  # fmt: skip
    assert [shown_seconds(spent) for spent in (0.0002, 0.1606, 16.06, 160.6, 7200)] == [
        "0.20 ms", "161 ms", "16 s", "2.7 min", "2.0 h",
    ]  # fmt: skip
    assert [shown_hours(hours) for hours in (0.1, 9.66, 96.6, 9660)] == [
        "6.0 min", "9.7 h", "4.0 days", "1.1 years",
    ]  # fmt: skip
    assert [shown_count(count) for count in (10**5, 10**10, 250_000)] == ["10⁵", "10¹⁰", "250,000"]


def test_the_page_shows_what_is_reckoned() -> None:
    """test_docs.py compares the whole of it; here that it is there at all, and for every size."""
    begin, end = "<!-- figures: written by docs/make.py -->", "<!-- end of the figures -->"
    shown = PAGE.partition(begin)[2].partition(end)[0].strip()
    assert shown == figures(Setting())
    assert formulas(Setting()) in shown
    for count in DOCUMENTS:
        assert shown.count(f"\n| {shown_count(count)} |") == 3 * len(MODELS)
        assert f"**{shown_count(count)}.**" in PAGE


def test_the_script_reckons_other_sizes() -> None:
    script = "scale/scale_tables.py"
    given = (script, "--documents", "2e6", "300", "--tokens", "20", "--price", "0")
    rows = [json.loads(line) for line in run(*given, "--json").splitlines()]
    made = [(row["model"], row["documents"]) for row in rows]
    assert made == [(model.name, count) for model in MODELS for count in (2_000_000, 300)]
    assert rows[0]["tokens"] == 4e7 and rows[0]["money"] == 0
    assert "| 2,000,000 |" in run(*given)
    assert f"bench/scripts/{script}" in run(script, "--help")
    assert "above 0" in run(script, "--tokens", "0", status=2)


def test_more_of_anything_takes_no_less() -> None:
    plain = Setting()
    for model in MODELS:
        rows = [scale(model, count, plain) for count in DOCUMENTS]
        for less, more in pairwise(rows):
            assert more.disk_bytes > less.disk_bytes and more.scan_s > less.scan_s
            assert more.machines >= less.machines and more.core_hours > less.core_hours
        dearer = scale(model, 10**7, replace(plain, price=4.0))
        assert dearer.money is None or dearer.money == 2 * (scale(model, 10**7, plain).money or 0)
