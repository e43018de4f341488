"""Loading a model in 4 bits: from its 16-bit files, from the cache, and as a whole `query`.

    python bench/scripts/speed/load.py CHECKPOINT [--double-quant both] [--cache-dir DIR] [--runs 3]
    python bench/scripts/speed/load.py CHECKPOINT --accuracy 16

Each way runs in a process of its own, with an empty cache made in DIR (beside the checkpoint by
default, removed at the end), in this order:
  16-bit         the 16-bit files are streamed and quantized; the 4-bit form is cached
  cached         the 4-bit form from the cache
Of a 4-bit checkpoint (`moee-index quantize`) only the second is measured.
Told: seconds from the end of imports to ready, and of the first and the next queries; memory after
the first query, anonymous and file-backed apart; the highest anonymous memory while loading and
after; bytes of the cache. Then 20 short texts are indexed, and `moee-index query` is timed as a
whole process. What the cached way reads was just written or read, so the page cache is warm.

--accuracy N tells instead what 4 bits cost: N texts of real tokens pass one by one through the
16-bit checkpoint and through both 4-bit forms of it (plain and double quantization). After each
decoder layer the last token's hidden state is compared with the reference's by its cosine, and so
are the router's outputs, with the share of the chosen experts that agree. One model is in memory
at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import (
    CORPUS,
    GB,
    ROOT,
    PeakAnonymous,
    environment,
    import_all,
    make_parser,
    median_seconds,
    memory,
    run_way,
    running_model,
    say,
    seconds,
    show,
)

FROM_16_BIT, CACHED = "16-bit", "cached"
WAYS = (FROM_16_BIT, CACHED)
QUERY = "Which treaty ended the long war between the two northern kingdoms?"
ACCURACY_TOKENS = 32
BOTH = {"both": (True, False), "on": (True,), "off": (False,)}


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Load one way in this process, and ask the first queries."""
    kind = json.loads((given.checkpoint / "config.json").read_text())["model_type"]
    imports = import_all(kind)
    from moee_index.encode.encoder import Encoder
    from moee_index.model.load import load as loading

    if given.large is not None:
        loading.LARGE = given.large
    said: list[str] = []
    with PeakAnonymous() as watched:
        before = time.perf_counter()
        encoder = Encoder.load(
            given.checkpoint,
            double_quant=given.double_quant == "on",
            threads=given.threads,
            notify=said.append,
        )
        ready = time.perf_counter() - before
    loaded = memory()
    first = seconds(lambda: encoder.encode([QUERY], query=True))
    held = memory()
    for line in said:
        say(line)
    return {
        "way": given.way,
        "double_quant": given.double_quant == "on",
        "kernels": encoder.running.kernels.value,
        "compute": str(encoder.running.compute.value),
        "threads": encoder.running.threads,
        "imports_s": imports,
        "ready_s": ready,
        "first_query_s": first,
        "query_s": median_seconds(lambda: encoder.encode([QUERY], query=True), 3),
        "query_tokens": encoder.plan([QUERY], query=True).tokens,
        **{f"{name}_gb": held[name] for name in ("rss", "anonymous", "file")},
        "peak_anonymous_gb": watched.peak,
        "peak_above_final_gb": watched.peak - held["anonymous"],
        "peak_rss_gb": loaded["peak_rss"],
        "weights_gb": {name: size / GB for name, size in encoder.running.bytes().items()},
    }


def measure_ways(given: argparse.Namespace, quantized: bool, cache: Path) -> Iterator[Any]:
    """A row a way, the median run of those from the cache."""
    more: list[object] = ["--large", given.large] if given.large is not None else []
    more += ["--threads", given.threads] if given.threads is not None else []
    for way in given.ways:
        if way == FROM_16_BIT:
            shutil.rmtree(cache, ignore_errors=True)
        # Only from the cache can a way be repeated as it was.
        repeated = given.runs if way == CACHED else 1
        rows = [
            run_way(
                __file__,
                [
                    *(given.checkpoint, "--way", way),
                    *("--double-quant", "on" if quantized else "off"),
                    *more,
                ],
                MOEE_INDEX_CACHE=str(cache),
            )
            for _ in range(repeated)
        ]
        rows.sort(key=lambda row: float(row["ready_s"]))
        row = rows[len(rows) // 2]
        row["ready_s_of_runs"] = [one["ready_s"] for one in rows]
        row["cache_bytes"] = entries(cache)
        yield row


def entries(cache: Path) -> dict[str, int]:
    """Bytes of each entry of a cache."""
    from moee_index.model.load.cache import Cache

    return dict(Cache(say, cache).entries())


def measure_query(given: argparse.Namespace, quantized: bool, cache: Path) -> dict[str, Any]:
    """Index 20 short texts with the model, then time whole query processes."""
    with tempfile.TemporaryDirectory(prefix="moee-speed-") as made:
        corpus, index = Path(made) / "few.jsonl", Path(made) / "index"
        with CORPUS.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for _, line in zip(range(20), lines, strict=False)]
        corpus.write_text(
            "".join(json.dumps({"id": row["id"], "text": row["title"]}) + "\n" for row in rows),
            encoding="utf-8",
        )
        quantization = "--double-quant" if quantized else "--no-double-quant"
        common = ["--threads", str(given.threads)] if given.threads is not None else []
        built, _ = process(
            [
                *("build", corpus, "--index", index),
                *("--model", given.checkpoint.resolve(), quantization, *common),
            ],
            cache,
        )
        runs = [
            process(["query", QUERY, "--index", index, *common], cache) for _ in range(given.runs)
        ]
    return {
        "way": "query process",
        "double_quant": quantized,
        "build_s": built,
        "process_s": statistics.median(taken for taken, _ in runs),
        "process_s_of_runs": [taken for taken, _ in runs],
        "peak_rss_gb": max(peak for _, peak in runs),
        "cache_bytes": entries(cache),
    }


