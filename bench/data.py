"""Where a task's data set lies and how it is read: folders, a cache of the run's own, samples.

Local data lie in the hub's layout (`DIR/mteb/stsbenchmark-sts/…`); a task is pointed at its folder
by a copy of its metadata, never by changing the working directory. The datasets library caches by
path and would serve stale rows, so local data go through a cache that lives as long as the run.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partialmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moee_index.bench.mteb_internals import splits_of, with_newer
from moee_index.dependencies import lacking
from moee_index.errors import CorpusError, LibraryError, MoeeIndexError
from moee_index.readers.lines import Lines, open_bytes, parse_object

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask

MIN_SAMPLE = 10
# mteb looks up labels one by one, which a memory-mapped table answers at a third of the rate.
IN_MEMORY = 2**28
_DATA_ENDINGS = (".jsonl", ".json", ".parquet", ".csv", ".tsv", ".arrow", ".txt", ".gz", ".zst")
_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_LOCAL = "local-"
_TALKATIVE = ("mteb", "datasets", "huggingface_hub")


class DataError(MoeeIndexError):
    """A data set is not there or cannot be read; the message begins with the task's name."""


def folder_of(task: AbsTask, data: Path) -> Path | None:
    """The folder of a task's data set under `data`; None where it is missing or empty."""
    path = task.metadata.dataset.get("path")
    folder = data / path if path else None
    return folder if folder is not None and _data_files(folder) else None


def _data_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.rglob("*") if p.suffix in _DATA_ENDINGS and p.is_file())


def bytes_of(folder: Path) -> int:
    """Bytes of the data files in a folder."""
    return sum(path.stat().st_size for path in _data_files(folder))


def rows_of(folder: Path, task: AbsTask) -> dict[str, int]:
    """Lines of `<split>.jsonl` for data of whose size mteb knows nothing."""
    if task.metadata.descriptive_stats is not None:
        return {}
    found: dict[str, int] = {}
    for split in task.eval_splits:
        path = folder / f"{split}.jsonl"
        if path.is_file():
            with path.open("rb") as lines:
                found[split] = sum(1 for line in lines if line.strip())
    return found


def in_hub_cache(task: AbsTask) -> bool:
    """Whether the hub's cache on this machine holds something of a task's data set."""
    import datasets
    from huggingface_hub import constants

    path = str(task.metadata.dataset.get("path"))
    places = (
        Path(constants.HF_HUB_CACHE) / f"datasets--{path.replace('/', '--')}",
        Path(datasets.config.HF_DATASETS_CACHE) / path.replace("/", "___"),
    )
    return any(place.is_dir() for place in places)


def localise(task: AbsTask, data: Path | None) -> str:
    """Point a task at its folder under `data` and keep the subsets that are there.

    Returns what is told about subsets that are not, or nothing. Without `data` the task is left
    as it is: the hub's. Raises DataError where the data set is not there.
    """
    if data is None:
        if str(task.metadata.revision) == "local":
            raise DataError(f"{task.metadata.name}: a local task; give its folder with --data")
        return ""
    name, folder = task.metadata.name, folder_of(task, data)
    if folder is None:
        raise DataError(f"{name}: no data set at {data / str(task.metadata.dataset.get('path'))}")
    note = ""
    # `fast_loading` is deprecated in mteb: without it every subset is a configuration.
    if task.metadata.is_multilingual and not getattr(task, "fast_loading", False):
        there = [subset for subset in task.hf_subsets if _has_config(folder, subset)]
        gone = [subset for subset in task.hf_subsets if subset not in there]
        if not there:
            raise DataError(f"{name}: {folder} holds none of the subsets {', '.join(gone)}")
        if gone:
            note = f"{folder} does not hold the subsets {', '.join(gone)}"
        task.hf_subsets = there
    dataset: Any = {**task.metadata.dataset, "path": str(folder.resolve())}
    task.metadata = task.metadata.model_copy(update={"dataset": dataset})
    return note


def _has_config(folder: Path, subset: str) -> bool:
    """Whether a folder in the hub's layout has a configuration of that name."""
    from datasets import get_dataset_config_names

    with quiet():
        try:
            names = get_dataset_config_names(str(folder))
        except Exception as error:  # a README that is no YAML, a folder that datasets refuses
            raise DataError(f"{folder}: its layout cannot be read: {_innermost(error)}") from error
    return subset in names or any(name.startswith(f"{subset}-") for name in names)


