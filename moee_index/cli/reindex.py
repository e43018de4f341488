"""`moee-index reindex`: rebuild standardizer and FAISS files, or postings."""

from __future__ import annotations

from pathlib import Path

import click

from moee_index.cli.console import Console
from moee_index.cli.options import STANDARDIZE, json_option, language_option, recall_option
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
    metavar="flat|approx|FACTORY",
    help="flat is exact; approx is approximate and knows its recall; a FAISS factory string is "
    "approximate. [default: the index's]",
)
@recall_option(
    "A search of an approximate index is to find this share of the ten best. [default: "
    "the index's, else 0.95]"
)
@click.option(
    "--lexical",
    is_flag=True,
    help="Write the postings, which a search by words needs, and change nothing else.",
)
@language_option(None, "the index's, else none; with --lexical")
@json_option
@click.pass_obj
def command(
    console: Console,
    /,
    index: Path,
    standardize: str | None,
    index_type: str | None,
    recall: float | None,
    lexical: bool,
    language: str | None,
    as_json: bool,
) -> None:
    """Refit INDEX's standardizer on the documents that it holds now, and rewrite its FAISS files,
    from the raw vectors on disk: no model is needed."""
    if lexical and (standardize or index_type or recall):
        raise click.UsageError(
            "--lexical changes neither standardizer nor index type; leave these out"
        )
    if language is not None and not lexical:
        raise click.UsageError("--language is about words; give --lexical with it")

    from moee_index.index import reindex, reindex_lexical

    with console.progress("reindexing", "rows") as move:
        if lexical:
            report = reindex_lexical(index, language=language, progress=move, notify=console.tell)
        else:
            report = reindex(
                index,
                standardize=standardize,
                index_type=index_type,
                recall=recall,
                progress=move,
                notify=console.tell,
            )
    what = f"standardize {report.standardize}, index type {report.index_type}"
    print_change(report, "postings written" if lexical else what, as_json)
