"""What is set before the libraries load, and that it is, whichever module comes first."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "moee_index"
WAITING = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")
SHOWN = f"import os; print(*[os.environ.get(name) for name in {WAITING}])"


def shown(code: str, **more: str) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name not in WAITING}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{SHOWN}"],
        capture_output=True,
        text=True,
        env={**environment, **more},
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    "first",
    [
        "from moee_index.backends import load_faiss; load_faiss()",
        "import moee_index.model.precision",
        "from moee_index import Encoder; Encoder",
    ],
)
def test_threads_wait_for_one_another_a_short_time(first: str) -> None:
    assert shown(first) == ["30000", "1", "None"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("GOMP_SPINCOUNT", "5"), ("KMP_BLOCKTIME", "infinite"), ("OMP_WAIT_POLICY", "ACTIVE")],
)
def test_what_the_user_has_set_stays(name: str, value: str) -> None:
    wanted = [value if name == one else "None" for one in WAITING]
    assert shown("from moee_index.backends import load_torch; load_torch()", **{name: value}) == (
        wanted
    )


def test_nothing_is_set_before_a_library_is_needed() -> None:
    assert shown("import moee_index.cli, moee_index.backends, moee_index.index") == ["None"] * 3


def heavy_imports(source: str) -> list[str]:
    """torch and transformers where a module imports them when it is imported itself."""
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            found += [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
    return [name for name in found if name.partition(".")[0] in ("torch", "transformers")]


def test_only_the_models_room_imports_them_at_once() -> None:
    """`model` and `model/run` load them in the right way before any of their modules."""
    for file in ROOT.rglob("*.py"):
        rooms = file.relative_to(ROOT).parts
        for name in heavy_imports(file.read_text(encoding="utf-8")):
            allowed = ("model", "run") if name.startswith("transformers") else ("model",)
            assert rooms[: len(allowed)] == allowed, f"{file}: {name}"
