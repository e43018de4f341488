"""`moee-index export`: vectors and documents for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from moee_index.cli.console import Console
from moee_index.cli.options import METHODS, filter_option, json_option
from moee_index.cli.output import print_json
from moee_index.cli.streams import say
from moee_index.errors import counted


@click.command("export")
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "--method",
    type=click.Choice(METHODS),
    help="One vector a row whose inner product is this method's score. [default: sum, as "
    "[h ; √α·r]]",
)
@click.option(
    "--alpha", type=float, metavar="A", help="Weight of RW in `sum`. [default: the index's]"
)
@click.option(
    "--raw", is_flag=True, help="Neither standardised nor normalised (hs, rw, concat, --parts)."
)
@click.option("--parts", is_flag=True, help="Two columns, hs and rw, instead of one vector.")
@filter_option("Only documents whose metadata match, as in `query`.")
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
@json_option
@click.pass_obj
def command(
    console: Console,
    /,
    index: Path,
    file: Path,
    method: str | None,
    alpha: float | None,
    raw: bool,
    parts: bool,
    condition: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Write the passages of INDEX and their vectors to FILE, for other vector databases.

    FILE's ending is the format: .parquet, .jsonl (id, passage, text, title, metadata, vector),
    .npy (the matrix; ids in <stem>.ids.jsonl) or .safetensors (ids in its header). How to embed
    queries for such vectors is shown. FILE appears whole or not at all.
    """
    from moee_index.export.export import check_export, export_index

    options = {"method": method, "alpha": alpha, "raw": raw, "parts": parts, "overwrite": overwrite}
    check_export(file, **options)  # type: ignore[arg-type]
    if condition is not None:
        from moee_index.index.filters import Filter

        Filter.parse(condition)
    from moee_index.index import Index

    with Index.open(index) as opened, console.progress("exporting", "rows") as progress:
        report = export_index(opened, file, filter=condition, progress=progress, **options)  # type: ignore[arg-type]
    console.tell(report.query)
    if as_json:
        print_json(report.as_json())
        return
    numbers = " and ".join(f"{dim} {name}" for name, dim in report.dims.items())
    alpha_told = f", alpha {report.alpha}" if report.alpha is not None else ""
    what = f"method {report.method}{alpha_told}" if report.method is not None else "both parts"
    say(
        f"{report.file}: {counted(report.rows, 'row')} of {counted(report.documents, 'document')} "
        f"({numbers} numbers a row; {what}{', raw' if report.raw else ''}), "
        f"{report.bytes / 1e6:.1f} MB" + (f"; ids in {report.ids}" if report.ids else "")
    )
