"""One short query on a large model: ours in both 4-bit layouts beside transformers' own path.

    python bench/speed/single_query.py CHECKPOINT [--tokens 16] [--runs 5] [--json] [--skip-theirs]

Each way runs in a process of its own, in turn. Theirs is what the authors' code asks for:
`AutoModelForCausalLM` with `load_in_4bit`, hidden states of all layers, router logits. Also told:
seconds to load, resident and anonymous memory after the first query, and the highest anonymous
memory while loading.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WAYS = ("packed", "standard", "transformers")


def memory() -> dict[str, float]:
    """Resident memory in GB (10⁹ bytes), anonymous and file-backed told apart."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        name: int(fields[field].split()[0]) * 1024 / 1e9
        for name, field in (("rss", "VmRSS"), ("anonymous", "RssAnon"), ("file", "RssFile"))
    }


class PeakAnonymous:
    """Watches the highest anonymous memory of this process."""

    def __enter__(self) -> PeakAnonymous:
        self.peak = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.05):
            self.peak = max(self.peak, memory()["anonymous"])

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def ours(checkpoint: Path, tokens: int, packed: bool) -> Callable[[], None]:
    """A call that embeds one query of `tokens` tokens."""
    from moee_index.model.cache import Cache
    from moee_index.model.checkpoint import find_checkpoint
    from moee_index.model.running import RunningModel, TokenizedText

    running = RunningModel(
        find_checkpoint(checkpoint),
        bits=4,
        double_quant=True,
        rw="auto",
        pooling="last",
        few_texts=packed,
        cache=Cache(lambda line: print(line, file=sys.stderr)),
    )
    query = TokenizedText(tuple(range(100, 100 + tokens)), (0, tokens))
    return lambda: running.embed([query]) and None


def theirs(checkpoint: Path, tokens: int) -> Callable[[], None]:
    """The same query through transformers alone, as the authors' code asks for it."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(checkpoint, quantization_config=config)
    model.eval()
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
    import torch  # noqa: F401 - imports are not part of loading
    import transformers.models.auto.modeling_auto  # noqa: F401

    from moee_index.model.libraries import import_bitsandbytes

    import_bitsandbytes()
    before = time.perf_counter()
    with PeakAnonymous() as watched:
        if way == "transformers":
            query = theirs(checkpoint, tokens)
        else:
            query = ours(checkpoint, tokens, packed=way == "packed")
    loaded = time.perf_counter() - before
    before = time.perf_counter()
    query()
    first = time.perf_counter() - before
    held = memory()
    times = []
    for _ in range(runs):
        before = time.perf_counter()
        query()
        times.append(time.perf_counter() - before)
    return {
        "way": way,
        "load_s": loaded,
        "first_query_s": first,
        "query_s": statistics.median(times),
        "peak_anonymous_gb": watched.peak,
        **{f"{name}_gb": value for name, value in held.items()},
    }


def main() -> None:
    """Run each way in its own process, in turn, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--skip-theirs", action="store_true")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure(given.way, given.checkpoint, given.tokens, given.runs)))
        return
    for way in WAYS:
        if way == "transformers" and given.skip_theirs:
            continue
        done = subprocess.run(
            [
                *(sys.executable, __file__, str(given.checkpoint), "--way", way),
                *("--tokens", str(given.tokens), "--runs", str(given.runs)),
            ],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        row = json.loads(done.stdout.splitlines()[-1])
        if given.json:
            print(json.dumps(row))
        else:
            print(
                f"{way:<13} load {row['load_s']:6.1f} s, first query {row['first_query_s']:5.2f} "
                f"s, then {row['query_s']:5.3f} s; resident {row['rss_gb']:5.2f} GB (anonymous "
                f"{row['anonymous_gb']:.2f}, file {row['file_gb']:.2f}), peak anonymous while "
                f"loading {row['peak_anonymous_gb']:.2f}"
            )


if __name__ == "__main__":
    main()
