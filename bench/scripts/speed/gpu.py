"""On a CUDA device, in one call of under 10 minutes: rate, mixed lengths, memory, parity.

    python bench/scripts/speed/gpu.py CHECKPOINT [--data DIR...] [--json]
    python bench/scripts/speed/gpu.py CHECKPOINT --device cpu --small

Compared, each part told as soon as it is done:
  load           seconds to ready, device memory held
  one query      a text of 16 tokens, the first time and the median of the next ones
  large batch    one batch of --tokens real tokens in texts of --length: operations really
                 computed over seconds, against the device's own product at the experts' shapes,
                 measured between the batches (goal: 35 %; see large_batch.py)
  mixed lengths  ours against the authors' way on the same weights (goal: 5 times; see
                 mixed_lengths.py); STS sets with --data, else sentences of the bundled corpus
  parity         HS and RW of a few texts against the same model on the CPU, by cosine
--small shrinks everything, so that a tiny checkpoint can be tried on a CPU; goals do not count
there. The 4-bit form is cached (MOEE_INDEX_CACHE), so the CPU's model is not quantised again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import CORPUS, GB, import_all, make_parser, median_seconds, memory, say, seconds, show
from layer_states import cosines, mean_and_least
from layer_states import line_of as states_line
from mixed_lengths import compare, line_of, read_set

GOAL_RATIO = 0.35
GOAL_TIMES = 5.0
QUERY_TOKENS = 16
SENTENCES = "wikinews sentences"


def load(given: argparse.Namespace, device: str) -> Any:
    """The encoder on a device, last token, prompt `none`."""
    from moee_index.encode.encoder import Encoder

    return Encoder.load(
        given.checkpoint,
        double_quant=given.double_quant,
        prompt="none",
        pooling="last",
        device=device,
        cache=given.cache,
        notify=say,
    )


def large_batch(given: argparse.Namespace, running: Any) -> dict[str, Any]:
    """Tokens and operations a second of large batches, and the product's rate between them."""
    from batches import pieces_of_corpus
    from large_batch import against_product

    count = max(1, given.tokens // given.length)
    texts = pieces_of_corpus(running.checkpoint, CORPUS, count, given.length)
    row = against_product(running, texts, given.repeat, 1.0)
    return {"length": given.length, **row, **goal(given, running, row["ratio"], GOAL_RATIO)}


def mixed_lengths(given: argparse.Namespace, encoder: Any) -> Iterator[dict[str, Any]]:
    """A row a way, from the authors' to ours; the last one has the goal."""
    from authors_way import WAYS, Ways

    if given.data:
        sets = {one.name: read_set(one, given.texts, "evaluator") for one in given.data}
    else:
        sets = {SENTENCES: sentences(4 * given.texts)}
    rows = compare(Ways(encoder), sets, WAYS, given.repeat)
    rows[-1] |= goal(given, encoder.running, rows[-1]["times_first"], GOAL_TIMES)
    yield from rows


def sentences(count: int) -> list[str]:
    """The first sentences of the bundled corpus, in their order."""
    found: list[str] = []
    with CORPUS.open(encoding="utf-8") as lines:
        for line in lines:
            text = str(json.loads(line)["text"]).replace("\n", " ")
            found += [one.strip() for one in text.split(". ") if one.strip()]
            if len(found) >= count:
                break
    return found[:count]


def goal(given: argparse.Namespace, running: Any, value: float, wanted: float) -> dict[str, Any]:
    """What was wanted and whether it was reached, where that means anything."""
    if running.device.value.type == "cpu":
        return {"goal": "CPU run"}
    if given.small:
        return {"goal": "small run"}
    return {"goal": wanted, "reached": value >= wanted}


class DeviceMemory:
    """Highest and held memory of a device in GB: torch's allocations there, or what is resident
    where the device is the CPU."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.cuda = device.type == "cuda"

    def reset(self) -> None:
        """Begin a new peak (a process cannot take its own back)."""
        if self.cuda:
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)

    def read(self) -> dict[str, float]:
        """`held_gb` and `peak_gb`."""
        if not self.cuda:
            found = memory()
            return {"held_gb": found["rss"], "peak_gb": found["peak_rss"]}
        import torch

        return {
            "held_gb": torch.cuda.memory_allocated(self.device) / GB,
            "peak_gb": torch.cuda.max_memory_allocated(self.device) / GB,
        }


def name_of(device: Any) -> str:
    """What the device is."""
    if device.type == "cpu":
        return "CPU"
    import torch

    return torch.cuda.get_device_name(device)


def parity(given: argparse.Namespace, encoder: Any) -> dict[str, Any]:
    """Cosines of HS and RW between the device and the CPU. Loads the model there."""
    from batches import pieces_of_corpus

    texts = pieces_of_corpus(encoder.running.checkpoint, CORPUS, given.parity, 32)
    here = encoder.running.embed(texts)
    before = time.perf_counter()
    on_cpu = load(given, "cpu").running
    loaded = time.perf_counter() - before
    there = on_cpu.embed(texts)
    return {
        "texts": len(texts),
        "compute": str(encoder.running.compute.value),
        "compute_on_cpu": str(on_cpu.compute.value),
        "cpu_load_s": loaded,
        **mean_and_least("hs", cosines(here.hs, there.hs)),
        **mean_and_least("rw", cosines(here.rw, there.rw)),
    }


def measure(given: argparse.Namespace) -> Iterator[tuple[dict[str, Any], str]]:
    """Each part's row and its line for reading."""
    from batches import bare

    import_all(json.loads((given.checkpoint / "config.json").read_text())["model_type"])
    before = time.perf_counter()
    encoder = load(given, given.device)
    ready = time.perf_counter() - before
    running = encoder.running
    device = running.device.value
    used = DeviceMemory(device)
    row: dict[str, Any] = {
        "part": "load",
        "device": name_of(device),
        "kernels": running.kernels.value,
        "ready_s": ready,
        "weights_gb": {kind: size / GB for kind, size in running.bytes().items()},
        **used.read(),
    }
    yield row, f"load on {row['device']}: {row['ready_s']:.1f} s, {_memory(row)}"

    query = bare(tuple(range(100, 100 + QUERY_TOKENS)))
    row = {
        "part": "one query",
        "tokens": QUERY_TOKENS,
        "first_s": seconds(lambda: running.embed([query])),
        "query_s": median_seconds(lambda: running.embed([query]), 10 * given.repeat),
    }
    yield (
        row,
        f"one query of {QUERY_TOKENS} tokens: {row['query_s'] * 1e3:.1f} ms (first "
        f"{row['first_s'] * 1e3:.1f})",
    )

    used.reset()
    row = {"part": "large batch", **large_batch(given, running), **used.read()}
    yield (
        row,
        f"large batch of {row['tokens']} tokens: {row['tokens_per_s']:.0f} tokens/s, "
        f"{row['gflop_per_s']:.0f} GFLOP/s of "
        f"{statistics.median(row['product_gflop_per_s']):.0f}: "
        f"{row['ratio']:.1%} ({_goal(row, '.0%')}); {_memory(row)}",
    )

    for row in mixed_lengths(given, encoder):
        told = f" ({_goal(row, '.0f')})" if "goal" in row else ""
        row = {"part": "mixed lengths", **row}
        yield row, f"{line_of(row)}{told}"

    row = {"part": "parity", **parity(given, encoder)}
    yield (
        row,
        f"parity with the CPU, {row['texts']} texts: {states_line(row)}; {row['compute']} there, "
        f"{row['compute_on_cpu']} on the CPU",
    )


def _memory(row: dict[str, Any]) -> str:
    return f"{row['held_gb']:.2f} GB held, {row['peak_gb']:.2f} at the peak"


def _goal(row: dict[str, Any], form: str) -> str:
    if "reached" not in row:
        return str(row["goal"])
    return f"goal {row['goal']:{form}}: {'reached' if row['reached'] else 'NOT reached'}"


def main() -> None:
    """Print each part as it is done."""
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, nargs="+", metavar="DIR", help="STS sets")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--small", action="store_true", help="sizes for a tiny model on a CPU")
    parser.add_argument("--tokens", type=int, help="of a large batch [65536]")
    parser.add_argument("--length", type=int, help="tokens of its texts [256]")
    parser.add_argument("--texts", type=int, help="mixed texts of each set [256]")
    parser.add_argument("--parity", type=int, help="texts compared with the CPU [8]")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--double-quant", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--cache", action=argparse.BooleanOptionalAction, default=True)
    given = parser.parse_args()
    sizes = {"tokens": (65536, 1024), "length": (256, 64), "texts": (256, 16), "parity": (8, 4)}
    for name, (full, small) in sizes.items():
        if getattr(given, name) is None:
            setattr(given, name, small if given.small else full)
    for row, line in measure(given):
        show(row, given.json, line)


if __name__ == "__main__":
    main()
