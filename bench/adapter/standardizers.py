"""Standardizers of tasks: fitted once over what a task hands over, then found again
call by call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from moee_index.bench.adapter.task_inputs import TaskTexts
from moee_index.bench.adapter.vectors import reference_texts
from moee_index.bench.vector_cache.encoder import StoredEncoder
from moee_index.bench.vector_cache.store import TextRows
from moee_index.errors import MisuseError
from moee_index.fusion import Standardizer
from moee_index.index.store.rows import LiveRows
from moee_index.types import PARTS, Embeddings, Progress


@dataclass(frozen=True)
class TaskKey:
    """What a standardizer belongs to."""

    task: str
    split: str
    subset: str


class Fits:
    """The standardizers of the tasks that were added. Each is fitted at its first use, on both
    parts, and shared by all settings of a stored encoder; a setting takes the parts it wants."""

    def __init__(self, stored: StoredEncoder) -> None:
        self._stored = stored
        self._rows: dict[TaskKey, list[TextRows]] = {}
        self._calls: dict[TaskKey, list[TaskKey]] = {}
        self._fitted: dict[TaskKey, Standardizer] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, heard: TaskTexts, progress: Progress | None = None) -> None:
        """Embed all texts of a task, split and subset, and note what its standardizer is fitted on.

        Documents first, then queries, each in full windows; what is stored is not embedded again.
        """
        self._stored.ensure(heard.documents, progress=progress)
        self._stored.ensure(heard.queries, query=True, progress=progress)
        key = TaskKey(heard.task, heard.split, heard.subset)
        self._fitted.pop(key, None)
        self._rows[key] = [
            self._stored.rows(texts, query=role == "query") for role, texts in heard.fitted
        ]
        for call in heard.calls:
            place = TaskKey(heard.task, call.hf_split, call.hf_subset)
            known = self._calls.setdefault(place, [])
            if key not in known:
                known.append(key)

    def of(self, key: TaskKey) -> Standardizer:
        """The standardizer of a task that was added."""
        if key not in self._fitted:
            self._fitted[key] = _fitted(self._rows[key])
        return self._fitted[key]

    @cached_property
    def calibrated(self) -> Standardizer:
        """Fitted on the reference texts."""
        return _fitted([self._stored.rows(reference_texts())])

    def owner(self, call: TaskKey, last: TaskKey | None) -> TaskKey:
        """Which task, split and subset a call of these names belongs to.

        Training texts are encoded under their own split's name, for each evaluated split anew:
        mteb evaluates splits in their order, training texts first, so they belong to the one after
        `last`, the split whose own texts were encoded last.

        Raises MisuseError where the task was not added.
        """
        owners = self._calls.get(call, [])
        if not owners:
            raise MisuseError(
                f"{call.task}, split {call.split}, subset {call.subset} was not prepared; call "
                "prepare(task, split, subset) before it is evaluated"
            )
        for owner in owners:
            if owner.split == call.split:
                return owner
        return owners[(owners.index(last) + 1) % len(owners)] if last in owners else owners[0]


def _fitted(parts: Sequence[TextRows]) -> Standardizer:
    """Rows are read as they are fitted on: a corpus need not fit in memory."""
    segments = [(part.shelf.rows, part.numbers) for part in parts if part.shelf.rows is not None]
    dims = segments[0][0].parts.map(lambda rows: rows.shape[1])
    rows: Any = PARTS.map(lambda part: LiveRows(part, segments, dims[part]))
    return Standardizer.fit(Embeddings(rows.hs, rows.rw))
