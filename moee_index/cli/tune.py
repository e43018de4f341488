"""`moee-index tune`: choose the weight of RW for an index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moee_index.cli.console import Console
from moee_index.cli.options import (
    MODEL_KEYS,
    json_option,
    load_encoder_of,
    model_options,
    split_model_options,
)
from moee_index.cli.output import print_json
from moee_index.cli.streams import say
from moee_index.errors import counted

if TYPE_CHECKING:
    from moee_index.tune.labelled import HeldOut, Tuning


@click.command("tune")
@click.argument("index", type=click.Path(path_type=Path))
@click.option(
    "--qrels",
    metavar="FILE",
    help="Relevance judgements: BEIR's qrels/test.tsv, or TREC's `query 0 document relevance`.",
)
@click.option(
    "--queries",
    metavar="FILE",
    help="The judged queries: BEIR's queries.jsonl, id<TAB>text, or one per line.",
)
@click.option("--save", is_flag=True, help="Make the chosen α the index's default.")
@json_option
@model_options("tune")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    index: Path,
    qrels: str | None,
    queries: str | None,
    save: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Choose α, the weight of RW in sim_HS + α·sim_RW, for INDEX.

    With --qrels and --queries: the α with the highest nDCG@10 on one half of the queries, and what
    it is worth on the other half. Without: no label is seen and no model is loaded; α is where the
    fused similarity of the index's own documents agrees best with both of its parts (Spearman
    correlation), as the paper describes. That balances the parts; it says nothing about relevance.
    """
    if (qrels is None) != (queries is None):
        there, lacking = ("--qrels", "--queries") if queries is None else ("--queries", "--qrels")
        raise click.UsageError(f"{there} needs {lacking} too; give both or neither")
    if qrels is None:
        _refuse_model_options(ctx)
    if qrels == queries == "-":
        raise click.UsageError("--qrels and --queries cannot both be read from stdin")

    from moee_index.index import Index
    from moee_index.index.change import check_writable, save_alpha
    from moee_index.tune.labelled import Trial, tune_with_labels
    from moee_index.tune.unlabelled import tune_without_labels

    console: Console = ctx.obj
    with Index.open(index) as opened:
        if save:
            check_writable(index)
        if qrels is None or queries is None:
            tuning = tune_without_labels(opened, notify=console.tell)
        else:
            # Anything wrong with the files is reported before the model is loaded.
            trial = Trial.read(opened, queries, qrels, console.tell)
            options, _ = split_model_options(given)
            encoder = load_encoder_of(console, opened, options)
            with console.progress("searching", "queries") as progress:
                tuning = tune_with_labels(
                    opened, encoder, trial, notify=console.tell, progress=progress
                )
    saved = False
    try:
        if save:
            save_alpha(index, tuning.alpha)
            saved = True
    finally:
        # The result is printed even where it cannot be saved.
        if as_json:
            print_json({"index": str(index), **tuning.as_json(), "saved": saved})
        else:
            _print(index, tuning, saved)


def _refuse_model_options(ctx: click.Context) -> None:
    """Without queries nothing is embedded; what the environment says is meant for all commands."""
    for name in MODEL_KEYS:
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = next(parameter for parameter in ctx.command.params if parameter.name == name)
            raise click.UsageError(
                f"{option.opts[0]} is for embedding queries; without --qrels and --queries no "
                "model is loaded"
            )


def _print(index: Path, tuning: Tuning, saved: bool) -> None:
    if tuning.held_out is None:
        say(
            "without labels: Spearman correlation with HS and RW over "
            f"{counted(tuning.pairs, 'pair')} of {counted(tuning.documents, 'document')}"
        )
        heading = "mean correlation"
    else:
        choosing = tuning.queries - tuning.held_out.queries
        say(f"nDCG@10 on the half of {counted(choosing, 'query', 'queries')} that α is chosen on")
        heading = "nDCG@10"
    say(f"{'α':>8}  {heading}")
    for point in tuning.curve:
        mark = "  chosen" if point.alpha == tuning.alpha else ""
        say(f"{point.alpha:>8g}  {point.value:.4f}{mark}")
    if tuning.held_out is not None:
        _print_held_out(tuning, tuning.held_out)
    if saved:
        say(f"α {tuning.alpha:g} is now the default of {index} (it was {tuning.previous:g})")
    else:
        say(f"α {tuning.alpha:g}; {index} keeps {tuning.previous:g} (--save changes it)")


def _print_held_out(tuning: Tuning, held_out: HeldOut) -> None:
    say(f"\nnDCG@10 on the other half, {counted(held_out.queries, 'query', 'queries')}")
    for name, value in (
        (f"α {tuning.alpha:g}, chosen", held_out.chosen),
        (f"α {tuning.previous:g}, the index's", held_out.current),
        ("HS alone", held_out.hs),
        ("RW alone", held_out.rw),
    ):
        say(f"  {name:<20} {value:.4f}")
    say(
        f"  {'gain':<20} {held_out.gain:+.4f}   95 % interval {held_out.low:+.4f} to "
        f"{held_out.high:+.4f}"
    )
