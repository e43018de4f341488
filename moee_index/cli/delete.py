"""`moee-index delete`: delete documents from an index."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from moee_index.cli.options import TEXT, json_option
from moee_index.cli.output import print_change


@click.command("delete")
@click.argument("index", type=click.Path(path_type=Path))
@click.argument("ids", nargs=-1, metavar="[ID…]", type=TEXT)
@click.option("--ids", "file", metavar="FILE|-", help="Ids from a file, one per line.")
@click.option("--missing-ok", is_flag=True, help="Ignore ids that are not in the index.")
@json_option
def command(
    index: Path, ids: tuple[str, ...], file: str | None, missing_ok: bool, as_json: bool
) -> None:
    """Delete documents of INDEX by id. Their place on disk is freed by `compact`."""
    if bool(ids) == (file is not None):
        raise click.UsageError("give the ids as ID… or with --ids FILE")
    from moee_index.index import delete_documents

    given = list(ids) if file is None else _read(file)
    report = delete_documents(index, given, missing_ok=missing_ok)
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
