"""What importing costs before a command can answer, part by part, in fresh processes.

    python bench/scripts/speed/imports.py [--runs 7] [--json]

`bitsandbytes as shipped` asks a hub and imports torch's compiler; `ours` does neither. Last comes a
whole `query` with the bundled model beside a process that does nothing but `import torch`.
"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import CORPUS, environment, make_parser, show

STEPS = {
    "torch": ("", "import torch"),
    "transformers, OLMoE's classes": (
        "import torch",
        "import transformers.models.olmoe.modeling_olmoe",
    ),
    "transformers without what is unused, ours": (
        "import torch; from moee_index.backends import load_transformers",
        "load_transformers(); import transformers.models.olmoe.modeling_olmoe",
    ),
    "bitsandbytes as shipped": (
        "import torch, transformers.models.olmoe.modeling_olmoe",
        "import bitsandbytes",
    ),
    "bitsandbytes, ours": (
        "import torch, transformers.models.olmoe.modeling_olmoe; "
        "from moee_index.backends import import_bitsandbytes",
        "import_bitsandbytes()",
    ),
    "faiss": ("import torch", "import faiss"),
    "moee-index --help": ("", "import moee_index.cli"),
}
CODE = """{before}
import time
start = time.perf_counter()
{step}
print(time.perf_counter() - start)
"""


def seconds(before: str, step: str) -> float:
    """Seconds of one step in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(before=before, step=step)],
        check=True,
        capture_output=True,
        text=True,
        env=environment(),
    )
    return float(done.stdout.split()[-1])


def process_seconds(*arguments: str) -> float:
    """Seconds of a whole Python process, its start and its end included."""
    before = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, env=environment())
    return time.perf_counter() - before


def whole_query(runs: int) -> tuple[list[float], list[float]]:
    """Seconds of `import torch` and of a whole query, in turn."""
    with tempfile.TemporaryDirectory() as folder:
        corpus, index = Path(folder) / "corpus.jsonl", f"{folder}/index"
        with CORPUS.open(encoding="utf-8") as lines:
            corpus.write_text("".join(itertools.islice(lines, 64)), encoding="utf-8")
        program = ("-m", "moee_index", "-q")
        process_seconds(*program, "build", str(corpus), "--index", index)
        process_seconds(*program, "query", "--index", index, "a storm")
        found = [
            (
                process_seconds("-c", "import torch"),
                process_seconds(*program, "query", "--index", index, "a storm"),
            )
            for _ in range(runs)
        ]
    torch, query = zip(*found, strict=True)
    return list(torch), list(query)


def main() -> None:
    """Print the median of each step, in turn so that drift hits all alike."""
    parser = make_parser(__doc__)
    parser.add_argument("--runs", type=int, default=7)
    given = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in STEPS}
    for _ in range(given.runs):
        for name, (before, step) in STEPS.items():
            found[name].append(seconds(before, step))
    for name, values in found.items():
        middle = statistics.median(values)
        show(
            {"step": name, "seconds": middle, "runs": values},
            given.json,
            f"{name:<42} {middle:6.2f} s   ({min(values):.2f} to {max(values):.2f})",
        )
    torch, query = whole_query(given.runs)
    ratio = statistics.median(query) / statistics.median(torch)
    show(
        {"step": "a whole query", "torch": torch, "query": query, "ratio": ratio},
        given.json,
        f"a whole query {statistics.median(query):.2f} s ({min(query):.2f} to {max(query):.2f}), "
        f"{ratio:.2f} times a whole `import torch` ({statistics.median(torch):.2f} s, "
        f"{min(torch):.2f} to {max(torch):.2f})",
    )


if __name__ == "__main__":
    main()
