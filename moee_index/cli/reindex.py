"""`moee-index reindex`: rebuild standardizer and FAISS files."""

from __future__ import annotations

from pathlib import Path

import click

from moee_index.cli.console import Console
from moee_index.cli.options import STANDARDIZE, json_option
from moee_index.cli.output import print_change


@click.command("reindex")
@click.argument("index", type=click.Path(path_type=Path))
@click.option(
    "--standardize",
    type=click.Choice(STANDARDIZE),
    help="Which parts are standardised. [default: both for 64 documents or more]",
)
@click.option(
    "--index-type",
    metavar="flat|FACTORY",
    help="flat is exact; a FAISS factory string is approximate. [default: the index's]",
)
@json_option
@click.pass_obj
def command(
    console: Console, /, index: Path, standardize: str | None, index_type: str | None, as_json: bool
) -> None:
    """Refit INDEX's standardizer on the documents that it holds now, and rewrite its FAISS files,
    from the raw vectors on disk: no model is needed."""
    from moee_index.index import reindex

    with console.progress("reindexing", "rows") as move:
        report = reindex(
            index,
            standardize=standardize,
            index_type=index_type,
            progress=move,
            notify=console.tell,
        )
    what = f"standardize {report.standardize}, index type {report.index_type}"
    print_change(report, what, as_json)
