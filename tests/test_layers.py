"""The floors of the house: a module imports from floors below its own, and from its own room.

Imports inside of functions count, imports for type checking alone do not. What a lower room needs
of a higher one it is given, as a protocol of `types`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = (
    {"errors"},
    {"types", "dependencies", "deferred", "text"},
    {"atomic", "backends", "limits", "token_weights"},
    {"fusion", "readers", "model"},
    {"encode"},
    {"reranking"},
    {"index"},
    {"tune", "export"},
    {"environment"},
    {"bench", "serve"},
    {"cli"},
)
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}

# The public names and `python -m`: above all floors.
ABOVE = {"__init__", "__main__"}


def modules() -> Iterator[tuple[str, Path]]:
    """Every module as (room, file)."""
    for file in (ROOT / "moee_index").rglob("*.py"):
        yield file.relative_to(ROOT / "moee_index").parts[0].removesuffix(".py"), file
    for file in (ROOT / "bench").rglob("*.py"):
        if "scripts" not in file.parts:
            yield "bench", file


def imported(source: str) -> Iterator[tuple[int, str]]:
    """The rooms of this package that a module imports when it runs, with their lines."""
    tree = ast.parse(source)
    for_types = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import"
            whole = node.module == "moee_index"
            names = [f"moee_index.{one.name}" for one in node.names] if whole else [node.module]
        elif isinstance(node, ast.Import):
            names = [one.name for one in node.names]
        else:
            continue
        for name in names:
            parts = (name or "").split(".")
            if parts[0] == "moee_index" and len(parts) > 1 and parts[1] != "__version__":
                yield node.lineno, parts[1]


def wrong(room: str, source: str) -> list[str]:
    return [
        f"{line}: {room} imports {other}"
        for line, other in imported(source)
        if other != room and FLOOR[other] >= FLOOR[room]
    ]


def test_every_room_has_a_floor() -> None:
    assert {room for room, _ in modules()} - ABOVE == FLOOR.keys()


def test_imports_go_down() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line}"
        for room, file in modules()
        if room not in ABOVE
        for line in wrong(room, file.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("room", "line"),
    [
        ("model", "from moee_index.encode.encoder import Encoder"),
        ("readers", "from moee_index import fusion"),
        ("tune", "def f():\n    from moee_index.export.export import export_index"),
        ("index", "import moee_index.cli"),
    ],
)
def test_an_upward_or_a_sideways_import_is_found(room: str, line: str) -> None:
    assert len(wrong(room, line)) == 1


def test_what_goes_down_or_is_for_types_alone_is_not() -> None:
    types = "if TYPE_CHECKING:\n    from moee_index.cli import cli\n"
    assert wrong("index", types + "from moee_index.model.precision import Choice") == []