def process(arguments: list[Any], cache: Path) -> tuple[float, float]:
    """Seconds and highest resident GB of one `moee-index` process."""
    before = time.perf_counter()
    started = subprocess.Popen(
        [sys.executable, "-m", "moee_index", *map(str, arguments)],
        stdout=subprocess.DEVNULL,
        env=environment(MOEE_INDEX_CACHE=str(cache), PYTHONPATH=str(ROOT)),
    )
    _, status, used = os.wait4(started.pid, 0)
    taken = time.perf_counter() - before
    started.returncode = os.waitstatus_to_exitcode(status)
    if started.returncode:
        raise SystemExit(f"moee-index {arguments[0]} failed (exit {started.returncode})")
    return taken, used.ru_maxrss * 1024 / GB


def line_of(row: dict[str, Any]) -> str:
    """A row for reading."""
    quantized = "double" if row["double_quant"] else "plain"
    if "process_s" in row:
        return (
            f"{quantized:<6} whole query process {row['process_s']:.2f} s, at most "
            f"{row['peak_rss_gb']:.2f} GB resident (build of 20 titles {row['build_s']:.1f} s)"
        )
    cached = sum(row["cache_bytes"].values()) / GB
    return (
        f"{quantized:<6} {row['way']:<13} ({row['kernels']}) ready {row['ready_s']:6.2f} s, first "
        f"query {row['first_query_s']:.2f} s, then {row['query_s']:.3f} s; resident "
        f"{row['rss_gb']:.2f} GB (anonymous {row['anonymous_gb']:.2f}, file {row['file_gb']:.2f}); "
        f"peak anonymous {row['peak_anonymous_gb']:.2f} "
        f"({row['peak_above_final_gb']:+.2f} over the end); cache {cached:.2f} GB"
    )


def measure_accuracy(given: argparse.Namespace) -> Iterator[tuple[dict[str, Any], str]]:
    """A row for each 4-bit form and layer, `final` and `mean` after them."""
    from batches import pieces_of_corpus
    from layer_states import compare, states_of
    from layer_states import line_of as states_line

    def states(**options: Any) -> Any:
        running = running_model(given.checkpoint, cache=False, threads=given.threads, **options)
        texts = pieces_of_corpus(running.checkpoint, CORPUS, given.accuracy, ACCURACY_TOKENS)
        return states_of(running, texts)

    if quantization_of(given.checkpoint) is not None:
        raise SystemExit(f"{given.checkpoint} is in 4 bits already; give what it was made from")
    reference = states(bits=16)
    for double in BOTH[given.double_quant]:
        form = "double" if double else "plain"
        for row in compare(reference, states(double_quant=double)):
            line = f"{form:<6} layer {row['layer']!s:>5}  {states_line(row)}"
            yield {"form": form, **row}, line


def quantization_of(directory: Path) -> bool | None:
    """Whether a 4-bit checkpoint is quantized double; None for one that is not in 4 bits."""
    from moee_index.model.checkpoint.find import find_checkpoint

    said = find_checkpoint(directory).quantization
    return None if said is None else bool(said["double_quant"])


def check_space(given: argparse.Namespace, directory: Path) -> None:
    """Stop before a disk fills up: a 4-bit form takes at most 0.33 of the 16-bit files."""
    needed = 0.33 * sum(file.stat().st_size for file in given.checkpoint.glob("*.safetensors"))
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if free < needed + GB:
        raise SystemExit(
            f"{directory} has {free / GB:.1f} GB free, a 4-bit form may take "
            f"{needed / GB:.1f}; give another --cache-dir"
        )


def main() -> None:
    """Run each way in its own process, in turn."""
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--double-quant", choices=tuple(BOTH), default="both")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--query", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--cache-dir", type=Path, help="where the empty cache is made")
    parser.add_argument("--runs", type=int, default=3, help="of what can be repeated")
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--large", type=int, help="4-bit weights from which a model counts as large (for trials)"
    )
    parser.add_argument("--accuracy", type=int, metavar="N", help="what 4 bits cost, instead")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure(given)))
        return
    if given.accuracy:
        for row, line in measure_accuracy(given):
            show(row, given.json, line)
        return
    directory = given.cache_dir or given.checkpoint.resolve().parent
    check_space(given, directory)
    wanted = BOTH[given.double_quant]
    if (own := quantization_of(given.checkpoint)) is not None:
        wanted, given.ways = (own,), [CACHED]
    for quantized in wanted:
        with tempfile.TemporaryDirectory(prefix="moee-speed-cache-", dir=directory) as made:
            cache = Path(made) / "cache"
            for row in measure_ways(given, quantized, cache):
                show(row, given.json, line_of(row))
            if given.query:
                row = measure_query(given, quantized, cache)
                show(row, given.json, line_of(row))


if __name__ == "__main__":
    main()
