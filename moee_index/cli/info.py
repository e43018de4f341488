"""`moee-index info`: what an index holds, or what this program finds on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from moee_index.cli.console import Console
from moee_index.cli.options import json_option
from moee_index.cli.output import print_json


@click.command("info")
@click.argument("index", required=False, type=click.Path(path_type=Path))
@click.option("--prune-cache", is_flag=True, help="Remove the cached 4-bit forms of models.")
@json_option
@click.pass_obj
def command(console: Console, /, index: Path | None, prune_cache: bool, as_json: bool) -> None:
    """Tell what INDEX holds; without INDEX: versions, devices, models at hand, cached models."""
    if prune_cache:
        if index is not None:
            raise click.UsageError("--prune-cache is about the program; leave INDEX out")
        from moee_index.model.cache import Cache

        freed = Cache(console.tell).prune()
        console.tell(f"removed {freed / 1e9:.2f} GB of cached 4-bit forms")
    if index is None:
        from moee_index.machine import describe_program

        found = describe_program()
    else:
        from moee_index.index import Index

        with Index.open(index) as opened:
            found = opened.info()
    if as_json:
        print_json(found)
    else:
        _print(found, "")


def _print(value: dict[str, Any], indent: str) -> None:
    for key, held in value.items():
        if isinstance(held, dict):
            click.echo(f"{indent}{key}")
            _print(held, indent + "  ")
        elif isinstance(held, list):
            click.echo(f"{indent}{key}")
            for one in held:
                click.echo(f"{indent}  {one}")
        else:
            click.echo(f"{indent}{key:<{max(1, 18 - len(indent))}} {held}")
