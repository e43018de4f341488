"""`moee-index build`: read a corpus, embed it, write an index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moee_index.cli.console import Console
from moee_index.cli.options import (
    STANDARDIZE,
    CorpusFiles,
    corpus_options,
    json_option,
    language_option,
    load_encoder,
    model_options,
    recall_option,
    split_corpus_options,
    split_model_options,
    tell_bundled,
    worker_options,
    workers_of,
)
from moee_index.cli.output import print_json
from moee_index.cli.streams import say
from moee_index.errors import counted
from moee_index.types import IDF

if TYPE_CHECKING:
    from moee_index.index import BuildReport
    from moee_index.index.estimate import Estimate
    from moee_index.index.workers.start import Workers


@click.command("build")
@click.argument("corpus", nargs=-1, required=True, metavar="CORPUS…")
@click.option(
    "--index",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the index goes. [default: indexes/<stem of the first corpus>]",
)
@click.option(
    "--index-type",
    default="auto",
    show_default=True,
    metavar="auto|flat|approx|FACTORY",
    help="flat is exact; approx is approximate and knows its recall; a FAISS factory string such "
    "as HNSW32 is approximate.",
)
@recall_option(
    "A search of an approximate index is to find this share of the ten best. [default: 0.95]"
)
@click.option(
    "--standardize",
    type=click.Choice(STANDARDIZE),
    help="Which parts are standardised over the corpus. [default: both for 64 documents or more]",
)
@corpus_options
@click.option(
    "--chunk",
    metavar="N[:OVERLAP]",
    help="Split documents into passages of at most N tokens, at sentence ends, each repeating "
    "OVERLAP tokens of the one before.",
)
@language_option(None, "the model's own, else none")
@click.option(
    "--idf",
    type=click.Choice(["model", "corpus"]),
    default="model",
    show_default=True,
    help="What --pooling idf weighs tokens by: the model's own table, or one counted over CORPUS. "
    "A model without a table always takes one of the corpus.",
)
@click.option(
    "--store",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="How raw vectors are kept on disk.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace a finished index, once the new one is whole."
)
@click.option(
    "--dry-run", is_flag=True, help="Estimate documents, tokens, minutes and bytes; write nothing."
)
@worker_options
@json_option
@model_options("build")
@click.pass_obj
def command(
    console: Console,
    /,
    corpus: tuple[str, ...],
    index: Path | None,
    dry_run: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Read CORPUS (JSONL, JSON, CSV, TSV, Parquet, .txt, a BEIR folder, a folder of Parquet files,
    or - for JSON lines on stdin; .gz and .zst of these), embed it and write an index.

    Started again after an interruption it goes on where it stopped.
    """
    from moee_index.readers.corpus import default_index_name
    from moee_index.types import Chunking

    if index is None:
        index = Path("indexes") / default_index_name(corpus)
    reading, given = split_corpus_options(given)
    options, building = split_model_options(given)
    workers = workers_of(building, options)
    chunk = building["chunk"]
    building["chunk"] = Chunking.parse(chunk) if chunk is not None else None
    files = CorpusFiles(console, corpus, reading)
    if workers is not None and not dry_run:
        _print(_build_by(workers, console, index, files, options, building, reading), as_json)
        return
    encoder = load_encoder(console, options)
    if encoder.spec.lacks_token_weights or building["idf"] == "corpus":
        files.check_read_twice("built with --pooling idf")
    if dry_run:
        from moee_index.index.estimate import estimate

        _print_estimate(
            estimate(files.read(), encoder, store=building["store"], chunk=building["chunk"]),
            as_json,
        )
        return

    from moee_index.index import build_index

    with files.progress(console) as progress:
        report = build_index(
            index,
            files.read,
            encoder,
            model_bytes=encoder.running.bytes(),
            progress=progress,
            notify=console.tell,
            on_bad=reading["on_bad"],
            **building,
        )
    _print(report, as_json)


def _build_by(
    workers: Workers,
    console: Console,
    index: Path,
    files: CorpusFiles,
    options: dict[str, Any],
    building: dict[str, Any],
    reading: dict[str, Any],
) -> BuildReport:
    """Build by several processes; this one loads no model."""
    from moee_index.encode.recipe import Recipe
    from moee_index.index import build_index

    tell_bundled(console, options)
    if options["pooling"] == IDF or building["idf"] == "corpus":
        files.check_read_twice("built with --pooling idf")
    with files.progress(console) as progress:
        return build_index(
            index,
            files.read,
            Recipe(options),
            workers=workers,
            progress=progress,
            notify=console.tell,
            on_bad=reading["on_bad"],
            **building,
        )


def _print(report: BuildReport, as_json: bool) -> None:
    if as_json:
        print_json(report.as_json())
    else:
        _print_report(report)


def _print_report(report: BuildReport) -> None:
    if report.unchanged:
        say(
            f"{report.index} is already finished and nothing has changed: "
            f"{counted(report.embedded, 'document')}"
        )
        return
    resumed = f" ({report.resumed} of them before an interruption)" if report.resumed else ""
    say(
        f"{report.index}: read {report.read}, embedded {report.embedded}{resumed}, truncated "
        f"{report.truncated}, skipped {report.skipped} empty, rejected {report.rejected}; "
        f"{report.seconds:.1f} s, {report.texts_per_second:.1f} texts/s, "
        f"{report.tokens_per_second:.0f} tokens/s"
    )


def _print_estimate(estimate: Estimate, as_json: bool) -> None:
    if as_json:
        print_json(estimate.as_json())
        return
    say(
        f"would embed {counted(estimate.documents, 'document')} ({estimate.skipped} empty skipped, "
        f"{estimate.truncated} truncated), {counted(estimate.tokens, 'token')}: about "
        f"{estimate.seconds / 60:.1f} minutes at {estimate.tokens_per_second:.0f} tokens/s, "
        f"{estimate.bytes / 1e6:.1f} MB on disk"
    )
