"""A lower bound that pyproject.toml writes is one that the tests were run with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.version import Version

ROOT = Path(__file__).parent.parent


def name(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def test_the_lowest_versions_are_those_of_the_constraints() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    lines = (ROOT / ".ci" / "lowest.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    for requirement in wanted:
        found = re.match(r"([\w.-]+)>=([\d.]+)", requirement)
        assert found is not None, requirement
        assert Version(pinned[name(found[1])]) == Version(found[2]), requirement
