"""Which texts a task will hand to an encoder, learned by asking the task itself.

mteb's evaluators choose, sample and join texts in their own ways, and hand them over in pieces,
each of which wants its vectors at once; but a standardizer is fitted on all texts of a split before
it gives the first vector, and vectors that wait for their first use would have to pass for arrays
in all of numpy, torch and scikit-learn. So a task is begun twice: first on a listener that notes
the texts of every call and answers with vectors that cannot be read. At the first attempt to use
one, everything that comes before the scores was asked for, and the evaluation is given up. The
task's random generators are put back afterwards.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from moee_index.bench import mteb_internals as installed
from moee_index.errors import MisuseError

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.model_meta import ModelMeta

LISTENER = "moee-index/listener"
_BATCH = 1024


@dataclass(frozen=True)
class Call:
    """One call of an encoder: its texts in their order, and what mteb says of them.

    role: `document` and `query` where the task tells them apart, else `text`.
    """

    texts: Sequence[str]
    role: str
    hf_split: str
    hf_subset: str


@dataclass(frozen=True)
class TaskTexts:
    """What one task, split and subset hands over, call by call.

    search: the task searches a corpus (retrieval, reranking), which is given in one call here and
    may come in chunks when it is evaluated.
    """

    task: str
    split: str
    subset: str
    search: bool
    calls: Sequence[Call] = field(repr=False)

    @property
    def documents(self) -> list[str]:
        """All texts but queries, as given, duplicates included."""
        return [text for call in self.calls if call.role != "query" for text in call.texts]

    @property
    def queries(self) -> list[str]:
        """All queries, as given."""
        return [text for call in self.calls if call.role == "query" for text in call.texts]

    @property
    def fitted(self) -> list[tuple[str, list[str]]]:
        """(role, texts) that a standardizer is fitted on, rows as given: the corpus alone where one
        is searched, else the texts of the evaluated split, training texts left out."""
        if self.search:
            return [(c.role, list(c.texts)) for c in self.calls if c.role == "document"]
        return [(c.role, list(c.texts)) for c in self.calls if c.hf_split == self.split]


def texts_of(task: AbsTask, split: str, subset: str) -> TaskTexts:
    """Every text that evaluating this split and subset hands to an encoder.

    The task's data are loaded. A task that draws a sample for each of several subsets draws the
    first one as here; of the others the listener hears another draw of the same texts.

    Raises MisuseError for a task that is none for text.
    """
    name = task.metadata.name
    if set(task.metadata.modalities) != {"text"}:
        raise MisuseError(f"{name} is not a task for text alone; choose others")
    if installed.clusters_sets(task):
        calls = _cluster_sets(task, split, subset)
    else:
        calls = _listen(task, split, subset)
    return TaskTexts(name, split, subset, installed.searches(task), calls)


def texts_in(inputs: Any) -> list[str]:
    """The texts of one of mteb's dataloaders, in order, however it batches them.

    Raises MisuseError where they are no texts.
    """
    from datasets import Dataset  # type: ignore[import-untyped,unused-ignore]
    from torch.utils.data import SequentialSampler

    data: Any = getattr(inputs, "dataset", None)
    whole = isinstance(data, Dataset) and isinstance(
        getattr(inputs, "sampler", None), SequentialSampler
    )
    found: list[str] = []
    for batch in [data] if whole else inputs:
        names = data.column_names if whole else batch
        if "text" not in names:
            raise MisuseError(f"the inputs hold no text, but {', '.join(names)}")
        found.extend(_text(text) for text in batch["text"])
    return found


def search_texts(data: Any, metadata: TaskMetadata, *, query: bool) -> list[str]:
    """The texts of a corpus or of queries, title, instruction and conversation joined as mteb does
    for every encoder."""
    from mteb.types import PromptType

    prompt_type = PromptType.query if query else PromptType.document
    if not len(data):
        return []
    create = installed.create_dataloader()
    return texts_in(
        create(data, task_metadata=metadata, prompt_type=prompt_type, batch_size=_BATCH)
    )


def role_of(prompt_type: Any) -> str:
    """`document`, `query`, or `text` where mteb does not tell them apart."""
    value = getattr(prompt_type, "value", prompt_type)
    return str(value) if value in ("document", "query") else "text"


def _text(text: Any) -> str:
    if not isinstance(text, str):
        raise MisuseError(f"an input is {type(text).__name__}, not text")
    return text


def _cluster_sets(task: Any, split: str, subset: str) -> list[Call]:
    """The sets of an old clustering task, which are evaluated one after the other."""
    column, labels = task.input_column_name, task.label_column_name
    return [
        Call([_text(text) for text in one[column]], "text", split, subset)
        for one in installed.splits_of(task, subset)[split]
        # A set of one label is scored without being embedded.
        if len(set(one[labels])) > 1
    ]


def _listen(task: Any, split: str, subset: str) -> list[Call]:
    listener = _SearchListener() if installed.searches(task) else _EncoderListener()
    before = copy.deepcopy(installed.generators(task))
    try:
        task.evaluate(
            listener, split, subsets_to_run=[subset], encode_kwargs={"batch_size": _BATCH}
        )
    except _EverythingHeardError:
        pass
    finally:
        vars(task).update(before)
    return listener.calls


class _EverythingHeardError(BaseException):
    """The evaluator begins to use vectors. No Exception, so that no task's own handling of errors
    catches it."""


class _Unreadable:
    """Vectors that can be counted and handed on, and nothing else."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[_Unreadable]:
        return iter([_Unreadable(0)] * self._count)

    def __getattr__(self, name: str) -> NoReturn:
        raise _EverythingHeardError

    # Looked up on the class alone.
    def __getitem__(self, _: Any) -> NoReturn:
        raise _EverythingHeardError

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise _EverythingHeardError


class _Listener:
    """Notes what it is handed. Of mteb's two protocols each subclass has the methods of one, by
    which mteb tells them apart."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    @property
    def mteb_model_meta(self) -> ModelMeta:
        return installed.model_meta({"name": LISTENER})

    def _hear(self, texts: list[str], role: str, hf_split: str, hf_subset: str) -> None:
        self.calls.append(Call(texts, role, hf_split, hf_subset))


class _EncoderListener(_Listener):
    def encode(
        self, inputs: Any, *, hf_split: str, hf_subset: str, prompt_type: Any = None, **_: Any
    ) -> Any:
        texts = texts_in(inputs)
        self._hear(texts, role_of(prompt_type), hf_split, hf_subset)
        return _Unreadable(len(texts))

    def similarity(self, *_: Any) -> NoReturn:
        raise _EverythingHeardError

    similarity_pairwise = similarity


class _SearchListener(_Listener):
    def index(
        self, corpus: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, **_: Any
    ) -> None:
        texts = search_texts(corpus, task_metadata, query=False)
        self._hear(texts, "document", hf_split, hf_subset)

    def search(
        self, queries: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, **_: Any
    ) -> NoReturn:
        self._hear(search_texts(queries, task_metadata, query=True), "query", hf_split, hf_subset)
        raise _EverythingHeardError