def stamp(task: AbsTask, data: Path | None) -> None:
    """Give local data a revision of their own, `local-` and a checksum of all their files.

    What was measured on a local copy is never said to be the hub's revision; and results of data
    that have changed since are not taken for results of these.
    """
    if data is None or task.metadata.revision.startswith(_LOCAL):
        return
    digest = hashlib.blake2b(digest_size=8)
    folder = Path(task.metadata.dataset["path"])
    for path in _data_files(folder):
        digest.update(os.fsencode(path.relative_to(folder)))
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "blake2b").digest())
    dataset: Any = {**task.metadata.dataset, "revision": _LOCAL + digest.hexdigest()}
    task.metadata = task.metadata.model_copy(update={"dataset": dataset})


class DataSets:
    """Reads data sets for one run; a context manager.

    Local ones (`data`) are read through a temporary cache, and nothing is asked of the hub.
    limit: keep a sample of so many rows or texts of each split.
    """

    def __init__(
        self, data: Path | None = None, *, offline: bool = False, limit: int | None = None
    ) -> None:
        self.data = data
        self.offline = offline or data is not None or _hub_is_off()
        self.limit = limit
        self._stack = ExitStack()

    def __enter__(self) -> DataSets:
        self._stack.enter_context(quiet())
        changes: dict[str, Any] = {"IN_MEMORY_MAX_SIZE": IN_MEMORY}
        if self.data is not None:
            directory = tempfile.TemporaryDirectory(
                prefix="moee-index-bench-", ignore_cleanup_errors=True
            )
            changes["HF_DATASETS_CACHE"] = Path(self._stack.enter_context(directory))
        self._stack.enter_context(_datasets_config(**changes))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def load(self, task: AbsTask) -> list[str]:
        """Read a task's data and, under a limit, cut them to a sample.

        Returns what is told, such as subsets that turned out not to be there. Raises DataError.
        """
        name = task.metadata.name
        if not task.data_loaded:
            try:
                with _offline_libraries() if self.offline else ExitStack():
                    task.load_data()
            except (MemoryError, KeyboardInterrupt, LibraryError):
                raise
            except Exception as error:  # the datasets library raises its own, arrow's, OS errors
                raise DataError(f"{name}: {self._why(task, error)}") from error
        # Retrieval tasks in mteb's older form are turned into the newer one.
        convert = getattr(task, "convert_v1_dataset_format_to_v2", None)
        if convert is not None:
            convert(num_proc=None)
        notes = self._check(task)
        if self.limit is not None:
            sample(task, self.limit)
        return notes

    def _check(self, task: AbsTask) -> list[str]:
        """Splits and subsets are what the task expects, and hold rows."""
        name, dataset = task.metadata.name, task.dataset
        if dataset is None:
            raise DataError(f"{name}: its data set is empty")
        single = "default" not in dataset and task.hf_subsets == ["default"]
        there = [subset for subset in task.hf_subsets if single or subset in dataset]
        gone = [subset for subset in task.hf_subsets if subset not in there]
        if not there:
            raise DataError(f"{name}: its data hold none of the subsets {', '.join(gone)}")
        task.hf_subsets = there
        for subset in there:
            splits = splits_of(task, subset)
            for split in task.eval_splits:
                if split not in splits:
                    raise DataError(
                        f"{name}: its data have no split {split!r} (there: "
                        f"{', '.join(map(str, splits)) or 'none'}); see --splits"
                    )
                if len(splits[split]) == 0:
                    raise DataError(f"{name}: its split {split!r} is empty")
        return [f"its data do not hold the subsets {', '.join(gone)}"] if gone else []

    def _why(self, task: AbsTask, error: Exception) -> str:
        path = task.metadata.dataset.get("path")
        if isinstance(error, CorpusError):
            return str(error)
        if self.data is not None:
            folder = Path(str(path))
            return _broken_line(folder) or (
                f"{folder} cannot be read ({_innermost(error)}){with_newer()}; check its files"
            )
        if self.offline:
            return (
                f"{path} is not in the hub's cache, and the hub is not asked (offline); give a "
                "folder that holds it with --data"
            )
        return f"{path} cannot be had from the hub ({_innermost(error)}){with_newer()}"


def _broken_line(folder: Path) -> str | None:
    """`file:line: reason` of the first line that is no JSON object, in a folder that failed."""
    for path in _data_files(folder):
        if not path.name.endswith(_LINES):
            continue
        try:
            with open_bytes(path) as source:
                lines = Lines(source.stream, str(path))
                for line in lines:
                    try:
                        parse_object(line)
                    except ValueError as error:
                        return f"{lines.source}: {error}"
        except CorpusError as error:
            return str(error)
    return None


def _innermost(error: BaseException) -> str:
    """The first line of the error at the bottom of a chain, with its kind."""
    seen = {id(error)}
    while (cause := error.__cause__ or error.__context__) is not None and id(cause) not in seen:
        seen.add(id(cause))
        error = cause
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _hub_is_off() -> bool:
    from huggingface_hub import is_offline_mode

    return bool(is_offline_mode())


