"""What importing costs before a command can answer, part by part, in fresh processes.

    python bench/scripts/speed/imports.py [--runs 5] [--json]

`bitsandbytes as shipped` asks a hub and imports torch's compiler; `ours` does neither.
"""

from __future__ import annotations

import statistics
import subprocess
import sys

from harness import environment, make_parser, show

STEPS = {
    "torch": ("", "import torch"),
    "transformers, OLMoE's classes": (
        "import torch",
        "import transformers.models.olmoe.modeling_olmoe",
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


def main() -> None:
    """Print the median of each step, in turn so that drift hits all alike."""
    parser = make_parser(__doc__)
    parser.add_argument("--runs", type=int, default=5)
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
            f"{name:<32} {middle:6.2f} s   ({min(values):.2f} to {max(values):.2f})",
        )


if __name__ == "__main__":
    main()
