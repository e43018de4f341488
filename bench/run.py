"""`moee-index bench`: tasks times settings through mteb, resumed where they stopped, and recorded.

A task's data are read once; each model's vectors are computed once and shared by all settings;
mteb evaluates and keeps its own result files under OUT/results. What is there already, of the same
data, is not evaluated again, and then no data are read and no model is loaded.

Vectors are made in `adapter`, data read in `data`, files written in `run_dir`, reports in `report`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moee_index.atomic import WriterLock, now, storage_errors
from moee_index.bench.adapter import protocol
from moee_index.bench.adapter.intervals import extras_for
from moee_index.bench.adapter.systems import Column, MoeeSystem, System, outside_systems
from moee_index.bench.adapter.task_inputs import TaskTexts, texts_of
from moee_index.bench.adapter.vectors import WORDS
from moee_index.bench.data import DataError, DataSets, quiet, stamp
from moee_index.bench.mteb_internals import as_tested, with_newer
from moee_index.bench.options import BenchOptions
from moee_index.bench.report.paper import paper_score
from moee_index.bench.run_dir import (
    EXTRA_SETTING,
    Entry,
    Records,
    finite,
    peak_rss_bytes,
    without_score,
)
from moee_index.bench.tasks import Missing, Question, Selection, choose, describe, fresh
from moee_index.bench.vector_cache.encoder import StoredEncoder
from moee_index.bench.vector_cache.store import VectorStore, default_directory
from moee_index.errors import CorpusError, LibraryError, MoeeIndexError, first_line
from moee_index.types import Notify, Progress, ignore

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask


BATCH_SIZE = 1024
"""Texts in one of mteb's dataloader batches; our batches are planned by tokens inside."""


@dataclass(frozen=True)
class Outcome:
    """What a run ends with. rows: those of this run's tasks and settings; evaluated: how many
    tasks in how many settings were not there before; report: its files."""

    out: Path
    rows: list[Entry]
    missing: list[Missing]
    evaluated: int
    report: list[Path]


@as_tested()
def plan(question: Question) -> tuple[list[dict[str, Any]], Selection]:
    """What would run (`tasks.describe` of each), and the selection. Nothing is read or loaded."""
    selection = choose(question)
    with quiet():
        return [describe(task, question.data) for task in selection.tasks], selection


