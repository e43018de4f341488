"""Which tasks of mteb run: types, names, the paper's list, whole benchmarks; languages, splits.

A task here is an instance of its own: mteb shares metadata between instances and benchmarks, so
whatever is changed (subsets, splits, where the data lie) is changed on a copy.

Types, `paper` and `all` mean English unless `languages` says otherwise.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from moee_index.bench.data import (
    DataError,
    bytes_of,
    folder_of,
    in_hub_cache,
    localise,
    quiet,
    rows_of,
)
from moee_index.bench.mteb_internals import generators, new_task, with_newer
from moee_index.dependencies import lacking
from moee_index.errors import MisuseError

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask

T = TypeVar("T", bound="AbsTask")

TYPES = (
    "STS",
    "Classification",
    "Clustering",
    "PairClassification",
    "Reranking",
    "Summarization",
    "Retrieval",
    "MultilabelClassification",
    "BitextMining",
    "InstructionRetrieval",
    "InstructionReranking",
    "Regression",
)
"""mteb's task types that texts alone can be evaluated on."""

PAPER = (
    "EmotionClassification",
    "ToxicConversationsClassification",
    "TweetSentimentExtractionClassification",
    "MedrxivClusteringS2S",
    "TwentyNewsgroupsClustering",
    "TwitterSemEval2015",
    "TwitterURLCorpus",
    "AskUbuntuDupQuestions",
    "SciDocsRR",
    "StackOverflowDupQuestions",
    "STS12",
    "STS13",
    "STS14",
    "STS15",
    "STS16",
    "BIOSSES",
    "SICK-R",
    "STSBenchmark",
    "SummEvalSummarization.v2",
)
"""The 19 data sets of the paper's tables (its abstract counts 20); SummEval by mteb's corrected
evaluator, which `--paper-protocol` replaces by the one that the authors used."""

DEPRECATED_SUMMEVAL = ("SummEvalSummarization.v2", "SummEval")
_ENGLISH = ("eng",)
_SHOWN = 8


@dataclass(frozen=True)
class Missing:
    """A task that was asked for and cannot run, and why, in words."""

    task: str
    why: str


@dataclass
class Selection:
    """What runs, what was asked for and cannot, and what is told about the choice.

    aggregates: tasks of mteb that are means over others of `tasks`.
    """

    tasks: list[AbsTask] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    aggregates: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Question:
    """What was asked for. tasks: types, names, `paper`, `all`; data: a folder of data sets.

    languages: ISO 639-3 codes; empty is English where a task has it; `all` is every language.
    A subset of a task runs when all of its languages are asked for.
    deprecated_summeval: take mteb's old SummEval, as the authors did.
    """

    tasks: Sequence[str] = ()
    benchmark: str | None = None
    languages: Sequence[str] = ()
    splits: Sequence[str] = ()
    data: Path | None = None
    deprecated_summeval: bool = False


def split_list(text: str, option: str) -> list[str]:
    """The values of a comma list. Raises MisuseError where there is none."""
    found = list(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))
    if not found:
        raise MisuseError(f"{option} is empty; give one value or more, separated by commas")
    return found


def choose(question: Question) -> Selection:
    """The tasks that a question names, their data pointed at `question.data` where that is given.

    Types and `all` take what is at hand under `data`; a name, the paper's list and a benchmark
    are demands: what is not there is in `missing`.

    Raises MisuseError for an unknown task, type, benchmark or language, and DataError where a
    type or `all` has no data at all.
    """
    _check_languages(question.languages)
    if question.data is not None and not question.data.is_dir():
        raise MisuseError(f"--data {question.data}: no such folder")
    selection = Selection()
    chosen: dict[str, AbsTask] = {}
    with quiet():
        for task in _demanded(question, selection):
            _add(task, question, selection, chosen)
        for kind in question.tasks:
            if kind == "all" or kind in TYPES:
                _add_kind(kind, question, selection, chosen)
    selection.tasks = list(chosen.values())
    return selection


def _demanded(question: Question, selection: Selection) -> Iterable[AbsTask]:
    """Instances of the tasks asked for by name, members in the place of aggregates."""
    for asked in question.tasks:
        if asked == "paper":
            for name in PAPER:
                if (task := _of_mteb(name)) is not None:
                    yield task
                else:  # The installed mteb no longer has it.
                    why = str(lacking("mteb", "has no such task"))
                    selection.missing.append(Missing(name, why))
        elif asked != "all" and asked not in TYPES:
            yield from _members(_by_name(asked), selection)
    if question.benchmark is not None:
        tasks = _of_benchmark(question.benchmark)
        other = [task for task in tasks if task.metadata.modalities != ["text"]]
        if other:
            selection.notes.append(
                f"{question.benchmark}: {len(other)} of its {len(tasks)} tasks are not about "
                f"texts alone and are left out ({_few(t.metadata.name for t in other)})"
            )
        for task in tasks:
            if task not in other:
                yield from _members(fresh(task), selection)


