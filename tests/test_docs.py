"""The pages of docs/ are those that docs/make.py makes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).parent.parent / "docs"


def make() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", DOCS / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pages_are_as_they_are_made() -> None:
    for path, text in make().pages().items():
        assert path.read_text(encoding="utf-8") == text, "run: python docs/make.py"
