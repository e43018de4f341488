"""The installed mteb: what the bench needs of it that is not public, and may lie elsewhere in its
next release.

No other module touches mteb's insides.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from moee_index.dependencies import TESTED, lacking, newer_than_tested
from moee_index.errors import first_line

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask
    from mteb.models.model_meta import ModelMeta

# Without these mteb would keep results of different settings in one place.
_IDENTITY = ("name", "revision", "experiment_kwargs")


def with_newer() -> str:
    """` with mteb 2.31.0 (tested with 2.26.24)`, for the end of a message about a failure that may
    be a newer library's; empty where none is newer than tested."""
    found = newer_than_tested()
    return f" with {', '.join(found)}" if found else ""


@contextmanager
def as_tested() -> Iterator[None]:
    """Names that a library of `TESTED` no longer has become a LibraryError.

    Raises ImportError as it is for any other package, such as one that a single task needs.
    """
    try:
        yield
    except ImportError as error:
        package = (error.name or "").partition(".")[0].replace("_", "-")
        library = {"sklearn": "scikit-learn"}.get(package, package)
        if library not in TESTED:
            raise
        raise lacking(library, f"is not as the bench uses it ({first_line(error)})") from error


def create_dataloader() -> Any:
    """mteb's function that makes a dataloader of a data set, as its own search uses it."""
    return _find(
        "create_dataloader",
        "mteb._create_dataloaders",
        # Wherever it is defined, the public wrapper around encoders takes it from there.
        lambda: import_module("mteb.models").SearchEncoderWrapper.__module__,
    )


def _find(name: str, *places: Any) -> Any:
    """The first of these modules of mteb, given by name or by a function, that has the name."""
    for place in places:
        try:
            return getattr(import_module(place if isinstance(place, str) else place()), name)
        except (ImportError, AttributeError):
            continue
    raise lacking("mteb", f"has no {name} where it was")


def searches(task: AbsTask) -> bool:
    """Whether a task searches a corpus or ranks candidates."""
    from mteb.abstasks import AbsTaskRetrieval

    return isinstance(task, AbsTaskRetrieval)


def splits_of(task: AbsTask, subset: str) -> Any:
    """The splits of a subset, as `AbsTask.evaluate` finds them."""
    data: Any = task.dataset
    return data if subset == "default" and subset not in data else data[subset]


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
            raise lacking("mteb", f"has no field {name!r} in ModelMeta")
    empty = ModelMeta.create_empty()
    found = {name: getattr(empty, name) for name, field in known.items() if field.is_required()}
    found |= {name: value for name, value in fields.items() if name in known}
    try:
        return ModelMeta(**found)
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        raise lacking("mteb", f"refuses {name} {found.get(name)!r} in ModelMeta") from error
