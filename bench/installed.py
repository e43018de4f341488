"""The installed libraries that evaluate: versions the bench was tested with, and what it needs of
mteb that is not public and may lie elsewhere in mteb's next release.

Knows mteb's insides, so that no other module has to. Refuses to know data, models and scores.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from moee_index.errors import MoeeIndexError

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask
    from mteb.models.model_meta import ModelMeta

# Package → its distribution, the oldest and the newest version that the tests were run with.
_TESTED = {
    "mteb": ("mteb", "2.26.0", "2.26.24"),
    "datasets": ("datasets", "5.2.0", "5.2.0"),
    "huggingface_hub": ("huggingface-hub", "2.4.0", "2.4.0"),
    "sklearn": ("scikit-learn", "1.9.1", "1.9.1"),
    "scipy": ("scipy", "1.17.1", "1.17.1"),
}
# Without these mteb would keep results of different settings in one place.
_IDENTITY = ("name", "revision", "experiment_kwargs")


class LibraryError(MoeeIndexError):
    """An installed library lacks what the bench needs of it.

    package: its import name. lacks: what is not there, in words.
    """

    def __init__(self, package: str, lacks: str) -> None:
        name, oldest, newest = _TESTED[package]
        tested = oldest if oldest == newest else f"{oldest} to {newest}"
        super().__init__(
            f"{name} {_version(name)} has no {lacks}; the bench was tested with {name} {tested}: "
            f"pip install '{name}=={newest}', or try a newer moee-index"
        )


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "(not installed)"


def with_newer() -> str:
    """` with mteb 2.31.0 (tested: up to 2.26.24)` for the libraries that are newer than any the
    bench was tested with: what goes wrong may be theirs. Empty where there are none."""
    from packaging.version import Version

    found = ", ".join(
        f"{name} {_version(name)} (tested: up to {newest})"
        for name, _, newest in _TESTED.values()
        if not _version(name).startswith("(") and Version(_version(name)) > Version(newest)
    )
    return f" with {found}" if found else ""


@contextmanager
def as_tested() -> Iterator[None]:
    """Names that a tested library no longer has become a LibraryError.

    Raises ImportError as it is for any other package, such as one that a single task needs.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _TESTED:
            raise
        raise LibraryError(package, f"{error.name} as it was ({error})") from error


def create_dataloader() -> Any:
    """mteb's function that makes a dataloader of a data set, as its own search uses it."""
    return _find(
        "create_dataloader",
        "mteb._create_dataloaders",
        # Wherever it is defined, the public wrapper around encoders takes it from there.
        lambda: import_module("mteb.models").SearchEncoderWrapper.__module__,
    )


def mock_tasks() -> list[AbsTask]:
    """The tasks that `mteb.mock_run` runs."""
    found = _find(
        "ALL_MOCK_TASK_TEST_GRID", "mteb.mocks", lambda: import_module("mteb").mock_run.__module__
    )
    return list(found)


def _find(name: str, *places: Any) -> Any:
    """The first of these modules of mteb, given by name or by a function, that has the name."""
    for place in places:
        try:
            return getattr(import_module(place if isinstance(place, str) else place()), name)
        except (ImportError, AttributeError):
            continue
    raise LibraryError("mteb", f"{name} where it was")


def searches(task: AbsTask) -> bool:
    """Whether a task searches a corpus or ranks candidates."""
    from mteb.abstasks import AbsTaskRetrieval

    return isinstance(task, AbsTaskRetrieval)


def clusters_sets(task: AbsTask) -> bool:
    """Whether a task is of mteb's older kind of clustering, each row a set of texts."""
    import mteb.abstasks

    # The kind is on its way out: a mteb without it has no such tasks.
    kind: Any = getattr(mteb.abstasks, "AbsTaskClusteringLegacy", ())
    return isinstance(task, kind)


def generators(task: AbsTask) -> dict[str, Any]:
    """A task's random generators by attribute, whatever mteb calls them."""
    kinds = (random.Random, np.random.Generator, np.random.RandomState)
    return {name: value for name, value in vars(task).items() if isinstance(value, kinds)}


def new_task(task: AbsTask) -> Any:
    """Another task of the same kind and seed, its random generators at their start."""
    return type(task)(seed=task.seed)


def model_meta(fields: Mapping[str, Any]) -> ModelMeta:
    """mteb's ModelMeta of these fields, checked by mteb. What is not given is unknown; fields that
    the installed mteb does not have are left out.

    Raises LibraryError where it lacks a field by which results are told apart, or refuses a value.
    """
    from mteb.models import ModelMeta
    from pydantic import ValidationError

    known = ModelMeta.model_fields
    for name in _IDENTITY:
        if name not in known:
            raise LibraryError("mteb", f"field {name!r} in ModelMeta")
    empty = ModelMeta.create_empty()
    found = {name: getattr(empty, name) for name, field in known.items() if field.is_required()}
    found |= {name: value for name, value in fields.items() if name in known}
    try:
        return ModelMeta(**found)
    except ValidationError as error:
        refused = error.errors()[0]
        where = ".".join(map(str, refused["loc"]))
        raise LibraryError("mteb", f"ModelMeta with this {where} ({refused['msg']})") from error
