"""On a CUDA device, in one call of under 10 minutes: does it compute right, how fast, in how much.

    python bench/scripts/speed/gpu.py [CHECKPOINT] [--out DIR] [--data DIR...] [--json]
    python bench/scripts/speed/gpu.py --device cpu --small        (a dry run on a processor)

CHECKPOINT: a model for speed; without one, random weights in OLMoE-1B-7B's geometry are written
for the time being (4 GB). Each part is told as soon as it is done:
  parity         three small models on the device against the processor: cosines of HS and RW in
                 the device's dtype, largest differences in float32
  load           seconds to ready, device memory held
  one query      a text of 16 tokens, the first time and the median of the next ones
  large batch    one batch of --tokens real tokens in texts of --length: operations really
                 computed over seconds, against the device's own product at the experts' shapes,
                 measured between the batches (goal: 45 %; see large_batch.py); highest memory
                 against what was estimated
  halving        the same batch where the device's memory is forced to be too small for it
  mixed lengths  ours against the authors' way on the same weights (goal: 5 times; see
                 mixed_lengths.py); STS sets with --data, else sentences of the bundled corpus
  build          an index of sentences of the bundled corpus with `tiny`
--out writes gpu.json, an object a part, and gpu.md, a table of them. --small shrinks everything,
so that it can be tried on a processor; goals do not count there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from device_memory import DeviceMemory, name_of
from harness import (
    CORPUS,
    GB,
    ROOT,
    import_all,
    make_parser,
    median_seconds,
    say,
    seconds,
    show,
)
from layer_states import cosines, mean_and_least
from layer_states import line_of as states_line
from mixed_lengths import compare, line_of, read_set

GOAL_RATIO = 0.45
GOAL_TIMES = 5.0
GOAL_COSINE = 0.999
GOAL_APART = 1e-4
QUERY_TOKENS = 16
SENTENCES = "wikinews sentences"
PARITY = ROOT / "tests" / "data" / "parity"
KINDS = ("olmoe", "qwen2_moe", "deepseek")

Row = dict[str, Any]


def load(given: argparse.Namespace, checkpoint: Path | None, device: str, **options: Any) -> Any:
    """The encoder on a device, last token, prompt `none`."""
    from moee_index.encode.encoder import Encoder

    wanted = {"prompt": "none", "pooling": "last", "cache": given.cache, "notify": say, **options}
    return Encoder.load(checkpoint, device=device, **wanted)


def parity(given: argparse.Namespace) -> Iterator[tuple[Row, str]]:
    """A small model's vectors on the device and on the processor, in 4 and in 32 bits."""
    import numpy as np

    texts = sentences(4 * given.parity)
    for kind in KINDS:
        encoders = [load(given, PARITY / kind, device) for device in (given.device, "cpu")]
        here, there = (one.encode(texts) for one in encoders)
        wide = [load(given, PARITY / kind, device, bits=32) for device in (given.device, "cpu")]
        exact, wanted = (one.encode(texts) for one in wide)
        apart = max(
            float(np.abs(a - b).max() / np.abs(b).max())
            for a, b in ((exact.hs, wanted.hs), (exact.rw, wanted.rw))
        )
        row: Row = {
            "part": "parity",
            "model": kind,
            "texts": len(texts),
            "compute": str(encoders[0].running.compute.value),
            "compute_on_cpu": str(encoders[1].running.compute.value),
            **mean_and_least("hs", cosines(here.hs, there.hs)),
            **mean_and_least("rw", cosines(here.rw, there.rw)),
            "apart_in_float32": apart,
        }
        right = min(row["hs_least"], row["rw_least"]) > GOAL_COSINE and apart < GOAL_APART
        row |= {"goal": GOAL_COSINE, "reached": right}
        yield (
            row,
            f"parity of {kind}, {len(texts)} texts: {states_line(row)}; {apart:.1e} apart in "
            f"float32 ({'as it should be' if right else 'NOT as it should be'})",
        )