@as_tested()
def run(
    options: BenchOptions,
    tell: Notify = ignore,
    progress: Progress = ignore,
    embedding: Progress = ignore,
) -> Outcome:
    """Evaluate, and write everything that INTERFACE names to `options.out`.

    progress: (done, total) tasks times settings; embedding: (done, total) texts of one task.

    A task that cannot run is named in `Outcome.missing`, the others run.

    Raises MisuseError for options that make no sense, DataError where nothing can run, ModelError,
    StorageError; IndexLockedError where another process writes to the same directory.
    """
    options.check()
    selection = choose(options.question)
    for note in selection.notes:
        tell(note)
    missing = [f"{one.task}: {one.why}" for one in selection.missing]
    for line in missing:
        tell(line)
    if not selection.tasks:
        raise DataError("nothing to run: " + "; ".join(missing))
    with storage_errors(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
    lock = WriterLock(options.out)
    with lock:
        outcome = _Run(options, selection, tell, progress, embedding).run()
        lock.remove()
    return outcome


@dataclass
class _Run:
    """One run over a locked directory."""

    options: BenchOptions
    selection: Selection
    tell: Notify
    progress: Progress
    embedding: Progress

    def __post_init__(self) -> None:
        from mteb.cache import ResultCache

        options = self.options
        self.missing = list(self.selection.missing)
        self.started = now()
        self.evaluated = self.done = 0
        self.records = Records(options.out)
        # A sample's results stay away from where mteb's tools look for scores.
        place = f"sample-{options.limit}" if options.limit is not None else ""
        self.cache = ResultCache(options.out / place)
        self.systems = self._systems()
        self.records.check([system.entry() for system in self.systems])
        self.settings = sum(len(system.columns) for system in self.systems)
        self.worked: dict[int, list[str]] = {}
        self.seconds: dict[int, float] = {}
        self.rows: list[Entry] = []

    def _systems(self) -> list[System]:
        options = self.options
        self.store = store = VectorStore(options.vectors or default_directory(), notify=self.tell)
        model = dict(options.model)
        queries = model.get("query_prompt")
        prompts: list[str | None] = [*options.prompts] or [None]
        first = StoredEncoder.open(
            store, model.pop("model", None), **model, prompt=prompts[0], notify=self.tell
        )
        several = [first] + [first.with_prompt(str(prompt), queries) for prompt in prompts[1:]]
        found: dict[str, MoeeSystem] = {}
        for number, stored in enumerate(several):
            system = MoeeSystem(
                stored,
                # Words alone are the same under every prompt.
                [one for one in options.settings() if not number or one.method != WORDS],
                instructions=options.paper_protocol and options.instruction,
                notify=self.tell,
                progress=self.embedding,
            )
            found.setdefault(system.prompt, system)
        return [*found.values(), *outside_systems(options.outside)]

    def run(self) -> Outcome:
        options = self.options
        total = len(self.selection.tasks) * self.settings
        self.progress("evaluating", 0, total)
        ended = False
        try:
            with DataSets(
                options.question.data, offline=options.offline, limit=options.limit
            ) as sets:
                for task in self.selection.tasks:
                    self._task(task, sets)
                    self.progress("evaluating", self.done, total)
                self._aggregates()
            ended = True
        finally:
            # What an interrupted run computed is in the record too.
            if self.worked or not self.records.record["runs"]:
                self._write_record(now() if ended else None)
            self.store.close()
        return Outcome(options.out, self.rows, self.missing, self.evaluated, self._report())

    # One task

    def _task(self, task: AbsTask, sets: DataSets) -> None:
        """Evaluate a task in every setting that is not there yet."""
        stamp(task, sets.data)
        before = self.done
        todo: list[tuple[int, list[Column]]] = []
        for number, system in enumerate(self.systems):
            columns = [c for c in system.columns_for(task) if not self._is_done(system, c, task)]
            self.done += len(system.columns) - len(columns)
            if columns:
                todo.append((number, columns))
        if not any(system.columns_for(task) for system in self.systems):
            self._name_missing(task, "words count where a corpus is searched; give --lexical 0 too")
        if todo:
            loaded = fresh(task)
            try:
                for note in sets.load(loaded):
                    self._name_missing(task, note)
                places = product(loaded.eval_splits, loaded.hf_subsets)
                heard = [texts_of(loaded, split, subset) for split, subset in places]
                for number, columns in todo:
                    self._evaluate(number, columns, loaded, heard)
            except (DataError, CorpusError, LibraryError) as error:
                self._name_missing(task, str(error).removeprefix(f"{task.metadata.name}: "))
            except (MoeeIndexError, OSError, MemoryError):
                raise
            except Exception as error:
                # One task's evaluator or data must not end the others; it is named and recorded.
                if self.options.debug:
                    raise
                what = f"{type(error).__name__}: {first_line(error)}"
                self._name_missing(task, f"failed ({what}){with_newer()}; see --debug")
        self.done = before + self.settings

    def _name_missing(self, task: AbsTask, why: str) -> None:
        self.missing.append(Missing(task.metadata.name, why))
        self.tell(f"{task.metadata.name}: {why}")

    def _evaluate(
        self, number: int, columns: Sequence[Column], task: AbsTask, heard: Sequence[TaskTexts]
    ) -> None:
        started = time.perf_counter()
        system = self.systems[number]
        self.worked.setdefault(number, []).append(task.metadata.name)
        model_of = system.prepare(task, heard)
        unscored: list[Entry] = []
        for column in columns:
            model = model_of(column)
            result = self._mteb(model, task)
            rows = self._rows_of(task, result, column)
            self.records.put(rows, self._extras(task, model, column, result))
            self.rows += rows
            unscored += [row for row in rows if row["score"] is None]
            self.evaluated += 1
            self.done += 1
            self.progress("evaluating", self.done, len(self.selection.tasks) * self.settings)
        if unscored:
            self.tell(without_score(task.metadata.type, unscored))
        for one in heard:
            system.count(task, one)
        self.seconds[number] = self.seconds.get(number, 0.0) + time.perf_counter() - started

    def _mteb(self, model: Any, task: AbsTask) -> Any:
        """mteb's own evaluation, into its own result file."""
        import mteb

        known = None if self.options.overwrite else self._known(model.mteb_model_meta, task)
        # Splits that are there are kept; a whole result comes here when it was not taken down.
        resumed = known is not None and bool(known.get_missing_evaluations(task))
        result = mteb.evaluate(
            model,
            fresh(task),
            cache=self.cache,
            overwrite_strategy="only-missing" if resumed else "always",
            show_progress_bar=False,
            co2_tracker=False,
            encode_kwargs={"batch_size": BATCH_SIZE, "show_progress_bar": False},
        )
        return result.task_results[0]

    def _is_done(self, system: System, column: Column, task: AbsTask) -> bool:
        """mteb has a whole result of the same data, and its rows were taken down."""
        if self.options.overwrite:
            return False
        result = self._known(system.meta(column, task), task)
        if result is None or result.get_missing_evaluations(task):
            return False
        rows = self._rows_of(task, result, column)
        if not self.records.holds(column.fields, rows, sample=self.options.limit is not None):
            return False
        self.rows += rows
        return True

    def _known(self, meta: Any, task: AbsTask) -> Any | None:
        """mteb's result of the same data, whole or in part."""
        name = task.metadata.name
        try:
            result = self.cache.load_task_result(name, meta)
        except (ValueError, KeyError) as error:
            self.tell(f"{name}: a result that cannot be read is made anew ({first_line(error)})")
            path = self.cache.get_task_result_path(name, meta)
            with storage_errors(path):
                path.unlink(missing_ok=True)
            return None
        if result is None or result.dataset_revision != task.metadata.revision:
            return None
        return result

    # What is taken down

    def _rows_of(self, task: AbsTask, result: Any, column: Column) -> list[Entry]:
        """Main score of each evaluated split and subset; beside it `cosine_ap` for pairs, since
        mteb's `max_ap` is also taken over Manhattan distance, which is no measure of `sum`."""
        name, main, fields = task.metadata.name, task.metadata.main_score, column.fields
        prompt, method = _named(fields["prompt"]), fields["method"]
        fused = bool(fields.get("lexical"))
        paper = None if fused else paper_score(fields["model"], prompt, method, name)
        metrics = [main, "cosine_ap"] if task.metadata.type == "PairClassification" else [main]
        return [
            {
                "task": name,
                "type": task.metadata.type,
                "split": split,
                "subset": scores["hf_subset"],
                **fields,
                "metric": metric,
                "score": finite(scores[metric]),
                "sample": self.options.limit is not None,
                "paper": paper if metric == main else None,
            }
            for split in task.eval_splits
            for scores in result.scores.get(split, [])
            if scores["hf_subset"] in task.hf_subsets
            for metric in metrics
            if metric in scores
        ]

    def _extras(self, task: AbsTask, model: Any, column: Column, result: Any) -> list[Entry]:
        """Our second look at the vectors of a setting."""
        if not hasattr(model, "encode"):
            return []
        setting = {key: column.fields[key] for key in EXTRA_SETTING}
        return [
            {
                **{"task": task.metadata.name, "split": split, "subset": scores["hf_subset"]},
                **{**setting, "name": name, "value": finite(value)},
            }
            for split in task.eval_splits
            for scores in result.scores.get(split, [])
            for name, value in _second_look(task, model, split, scores).items()
        ]

    def _aggregates(self) -> None:
        """Results of mteb's tasks that are means over others, from the results of those."""
        import mteb

        for aggregate in self.selection.aggregates:
            names = {member.metadata.name for member in aggregate.metadata.tasks}
            members = [task for task in self.selection.tasks if task.metadata.name in names]
            for system in self.systems:
                for column in system.columns_for(members[0]) if members else ():
                    meta = system.meta(column, members[0])
                    if not self._is_whole(aggregate, meta):
                        name = aggregate.metadata.name
                        if all(missing.task != name for missing in self.missing):
                            self._name_missing(aggregate, "not all of its members have results")
                        continue
                    result = mteb.evaluate(
                        meta,
                        aggregate,
                        cache=self.cache,
                        overwrite_strategy="only-cache",
                        show_progress_bar=False,
                        co2_tracker=False,
                    )
                    rows = self._rows_of(aggregate, result.task_results[0], column)
                    self.rows += rows
                    self.records.put(rows, [])

    def _is_whole(self, task: Any, meta: Any) -> bool:
        """Whether mteb has a whole result of a task, or of every member of an aggregate."""
        if task.is_aggregate:
            return all(self._is_whole(member, meta) for member in task.metadata.tasks)
        result = self.cache.load_task_result(task.metadata.name, meta)
        return result is not None and not result.get_missing_evaluations(task)

    # The end

    def _write_record(self, finished: str | None) -> None:
        missing = [{"task": one.task, "why": one.why} for one in self.missing]
        entries = [
            {
                **self.systems[number].entry(),
                "started": self.started,
                "finished": finished,
                "seconds": round(self.seconds.get(number, 0.0), 3),
                "peak_rss_bytes": peak_rss_bytes(),
                "tasks": tasks,
                "missing": missing,
                "limit": self.options.limit,
            }
            for number, tasks in self.worked.items()
        ]
        self.records.write_record(
            entries, started=self.started, finished=finished, options=self.options.as_json()
        )

    def _report(self) -> list[Path]:
        from moee_index.bench.report.build import write_report

        if not self.records.rows:
            return []
        return write_report([self.options.out], self.options.out, tell=self.tell)


def _second_look(
    task: AbsTask, model: Any, split: str, scores: Mapping[str, Any]
) -> dict[str, float]:
    subset = scores["hf_subset"]

    def vectors(texts: Sequence[str]) -> Any:
        place = {"task_metadata": task.metadata, "hf_split": split, "hf_subset": subset}
        return model.encode([{"text": list(texts)}], **place)

    return extras_for(fresh(task), split, subset, vectors, scores=scores)


def _named(prompt: str | None) -> str | None:
    """A prompt's own name, as the paper's tables have it, without our mark of an instruction."""
    return None if prompt is None else prompt.removesuffix(protocol.SUFFIX)
