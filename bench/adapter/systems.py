"""What is evaluated: systems, each with the columns of the report that share its vectors.

Our encoders and searchers, the outside baselines, and which task types each of them serves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from moee_index.bench import mteb_internals as installed
from moee_index.bench.adapter.encoder import MoeeEncoder
from moee_index.bench.adapter.meta import experiment, model_name
from moee_index.bench.adapter.protocol import SUFFIX, instructed, instruction_of
from moee_index.bench.adapter.search import MoeeSearch
from moee_index.bench.adapter.task_inputs import TaskTexts
from moee_index.bench.adapter.vectors import Setting
from moee_index.bench.baselines import MINILM, Bm25, MiniLM, TfIdf
from moee_index.bench.vector_cache.encoder import StoredEncoder
from moee_index.types import Notify, Progress

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask
    from mteb.models.model_meta import ModelMeta


@dataclass(frozen=True)
class Column:
    """One column: its fields in summary.json. setting: of our models; None for baselines."""

    fields: Mapping[str, Any]
    setting: Setting | None = None


class Session(Protocol):
    """A system at work on one task; what its columns share is made once."""

    def prepare(self, task: AbsTask, heard: TaskTexts) -> None:
        """Before the task is evaluated, for each split and subset; heard: their texts."""

    def model(self, column: Column) -> Any:
        """What mteb evaluates: an `EncoderProtocol`, or a `SearchProtocol` for searching tasks."""


class System(Protocol):
    """A model under one prompt, or a baseline."""

    @property
    def columns(self) -> Sequence[Column]:
        """What it gives scores for."""

    def serves(self, task: AbsTask) -> bool:
        """Whether it can do tasks of that type."""

    def meta(self, column: Column, task: AbsTask) -> ModelMeta:
        """Enough of a model's metadata to find its results; nothing is loaded for it."""

    def begin(self, task: AbsTask) -> Session:
        """Start on a task."""

    def entry(self) -> dict[str, Any]:
        """What run.json says of it, with the counts so far."""

    def count(self, task: AbsTask, heard: TaskTexts) -> None:
        """Take the texts of an evaluated task into the counts."""