def large_batch(given: argparse.Namespace, running: Any, used: DeviceMemory) -> Row:
    """Tokens and operations a second of large batches, and the product's rate between them."""
    from large_batch import against_product

    texts = batch_of(given, running)
    running.embed(texts)
    used.reset()
    running.embed(texts)
    peak = {**used.read(), **estimate(running, len(texts) * given.length)}
    row = against_product(running, texts, given.repeat, 1.0)
    wanted = goal(given, running, row["ratio"], GOAL_RATIO)
    return {"part": "large batch", "length": given.length, **row, **peak, **wanted}


def estimate(running: Any, tokens: int) -> Row:
    """What the encoder expects a batch to take on a card."""
    from moee_index.model.load.memory import workspace_bytes
    from moee_index.model.run.footprint import batch_bytes

    compute = running.compute.value
    states = batch_bytes(running.plan, compute, tokens)
    return {"estimated_gb": (states + workspace_bytes(running.model, compute)) / GB}


def batch_of(given: argparse.Namespace, running: Any) -> Any:
    """Texts of a large batch."""
    from batches import pieces_of_corpus

    count = max(1, given.tokens // given.length)
    return pieces_of_corpus(running.checkpoint, CORPUS, count, given.length)


def halving(given: argparse.Namespace, running: Any, used: DeviceMemory) -> Row:
    """A batch under a limit that it does not fit: how it was halved, and whether the vectors are
    those of the whole batch."""
    told: list[str] = []
    texts = batch_of(given, running)
    used.reset()
    wanted = running.embed(texts)
    running._tell = told.append
    size = len(texts) * given.length
    with used.limited(running, size):
        found = running.embed(texts)
    halvings, running._most, running._tell = len(told), None, say
    least = {
        name: mean_and_least(name, cosines(getattr(found, name), getattr(wanted, name)))
        for name in ("hs", "rw")
    }
    right = halvings > 0 and min(row[f"{name}_least"] for name, row in least.items()) > GOAL_COSINE
    return {
        "part": "halving",
        "tokens": size,
        "halvings": halvings,
        "told": told[-1] if told else "not halved",
        **least["hs"],
        **least["rw"],
        "goal": GOAL_COSINE,
        "reached": right,
    }


def mixed_lengths(given: argparse.Namespace, encoder: Any) -> Iterator[Row]:
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
    """The first sentences of the bundled corpus, in their order, then pairs of neighbors."""
    found: list[str] = []
    with CORPUS.open(encoding="utf-8") as lines:
        for line in lines:
            text = str(json.loads(line)["text"]).replace("\n", " ")
            found += [one.strip() for one in text.split(". ") if one.strip()]
            if len(found) >= count:
                break
    found += [f"{one}. {two}" for one, two in pairwise(found)]
    return found[:count]


def build(given: argparse.Namespace, directory: Path) -> Row:
    """An index of sentences with the bundled model."""
    from moee_index.index import build_index
    from moee_index.types import Document

    encoder = load(given, None, given.device)
    texts = sentences(given.build)
    documents = [Document(f"s{number}", text, {}) for number, text in enumerate(texts)]
    taken = seconds(lambda: build_index(directory / "index", documents, encoder, notify=say))
    return {
        "part": "build",
        "documents": len(documents),
        "seconds": taken,
        "documents_per_s": len(documents) / taken,
    }


def goal(given: argparse.Namespace, running: Any, value: float, wanted: float) -> Row:
    """What was wanted and whether it was reached, where that means anything."""
    if running.device.value.type == "cpu":
        return {"goal": "CPU run"}
    if given.small:
        return {"goal": "small run"}
    return {"goal": wanted, "reached": value >= wanted}


def measure(
    given: argparse.Namespace, checkpoint: Path, directory: Path
) -> Iterator[tuple[Row, str]]:
    """Each part's row and its line for reading."""
    from batches import bare

    import_all(json.loads((checkpoint / "config.json").read_text())["model_type"])
    yield from parity(given)

    before = time.perf_counter()
    encoder = load(given, checkpoint, given.device, double_quant=given.double_quant)
    ready = time.perf_counter() - before
    running = encoder.running
    used = DeviceMemory(running.device.value)
    row: Row = {
        "part": "load",
        "device": name_of(running.device.value),
        "compute": str(running.compute.value),
        "kernels": running.kernels.value,
        "ready_s": ready,
        "batch_tokens": encoder.batch_tokens,
        "weights_gb": {kind: size / GB for kind, size in running.bytes().items()},
        **used.read(),
    }
    yield row, f"load on {row['device']}: {row['ready_s']:.1f} s, {_memory(row)}"

    query = bare(tuple(range(100, 100 + QUERY_TOKENS)))
    embed = partial(running.embed, [query])
    row = {
        "part": "one query",
        "tokens": QUERY_TOKENS,
        "first_s": seconds(embed),
        "query_s": median_seconds(embed, 10 * given.repeat),
    }
    yield (
        row,
        f"one query of {QUERY_TOKENS} tokens: {row['query_s'] * 1e3:.1f} ms (first "
        f"{row['first_s'] * 1e3:.1f})",
    )

    row = large_batch(given, running, used)
    yield (
        row,
        f"large batch of {row['tokens']} tokens: {row['tokens_per_s']:.0f} tokens/s, "
        f"{row['gflop_per_s']:.0f} GFLOP/s of "
        f"{statistics.median(row['product_gflop_per_s']):.0f}: "
        f"{row['ratio']:.1%} ({_goal(row, '.0%')}); {_memory(row)}, of which "
        f"{row['estimated_gb']:.2f} were expected beside the weights",
    )

    row = halving(given, running, used)
    yield row, f"halving: {row['halvings']} times, {states_line(row)} ({_goal(row, '.3f')})"

    for row in mixed_lengths(given, encoder):
        told = f" ({_goal(row, '.0f')})" if "goal" in row else ""
        yield {"part": "mixed lengths", **row}, f"{line_of(row)}{told}"

    row = build(given, directory)
    yield (
        row,
        f"build: {row['documents']} sentences with tiny in {row['seconds']:.1f} s, "
        f"{row['documents_per_s']:.0f} a second",
    )


def _memory(row: Row) -> str:
    return f"{row['held_gb']:.2f} GB held, {row['peak_gb']:.2f} at the peak"


def _goal(row: Row, form: str) -> str:
    if "reached" not in row:
        return str(row["goal"])
    return f"goal {row['goal']:{form}}: {'reached' if row['reached'] else 'NOT reached'}"


def table(rows: list[tuple[Row, str]]) -> str:
    """A Markdown table of the parts."""
    lines = ["| part | figures |", "|---|---|"]
    lines += [f"| {row['part']} | {line} |" for row, line in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print each part as it is done, and write all of them."""
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?")
    parser.add_argument("--out", type=Path, metavar="DIR", help="for gpu.json and gpu.md")
    parser.add_argument("--data", type=Path, nargs="+", metavar="DIR", help="STS sets")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--small", action="store_true", help="sizes for a processor")
    parser.add_argument("--tokens", type=int, help="of a large batch [65536]")
    parser.add_argument("--length", type=int, help="tokens of its texts [256]")
    parser.add_argument("--texts", type=int, help="mixed texts of each set [256]")
    parser.add_argument("--parity", type=int, help="quarter of the texts compared [16]")
    parser.add_argument("--build", type=int, help="sentences of the index [20000]")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--double-quant", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--cache", action=argparse.BooleanOptionalAction, default=True)
    given = parser.parse_args()
    sizes = {
        **{"tokens": (65536, 1024), "length": (256, 64), "texts": (256, 16), "parity": (16, 4)},
        "build": (20000, 200),
    }
    for name, (full, small) in sizes.items():
        if getattr(given, name) is None:
            setattr(given, name, small if given.small else full)
    rows: list[tuple[Row, str]] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        checkpoint = given.checkpoint or random_model(given, directory / "model")
        for row, line in measure(given, checkpoint, directory):
            rows.append((row, line))
            show(row, given.json, line)
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        (given.out / "gpu.json").write_text(json.dumps([row for row, _ in rows], indent=1) + "\n")
        (given.out / "gpu.md").write_text(table(rows))


def random_model(given: argparse.Namespace, directory: Path) -> Path:
    """Random weights in OLMoE-1B-7B's geometry, or in a much smaller one."""
    from random_checkpoint import TINY, write

    return write(directory, double_quant=given.double_quant, **(TINY if given.small else {}))


if __name__ == "__main__":
    main()
