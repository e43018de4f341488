"""`moee-index add`: add documents to an index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from moee_index.cli.console import Console
from moee_index.cli.options import (
    CorpusFiles,
    corpus_options,
    json_option,
    load_encoder_of,
    model_options,
    split_corpus_options,
    split_model_options,
    worker_options,
    workers_of,
)
from moee_index.cli.output import print_json
from moee_index.cli.streams import say
from moee_index.errors import counted


@click.command("add")
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("corpus", nargs=-1, required=True, metavar="CORPUS…")
@click.option(
    "--update",
    is_flag=True,
    help="Replace documents whose id is in the index with different content.",
)
@corpus_options
@worker_options
@json_option
@model_options("add")
@click.pass_obj
def command(
    console: Console,
    /,
    index: Path,
    corpus: tuple[str, ...],
    update: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Embed the new documents of CORPUS into INDEX, with the index's model and standardizer.

    A document that is there already is skipped; with --update one whose text has become empty is
    taken out. Started again after an interruption it goes on where it stopped; the index answers as
    before until everything is in.
    """
    reading, given = split_corpus_options(given)
    files = CorpusFiles(console, corpus, reading)

    from moee_index.encode.recipe import Recipe
    from moee_index.index import Index, add_documents

    options, rest = split_model_options(given)
    workers = workers_of(rest, options)
    with Index.open(index) as opened:
        encoder = (
            load_encoder_of(console, opened, options, few_texts=False)
            if workers is None
            else Recipe(options, opened.located_spec())
        )
    with files.progress(console) as progress:
        report = add_documents(
            index,
            files.read,
            encoder,
            update=update,
            on_bad=reading["on_bad"],
            progress=progress,
            notify=console.tell,
            workers=workers,
        )
    if as_json:
        print_json(report.as_json())
        return
    removed = f"removed {report.removed} (empty now), " if report.removed else ""
    say(
        f"{report.index}: read {report.read}, added {report.added}, updated {report.updated}, "
        f"{removed}unchanged {report.unchanged}, truncated {report.truncated}, skipped "
        f"{report.skipped} empty, rejected {report.rejected}; "
        f"{counted(report.documents, 'document')}; {report.seconds:.1f} s, "
        f"{report.texts_per_second:.1f} texts/s"
    )
