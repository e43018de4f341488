"""`moee-index quantize`: write a 4-bit checkpoint of a model."""

from __future__ import annotations

from pathlib import Path

import click

from moee_index.cli.console import Console
from moee_index.cli.streams import say


@click.command("quantize")
@click.argument("model", metavar="MODEL")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--revision", metavar="R", help="Revision on the hub. [default: the newest]")
@click.option(
    "--double-quant/--no-double-quant",
    default=True,
    show_default=True,
    help="Quantise the statistics too: 0.516 bytes a weight instead of 0.5625.",
)
@click.option("--offline", is_flag=True, help="Never ask the hub; its cache and directories only.")
@click.pass_obj
def command(
    console: Console,
    /,
    model: str,
    directory: Path,
    revision: str | None,
    double_quant: bool,
    offline: bool,
) -> None:
    """Quantise MODEL (a checkpoint directory or a hub id) and write it to DIRECTORY, which
    `--model DIRECTORY` then opens at once."""
    from moee_index.model.load.quantize import quantize_checkpoint

    with console.progress("quantising", "B", scale=True) as progress:
        written = quantize_checkpoint(
            model,
            directory,
            revision=revision,
            double_quant=double_quant,
            offline=offline,
            progress=progress,
            tell=console.tell,
        )
    size = sum(file.stat().st_size for file in written.iterdir())
    say(f"{written}: {size / 1e6:.1f} MB; use it with --model {written}")
