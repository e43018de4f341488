"""The libraries underneath: the releases that this version was tested with, and the error for an
installed one that does not work here.

Callers with a fallback use it; those without end here, in a message that names a release known
to work. Imports no library by itself.
"""

from __future__ import annotations

import re
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from moee_index.errors import LibraryError, first_line

# The newest releases that all tests passed with. Older ones work from pyproject's bounds on.
TESTED = {
    "beautifulsoup4": "4.15.0",
    "bitsandbytes": "0.50.2",
    "click": "8.5.1",
    "datasets": "5.2.0",
    "faiss-cpu": "1.15.1",
    "fastapi": "0.165.0",
    "huggingface-hub": "2.4.0",
    "jinja2": "3.1.6",
    "mcp": "2.3.0",
    "mteb": "2.26.24",
    "numpy": "2.4.6",
    "pathspec": "1.1.1",
    "platformdirs": "4.14.8",
    "prometheus-client": "0.26.0",
    "pyarrow": "26.0.1",
    "pytrec-eval-terrier": "0.5.11",
    "ray": "2.60.0",
    "safetensors": "0.8.0",
    "scikit-learn": "1.9.1",
    "scipy": "1.17.1",
    "snowballstemmer": "3.1.1",
    "starlette": "1.10.0",
    "tokenizers": "0.23.3",
    "torch": "2.13.0",
    "tqdm": "4.70.1",
    "transformers": "5.24.0",
    "uvicorn": "0.54.0",
    "zstandard": "0.25.0",
}


def lacking(library: str, what: str) -> LibraryError:
    """The error for an installed library that is not as it is needed; `what` follows its name and
    version."""
    tested = TESTED[library]
    return LibraryError(
        f"{library} {_installed(library)} {what}; this version of moee-index was tested with "
        f"{tested}: pip install '{library}=={tested}', or a newer moee-index"
    )


def internal(library: str, module: str, name: str) -> Any:
    """`name` of a library's module that is not part of its documented interface.

    Raises LibraryError where the installed release has it no more.
    """
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise lacking(library, f"has no {module}.{name} ({first_line(error)})") from error


def newer_than_tested() -> list[str]:
    """The installed libraries of a later minor release than the tested one, with both versions."""
    installed = {library: _installed(library) for library in TESTED}
    return [
        f"{library} {installed[library]} (tested with {tested})"
        for library, tested in TESTED.items()
        if _minor(installed[library]) > _minor(tested)
    ]


def _installed(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:  # built or named by another packager
        return "of unknown version"


def _minor(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release)[:2]]
