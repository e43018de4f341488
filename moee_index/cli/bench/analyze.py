"""`moee-index bench analyze`: the paper's analyses of HS and RW with any model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from moee_index.cli.bench.options import (
    data_option,
    keep_offline,
    languages_option,
    limit_option,
    model_of,
    read_question,
    splits_option,
    vectors_option,
)
from moee_index.cli.console import Console
from moee_index.cli.options import json_option, model_options, split_model_options
from moee_index.cli.output import print_json
from moee_index.cli.streams import say


@click.command("analyze")
@click.option(
    "--tasks",
    default="STS,Clustering",
    show_default=True,
    metavar="T,…",
    help="STS and clustering tasks, by type or name.",
)
@data_option
@languages_option
@splits_option
@limit_option
@click.option(
    "--only",
    metavar="A,…",
    help="Some of: clusters, prompts, complementarity, routing, controls. [default: all]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("bench-analysis"),
    show_default=True,
    metavar="DIR",
    help="analysis.md, analysis.html, analysis.json and plots.",
)
@vectors_option
@json_option
@model_options("bench_analyze")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    tasks: str,
    data: Path | None,
    languages: str | None,
    splits: str | None,
    limit: int | None,
    only: str | None,
    out: Path,
    vectors: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Look at the paper's analyses with any model: agreement of HS and RW clusters, the nine
    prompts, error complementarity, RW layer by layer, and controls that the paper lacks."""
    console: Console = ctx.obj
    options, _ = split_model_options(given)
    keep_offline(bool(options["offline"]))
    question = read_question(tasks, None, data, languages, splits)

    from moee_index.bench.analyses.run import analyze as look
    from moee_index.bench.data import DataError
    from moee_index.bench.tasks import split_list
    from moee_index.bench.vector_cache.encoder import StoredEncoder
    from moee_index.bench.vector_cache.store import VectorStore, default_directory

    names = split_list(only, "--only") if only is not None else None
    model = model_of(console, options)
    store = VectorStore(vectors or default_directory(), notify=console.tell)
    try:
        stored = StoredEncoder.open(store, **model, notify=console.tell)
        with console.progress("embedding", "texts") as progress:
            found = look(
                question,
                stored,
                out,
                offline=bool(options["offline"]),
                limit=limit,
                only=names,
                tell=console.tell,
                progress=lambda what: progress,
            )
    finally:
        store.close()
    if as_json:
        print_json({"out": str(out), "files": [str(path) for path in found.files]})
    else:
        for path in found.files:
            say(str(path))
    if found.missing:
        task, why = found.missing[0]
        more = f" and {len(found.missing) - 1} more" if len(found.missing) > 1 else ""
        raise DataError(f"could not be analysed: {task}: {why}{more}")
