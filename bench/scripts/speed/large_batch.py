r"""One large batch of real tokens against the rate of the device's own matrix product.

    python bench/scripts/speed/large_batch.py \\
        CHECKPOINT [--tokens 16384] [--length 256] [--repeat 3]
    python bench/scripts/speed/large_batch.py CHECKPOINT --shapes 500

Texts of exactly LENGTH tokens, cut from a corpus with the checkpoint's own tokenizer, go through
one `RunningModel.embed` call in 4 bits. Operations are those really computed (attention
projections and scores, routers, the experts that tokens are routed to, shared and dense MLPs; no
embedding, no head; what the last layer skips is not counted). Over seconds they are compared with
`torch.nn.functional.linear` in the same dtype at the experts' shapes, measured in this run before
and after each batch: as many rows as reach an expert on average, weights that stay in no cache.
`limit` is the tokens a second at which the ratio would be 1.

--shapes asks instead whether memory stays flat over many batches, each with another number of
texts, other lengths and other tokens (random ids, a fixed seed), so that nothing fits what an
earlier batch has left behind. Told of resident and anonymous memory: growth from the first batch to
the last and to the highest, and the slope of a straight line through what follows the first 50
batches (the first tenth of fewer than 500), in which workspaces and kernels come into being. Read
the slope of anonymous memory: file-backed memory grows as memory-mapped experts are first met.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import (
    CORPUS,
    add_model_options,
    make_parser,
    memory,
    running_model,
    say,
    seconds,
    show,
)

_SHAPE_TOKENS = (256, 2048)
_LONGEST = 512


def load(given: argparse.Namespace) -> Any:
    """The model in 4 bits, for whole batches."""
    options = {"double_quant": given.double_quant, "threads": given.threads}
    return running_model(given.checkpoint, cache=given.cache, **options)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Load the model, time its batches between measurements of the product's rate."""
    from batches import pieces_of_corpus

    running = load(given)
    count = max(1, given.tokens // given.length)
    texts = pieces_of_corpus(running.checkpoint, given.texts, count, given.length)
    row = {
        "checkpoint": running.checkpoint.name,
        "length": given.length,
        "kernels": running.kernels.value,
        "compute": str(running.compute.value),
        "threads": running.threads,
        **against_product(running, texts, given.repeat),
    }
    if given.profile:
        row["profile"] = profile(running, texts)
    return row


def against_product(
    running: Any, texts: Any, repeat: int, spent_on_product: float = 2.0
) -> dict[str, Any]:
    """Tokens and operations a second of a batch, and the product's rate between its runs."""
    from arithmetic import count_operations, experts_of, product_rate

    shape, device, compute = experts_of(running), running.device.value, running.compute.value
    work = count_operations(running, texts)  # the first pass also warms the kernels up

    def product() -> float:
        return product_rate(shape, work.tokens, compute, device, spent_on_product)

    rates, times = [product()], []
    for _ in range(repeat):
        times.append(seconds(lambda: running.embed(texts)))  # returns numpy: nothing is pending
        rates.append(product())
        say(f"{times[-1]:.2f} s; product {rates[-1] / 1e9:.1f} GFLOP/s")
    taken, rate = statistics.median(times), statistics.median(rates)
    ratios = [
        work.computed / one / ((before + after) / 2)
        for one, before, after in zip(times, rates, rates[1:], strict=False)
    ]
    return {
        "tokens": work.tokens,
        "shapes": [[shape.rows_an_expert(work.tokens), *product] for product in shape.products],
        "seconds": times,
        "tokens_per_s": work.tokens / taken,
        "gflop": work.computed / 1e9,
        "gflop_without_skipping": work.whole / 1e9,
        "experts_share": work.experts / work.computed,
        "busiest_expert_over_mean": work.imbalance,
        "gflop_per_s": work.computed / taken / 1e9,
        "product_gflop_per_s": [one / 1e9 for one in rates],
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "limit_tokens_per_s": work.tokens * rate / work.computed,
    }


def measure_shapes(given: argparse.Namespace) -> list[dict[str, float]]:
    """Memory in GB after each batch of ever new shapes."""
    from batches import random_batch

    running = load(given)
    numbers = random.Random(0)  # noqa: S311 - shapes, not secrets
    vocabulary = int(running.model.config.vocab_size)
    held = []
    for number in range(given.shapes):
        tokens = numbers.randint(*_SHAPE_TOKENS)
        running.embed(random_batch(numbers, tokens, _LONGEST, vocabulary))
        held.append(memory())
        if number % 50 == 0:
            say(f"batch {number}: anonymous {held[-1]['anonymous']:.3f} GB")
    return held


def growth(values: Sequence[float], skip: int) -> dict[str, float]:
    """First and last value in GB, growth and highest growth over the first in MB, and after `skip`
    values the growth, and the slope in MB a hundred batches."""
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


def show_growth(held: Sequence[dict[str, float]], as_json: bool) -> None:
    """A row for resident and one for anonymous memory."""
    skip = min(50, len(held) // 10)
    for kind in ("rss", "anonymous"):
        row = growth([one[kind] for one in held], skip)
        show(
            {"memory": kind, "batches": len(held), "skipped": skip, **row},
            as_json,
            f"{kind:<9} {row['first_gb']:.3f} GB after the first batch, {row['last_gb']:.3f} "
            f"after {len(held)}: {row['growth_mb']:+.1f} MB (highest "
            f"{row['highest_growth_mb']:+.1f}); after the first {skip} batches "
            f"{row['late_growth_mb']:+.1f} MB, {row['slope_mb_per_100']:+.2f} MB a 100 batches",
        )


def profile(running: Any, texts: Any, most: int = 15) -> list[dict[str, Any]]:
    """The operations of one more batch that take most of the processor's time themselves, and
    first what passed outside torch's operations: dequantising calls bitsandbytes directly."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as watch

    with watch(activities=[ProfilerActivity.CPU]) as watched:
        taken = seconds(lambda: running.embed(texts))
    events = watched.key_averages()
    outside = taken - sum(event.self_cpu_time_total for event in events) / 1e6
    top = sorted(events, key=lambda event: -event.self_cpu_time_total)[:most]
    rows = [("outside torch", 0, outside)]
    rows += [(event.key, event.count, event.self_cpu_time_total / 1e6) for event in top]
    return [
        {"op": name, "calls": calls, "seconds": spent, "share": spent / taken}
        for name, calls, spent in rows
    ]


def main() -> None:
    """Print one row, or two of memory."""
    parser = make_parser(__doc__)
    add_model_options(parser)
    parser.add_argument("--tokens", type=int, default=16384, help="real tokens of the batch")
    parser.add_argument("--length", type=int, default=256, help="tokens of each text")
    parser.add_argument(
        "--texts", type=Path, default=CORPUS, help="corpus, JSON Lines with a text field"
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="also where one batch's time goes")
    parser.add_argument("--shapes", type=int, metavar="N", help="memory over N batches instead")
    given = parser.parse_args()
    if given.shapes:
        show_growth(measure_shapes(given), given.json)
        return
    row = measure(given)
    show(
        row,
        given.json,
        f"{row['tokens']} tokens in texts of {row['length']}, {row['compute']}, "
        f"{row['threads']} threads: {row['tokens_per_s']:.1f} tokens/s, "
        f"{row['gflop_per_s']:.1f} GFLOP/s; product at the experts' shapes "
        f"{statistics.median(row['product_gflop_per_s']):.1f} GFLOP/s: ratio {row['ratio']:.3f} "
        f"(runs {', '.join(f'{one:.3f}' for one in row['ratios'])}; limit "
        f"{row['limit_tokens_per_s']:.1f} tokens/s; busiest expert "
        f"{row['busiest_expert_over_mean']:.2f} times the mean)",
    )
    if given.profile and not given.json:
        for one in row["profile"]:
            print(
                f"{one['seconds']:9.3f} s {one['share']:6.1%} {one['calls']:8d} calls  {one['op']}"
            )


if __name__ == "__main__":
    main()
