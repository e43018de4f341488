r"""Memory over many batches of ever new shapes: flat, or creeping?

    python bench/scripts/speed/memory.py \\
        CHECKPOINT [--batches 500] [--batch-tokens 256 2048] [--csv FILE]

Every batch has another number of texts, other lengths and other tokens (random ids, a fixed
seed), so that nothing fits what an earlier batch has left behind. Resident and anonymous memory
of this process are read after each one. Told: their growth from the first batch to the last and
to the highest, and the slope of a straight line fitted by least squares after the first 50
batches (the first tenth of fewer than 500), in which workspaces and kernels come into being.
Read the slope of anonymous memory: file-backed memory grows as memory-mapped experts are first
met.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path
from typing import Any

from harness import make_parser, memory, say, show


def random_batch(numbers: random.Random, tokens: int, longest: int, vocabulary: int) -> Any:
    """About `tokens` tokens in texts of 1 to `longest` tokens."""
    from batches import bare

    lengths: list[int] = []
    limit = numbers.randint(2, longest)
    while not lengths or sum(lengths) < tokens:
        left = tokens - sum(lengths)
        lengths.append(max(1, min(numbers.randint(1, limit), left)))
    return [bare(tuple(numbers.randrange(vocabulary) for _ in range(length))) for length in lengths]


def measure(given: argparse.Namespace) -> list[dict[str, float]]:
    """Memory in GB after each batch."""
    from moee_index.model.checkpoint.find import find_checkpoint
    from moee_index.model.load.cache import Cache
    from moee_index.model.run.model import RunningModel

    running = RunningModel(
        find_checkpoint(given.checkpoint),
        bits=4,
        double_quant=given.double_quant,
        rw="auto",
        pooling="last",
        threads=given.threads,
        few_texts=given.layout == "packed",
        cache=Cache(say) if given.cache else None,
    )
    if running.layout.value != given.layout:
        say(f"layout {running.layout.value}, not {given.layout}: {running.layout.reason}")
    numbers = random.Random(given.seed)  # noqa: S311 - shapes, not secrets
    vocabulary = int(running.model.config.vocab_size)
    least, most = given.batch_tokens
    found = []
    for number in range(given.batches):
        tokens = numbers.randint(least, most)
        texts = random_batch(numbers, tokens, given.longest, vocabulary)
        running.embed(texts)
        row = {"batch": float(number), "texts": float(len(texts)), "tokens": float(tokens)}
        found.append({**row, **memory()})
        if number % 50 == 0:
            say(f"batch {number}: anonymous {found[-1]['anonymous']:.3f} GB")
    return found


def growth(values: list[float], skip: int) -> dict[str, float]:
    """First and last value in GB, growth and highest growth over the first in MB, and the slope
    after `skip` values in MB a hundred batches."""
    import numpy as np

    late = np.array(values[skip:])
    slope = float(np.polyfit(np.arange(len(late)), late, 1)[0]) if len(late) > 1 else 0.0
    return {
        "first_gb": values[0],
        "last_gb": values[-1],
        "growth_mb": (values[-1] - values[0]) * 1e3,
        "highest_growth_mb": (max(values) - values[0]) * 1e3,
        "slope_mb_per_100": slope * 1e5,
        "late_growth_mb": float(late[-1] - late[0]) * 1e3,
    }


def main() -> None:
    """Print one row for resident and one for anonymous memory."""
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--batches", type=int, default=500)
    parser.add_argument(
        "--batch-tokens", type=int, nargs=2, default=[256, 2048], metavar=("LEAST", "MOST")
    )
    parser.add_argument("--longest", type=int, default=512, help="tokens of the longest text")
    parser.add_argument("--layout", choices=("standard", "packed"), default="standard")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--double-quant", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--cache", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path, help="write memory after each batch")
    given = parser.parse_args()
    rows = measure(given)
    if given.csv is not None:
        with given.csv.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    skip = min(50, len(rows) // 10)
    for kind in ("rss", "anonymous"):
        found = growth([row[kind] for row in rows], skip)
        show(
            {"memory": kind, "batches": len(rows), "skipped": skip, **found},
            given.json,
            f"{kind:<9} {found['first_gb']:.3f} GB after the first batch, {found['last_gb']:.3f} "
            f"after {len(rows)}: {found['growth_mb']:+.1f} MB (highest "
            f"{found['highest_growth_mb']:+.1f}); after the first {skip} batches "
            f"{found['late_growth_mb']:+.1f} MB, {found['slope_mb_per_100']:+.2f} MB a 100 batches",
        )


if __name__ == "__main__":
    main()