def _of_benchmark(name: str) -> list[AbsTask]:
    """mteb's own instances. Raises MisuseError."""
    from mteb import get_benchmark, get_benchmarks

    try:
        found = get_benchmark(name)
    except (KeyError, ValueError):
        known = [str(benchmark.name) for benchmark in get_benchmarks()]
        raise MisuseError(
            f"--benchmark {name!r} is no benchmark of mteb{_close(name, known)}"
        ) from None
    return list(found.tasks)


def _of_mteb(name: str) -> AbsTask | None:
    """mteb's task of a name."""
    from mteb import get_task

    try:
        found: AbsTask = get_task(name)
    except (KeyError, ValueError):
        return None
    return found


def _close(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """`; did you mean …?` where something of a like name is known."""
    lower = {one.lower(): one for one in known}
    close = [lower[one] for one in difflib.get_close_matches(name.lower(), lower, n=3)]
    return f"; did you mean {' or '.join(close)}?" if close else otherwise


def _members(task: AbsTask, selection: Selection) -> Iterable[AbsTask]:
    if not task.is_aggregate:
        yield task
        return
    selection.aggregates.append(task)
    for member in task.metadata.tasks:  # type: ignore[attr-defined]
        yield from _members(fresh(member), selection)


def _by_name(name: str) -> AbsTask:
    from mteb import get_tasks

    from moee_index.bench.wikiqa import ALIASES, WikiQALocal

    local = WikiQALocal.metadata.name
    if name in (local, *ALIASES):
        return WikiQALocal()
    found = _of_mteb(name)
    if found is not None:
        if found.metadata.modalities != ["text"]:
            raise MisuseError(f"--tasks {name}: not about texts alone; the bench embeds texts only")
        return found
    every = get_tasks(exclude_superseded=False, exclude_private=False, exclude_beta=False)
    names = [task.metadata.name for task in every if task.metadata.modalities == ["text"]]
    known = [*TYPES, "paper", "all", local, *names]
    hint = _close(name, known, "; bench --list --tasks all shows them")
    raise MisuseError(
        f"--tasks {name!r} is no task type ({', '.join(TYPES[:7])}, …), no task of mteb, and "
        f"neither paper nor all{hint}"
    )


def _add(
    task: AbsTask, question: Question, selection: Selection, chosen: dict[str, AbsTask]
) -> None:
    """Add a demanded task, or say why it cannot run."""
    task = _as_asked(task, question)
    name = task.metadata.name
    if name in chosen:
        return
    try:
        if not _narrow(task, question):
            raise DataError(f"has nothing in --languages {','.join(question.languages)}")
        note = localise(task, question.data)
        chosen[name] = task
    except DataError as error:
        note = str(error).removeprefix(f"{name}: ")
    if note:
        selection.missing.append(Missing(name, note))


def _as_asked(task: AbsTask, question: Question) -> AbsTask:
    """The task, or mteb's old SummEval in its place."""
    new, old = DEPRECATED_SUMMEVAL
    replaced = question.deprecated_summeval and task.metadata.name == new
    return _by_name(old) if replaced else task


def _add_kind(
    kind: str, question: Question, selection: Selection, chosen: dict[str, AbsTask]
) -> None:
    """Add what a type or `all` takes in."""
    data = question.data
    found = [task for task in _of_kind(kind, data) if _narrow(task, question, english_only=True)]
    if not found:
        languages = ",".join(question.languages) or "eng"
        why = f"mteb has no such task in --languages {languages}{with_newer()}"
        selection.missing.append(Missing(kind, why))
        return
    if data is not None:
        at_hand = [task for task in found if folder_of(task, data) is not None]
        elsewhere = len(found) - len(at_hand)
        if not at_hand:
            raise DataError(
                f"{data} holds no data set of {'any task' if kind == 'all' else f'type {kind}'}"
                f" in the hub's layout (such as {data}/mteb/stsbenchmark-sts); `bench --list "
                f"--tasks {kind}` shows what mteb has"
            )
        selection.notes.append(
            f"{kind}: {len(at_hand)} of mteb's {len(found)} tasks have data under {data}"
            + (f", {elsewhere} have none" if elsewhere else "")
        )
        found = at_hand
    for each in _without_replaced(found, data):
        task = _as_asked(each, question)
        if task is not each:
            _narrow(task, question)
        if task.metadata.name not in chosen:
            if note := localise(task, data):
                selection.notes.append(f"{task.metadata.name}: {note}")
            chosen[task.metadata.name] = task


def _without_replaced(found: Sequence[AbsTask], data: Path | None) -> list[AbsTask]:
    """Tasks less those that mteb replaced by a newer one.

    Where the newer one wants another revision of the very folder that is at hand, the older one
    fits the data and the newer one is left out.
    """
    names = {task.metadata.name: task for task in found}
    out: set[str] = set()
    for task in found:
        if not task.metadata.superseded_by:
            continue
        newer = names.get(task.metadata.superseded_by)
        if newer is None:
            if data is None:
                out.add(task.metadata.name)
            continue
        one, two = task.metadata.dataset, newer.metadata.dataset
        older_fits = (
            data is not None and one["path"] == two["path"] and one["revision"] != two["revision"]
        )
        out.add(newer.metadata.name if older_fits else task.metadata.name)
    return [task for task in found if task.metadata.name not in out]


def _of_kind(kind: str, data: Path | None) -> list[AbsTask]:
    """mteb's tasks of a type, and with a folder of data the local ones."""
    from mteb import get_tasks

    from moee_index.bench.wikiqa import WikiQALocal

    types: Any = list(TYPES) if kind == "all" else [kind]
    here = data is not None and WikiQALocal.metadata.type in types
    local: list[AbsTask] = [WikiQALocal()] if here else []
    found = get_tasks(
        task_types=types,
        modalities=["text"],
        exclusive_modality_filter=True,
        exclude_superseded=False,
        exclude_aggregate=True,
    )
    return [*found, *local]


def fresh(task: T) -> T:
    """The same task with its data, subsets and splits, and random states as they are at first.

    mteb's newer clustering tasks go on with one random state from model to model; a task that is
    fresh for each setting judges all of them on the same samples.
    """
    other: T = new_task(task)
    started = generators(other)
    vars(other).update({**vars(task), **started})
    other.hf_subsets = list(task.hf_subsets)
    return other


def _narrow(task: AbsTask, question: Question, *, english_only: bool = False) -> bool:
    """Keep the subsets in the languages asked for; whether any is left.

    english_only: without --languages a task without English is left out (types and `all`).
    """
    if question.splits:
        task.filter_eval_splits(list(question.splits))
    if list(question.languages) == ["all"]:
        return True
    wanted = set(question.languages or _ENGLISH)
    scripts = task.metadata.hf_subsets_to_langscripts
    kept = [
        subset
        for subset in task.hf_subsets
        if {code.partition("-")[0] for code in scripts[subset]} <= wanted
    ]
    if not kept and not question.languages and not english_only:
        return True
    task.hf_subsets = kept
    return bool(kept)


def _check_languages(languages: Sequence[str]) -> None:
    from mteb.languages import ISO_TO_LANGUAGE

    for code in languages:
        if code != "all" and code not in ISO_TO_LANGUAGE:
            raise MisuseError(f"--languages {code!r} is no ISO 639-3 code, such as eng or deu")


def describe(task: AbsTask, data: Path | None) -> dict[str, Any]:
    """What would run, for `--list`: name, type, subsets, splits, samples, data at hand.

    samples: rows of each evaluated split, counted in local files where that is cheap, else as
    mteb publishes them; None where nobody knows. bytes: of the local files.
    """
    published = _published_samples(task)
    folder = folder_of(task, data) if data is not None else None
    rows = rows_of(folder, task) if folder is not None else {}
    samples = {split: rows.get(split, published.get(split)) for split in task.eval_splits}
    at_hand = str(folder or "no")
    if data is None:
        at_hand = "in the hub's cache" if in_hub_cache(task) else "on the hub"
    return {
        "task": task.metadata.name,
        "type": task.metadata.type,
        "subsets": list(task.hf_subsets),
        "samples": samples,
        "main_score": task.metadata.main_score,
        "data": at_hand,
        "bytes": bytes_of(folder) if folder is not None else None,
    }


def _published_samples(task: AbsTask) -> dict[str, int]:
    """mteb's own counts, of the whole split or, where subsets were left out, of those that run."""
    stats: Any = task.metadata.descriptive_stats or {}
    found: dict[str, int] = {}
    for split, counted in stats.items():
        parts = counted.get("hf_subset_descriptive_stats")
        if parts and set(task.hf_subsets) != set(task.metadata.hf_subsets):
            sizes = [parts[s].get("num_samples") for s in task.hf_subsets if s in parts]
            if sizes and None not in sizes:
                found[split] = sum(sizes)
        elif counted.get("num_samples") is not None:
            found[split] = int(counted["num_samples"])
    return found


def _few(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _SHOWN
    return ", ".join(listed[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
