"""`moee-index bench report`: the report of run directories, written anew."""

from __future__ import annotations

from pathlib import Path

import click

from moee_index.cli.console import Console
from moee_index.cli.streams import say


@click.command("report")
@click.argument(
    "directories", nargs=-1, required=True, metavar="DIR…", type=click.Path(path_type=Path)
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the report goes. [default: the directory, or bench-report for several]",
)
@click.pass_obj
def command(console: Console, /, directories: tuple[Path, ...], out: Path | None) -> None:
    """Write report.md, report.html and the plots anew; with several run directories, compare
    them."""
    from moee_index.bench.report.build import write_report

    target = out or (directories[0] if len(directories) == 1 else Path("bench-report"))
    for path in write_report(list(directories), target, tell=console.tell):
        say(str(path))
