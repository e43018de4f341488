"""`moee-index tune`: choose the weights of RW and of words for an index."""

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
@click.option("--save", is_flag=True, help="Make what is chosen the index's defaults.")
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
    """Choose α, the weight of RW in sim_HS + α·sim_RW, and the weight of words for INDEX.

    With --qrels and --queries: the α and the weight of words (`query --lexical`) that have the
    highest nDCG@10 together on one half of the queries, and what they are worth on the other half;
    α alone where INDEX has no postings. Without: α alone; no label is seen and no model is loaded;
    α is where the fused similarity of the index's own documents agrees best with both of its parts
    (Spearman correlation), as the paper describes. That balances the parts; it says nothing about
    relevance.
    """
    if (qrels is None) != (queries is None):
        there, lacking = ("--qrels", "--queries") if queries is None else ("--queries", "--qrels")
        raise click.UsageError(f"{there} needs {lacking} too; give both or neither")
    if qrels is None:
        _refuse_model_options(ctx)
    if qrels == queries == "-":
        raise click.UsageError("--qrels and --queries cannot both be read from stdin")

    from moee_index.index import Index
    from moee_index.index.change import check_writable, save_weights
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
            save_weights(index, tuning.alpha, tuning.lexical, judged=tuning.recall)
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
        say(f"nDCG@10 on the half of {counted(choosing, 'query', 'queries')} that is chosen on")
        heading = "nDCG@10"
        _print_weights(tuning)
    say(f"{'α':>8}  {heading}")
    for point in tuning.curve:
        mark = "  chosen" if point.alpha == tuning.alpha else ""
        say(f"{point.alpha:>8g}  {point.value:.4f}{mark}")
    if tuning.held_out is not None:
        _print_held_out(tuning, tuning.held_out)
    if tuning.recall is not None:
        say(
            f"recall@10 of the approximate index over {tuning.recall.search}: "
            f"{tuning.recall.recall:.3f} ± {tuning.recall.interval:.3f}"
        )
    chosen, before = _chosen(tuning), _before(tuning)
    if saved:
        say(f"{chosen} is now the default of {index} (it was {before})")
    else:
        say(f"{chosen}; {index} keeps {before} (--save changes it)")


def _chosen(tuning: Tuning) -> str:
    weight = tuning.lexical
    return f"α {tuning.alpha:g}" + ("" if weight is None else f" with words {weight:g}")


def _before(tuning: Tuning) -> str:
    weight = None if tuning.lexical is None else tuning.previous_lexical
    return f"{tuning.previous:g}" + ("" if weight is None else f" with words {weight:g}")


def _print_weights(tuning: Tuning) -> None:
    """The weights of words, each with its best α; nothing where only α was chosen."""
    if tuning.lexical is None:
        return
    say(f"{'words':>8}  nDCG@10")
    for point in tuning.lexical_curve:
        alpha = "words alone" if point.lexical == 1 else f"α {point.alpha:g}"
        mark = "  chosen" if point.lexical == tuning.lexical else ""
        say(f"{point.lexical:>8g}  {point.value:.4f}  {alpha}{mark}")
    if tuning.lexical < 1:
        say(f"with words {tuning.lexical:g}:")


def _print_held_out(tuning: Tuning, held_out: HeldOut) -> None:
    say(f"\nnDCG@10 on the other half, {counted(held_out.queries, 'query', 'queries')}")
    lines = [
        (f"{_chosen(tuning)}, chosen", held_out.chosen),
        (f"α {_before(tuning)}, the index's", held_out.current),
        ("HS alone", held_out.hs),
        ("RW alone", held_out.rw),
    ]
    if held_out.dense is not None and held_out.words is not None:
        lines.append((f"α {held_out.dense_alpha:g} without words", held_out.dense))
        lines.append(("words alone", held_out.words))
    width = max(20, *(len(name) for name, _ in lines))
    for name, value in lines:
        say(f"  {name:<{width}} {value:.4f}")
    say(
        f"  {'gain':<{width}} {held_out.gain:+.4f}   95 % interval {held_out.low:+.4f} to "
        f"{held_out.high:+.4f}"
    )
