"""What an index of many documents takes: machines, hours, disk, memory and time of a query.

    python bench/scripts/scale/scale_tables.py [--documents 1e5 1e6 …] [--tokens 120]
        [--price 2.0] [--memory 256] [--json]

Everything is computed from RATES in rates.py, which says of each figure where it was measured or
that it is assumed. docs/make.py writes the tables of docs/scale.md with it.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

from rates import APPROXIMATE, MODELS, RATES, Rate
from reckoning import Scale, Setting, formulas, scale

DOCUMENTS = (10**5, 10**6, 10**7, 10**8, 10**9)


_BYTES = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1, "bytes"))
_SECONDS = ((3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"))
_HOURS = ((24 * 365, "years"), (24, "days"), (1, "h"), (1 / 60, "min"))


def shown_bytes(size: float) -> str:
    return _shown(size, _BYTES)


def shown_seconds(spent: float) -> str:
    return _shown(spent, _SECONDS)


def shown_hours(hours: float) -> str:
    return _shown(hours, _HOURS)


def _shown(value: float, units: Sequence[tuple[float, str]]) -> str:
    """In the largest unit of which it is at least one, else in the smallest."""
    size, name = next((unit for unit in units if value >= unit[0]), units[-1])
    return f"{_digits(value / size)} {name}"


def _digits(value: float) -> str:
    """Two or three digits: 0.43, 5.2, 61, 1,230."""
    decimals = max(0, 1 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:,.{min(decimals, 2)}f}"


def shown_count(documents: int) -> str:
    """10⁵ for a power of ten, else the number."""
    power = round(math.log10(documents))
    if documents != 10**power:
        return f"{documents:,}"
    return "10" + "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for digit in str(power))


def tables(rows: Sequence[Scale], setting: Setting) -> Iterator[str]:
    """A model's tables of building, of the disk and of answering."""
    yield table(
        ("documents", "tokens", "two cores", "machines for a day", "GPU-hours", "money"),
        (
            (
                f"{row.tokens:.1e}",
                shown_hours(row.core_hours),
                f"{row.machines_for_a_day:,}",
                "–" if row.gpu_hours is None else _digits(row.gpu_hours),
                "–" if row.money is None else _digits(row.money),
            )
            for row in rows
        ),
        rows,
    )
    yield table(
        (
            "documents", "raw rows", "in float16", "codes", "leading components",
            "documents, fields", "postings", "all",
        ),
        (
            tuple(
                shown_bytes(size)
                for size in (
                    row.rows_bytes, row.half_rows_bytes, row.codes_bytes, row.components_bytes,
                    row.documents_bytes, row.postings_bytes, row.disk_bytes,
                )
            )
            for row in rows
        ),
        rows,
    )  # fmt: skip
    ways = [f"approximate, {name}" for name in APPROXIMATE]
    yield table(
        (
            "documents", "exact scan", f"machines of {setting.memory_gb:g} GB", "over them",
            "components in memory", "all from a disk", "first query",
            *(f"{way}: memory, machines, time" for way in ways),
        ),
        (
            (
                shown_seconds(row.scan_s),
                f"{row.machines:,}",
                shown_seconds(row.over_machines_s),
                shown_seconds(row.beside_s),
                shown_seconds(row.disk_s),
                shown_seconds(row.first_s),
                *(
                    f"{shown_bytes(row.approximate_bytes[name])}, "
                    f"{row.approximate_machines[name]:,}, {shown_seconds(row.approximate_s[name])}"
                    for name in APPROXIMATE
                ),
            )
            for row in rows
        ),
        rows,
    )  # fmt: skip


def table(head: Sequence[str], cells: Iterable[Sequence[str]], rows: Sequence[Scale]) -> str:
    """A table whose rows begin with their number of documents."""
    lines = [head]
    lines += [[shown_count(row.documents), *made] for row, made in zip(rows, cells, strict=True)]
    return _markdown(lines)


def rates_table() -> str:
    """Every rate with its source."""
    lines = [("rate", "value", "measured where, or assumed")]
    for name, given in RATES.items():
        lines.append((name, _amount(given), _sourced(given.source, given.assumed)))
    for name, way in APPROXIMATE.items():
        times = ", ".join(f"{model} {ms:.3g} ms" for model, ms in way.ms.items())
        value = (
            f"{way.bits:g}/8 of a byte a dimension and {way.overhead:g} bytes; over a million "
            f"{times}; recall@10 {way.recall:g}"
        )
        lines.append((f"approximate, {name}", value, _sourced(way.source, way.assumed)))
    return _markdown(lines)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table; the first line is its head."""
    head, *body = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body])


def _amount(given: Rate) -> str:
    if given.unit == "bytes/s":
        return f"{shown_bytes(given.value)}/s"
    if given.unit == "s":
        return shown_seconds(given.value)
    if given.value >= 1e6:
        size, name = (1e12, "trillion") if given.value >= 1e12 else (1e6, "million")
        return f"{given.value / size:,.0f} {name} {given.unit}"
    return f"{_digits(given.value)} {given.unit}".strip()


def _sourced(source: str, assumed: bool) -> str:
    return f"**assumed**: {source}" if assumed else source


def figures(setting: Setting, documents: Sequence[int] = DOCUMENTS) -> str:
    """What docs/scale.md shows: each model's tables, the formulas, the rates."""
    parts = []
    for model in MODELS:
        rows = [scale(model, count, setting) for count in documents]
        building, disk, answering = tables(rows, setting)
        parts += [
            f"### {model.name}: {model.hs} + {model.rw} dimensions",
            f"Embedding, documents of {setting.tokens:g} tokens, {setting.price:g} a GPU-hour:",
            building,
            "On disk:",
            disk,
            f"One query; before it {shown_seconds(rows[0].embed_s)} to embed it on two cores:",
            answering,
        ]
    parts += ["### Formulas", formulas(setting), "### Rates", rates_table()]
    return "\n\n".join(parts)


def main() -> None:
    """Print the tables, or every row as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    chosen = Setting()
    parser.add_argument("--documents", type=float, nargs="+", default=DOCUMENTS)
    parser.add_argument("--tokens", type=float, default=chosen.tokens)
    parser.add_argument("--price", type=float, default=chosen.price)
    parser.add_argument("--memory", type=float, default=chosen.memory_gb)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    given = parser.parse_args()
    if min(*given.documents, given.tokens, given.memory) <= 0 or given.price < 0:
        parser.error("documents, tokens and memory are above 0, the price is 0 or more")
    setting = Setting(given.tokens, given.price, given.memory)
    counts = [math.ceil(count) for count in given.documents]
    if not given.json:
        print(figures(setting, counts))
        return
    for model in MODELS:
        for count in counts:
            print(json.dumps(asdict(scale(model, count, setting))))


if __name__ == "__main__":
    main()
