"""`moee-index serve`: model and indexes warm, asked over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from moee_index.cli.console import Console
from moee_index.cli.options import model_options, split_model_options
from moee_index.cli.serving import (
    check_no_model_options,
    models_of,
    name_option,
    with_batch_tokens,
)
from moee_index.cli.streams import print_json_line


@click.command("serve")
@click.argument("indexes", nargs=-1, metavar="[INDEX…]")
@name_option("Also serve the index in DIR, under the name N.")
@click.option(
    "--segments",
    metavar="RANGE",
    help="Of the one INDEX, serve only these segments, to a head: 0-3, or 4- for 4 and all later. "
    "No model is loaded.",
)
@click.option(
    "--shards",
    "of_shards",
    is_flag=True,
    help="Be a head: in place of INDEX there are addresses of servers with --segments, whose index "
    "is served as one.",
)
@click.option(
    "--shard-timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a head waits for each shard.",
)
@click.option(
    "--shard-key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The key that shards want, first line of FILE. [default: that of MOEE_INDEX_API_KEY]",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="The port; 0 takes a free one, which is told.",
)
@click.option(
    "--api-key-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Keys, one a line, of which clients send one as `Authorization: Bearer KEY`.",
)
@click.option(
    "--no-auth", is_flag=True, help="Anybody who reaches the port may ask, on any --host."
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="A further name of this server in requests, such as a proxy's. May be given several "
    "times.",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    help="A site whose pages may ask, such as https://example.org. May be given several times.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long accepted requests have to be answered after a SIGTERM.",
)
@click.option(
    "--deadline",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a request may wait and take; after it, 503.",
)
@click.option(
    "--queue-tokens",
    type=click.IntRange(min=1),
    default=300_000,
    show_default=True,
    metavar="N",
    help="Tokens of all requests that are in; beyond these, 429.",
)
@click.option(
    "--max-body",
    type=click.IntRange(min=1),
    default=8 << 20,
    show_default=True,
    metavar="BYTES",
    help="The largest body of a request; beyond it, 413.",
)
@click.option("--no-log", is_flag=True, help="No JSON line a request on stdout.")
@click.option("--log-texts", is_flag=True, help="The lines also hold queries and texts.")
@model_options("serve")
@click.pass_obj
def command(
    console: Console,
    /,
    indexes: tuple[str, ...],
    named: tuple[str, ...],
    segments: str | None,
    of_shards: bool,
    shard_timeout: float,
    shard_key_file: Path | None,
    host: str,
    port: int,
    api_key_file: Path | None,
    no_auth: bool,
    allowed_hosts: tuple[str, ...],
    cors_origins: tuple[str, ...],
    grace: float,
    deadline: float,
    queue_tokens: int,
    max_body: int,
    no_log: bool,
    log_texts: bool,
    **given: Any,
) -> None:
    """Answer searches of each INDEX, embeddings and reranking over HTTP.

    Without an INDEX, embeddings and reranking alone. An index that is too large for one machine is
    served by several, each with some --segments, and a head with --shards. Ctrl-C or SIGTERM ends
    it, once what was accepted is answered.
    """
    from moee_index.serve.libraries import check_installed
    from moee_index.serve.settings import (
        Limits,
        Settings,
        check_access,
        read_keys,
        what_is_served,
    )

    check_installed()
    keys = () if api_key_file is None else read_keys(api_key_file)
    access = check_access(
        host, keys=keys, no_auth=no_auth, allowed_hosts=allowed_hosts, cors_origins=cors_origins
    )
    options, _ = split_model_options(given)
    if segments is not None:
        check_no_model_options("--segments")
    limits = Limits(grace=grace, deadline=deadline, queue_tokens=queue_tokens, body=max_body)
    limits = with_batch_tokens(limits, options)
    served = what_is_served(
        indexes, named, segments=segments, of_shards=of_shards, shard_key_file=shard_key_file,
        shard_timeout=shard_timeout,
    )  # fmt: skip
    settings = Settings(**served, access=access, limits=limits, log_texts=log_texts)

    from moee_index.serve.http.run import listen, serve
    from moee_index.serve.server import Server

    listening = listen(host, port, limits.writing)
    serve(
        Server(settings, None if segments is not None else models_of(console, options)),
        listening,
        write_log=None if no_log else print_json_line,
        notify=console.tell,
    )
