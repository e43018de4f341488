"""The texts of loaded mteb tasks, as the analyses want them: STS pairs and sets to cluster.

A text that several tasks hold stands once in `Material.texts`.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moee_index.bench.mteb_internals import splits_of
from moee_index.errors import CorpusError, MisuseError
from moee_index.fusion import Float64Array, RowNumbers
from moee_index.types import Notify, ignore

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

# A correlation of fewer pairs says nothing at all.
MIN_PAIRS = 10


@dataclass(frozen=True, eq=False)
class Pairs:
    """An STS task's pairs. `rows`: positions of its m distinct texts in `Material.texts`,
    ascending; left, right: int64 [pairs], positions in `rows`; gold: float64 [pairs]."""

    name: str
    rows: RowNumbers
    left: RowNumbers
    right: RowNumbers
    gold: Float64Array

    def __len__(self) -> int:
        return len(self.gold)


@dataclass(frozen=True, eq=False)
class Labelled:
    """A clustering task's distinct texts and their labels as numbers from 0."""

    name: str
    texts: list[str]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Material:
    """texts: the distinct texts of all STS pairs."""

    texts: list[str]
    pairs: list[Pairs]
    labelled: list[Labelled]


def seed_of(name: str) -> int:
    """A seed that is the task's own, whatever tasks stand beside it."""
    return zlib.crc32(name.encode("utf-8"))


def gather(tasks: Sequence[AbsTask], tell: Notify = ignore) -> Material:
    """STS pairs and clustering sets of tasks whose data are loaded. Tasks of other types, and ones
    too small to say anything, are left out and told.

    Raises MisuseError where no task is left, CorpusError where one lacks its columns.
    """
    from mteb.abstasks import AbsTaskSTS

    places: dict[str, int] = {}
    pairs: list[Pairs] = []
    labelled: list[Labelled] = []
    for task in tasks:
        kind = task.metadata.type
        if kind not in ("STS", "Clustering"):
            tell(f"{task.metadata.name} ({kind}) is left out: analyses take STS and Clustering")
            continue
        for name, split in _splits(task):
            rows = _rows_of(task, name, split)
            if isinstance(task, AbsTaskSTS):
                if len(rows) < MIN_PAIRS:
                    tell(f"{name} is left out: {len(rows)} pairs say nothing")
                else:
                    pairs.append(_pairs(name, rows, places))
            else:
                found = _labelled(name, rows)
                classes = len(np.unique(found.labels))
                if len(found.texts) < MIN_PAIRS or not 1 < classes < len(found.texts):
                    tell(f"{name} is left out: {len(found.texts)} texts under {classes} labels")
                else:
                    labelled.append(found)
    if not pairs and not labelled:
        raise MisuseError("no STS and no Clustering task to analyse; name some with --tasks")
    return Material(list(places), pairs, labelled)


def _splits(task: AbsTask) -> Iterator[tuple[str, Any]]:
    """(name, rows) of each subset and split that the task evaluates."""
    if task.dataset is None:
        raise CorpusError(f"{task.metadata.name}: its data were not loaded; load them first")
    several = len(task.eval_splits) > 1
    for subset in task.hf_subsets:
        held = splits_of(task, subset)
        for split in task.eval_splits:
            of = "" if subset == "default" else f" ({subset})"
            yield f"{task.metadata.name}{of}{f' {split}' if several else ''}", held[split]


def _rows_of(task: Any, name: str, split: Any) -> list[tuple[Any, ...]]:
    """(sentence, sentence, score) or (text, label) rows; clustering sets are joined."""
    from mteb.abstasks import AbsTaskSTS

    if isinstance(task, AbsTaskSTS):
        columns = [*task.column_names, "score"]
    else:
        columns = [task.input_column_name, task.label_column_name]
    lacking = [column for column in columns if column not in split.column_names]
    if lacking:
        raise CorpusError(
            f"{name}: its data lack the column {lacking[0]!r}; are they of this task?"
        )
    values = [list(split[column]) for column in columns]
    if not isinstance(task, AbsTaskSTS) and values[0] and isinstance(values[0][0], list):
        # One row a set: texts and labels are lists.
        values = [[item for one in column for item in one] for column in values]
    rows = list(zip(*values, strict=True))
    for number, row in enumerate(rows):
        if not all(isinstance(text, str) for text in row[: len(columns) - 1]):
            raise CorpusError(f"{name}: row {number} holds something that is no text")
    return rows


def _pairs(name: str, rows: list[tuple[Any, ...]], places: dict[str, int]) -> Pairs:
    left = np.array([places.setdefault(row[0], len(places)) for row in rows], dtype=np.int64)
    right = np.array([places.setdefault(row[1], len(places)) for row in rows], dtype=np.int64)
    own, inverse = np.unique(np.concatenate([left, right]), return_inverse=True)
    gold = np.array([float(row[2]) for row in rows])
    if not np.isfinite(gold).all():
        raise CorpusError(f"{name}: row {int(np.flatnonzero(~np.isfinite(gold))[0])} has no score")
    return Pairs(name, own, inverse[: len(rows)], inverse[len(rows) :], gold)


def _labelled(name: str, rows: list[tuple[Any, ...]]) -> Labelled:
    """Distinct texts with the label that they have first; of nested labels the outermost."""
    first: dict[str, str] = {}
    for text, label in rows:
        first.setdefault(text, str(label[0] if isinstance(label, list) and label else label))
    numbers = {label: number for number, label in enumerate(sorted(set(first.values())))}
    return Labelled(name, list(first), np.array([numbers[label] for label in first.values()]))