@contextmanager
def quiet() -> Iterator[None]:
    """No bars, warnings and log lines of the libraries while a run shows its own.

    Some of mteb's bars cannot be switched off by an option, so bars that are made in here are off
    unless their maker insists.
    """
    import datasets
    from tqdm import tqdm

    with ExitStack() as stack:
        for name in _TALKATIVE:
            logger = logging.getLogger(name)
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.ERROR)
        stack.enter_context(_changed(tqdm, __init__=partialmethod(tqdm.__init__, disable=True)))
        if not datasets.are_progress_bars_disabled():
            stack.callback(datasets.enable_progress_bars)
            datasets.disable_progress_bars()
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _changed(library: Any, **changes: Any) -> Iterator[None]:
    """Names of a library under other values for a while; those that it lacks are left out."""
    before = {name: getattr(library, name) for name in changes if hasattr(library, name)}
    try:
        for name in before:
            setattr(library, name, changes[name])
        yield
    finally:
        for name, value in before.items():
            setattr(library, name, value)


@contextmanager
def _datasets_config(**changes: Any) -> Iterator[None]:
    """The datasets library under other settings for a while.

    Raises LibraryError where it has no cache that can be set: it would serve stale rows.
    """
    from datasets import config

    if "HF_DATASETS_CACHE" in changes and not hasattr(config, "HF_DATASETS_CACHE"):
        raise lacking("datasets", "has no config.HF_DATASETS_CACHE")
    with _changed(config, **changes):
        yield


@contextmanager
def _offline_libraries() -> Iterator[None]:
    """Keep datasets and the hub's client from the network while data are read.

    Raises LibraryError where the client cannot be kept from it.
    """
    from huggingface_hub import constants, is_offline_mode

    with _changed(constants, HF_HUB_OFFLINE=True), _datasets_config(HF_HUB_OFFLINE=True):
        if not is_offline_mode():
            raise lacking("huggingface-hub", "is not kept offline by constants.HF_HUB_OFFLINE")
        yield


def sample(task: AbsTask, size: int) -> None:
    """Keep a sample of each evaluated split, drawn with a seed from the task's name.

    Rows; texts of one set where rows are sets (older clustering tasks); queries with their
    relevant documents and as many others (retrieval). Training splits stay whole. What is measured
    on a sample is no score of the task.
    """
    for subset in task.hf_subsets:
        splits = splits_of(task, subset)
        for split in task.eval_splits:
            draw = np.random.default_rng(_seed(f"{task.metadata.name} {subset} {split}"))
            held = splits[split]
            is_rows = hasattr(held, "column_names")
            splits[split] = _some_rows(held, size, draw) if is_rows else _some(held, size, draw)


def _seed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def _drawn(count: int, size: int, draw: np.random.Generator) -> list[int]:
    """`size` of `count` positions, ascending."""
    if count <= size:
        return list(range(count))
    return sorted(int(i) for i in draw.choice(count, size, replace=False))


def _some_rows(rows: Any, size: int, draw: np.random.Generator) -> Any:
    from datasets import Dataset

    if len(rows) > size or not len(rows):
        return rows.select(_drawn(len(rows), size, draw))
    sets = [name for name, value in rows[0].items() if isinstance(value, list)]
    if len(sets) < 2 or len(sets) < len(rows[0]) or len({len(rows[0][n]) for n in sets}) != 1:
        return rows
    # Each row is a whole set of texts with their labels: one set, cut.
    one = rows[int(draw.integers(len(rows)))]
    kept = _drawn(len(one[sets[0]]), size, draw)
    return Dataset.from_list([{name: [one[name][i] for i in kept] for name in sets}])


def _some(held: Mapping[str, Any], size: int, draw: np.random.Generator) -> Any:
    """A retrieval split cut to `size` queries and a corpus that still has something to find."""
    queries = held["queries"].select(_drawn(len(held["queries"]), size, draw))
    kept = list(queries["id"])
    relevant = {query: held["relevant_docs"][query] for query in kept}
    ranked = held["top_ranked"]
    ids = list(held["corpus"]["id"])
    if ranked:
        ranked = {query: ranked[query] for query in kept if query in ranked}
        wanted = {document for documents in ranked.values() for document in documents}
    else:
        wanted = {ids[i] for i in _drawn(len(ids), size, draw)}
    wanted |= {document for judged in relevant.values() for document in judged}
    corpus = held["corpus"].select([i for i, document in enumerate(ids) if document in wanted])
    return {
        **held,
        "queries": queries,
        "corpus": corpus,
        "relevant_docs": relevant,
        "top_ranked": ranked,
    }
