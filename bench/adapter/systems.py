"""What is evaluated: systems, each with the columns of the report that share its vectors.

Our encoders and searchers, the outside baselines, and which task types each of them serves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from moee_index.bench import mteb_internals as installed
from moee_index.bench.adapter.encoder import MoeeEncoder
from moee_index.bench.adapter.meta import name_and_experiment
from moee_index.bench.adapter.protocol import SUFFIX, instruction_of
from moee_index.bench.adapter.search import MoeeSearch
from moee_index.bench.adapter.task_inputs import TaskTexts
from moee_index.bench.adapter.vectors import WORDS, Setting
from moee_index.bench.baselines import MINILM, Bm25, MiniLM, TfIdf
from moee_index.bench.run_dir import SETTING
from moee_index.bench.vector_cache.encoder import StoredEncoder
from moee_index.bench.vector_cache.table import text_hash
from moee_index.types import Notify, Progress

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask
    from mteb.models.model_meta import ModelMeta


@dataclass(frozen=True)
class Column:
    """One column: its fields in summary.json. setting: of our models; None for baselines."""

    fields: Mapping[str, Any]
    setting: Setting | None = None


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
        self._instructions = instructions
        self._stored = {"": stored}  # by instruction
        self._notify = notify
        self._progress = progress
        self._texts: set[bytes] = set()
        self._tokens = 0
        self.prompt = stored.identity.prompt + (SUFFIX if instructions else "")
        fields = vars(stored.identity) | {"prompt": self.prompt}
        self.columns = [Column(_fields(setting, fields), setting) for setting in settings]

    def columns_for(self, task: AbsTask) -> list[Column]:
        """The columns that can do tasks of that type: words count where a corpus is searched."""
        if installed.searches(task):
            return self.columns
        return [column for column in self.columns if not column.fields.get("lexical")]

    def meta(self, column: Column, task: AbsTask) -> ModelMeta:
        """Enough of a model's metadata to find its results; nothing is loaded for it."""
        assert column.setting is not None
        stored, setting = self._of(task), column.setting
        return installed.model_meta(name_and_experiment(stored, setting, setting.fit))

    def prepare(self, task: AbsTask, heard: Sequence[TaskTexts]) -> Callable[[Column], Any]:
        """Make once what the columns share for a task, of each split's and subset's texts. Returns
        what mteb evaluates for a column: an `EncoderProtocol`, or a `SearchProtocol` for searching
        tasks."""
        kind: Any = MoeeSearch if installed.searches(task) else MoeeEncoder
        setting = self.columns[0].setting
        base = kind(self._of(task), setting, notify=self._notify, progress=self._progress)
        for texts in heard:
            base.prepare(task, texts.split, texts.subset, texts)
        return lambda column: base.with_setting(column.setting)

    def _of(self, task: AbsTask) -> StoredEncoder:
        words = (instruction_of(task) if self._instructions else None) or ""
        if words not in self._stored:
            self._stored[words] = self._stored[""].with_instruction(words)
        return self._stored[words]

    def entry(self) -> dict[str, Any]:
        """What run.json says of it, with the counts so far."""
        identity, stored = self._stored[""].identity, self._stored.values()
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
            "seconds_loading": round(self._stored[""].seconds_loading, 3),
        }

    def count(self, task: AbsTask, heard: TaskTexts) -> None:
        """Take the texts of an evaluated task into the counts."""
        stored = self._of(task)
        for query, texts in ((False, heard.documents), (True, heard.queries)):
            keys = {text_hash(f"{query:d}{stored.instruction}{text}"): text for text in texts}
            new = [text for key, text in keys.items() if key not in self._texts]
            self._texts |= keys.keys()
            self._tokens += stored.tokens(new, query=query)


def _fields(setting: Setting, model: Mapping[str, Any]) -> dict[str, Any]:
    """A setting's fields in summary.json. Words alone owe nothing to a model."""
    if setting.method == WORDS:
        return dict.fromkeys(SETTING) | {"model": WORDS, "method": WORDS, "lexical": 1.0}
    fields = {name: (dict(model) | vars(setting))[name] for name in SETTING}
    return fields | ({"lexical": setting.lexical} if setting.lexical else {})


class OutsideSystem:
    """A baseline of baselines.py, with the methods of `MoeeSystem`."""

    def __init__(self, name: str) -> None:
        self.name = name
        of = {"minilm": (MINILM, "dense", "mean"), "bm25": ("bm25", "bm25", None)}
        model, method, pooling = of.get(name, (name, name, None))
        fields = {"model": model, "method": method, "pooling": pooling}
        self.columns = [Column(dict.fromkeys(SETTING) | fields)]
        self._texts: set[bytes] = set()

    def columns_for(self, task: AbsTask) -> list[Column]:
        if self.name == "bm25":
            serves = installed.searches(task)
        else:
            serves = self.name == "minilm" or task.metadata.type == "STS"
        return self.columns if serves else []

    @cached_property
    def _model(self) -> Any:
        return {"minilm": MiniLM, "bm25": Bm25, "tfidf": TfIdf}[self.name]()

    def meta(self, column: Column, task: AbsTask) -> ModelMeta:
        meta: ModelMeta = self._model.mteb_model_meta
        return meta

    def prepare(self, task: AbsTask, heard: Sequence[TaskTexts]) -> Callable[[Column], Any]:
        if isinstance(self._model, TfIdf):
            for texts in heard:
                self._model.prepare(task, texts)
        return lambda _: self._model

    def entry(self) -> dict[str, Any]:
        fields = self.columns[0].fields
        return {
            "model": fields["model"],
            "prompt": None,
            "methods": [fields["method"]],
            "texts": len(self._texts),
        }

    def count(self, task: AbsTask, heard: TaskTexts) -> None:
        self._texts |= {text_hash(text) for call in heard.calls for text in call.texts}


System = MoeeSystem | OutsideSystem


def outside_systems(names: Sequence[str]) -> list[OutsideSystem]:
    """The baselines of these names; with BM25 comes TF-IDF, for STS."""
    with_tfidf = [
        each for name in names for each in ((name, "tfidf") if name == "bm25" else [name])
    ]
    return [OutsideSystem(name) for name in with_tfidf]
