"""`moee-index mcp`: indexes as tools of an assistant, over stdin and stdout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from moee_index.cli.console import Console
from moee_index.cli.options import model_options, split_model_options
from moee_index.cli.serving import models_of, name_option, with_batch_tokens
from moee_index.errors import MisuseError


@click.command("mcp")
@click.argument("indexes", nargs=-1, metavar="INDEX…", type=click.Path(path_type=Path))
@name_option("Also the index in DIR, under the name N.")
@click.option(
    "--deadline",
    type=click.FloatRange(min=0, min_open=True),
    default=45.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a call may wait, for the model too; most clients wait for 60 seconds.",
)
@model_options("mcp")
@click.pass_obj
def command(
    console: Console,
    /,
    indexes: tuple[Path, ...],
    named: tuple[str, ...],
    deadline: float,
    **given: Any,
) -> None:
    """Give an assistant tools that search each INDEX (Model Context Protocol).

    The assistant's program starts this command and talks to it over stdin and stdout. The tools
    are there at once, while the model loads. `moee-index serve` has the same tools at /mcp.
    """
    from moee_index.serve.libraries import MCP, check_installed
    from moee_index.serve.mcp.wire import Wire
    from moee_index.serve.settings import Limits, Settings, named_indexes

    if not indexes and not named:
        raise MisuseError("name the directory of an index: moee-index mcp INDEX")
    check_installed(MCP)
    options, _ = split_model_options(given)
    limits = with_batch_tokens(Limits(deadline=deadline), options)
    settings = Settings(named_indexes(indexes, named), limits=limits)
    wire = Wire.take()

    from moee_index.serve.mcp.over_stdio import serve
    from moee_index.serve.server import Server

    serve(Server(settings, models_of(console, options)), wire, console.tell)
