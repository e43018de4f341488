"""What `bench` and `bench analyze` share: options that choose tasks, and what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moee_index.cli.console import Console
from moee_index.cli.options import tell_bundled

if TYPE_CHECKING:
    from moee_index.bench.tasks import Question

data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder of data sets in the hub's layout (DIR/mteb/stsbenchmark-sts/…); nothing is then "
    "asked of the hub. [default: the hub and its cache]",
)
vectors_option = click.option(
    "--vectors",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where raw vectors are kept, so that no text is embedded twice. [default: vectors in "
    "MOEE_INDEX_CACHE or the platform's cache]",
)
languages_option = click.option(
    "--languages",
    metavar="L,…",
    help="ISO 639-3 codes, or all. A task's subset runs when all its languages are named. "
    "[default: eng where a task has it]",
)
splits_option = click.option("--splits", metavar="S,…", help="Splits. [default: those of mteb]")
limit_option = click.option(
    "--limit",
    type=int,
    metavar="N",
    help="A sample of N rows, texts or queries of each split, seeded by the task's name: to try "
    "things, no score.",
)


def keep_offline(offline: bool) -> None:
    """--offline must stand before the hub's client is imported; it reads it once."""
    import os

    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"


def read_question(
    tasks: str | None,
    benchmark: str | None,
    data: Path | None,
    languages: str | None,
    splits: str | None,
    deprecated_summeval: bool = False,
) -> Question:
    from moee_index.bench.tasks import Question, split_list

    def values(text: str | None, option: str) -> tuple[str, ...]:
        return () if text is None else tuple(split_list(text, option))

    return Question(
        tasks=values(tasks, "--tasks"),
        benchmark=benchmark,
        languages=values(languages, "--languages"),
        splits=values(splits, "--splits"),
        data=data,
        deprecated_summeval=deprecated_summeval,
    )


def model_of(console: Console, options: dict[str, Any]) -> dict[str, Any]:
    """The model's options: 4 bits where nothing else is said. Tells of the bundled model."""
    tell_bundled(console, options)
    return {**options, "bits": options["bits"] if options["bits"] is not None else 4}
