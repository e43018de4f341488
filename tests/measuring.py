"""Runs the scripts of bench/scripts as a user does, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[1] / "bench" / "scripts"


def run(script: str, *arguments: object, cache: Path | None = None, status: int = 0) -> str:
    """What a script prints; of one that fails, what it prints on stderr."""
    more = {"HF_HUB_OFFLINE": "1"} | ({"MOEE_INDEX_CACHE": str(cache)} if cache else {})
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | more)
    assert done.returncode == status, done.stderr
    return done.stderr if status else done.stdout
