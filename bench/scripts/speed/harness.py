"""What the scripts of this folder share: memory and its peak, seconds, ways run in turn.

Imports nothing heavy. GB are 10⁹ bytes.
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
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

GB = 1e9
ROOT = Path(__file__).resolve().parents[3]
CORPUS = ROOT / "corpora" / "wikinews.jsonl"

_FIELDS = {
    "rss": "VmRSS:",
    "anonymous": "RssAnon:",
    "file": "RssFile:",
    "peak_rss": "VmHWM:",
}


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the script's docstring, with --json."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    return parser


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """CHECKPOINT, and how it is loaded."""
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--double-quant", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--cache", action=argparse.BooleanOptionalAction, default=True)


def show(row: dict[str, Any], as_json: bool, line: str) -> None:
    """Print a result at once: the row as JSON, or the line for reading."""
    print(json.dumps(row) if as_json else line, flush=True)


def say(line: str) -> None:
    """Tell on stderr what goes on, so that stdout stays JSON."""
    print(line, file=sys.stderr, flush=True)


def memory() -> dict[str, float]:
    """Memory of this process in GB: `rss`, its parts `anonymous` and `file`, and `peak_rss`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {
        name: int(line.split()[1]) * 1024 / GB
        for line in lines
        for name, field in _FIELDS.items()
        if line.startswith(field)
    }


class PeakAnonymous:
    """Watches the highest anonymous memory of this process, sampled every 10 ms."""

    def __enter__(self) -> PeakAnonymous:
        self.peak = memory()["anonymous"]
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.peak = max(self.peak, memory()["anonymous"])

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, memory()["anonymous"])


def seconds(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    before = time.perf_counter()
    call()
    return time.perf_counter() - before


def median_seconds(call: Callable[[], object], runs: int) -> float:
    """Median seconds of several calls."""
    return statistics.median(seconds(call) for _ in range(runs))


def environment(**more: str) -> dict[str, str]:
    """This process's environment for one that must not ask a hub."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", **more}


def run_way(script: str, arguments: Sequence[object], **more: str) -> dict[str, Any]:
    """Run a script in a process of its own; the last line of its stdout is the result as JSON.

    Stops this script where that one fails.
    """
    command = [sys.executable, script, *map(str, arguments)]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(**more),
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed (exit {done.returncode})")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def import_all(model_type: str) -> float:
    """Import what any start imports (torch, transformers' classes of a model, bitsandbytes, the
    encoder), so that loading is measured from the end of imports. Returns the seconds it took."""
    before = time.perf_counter()
    architecture = {"deepseek": "deepseek_ocr2"}.get(model_type, model_type)
    for name in (
        "torch",
        "transformers.models.auto.modeling_auto",
        "transformers.models.auto.tokenization_auto",
        f"transformers.models.{architecture}.modeling_{architecture}",
        "moee_index.encode.encoder",
    ):
        import_module(name)
    from moee_index.backends import import_bitsandbytes

    import_bitsandbytes()
    return time.perf_counter() - before


def running_model(checkpoint: Any, *, cache: bool = True, **options: Any) -> Any:
    """A checkpoint in 4 bits (or `bits`) that pools the last token; options: of `RunningModel`."""
    from moee_index.model.checkpoint.find import find_checkpoint
    from moee_index.model.load.cache import Cache
    from moee_index.model.run.model import RunningModel

    if isinstance(checkpoint, Path):
        checkpoint = find_checkpoint(checkpoint)
    given = {"bits": 4, "double_quant": True, "rw": "auto", "pooling": "last", **options}
    return RunningModel(checkpoint, **given, cache=Cache(say) if cache else None)


def transformers_model(checkpoint: Path) -> Any:
    """What the authors' code asks for: transformers' own `load_in_4bit` (experts stay in bf16)."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = AutoModelForCausalLM.from_pretrained(checkpoint, quantization_config=config)
    return model.eval()


def need_accelerate() -> None:
    """Stop the script where transformers could not load in 4 bits."""
    if find_spec("accelerate") is None:
        raise SystemExit(
            "transformers' own load_in_4bit needs accelerate, which is not installed: "
            "pip install accelerate, or leave their way out"
        )
