"""`moee-index delete`: delete documents from an index."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from moee_index.cli.options import TEXT, filter_option, json_option
from moee_index.cli.output import print_change
from moee_index.errors import counted


@click.command("delete")
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("ids", nargs=-1, metavar="[ID…]", type=TEXT)
@click.option("--ids", "file", metavar="FILE|-", help="Ids from a file, one per line.")
@filter_option("Documents whose metadata match, as in `query`; needs --yes.")
@click.option("--yes", is_flag=True, help="Delete what --filter matches without asking.")
@click.option("--missing-ok", is_flag=True, help="Ignore ids that are not in the index.")
@json_option
def command(
    index: Path,
    ids: tuple[str, ...],
    file: str | None,
    condition: str | None,
    yes: bool,
    missing_ok: bool,
    as_json: bool,
) -> None:
    """Delete documents of INDEX by id or by a filter. Their place on disk is freed by `compact`."""
    if [bool(ids), file is not None, condition is not None].count(True) != 1:
        raise click.UsageError("give the ids as ID… or with --ids FILE, or a --filter")
    if condition is not None:
        _delete_matching(index, condition, yes, as_json)
        return
    from moee_index.index import delete_documents

    given = list(ids) if file is None else _read(file)
    report = delete_documents(index, given, missing_ok=missing_ok)
    print_change(report, f"{report.changed} deleted", as_json)


def _delete_matching(index: Path, condition: str, yes: bool, as_json: bool) -> None:
    from moee_index.index import Index, delete_matching
    from moee_index.index.listing import list_documents

    if not yes:
        with Index.open(index) as opened:
            count = list_documents(opened.snapshot, filter=condition, k=1).matching
            raise click.UsageError(
                f"{counted(count, 'document')} of {len(opened)} match; give --yes to delete them"
            )
    report = delete_matching(index, condition)
    print_change(report, f"{report.changed} deleted", as_json)


def _read(file: str) -> list[str]:
    from moee_index.errors import CorpusError

    try:
        text = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        # Not splitlines: an id may hold any of the other characters that end lines for it.
        lines = (line.removesuffix("\r") for line in text.decode().split("\n"))
        ids = [line for line in lines if line]
    except OSError as error:
        raise CorpusError(f"{file}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise CorpusError(f"{file}: not UTF-8 (byte {error.start}); save it as UTF-8") from None
    if not ids:
        raise CorpusError(f"{file}: it holds no ids; write one per line")
    return ids
