"""What `bench` prints for people: what would run, and a table of scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from moee_index.cli.streams import say

if TYPE_CHECKING:
    from moee_index.bench.run import Outcome
    from moee_index.bench.tasks import Missing


def print_plan(described: Sequence[dict[str, Any]], missing: Sequence[Missing]) -> None:
    """A table of what would run, and what cannot."""
    if described:
        width = max(len(row["task"]) for row in described)
        kind = max(len(row["type"]) for row in described)
        say(f"{'task':<{width}}  {'type':<{kind}}  {'samples':>9}  data")
        for row in described:
            counts = row["samples"].values()
            known = [count for count in counts if count is not None]
            size = f"{sum(known):,}" if known else "unknown"
            subsets = row["subsets"]
            of = "" if subsets == ["default"] else f" ({', '.join(subsets[:6])}"
            of += f", … {len(subsets)} subsets)" if len(subsets) > 6 else ")" if of else ""
            size_on_disk = row["bytes"]
            amount = ""
            if size_on_disk is not None:
                small = size_on_disk < 1e6
                amount = (
                    f", {size_on_disk / 1e3:.0f} kB" if small else f", {size_on_disk / 1e6:.1f} MB"
                )
            say(
                f"{row['task']:<{width}}  {row['type']:<{kind}}  {size:>9}  "
                f"{row['data']}{amount}{of}"
            )
    for one in missing:
        say(f"cannot run: {one.task}: {one.why}")
    say(f"{len(described)} tasks would run, {len(missing)} cannot")


def print_outcome(outcome: Outcome) -> None:
    """A table of 100 times the main scores: tasks down, methods across."""
    blocks: dict[str, dict[str, dict[str, str]]] = {}
    for row in outcome.rows:
        if row["metric"] == "cosine_ap":
            continue
        prompt = f", prompt {row['prompt']}" if row["prompt"] else ""
        weight = f" α={row['alpha']:g}" if row["alpha"] is not None else ""
        words = row.get("lexical") or 0
        weight += f" w={words:g}" if 0 < words < 1 else ""
        subset = "" if row["subset"] == "default" else f" {row['subset']}"
        split = "" if row["split"] == "test" else f" {row['split']}"
        sample = " (sample)" if row["sample"] else ""
        line = f"{row['task']}{subset}{split}{sample}"
        score = "-" if row["score"] is None else f"{100 * row['score']:.2f}"
        block = blocks.setdefault(f"{row['model']}{prompt}", {})
        block.setdefault(line, {})[f"{row['method']}{weight}"] = score
    for title, lines in blocks.items():
        columns = list(dict.fromkeys(name for cells in lines.values() for name in cells))
        width = max(len(line) for line in lines)
        widths = [max(7, len(name)) for name in columns]
        heads = zip(columns, widths, strict=True)
        say(f"{title}\n{'':<{width}}  " + "  ".join(f"{n:>{w}}" for n, w in heads))
        for line, cells in lines.items():
            shown = (f"{cells.get(n, '-'):>{w}}" for n, w in zip(columns, widths, strict=True))
            say(f"{line:<{width}}  " + "  ".join(shown))
        say()
    if any(row["sample"] for row in outcome.rows):
        say("Samples (--limit) are no scores.")
    if outcome.rows:
        say(
            f"{len(outcome.rows)} rows in {outcome.out}: {outcome.evaluated} tasks × settings were "
            "evaluated now, the rest was there"
        )
    for path in outcome.report:
        if path.suffix in (".md", ".html"):
            say(str(path))
