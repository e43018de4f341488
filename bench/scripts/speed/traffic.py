"""Memory traffic of the road that a card takes, counted on a processor: bytes, launches, waits.

    python bench/scripts/speed/traffic.py CHECKPOINT [--tokens 4096] [--length 256] [--json]

One batch passes as on a CUDA device while every operation of torch is watched. Counted of a layer:
  bytes     read and written by operations, each tensor once an operation, as if nothing stayed in
            a cache (of what is gathered, only the rows that are taken)
  launches  operations that compute or copy; views and empty memory are none
  waits     operations whose result the processor needs before it can go on
  peak      most bytes of tensors alive at once beyond those from before the batch
Beside them stands what the products alone have to move, and from --bandwidth and --rate (GB/s and
TFLOP/s of a device) how long traffic and products would take there one after the other: an
estimate of what the device's GEMM rate is used to, and no measurement.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

from card_road import as_on_a_card, watch
from harness import make_parser, show


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Two batches, the second of twice the tokens: what grows with them, and what does not."""
    from arithmetic import count_operations
    from batches import bare
    from harness import running_model

    numbers = random.Random(0)  # noqa: S311 - token ids, not secrets
    with as_on_a_card():
        running = running_model(given.checkpoint, cache=given.cache)
        vocabulary = int(running.model.config.vocab_size)

        def texts(tokens: int) -> Any:
            return [
                bare(tuple(numbers.randrange(vocabulary) for _ in range(given.length)))
                for _ in range(max(1, tokens // given.length))
            ]

        small, large = (
            watch(running, texts(tokens)) for tokens in (given.tokens, 2 * given.tokens)
        )
        query, _ = watch(running, [bare(tuple(range(100, 116)))])
        work = count_operations(running, texts(given.tokens))
    layers = int(running.model.config.num_hidden_layers)
    a_token = (large[0].bytes - small[0].bytes) / given.tokens
    fixed = small[0].bytes - a_token * given.tokens
    products = (large[0].products - small[0].products) / given.tokens
    batch = given.batch * a_token + fixed
    seconds = work.whole / work.tokens / layers * given.batch / (given.rate * 1e12)
    rest = (batch - given.batch * products) / (given.bandwidth * 1e9)
    return {
        "tokens": given.tokens,
        "bytes_a_token": a_token,
        "bytes_of_products_a_token": products,
        "bytes_whatever_the_tokens": fixed,
        "peak_bytes_a_token": (large[1].peak - small[1].peak) / given.tokens,
        "query_launches": query.launches,
        "query_waits": query.waits,
        "batch": given.batch,
        "batch_gb": batch / 1e9,
        "products_ms": seconds * 1e3,
        "traffic_ms": rest * 1e3,
        "estimated_ratio": seconds / (seconds + rest),
    }


def main() -> None:
    """Print one row."""
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--batch", type=int, default=65536, help="tokens to estimate for")
    parser.add_argument("--bandwidth", type=float, default=2700, help="GB/s that copies reach")
    parser.add_argument("--rate", type=float, default=500, help="TFLOP/s that products reach")
    parser.add_argument("--cache", action=argparse.BooleanOptionalAction, default=True)
    given = parser.parse_args()
    row = measure(given)
    show(
        row,
        given.json,
        f"a layer: {row['bytes_a_token'] / 1e3:.0f} kB a token, "
        f"{row['bytes_of_products_a_token'] / 1e3:.0f} of them products; a query "
        f"{row['query_launches']} launches, {row['query_waits']} waits; {row['batch']} tokens "
        f"{row['batch_gb']:.1f} GB: estimated {row['products_ms']:.1f} ms of products and "
        f"{row['traffic_ms']:.1f} of other traffic, {row['estimated_ratio']:.0%} of the rate",
    )


if __name__ == "__main__":
    main()
