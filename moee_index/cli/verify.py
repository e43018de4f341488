"""`moee-index verify`: check the files of an index."""

from __future__ import annotations

from pathlib import Path

import click

from moee_index.cli.options import json_option
from moee_index.cli.output import print_json
from moee_index.cli.streams import say, say_aside
from moee_index.errors import counted


@click.command("verify")
@click.argument("index", type=click.Path(path_type=Path))
@click.option("--full", is_flag=True, help="Every checksum, and every code against its raw row.")
@json_option
@click.pass_context
def command(ctx: click.Context, /, index: Path, full: bool, as_json: bool) -> None:
    """Check sizes, counts and databases of INDEX; with --full every byte. Exit status 1 if
    anything is wrong."""
    from moee_index.index import verify_index

    report = verify_index(index, full=full)
    if as_json:
        print_json({"index": str(index), "full": full, "problems": list(report.problems)})
    for problem in report.problems:
        say_aside(f"Error: {problem}")
    if report.problems:
        ctx.exit(1)
    if not as_json:
        checked = "every checksum and code" if full else "sizes, counts and databases"
        say(f"{index} is sound: {counted(report.documents, 'document')}, {checked} checked")
