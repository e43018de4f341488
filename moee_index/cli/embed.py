"""`moee-index embed`: the vectors themselves."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moee_index.cli.console import Console
from moee_index.cli.options import (
    METHODS,
    TEXT,
    index_at_server,
    load_encoder,
    load_encoder_of,
    model_at_server,
    model_options,
    server_option,
    split_model_options,
)
from moee_index.cli.streams import print_json_line, say
from moee_index.errors import counted

if TYPE_CHECKING:
    from moee_index.fusion import Method
    from moee_index.serve.client import Remote
    from moee_index.types import FloatArray

FORMATS = (".npy", ".safetensors", ".jsonl")


@click.command("embed")
@click.argument("text", nargs=-1, metavar="[TEXT…]", type=TEXT)
@click.option("--queries", metavar="FILE|-", help="Texts from a file of queries.")
@click.option(
    "--index",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Embed with this index's model and standardizer.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="sum",
    show_default=True,
    help="hs or rw: one part; concat or sum: one vector whose cosine is that method's score.",
)
@click.option("--raw", is_flag=True, help="Neither standardised nor normalised (hs, rw, concat).")
@click.option(
    "--alpha", type=float, metavar="A", help="Weight of RW in `sum`. [default: the index's, else 1]"
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE.npy|.safetensors|.jsonl",
    help="Where the vectors go. [default: JSON lines on stdout]",
)
@server_option
@model_options("embed")
@click.pass_obj
def command(
    console: Console,
    /,
    text: tuple[str, ...],
    queries: str | None,
    index: Path | None,
    method: Method,
    raw: bool,
    alpha: float | None,
    out: Path | None,
    server: str | None,
    **given: Any,
) -> None:
    """Print or save the vectors of each TEXT, or of the texts of a file."""
    if text and queries is not None:
        raise click.UsageError("give the texts as TEXT or with --queries, not both")
    if raw and method == "sum":
        raise click.UsageError(
            "--raw has no `sum`: its parts are normalised by definition; take hs, rw or concat"
        )
    if out is not None and out.suffix not in FORMATS:
        raise click.UsageError(f"{out}: the name must end in {', '.join(FORMATS)}")

    from moee_index.readers.queries import read_texts

    options, _ = split_model_options(given)
    if index is None:
        remote = model_at_server(console, server, options)
    else:
        remote = index_at_server(console, server, index, options)
    ids, texts = read_texts(text, queries)
    if remote is None:
        vectors = _embedded(console, texts, index, options, method=method, raw=raw, alpha=alpha)
    else:
        vectors = _embedded_at(console, remote, texts, method, {"alpha": alpha, "raw": raw})

    from moee_index.export.formats import save_vectors, vector_lines

    if out is None:
        for line in vector_lines(ids, texts, vectors):
            print_json_line(line)
    else:
        save_vectors(out, ids, texts, vectors)
        say(f"{out}: {counted(len(vectors), 'vector')} of {vectors.shape[1]} numbers")


def _embedded(
    console: Console,
    texts: list[str],
    index: Path | None,
    options: dict[str, Any],
    *,
    method: Method,
    raw: bool,
    alpha: float | None,
) -> FloatArray:
    """The vectors, by a model that is loaded here."""
    from moee_index.export.single_vectors import embed_texts
    from moee_index.fusion import check_search

    check_search(method, alpha, 1)
    opened = None
    with ExitStack() as stack:
        if index is None:
            encoder = load_encoder(console, options)
            if not raw:
                console.tell("nothing is standardised: without --index there is no corpus to fit")
        else:
            from moee_index.index import Index

            opened = stack.enter_context(Index.open(index))
            encoder = load_encoder_of(console, opened, options)
        with console.progress("embedding", "texts") as progress:
            return embed_texts(
                texts, encoder, opened, method=method, raw=raw, alpha=alpha, progress=progress
            )


def _embedded_at(
    console: Console, remote: Remote, texts: list[str], method: Method, body: dict[str, Any]
) -> FloatArray:
    """The vectors, by a server's."""
    import numpy as np

    from moee_index.serve.client import embed

    with console.progress("embedding", "texts") as progress:
        rows = list(embed(remote, texts, method, body, progress))
    return np.frombuffer(b"".join(rows), dtype="<f4").reshape(len(texts), -1)
