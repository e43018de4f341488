"""mteb's own conformance suite over the bench's two models: every text task must give a result.

    cd tests && python -m stress.conformance [--model NAME|PATH] [--fit FIT] [--vectors DIR]

Runs `mteb.mock_run`, whose tasks are tiny and need no data, for each fit, on the encoder and, for
tasks that search, on the search model. Ends with status 1 if any task is not a result; what the
scores are is not looked at.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fakes.mock_tasks import mock_tasks
from moee_index.bench.adapter.encoder import MoeeEncoder, Setting
from moee_index.bench.adapter.search import MoeeSearch
from moee_index.bench.adapter.vectors import FITS
from moee_index.bench.mteb_internals import as_tested, searches
from moee_index.bench.vector_cache.encoder import StoredEncoder
from moee_index.bench.vector_cache.store import VectorStore
from moee_index.errors import MoeeIndexError

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask


def text_tasks(*, search: bool = False) -> list[AbsTask]:
    """mteb's mock tasks for text alone; search: those that search a corpus or candidates."""
    found = {
        task.metadata.name: task
        for task in mock_tasks()
        if set(task.metadata.modalities) == {"text"} and (searches(task) or not search)
    }
    return list(found.values())


@as_tested()
def failures(model: MoeeEncoder | MoeeSearch) -> list[str]:
    """`task: why` for each text task that gives no result, skipped ones included."""
    import mteb
    from mteb.results import TaskResult

    tested: Any = model
    results = mteb.mock_run(tested)
    found = []
    for task in text_tasks(search=isinstance(model, MoeeSearch)):
        status = results.task_results.get(task.metadata.name)
        if not isinstance(status, TaskResult):
            said = "not run" if status is None else str(getattr(status, "exception", status))
            found.append(f"{task.metadata.name}: {said.strip().splitlines()[-1]}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m stress.conformance", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--model", metavar="NAME|PATH", help="default: the bundled tiny")
    parser.add_argument("--bits", type=int, default=4, choices=(4, 16, 32))
    parser.add_argument("--vectors", type=Path, metavar="DIR", help="default: a temporary one")
    parser.add_argument("--fit", choices=FITS, action="append", help="these alone [all]")
    given = parser.parse_args(arguments)
    failed = 0
    with tempfile.TemporaryDirectory(prefix="moee-index-conformance-") as temporary:
        store = VectorStore(given.vectors or Path(temporary))
        try:
            stored = StoredEncoder.open(store, given.model, bits=given.bits)
            for kind in (MoeeEncoder, MoeeSearch):
                tasks = len(text_tasks(search=kind is MoeeSearch))
                for fit in given.fit or FITS:
                    found = failures(kind(stored, Setting("sum", fit=fit)))
                    failed += len(found)
                    print(f"{kind.__name__}, fit {fit}: {tasks - len(found)} of {tasks} tasks")
                    for line in found:
                        print(f"  {line}")
        except MoeeIndexError as error:
            print(f"Error: {error}", file=sys.stderr)
            return error.exit_status
        finally:
            store.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
