"""Which architectures this version of the program was tested with, and what the installed
transformers has beyond them.

The table (`tested.json`) is measured by `tests/tested_architectures.py`; what the installed library
holds is read from its sources, without importing a model.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from moee_index.model.arch.conventions import routes_in_source


@cache
def architecture_table() -> dict[str, Any]:
    """The table: `transformers`, the version it was measured with, and `architectures`, for each
    package of transformers.models what was measured of its kinds of checkpoints."""
    text = files("moee_index.model.arch").joinpath("tested.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def is_tested(model: Any) -> bool:
    """Whether a model's class is from a package in the table."""
    return type(model).__module__.split(".")[-2] in architecture_table()["architectures"]


def installed_packages() -> list[str]:
    """Packages of the installed transformers.models whose models route."""
    spec = find_spec("transformers")
    root = Path(spec.origin).parent / "models" if spec is not None and spec.origin else Path()
    return sorted(
        {
            file.parent.name
            for file in root.glob("*/modeling_*.py")
            if file.parent.name != "auto" and routes_in_source(file.read_bytes())
        }
    )


def untested_packages() -> list[str]:
    """Installed packages that are not in the table, usually because they are newer. They may well
    work."""
    return [
        name for name in installed_packages() if name not in architecture_table()["architectures"]
    ]
