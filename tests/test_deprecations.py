"""That a deprecated call of ours is noticed, and another library's is not taken for ours."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import deprecations
import pytest
import torch


def deprecated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*args: Any, **named: Any) -> Any:
        warnings.warn("give `cache`", FutureWarning, stacklevel=2)
        return function(*args, **named)

    return wrapped


def capturing(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*args: Any, **named: Any) -> Any:
        return function(*args, **named)

    return wrapped


class Module(torch.nn.Module):
    @capturing
    @deprecated
    def forward(self, x: int) -> int:
        return x


class Outer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Module()

    def forward(self, x: int) -> int:
        result: int = self.inner(x)
        return result


def called_from(name: str, function: Callable[..., Any]) -> None:
    """Call something as a module of that name does."""
    code = "def call(function):\n    function(1)\n"
    space: dict[str, Any] = {"__name__": name}
    exec(compile(code, f"{name}.py", "exec"), space)
    space["call"](function)


@pytest.fixture(autouse=True)
def nothing_deprecated() -> None:
    """The watch over all tests would see what these make on purpose."""


@pytest.fixture
def reported() -> Iterator[list[str]]:
    found: list[str] = []
    end = deprecations.watch(found.append)
    yield found
    end()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_our_call_is_found_behind_decorators_and_a_modules_call(reported: list[str]) -> None:
    called_from("moee_index.model.run.model", Module())
    called_from("moee_index.model.run.model", deprecated(abs))
    assert len(reported) == 2
    assert reported[0] == "moee_index.model.run.model.py:2: FutureWarning: give `cache`"


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_a_library_calls_is_its_own_affair(reported: list[str]) -> None:
    called_from("moee_index.model.run.model", Outer())
    called_from("mteb.evaluate", Module())
    called_from("moee_index_of_others", Module())
    assert reported == []
