"""`moee-index compact`: rewrite an index without what was deleted."""

from __future__ import annotations

from pathlib import Path

import click

from moee_index.cli.console import Console
from moee_index.cli.options import json_option
from moee_index.cli.output import print_change


@click.command("compact")
@click.argument("index", type=click.Path(path_type=Path))
@json_option
@click.pass_obj
def command(console: Console, /, index: Path, as_json: bool) -> None:
    """Write INDEX as one segment, without what was deleted or replaced: less disk, fewer files,
    and one FAISS file a part."""
    from moee_index.index import compact_index

    with console.progress("compacting", "rows") as move:
        report = compact_index(index, progress=move)
    print_change(report, "compacted", as_json)
