"""`moee-index sync`: make an index what its corpus is."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
)
from moee_index.cli.output import print_json
from moee_index.cli.streams import say
from moee_index.errors import counted

if TYPE_CHECKING:
    from moee_index.encode.encoder import Encoder
    from moee_index.types import EncoderSpec


@click.command("sync")
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("corpus", nargs=-1, required=True, metavar="CORPUS…")
@click.option("--dry-run", is_flag=True, help="Tell what would change; change nothing.")
@click.option("--yes", is_flag=True, help="Go on where more than half of the documents would go.")
@corpus_options
@json_option
@model_options("sync")
@click.pass_obj
def command(
    console: Console,
    /,
    index: Path,
    corpus: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Make INDEX what CORPUS is: add what is new, replace what has changed, delete what is gone.

    The index answers as before until all of it is done, then as the new one. Documents are told by
    their ids; the files of a folder by their paths, and they are read again only where time or size
    differ. The model is loaded only where something is to be embedded.
    """
    reading, given = split_corpus_options(given)
    files = CorpusFiles(console, corpus, reading)
    files.check_read_twice("synced")

    from moee_index.index import Index
    from moee_index.index.sync import plan_sync, sync_index

    if dry_run:
        plan = plan_sync(index, files.read, on_bad=reading["on_bad"])
        if as_json:
            print_json(asdict(plan))
            return
        say(
            f"{index}: would add {plan.added}, update {plan.updated}, delete {plan.removed}, leave "
            f"{plan.unchanged} as they are; skipped {plan.skipped} empty, rejected {plan.rejected}"
        )
        return
    options, _ = split_model_options(given)

    def load(_: EncoderSpec) -> Encoder:
        with Index.open(index) as opened:
            return load_encoder_of(console, opened, options, few_texts=False)

    with files.progress(console) as progress:
        report = sync_index(
            index,
            files.read,
            load,
            shrink=yes,
            on_bad=reading["on_bad"],
            progress=progress,
            notify=console.tell,
        )
    if as_json:
        print_json({**report.as_json(), "removed": report.removed})
        return
    say(
        f"{report.index}: read {report.read}, added {report.added}, updated {report.updated}, "
        f"deleted {report.removed}, unchanged {report.unchanged}, truncated {report.truncated}, "
        f"skipped {report.skipped} empty, rejected {report.rejected}; "
        f"{counted(report.documents, 'document')}"
    )