class MoeeSystem:
    """Our model under one prompt. instructions: the authors' before each text, for the tasks that
    they have one for (`--paper-protocol`)."""

    def __init__(
        self,
        stored: StoredEncoder,
        settings: Sequence[Setting],
        *,
        instructions: bool = False,
        notify: Notify | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._stored = stored
        self._instructions = instructions
        self._instructed: dict[str, StoredEncoder] = {}
        self._notify = notify
        self._progress = progress
        self._texts: set[bytes] = set()
        self._tokens = 0
        identity = stored.identity
        self.prompt = identity.prompt + (SUFFIX if instructions else "")
        self.columns = [
            Column(
                {
                    "model": identity.model,
                    "method": setting.method,
                    "prompt": self.prompt,
                    "alpha": setting.alpha,
                    "standardize": setting.standardize,
                    "fit": setting.fit,
                    "rw": identity.rw,
                    "pooling": identity.pooling,
                },
                setting,
            )
            for setting in settings
        ]

    def serves(self, task: AbsTask) -> bool:
        return True

    def meta(self, column: Column, task: AbsTask) -> ModelMeta:
        assert column.setting is not None
        identity, setting = self._stored.identity, column.setting
        return installed.model_meta(
            {
                "name": model_name(identity.model),
                "revision": identity.revision or identity.fingerprint,
                "experiment_kwargs": experiment(self._stored, setting, setting.fit)
                | _marks(self._words(task)),
            }
        )

    def begin(self, task: AbsTask) -> Session:
        words = self._words(task)
        if words is None:
            return _Shared(task, self._stored, self.columns, self._notify, self._progress)
        if words not in self._instructed:
            self._instructed[words] = instructed(self._stored, words)
        return _Marked(task, self._instructed[words], words, self._progress)

    def _words(self, task: AbsTask) -> str | None:
        return instruction_of(task) if self._instructions else None

    def entry(self) -> dict[str, Any]:
        identity = self._stored.identity
        stored = [self._stored, *self._instructed.values()]
        return {
            "model": identity.model,
            "revision": identity.revision,
            "fingerprint": identity.fingerprint,
            **{**identity.options(), "prompt": self.prompt},
            "methods": [column.fields["method"] for column in self.columns],
            "texts": len(self._texts),
            "tokens": self._tokens,
            "texts_computed": sum(one.texts_computed for one in stored),
            "tokens_computed": sum(one.tokens_computed for one in stored),
            "seconds_computed": round(sum(one.seconds_computed for one in stored), 3),
            "seconds_loading": round(self._stored.seconds_loading, 3),
        }

    def count(self, task: AbsTask, heard: TaskTexts) -> None:
        words = self._words(task)
        stored = self._instructed.get(words or "", self._stored)
        for query, texts in ((False, heard.documents), (True, heard.queries)):
            new = []
            for text in dict.fromkeys(texts):
                key = _hash(f"{query:d}{words or ''}{text}")
                if key not in self._texts:
                    self._texts.add(key)
                    new.append(text)
            self._tokens += stored.tokens(new, query=query)


class _Shared:
    """Our model on one task: standardizers and indexes are shared by all settings."""

    def __init__(
        self,
        task: AbsTask,
        stored: StoredEncoder,
        columns: Sequence[Column],
        notify: Notify | None,
        progress: Progress | None,
    ) -> None:
        setting = columns[0].setting
        assert setting is not None
        kind = MoeeSearch if installed.searches(task) else MoeeEncoder
        self._base: Any = kind(stored, setting, notify=notify, progress=progress)

    def prepare(self, task: AbsTask, heard: TaskTexts) -> None:
        self._base.prepare(task, heard.split, heard.subset, heard)

    def model(self, column: Column) -> Any:
        return self._base.with_setting(column.setting)


class _Marked:
    """Our model with an instruction; nothing is fitted under the authors' batches, so nothing is
    shared but the store."""

    def __init__(
        self, task: AbsTask, stored: StoredEncoder, words: str, progress: Progress | None
    ) -> None:
        self._stored = stored
        self._words = words
        self._progress = progress
        self._kind: Any = _MarkedSearch if installed.searches(task) else _MarkedEncoder

    def prepare(self, task: AbsTask, heard: TaskTexts) -> None:
        base = MoeeEncoder(self._stored, Setting("rw", fit="batch"), progress=self._progress)
        base.prepare(task, heard.split, heard.subset, heard)

    def model(self, column: Column) -> Any:
        model = self._kind(self._stored, column.setting)
        model.words = self._words
        return model


class _MarkedEncoder(MoeeEncoder):
    """Says in its metadata which instruction it has: mteb keeps its results apart."""

    words = ""

    @property
    def mteb_model_meta(self) -> ModelMeta:
        return _with_marks(super().mteb_model_meta, self.words)


class _MarkedSearch(MoeeSearch):
    words = ""

    @property
    def mteb_model_meta(self) -> ModelMeta:
        return _with_marks(super().mteb_model_meta, self.words)


def _marks(words: str | None) -> dict[str, str]:
    return {} if words is None else {"instruction": _hash(words).hex()[:8]}


def _with_marks(meta: ModelMeta, words: str) -> ModelMeta:
    marked = {**(meta.experiment_kwargs or {}), **_marks(words)}
    return meta.model_copy(update={"experiment_kwargs": marked})


class OutsideSystem:
    """A baseline of baselines.py."""

    def __init__(self, name: str) -> None:
        self.name = name
        of = {"minilm": (MINILM, "dense", "mean"), "bm25": ("bm25", "bm25", None)}
        model, method, pooling = of.get(name, (name, name, None))
        fields = dict.fromkeys(
            ("model", "method", "prompt", "alpha", "standardize", "fit", "rw", "pooling")
        )
        self.columns = [Column({**fields, "model": model, "method": method, "pooling": pooling})]
        self._texts: set[bytes] = set()

    def serves(self, task: AbsTask) -> bool:
        if self.name == "bm25":
            return installed.searches(task)
        return self.name == "minilm" or task.metadata.type == "STS"

    @cached_property
    def _model(self) -> Any:
        return {"minilm": MiniLM, "bm25": Bm25, "tfidf": TfIdf}[self.name]()

    def meta(self, column: Column, task: AbsTask) -> ModelMeta:
        meta: ModelMeta = self._model.mteb_model_meta
        return meta

    def begin(self, task: AbsTask) -> Session:
        return self

    def prepare(self, task: AbsTask, heard: TaskTexts) -> None:
        if isinstance(self._model, TfIdf):
            self._model.prepare(task, heard)

    def model(self, column: Column) -> Any:
        return self._model

    def entry(self) -> dict[str, Any]:
        fields = self.columns[0].fields
        return {
            "model": fields["model"],
            "prompt": None,
            "methods": [fields["method"]],
            "texts": len(self._texts),
        }

    def count(self, task: AbsTask, heard: TaskTexts) -> None:
        self._texts |= {_hash(text) for call in heard.calls for text in call.texts}


def outside_systems(names: Sequence[str]) -> list[OutsideSystem]:
    """The baselines of these names; with BM25 comes TF-IDF, for STS."""
    with_tfidf = [
        each for name in names for each in ((name, "tfidf") if name == "bm25" else [name])
    ]
    return [OutsideSystem(name) for name in with_tfidf]


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()
