"""`moee-index list`: documents by their metadata, without a query."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moee_index.cli.options import TEXT, filter_option, json_option
from moee_index.cli.output import print_facets, print_json, say_document, terminal_width
from moee_index.cli.streams import say
from moee_index.errors import counted
from moee_index.text import escaped

if TYPE_CHECKING:
    from moee_index.index.store.document_reader import StoredDocument


@click.command("list")
@click.argument("index", type=click.Path(path_type=Path))
@filter_option("Only documents whose metadata match, as in `query`.")
@click.option(
    "--sort",
    type=TEXT,
    metavar="[-]FIELD",
    help="By a field, with - the largest first. [default: the index's order]",
)
@click.option(
    "-k", type=click.IntRange(min=1), default=20, show_default=True, help="Documents at most."
)
@click.option(
    "--offset", type=click.IntRange(min=0), default=0, metavar="N", help="Leave out the first N."
)
@click.option(
    "--facet",
    "facets",
    type=TEXT,
    multiple=True,
    metavar="FIELD",
    help="Count documents by their values in a field, in place of listing them. May be given "
    "several times.",
)
@json_option
def command(
    index: Path,
    condition: str | None,
    sort: str | None,
    k: int,
    offset: int,
    facets: tuple[str, ...],
    as_json: bool,
) -> None:
    """List the documents of INDEX by their metadata, or count them by the values of a field."""
    if facets and (sort is not None or offset):
        raise click.UsageError("--facet counts documents, so --sort and --offset have no meaning")
    from moee_index.index.listing import count_values, list_documents
    from moee_index.index.snapshot import Snapshot

    with closing(Snapshot.open(index)) as snapshot:
        if facets:
            counts = count_values(snapshot, facets, condition)
            print_facets([facet.as_json() for facet in counts], as_json)
            return
        found = list_documents(snapshot, filter=condition, sort=sort, k=k, offset=offset)
    for document in found.documents:
        _print(document, as_json)
    if not as_json:
        say(f"{len(found.documents)} of {counted(found.matching, 'document')}")


def _print(document: StoredDocument, as_json: bool) -> None:
    if as_json:
        print_json({"id": document.id, "text": document.text, "metadata": document.metadata})
        return
    say_document(f"{escaped(document.id)}  ", document.title, document.text, terminal_width())
