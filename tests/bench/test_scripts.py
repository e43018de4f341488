"""Whether the scripts that measure still run, in a process of their own and as small as can be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moee_index.model.checkpoint.find import bundled_path

SCRIPTS = Path(__file__).parents[2] / "bench" / "scripts"
MEASURING = sorted(
    path.relative_to(SCRIPTS).as_posix()
    for path in SCRIPTS.rglob("*.py")
    if "make_parser(__doc__)" in path.read_text(encoding="utf-8") or path.parent == SCRIPTS
)


def run(script: str, *arguments: object, cache: Path | None = None) -> str:
    more = {"HF_HUB_OFFLINE": "1"} | ({"MOEE_INDEX_CACHE": str(cache)} if cache else {})
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | more)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", MEASURING)
def test_every_script_explains_itself(script: str) -> None:
    assert f"bench/scripts/{script}" in run(script, "--help")


def test_the_parts_of_the_device_script_on_a_cpu(tmp_path: Path) -> None:
    sizes = ("--tokens", 64, "--length", 16, "--texts", 2, "--parity", 1, "--repeat", 1)
    out = run(
        "speed/gpu.py", bundled_path(), "--device", "cpu", "--small", "--json", *sizes,
        cache=tmp_path,
    )  # fmt: skip
    rows = [json.loads(line) for line in out.splitlines()]
    assert list(dict.fromkeys(row["part"] for row in rows)) == [
        *("load", "one query", "large batch", "mixed lengths", "parity")
    ]
    assert rows[1]["query_s"] > 0
    assert rows[2]["tokens"] == 64
    assert rows[2]["ratio"] > 0
    assert rows[-1]["hs_least"] == pytest.approx(1, abs=1e-6)


def test_memory_over_batches_of_new_shapes(tmp_path: Path) -> None:
    out = run("speed/large_batch.py", bundled_path(), "--shapes", 2, "--json", cache=tmp_path)
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["memory"] for row in rows] == ["rss", "anonymous"]
    assert all(row["batches"] == 2 and row["first_gb"] > 0 for row in rows)
