r"""One short query on a large model: our kernels, bitsandbytes', and transformers' own path.

    python bench/scripts/speed/single_query.py \\
        CHECKPOINT [--tokens 16] [--runs 5] [--json] [--skip-theirs]

Each way runs in a process of its own, in turn; MOEE_INDEX_ISA says which of our kernels.
transformers' is what the authors' code asks for: `AutoModelForCausalLM` with `load_in_4bit`, hidden
states of all layers, router logits. Also told: seconds to load, resident and anonymous memory after
the first query, and the highest anonymous memory while loading.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import (
    PeakAnonymous,
    import_all,
    make_parser,
    median_seconds,
    memory,
    need_accelerate,
    run_way,
    running_model,
    seconds,
    show,
    transformers_model,
)

WAYS = ("moee-index", "bitsandbytes", "transformers")


def ours(checkpoint: Path, tokens: int) -> Callable[[], None]:
    """A call that embeds one query of `tokens` tokens."""
    from batches import bare

    running = running_model(checkpoint, few_texts=True)
    query = bare(tuple(range(100, 100 + tokens)))

    def embed() -> None:
        running.embed([query])

    return embed


def theirs(checkpoint: Path, tokens: int) -> Callable[[], None]:
    """The same query through transformers alone, as the authors' code asks for it."""
    import torch

    model = transformers_model(checkpoint)
    ids = torch.arange(100, 100 + tokens)[None]

    def query() -> None:
        with torch.inference_mode():
            model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                output_hidden_states=True,
                output_router_logits=True,
            )

    return query


def measure(way: str, checkpoint: Path, tokens: int, runs: int) -> dict[str, Any]:
    """Load one way and time its queries, in this process."""
    imports = import_all(json.loads((checkpoint / "config.json").read_text())["model_type"])
    before = time.perf_counter()
    with PeakAnonymous() as watched:
        query = (theirs if way == "transformers" else ours)(checkpoint, tokens)
    loaded = time.perf_counter() - before
    first = seconds(query)
    held = memory()
    return {
        "way": way,
        "imports_s": imports,
        "load_s": loaded,
        "first_query_s": first,
        "query_s": median_seconds(query, runs),
        "peak_anonymous_gb": watched.peak,
        **{f"{name}_gb": value for name, value in held.items()},
    }


def main() -> None:
    """Run each way in its own process, in turn, and print a table."""
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--skip-theirs", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure(given.way, given.checkpoint, given.tokens, given.runs)))
        return
    if not given.skip_theirs:
        need_accelerate()
    for way in WAYS:
        if way == "transformers" and given.skip_theirs:
            continue
        sizes = ["--tokens", given.tokens, "--runs", given.runs]
        more = {"MOEE_INDEX_ISA": way} if way == "bitsandbytes" else {}
        row = run_way(__file__, [given.checkpoint, "--way", way, *sizes], **more)
        show(
            row,
            given.json,
            f"{way:<13} load {row['load_s']:6.1f} s, first query {row['first_query_s']:5.2f} "
            f"s, then {row['query_s']:5.3f} s; resident {row['rss_gb']:5.2f} GB (anonymous "
            f"{row['anonymous_gb']:.2f}, file {row['file_gb']:.2f}), peak anonymous while "
            f"loading {row['peak_anonymous_gb']:.2f}",
        )


if __name__ == "__main__":
    main()
