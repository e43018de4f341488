"""mteb's mock tasks: those of a committed list must pass, newer ones are tried and told.

The list, `data/mteb_mocks.json`, names the mteb that it was made with; `python tests/mock_tasks.py`
makes it anew.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.version import Version

from moee_index.bench import mteb_internals as installed

LIST = Path(__file__).parents[1] / "data" / "mteb_mocks.json"
KNOWN: dict[str, Any] = json.loads(LIST.read_text(encoding="utf-8"))
INSTALLED = version("mteb")


def mock_tasks() -> list[Any]:
    """The tasks that `mteb.mock_run` runs."""
    return list(
        installed._find(
            "ALL_MOCK_TASK_TEST_GRID",
            "mteb.mocks",
            lambda: import_module("mteb").mock_run.__module__,
        )
    )


def is_newer() -> bool:
    """Whether the installed mteb is newer than the list."""
    return Version(INSTALLED) > Version(KNOWN["mteb"])


def check_list(kind: str, tasks: Iterable[Any]) -> None:
    """What is on the list is there, unless a newer mteb dropped it, which a warning tells.

    kind: `text`, or `search` for those that search.
    """
    gone = sorted(set(KNOWN[kind]) - {task.metadata.name for task in tasks})
    assert len(gone) < len(KNOWN[kind]), f"mteb {INSTALLED} has none of the known mock tasks"
    if gone:
        assert is_newer(), f"mteb {INSTALLED} lacks {', '.join(gone)}"
        warnings.warn(f"mteb {INSTALLED} no longer has {', '.join(gone)}", stacklevel=2)


def of_known(kind: str, failures: Sequence[str]) -> list[str]:
    """Those `task: why` whose task is on the list; of the others warnings tell."""
    known = set(KNOWN[kind])
    for line in failures:
        if line.partition(":")[0] not in known:
            _warn(line)
    return [line for line in failures if line.partition(":")[0] in known]


@contextmanager
def tried(name: str) -> Iterator[None]:
    """A failure with a task that is not on the list becomes a warning."""
    try:
        yield
    except Exception as error:
        if name in KNOWN["text"]:
            raise
        _warn(f"{name}: {type(error).__name__}: {error}")


def _warn(line: str) -> None:
    text = f"a mock task of mteb {INSTALLED} that nobody has tried here fails: {line}"
    warnings.warn(text, stacklevel=3)


if __name__ == "__main__":
    from stress.conformance import text_tasks

    names = {
        kind: sorted(task.metadata.name for task in text_tasks(search=kind == "search"))
        for kind in ("text", "search")
    }
    LIST.write_text(json.dumps({"mteb": INSTALLED, **names}, indent=1) + "\n", encoding="utf-8")
