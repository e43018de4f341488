r"""One large batch of real tokens against the rate of the device's own matrix product.

    python bench/scripts/speed/large_batch.py \\
        CHECKPOINT [--tokens 16384] [--length 256] [--repeat 3]

Texts of exactly LENGTH tokens, cut from a corpus with the checkpoint's own tokenizer, go through
one `RunningModel.embed` call in 4 bits. Operations are those really computed (attention
projections and scores, routers, the experts that tokens are routed to, shared and dense MLPs; no
embedding, no head; what the last layer skips is not counted). Over seconds they are compared with
`torch.nn.functional.linear` in the same dtype at the experts' shapes, measured in this run before
and after each batch: as many rows as reach an expert on average, weights that stay in no cache.
`limit` is the tokens a second at which the ratio would be 1.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from harness import CORPUS, make_parser, say, seconds, show


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Load the model, time its batches between measurements of the product's rate."""
    from arithmetic import count_operations, experts_of, product_rate
    from batches import pieces_of_corpus

    from moee_index.model.checkpoint.find import find_checkpoint

    checkpoint = find_checkpoint(given.checkpoint)
    count = max(1, given.tokens // given.length)
    texts = pieces_of_corpus(checkpoint, given.texts, count, given.length)
    running = load(given, checkpoint)
    shape, device = experts_of(running), running.device.value
    work = count_operations(running, texts)  # the first pass also warms the kernels up
    rates = [product_rate(shape, work.tokens, running.compute.value, device)]
    times = []
    for _ in range(given.repeat):
        times.append(seconds(lambda: running.embed(texts)))
        rates.append(product_rate(shape, work.tokens, running.compute.value, device))
        say(f"{times[-1]:.2f} s; product {rates[-1] / 1e9:.1f} GFLOP/s")
    taken, rate = statistics.median(times), statistics.median(rates)
    ratios = [
        work.computed / one / ((before + after) / 2)
        for one, before, after in zip(times, rates, rates[1:], strict=False)
    ]
    row: dict[str, Any] = {
        "checkpoint": checkpoint.name,
        "tokens": work.tokens,
        "length": given.length,
        "layout": running.layout.value,
        "compute": str(running.compute.value),
        "threads": running.threads,
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
    if given.profile:
        row["profile"] = profile(running, texts)
    return row


def load(given: argparse.Namespace, checkpoint: Any) -> Any:
    """The model in 4 bits, for whole batches."""
    from moee_index.model.load.cache import Cache
    from moee_index.model.run.model import RunningModel

    return RunningModel(
        checkpoint,
        bits=4,
        double_quant=given.double_quant,
        rw="auto",
        pooling="last",
        threads=given.threads,
        cache=Cache(say) if given.cache else None,
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
    """Print one row."""
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tokens", type=int, default=16384, help="real tokens of the batch")
    parser.add_argument("--length", type=int, default=256, help="tokens of each text")
    parser.add_argument(
        "--texts", type=Path, default=CORPUS, help="corpus, JSON Lines with a text field"
    )
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--double-quant", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--cache", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--profile", action="store_true", help="also where one batch's time goes")
    given = parser.parse_args()
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
