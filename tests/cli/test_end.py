"""How the program's process ends: at once, but as Python would end it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENDED = """
import atexit, sys, threading, time
import moee_index.cli as cli
{before}
def late():
    time.sleep(0.2)
    print("thread", flush=True)
atexit.register(print, "registered before")
def command(*_, **__):
    atexit.register(print, "registered after")
    threading.Thread(target=late).start()
    print("done", end="")
    {act}
cli.cli.main = command
cli.main()
"""


def ended(act: str, before: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", ENDED.format(act=act, before=before)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(("act", "status"), [("sys.exit(0)", 0), ("sys.exit(3)", 3)])
def test_status_output_threads_and_handlers_are_as_ever(act: str, status: int) -> None:
    found = ended(act)
    assert found.returncode == status
    assert found.stdout == "donethread\nregistered after\n"


def test_nothing_is_taken_apart() -> None:
    before = "class Left:\n    def __del__(self): print('taken apart')\nleft = Left()"
    assert "taken apart" not in ended("sys.exit(0)", before).stdout


def test_an_error_that_nobody_caught_is_pythons() -> None:
    found = ended("raise RuntimeError('unforeseen')")
    assert found.returncode == 1 and "RuntimeError: unforeseen" in found.stderr
    assert found.stdout.endswith("registered before\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_cannot_be_written_is_pythons() -> None:
    code = "import sys, moee_index.cli as cli\ncli.cli.main = lambda: print('x') or sys.exit(0)\n"
    environment = {name: value for name, value in os.environ.items() if "BUFFERED" not in name}
    with open("/dev/full", "w") as full:  # noqa: PTH123
        found = subprocess.run(
            [sys.executable, "-c", f"{code}cli.main()"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )
    assert found.returncode == 120 and "No space left" in found.stderr
