"""Forks processes from one server, which has imported what most of them need; it starts when it is
first asked for."""

from __future__ import annotations

import multiprocessing
import os
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

_PRELOADED = (
    "torch",
    "pytest",
    "hypothesis",
    "fakes.workers",
    "moee_index.encode.encoder",
    "faiss",
)
# What a process knows of the server; the second is there since Python 3.14.
_ADDRESS = ("_forkserver_address", "_forkserver_authkey")
_server: Any = forkserver._forkserver  # type: ignore[attr-defined]


@cache
def context() -> ForkServerContext:
    """How to start such processes; the server runs then."""
    multiprocessing.set_forkserver_preload(list(_PRELOADED))
    with pytest.MonkeyPatch.context() as patch:
        # It is to find this project where the tests do: not in the working directory, where the
        # bench and what is compiled are elsewhere.
        patch.setenv("PYTHONSAFEPATH", "1")
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        _server.ensure_running()
    return multiprocessing.get_context("forkserver")


def address() -> dict[str, Any]:
    """Where the server is, for `join` in one of its processes."""
    context()
    return {name: getattr(_server, name) for name in _ADDRESS if hasattr(_server, name)}


def join(address: dict[str, Any]) -> None:
    """Have this process, which the server has forked, fork its own from the same one: by itself it
    would start another, which would import everything again."""
    vars(_server).update(address)
    _server.ensure_running = lambda: None
