"""Golden data: where they lie, how they are read, written and compared.

Whatever golden tests use of the program is its stable public face: the names of `moee_index` and
`moee_index.index`, and the commands. Everything else may be moved and renamed under them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

GOLDEN = Path(__file__).parent / "data" / "golden"


def read(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


def write(name: str, value: Any) -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, ensure_ascii=False, indent=1)
    (GOLDEN / name).write_text(text + "\n", encoding="utf-8")


def run(*args: str | Path, status: int = 0, **options: Any) -> Result:
    """A command as a user types it, in this process."""
    from moee_index.cli import cli

    result = CliRunner().invoke(cli, [str(arg) for arg in args], **options)
    assert result.exit_code == status, (result.exit_code, result.stdout, result.stderr)
    return result


def differences(found: Any, golden: Any, tolerance: float, where: str = "") -> list[str]:
    """What two JSON values differ in; floats may be apart by `tolerance`."""
    if isinstance(found, dict) and isinstance(golden, dict) and list(found) == list(golden):
        parts = [(f"{where}.{key}", found[key], golden[key]) for key in golden]
    elif isinstance(found, list) and isinstance(golden, list) and len(found) == len(golden):
        parts = [
            (f"{where}[{place}]", *pair)
            for place, pair in enumerate(zip(found, golden, strict=True))
        ]
    else:
        return [] if _equal(found, golden, tolerance) else [f"{where}: {found!r}, not {golden!r}"]
    return [
        line for place, one, other in parts for line in differences(one, other, tolerance, place)
    ]


def _equal(found: Any, golden: Any, tolerance: float) -> bool:
    if isinstance(found, float) and isinstance(golden, float):
        return abs(found - golden) <= tolerance
    return type(found) is type(golden) and bool(found == golden)


def plain_environment() -> None:
    """No option from the environment, no network: what conftest.py does for tests."""
    for name in list(os.environ):
        if name.startswith("MOEE_INDEX_"):
            del os.environ[name]
    os.environ.update(HF_HUB_OFFLINE="1", MOEE_INDEX_CACHE="/nonexistent/cache")
