"""What every checkout must be able to hold."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Windows takes 260 characters for a whole path, of which a checkout's own folder needs some.
LONGEST = 120
FOLDERS = ("moee_index", "bench", "corpora", "docs", "tests")


def paths() -> list[str]:
    """Every tracked file; without a git repository, every file of the folders that have some."""
    git = shutil.which("git")
    if git is not None and (ROOT / ".git").exists():
        done = subprocess.run([git, "-C", ROOT, "ls-files", "-z"], capture_output=True)
        if done.returncode == 0:
            return [name for name in done.stdout.decode().split("\0") if name]
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [path.relative_to(ROOT).as_posix() for path in found if "__pycache__" not in path.parts]


def test_no_path_is_too_long_for_a_checkout() -> None:
    found = paths()
    assert len(found) > 300 and [name for name in found if len(name) > LONGEST] == []
