"""`moee-index info`: what an index holds, or what this program finds on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from moee_index.cli.console import Console
from moee_index.cli.options import json_option
from moee_index.cli.output import print_json

# Metadata fields shown to people; --json gives them all.
_FIELDS = 12


@click.command("info")
@click.argument("index", required=False, type=click.Path(path_type=Path))
@click.option("--prune-cache", is_flag=True, help="Remove the cached 4-bit forms of models.")
@json_option
@click.pass_obj
def command(console: Console, /, index: Path | None, prune_cache: bool, as_json: bool) -> None:
    """Tell what INDEX holds, its size, and whether a refit of its standardizer is due (how far the
    corpus has moved from it); without INDEX: versions, devices, models at hand, cached models."""
    if prune_cache:
        if index is not None:
            raise click.UsageError("--prune-cache is about the program; leave INDEX out")
        from moee_index.model.load.cache import Cache

        freed = Cache(console.tell).prune()
        console.tell(f"removed {freed / 1e9:.2f} GB of cached 4-bit forms")
    if index is None:
        from moee_index.environment import describe_program

        found = describe_program()
    else:
        from moee_index.index import Index

        with Index.open(index) as opened:
            found = opened.info()
    if as_json:
        print_json(found)
    elif index is None:
        _print(found, "")
    else:
        for name, told in _lines(found):
            click.echo(f"{name:<14} {' '.join(told.split())}")


def _lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What an index is, a name and its value a line."""
    model, deleted, disk = found["model"], found["deleted"], found["disk"]
    gone = deleted["documents"]
    yield (
        "documents",
        f"{found['documents']} in {found['rows']} rows"
        + (f"; {gone} deleted ({deleted['rows']} rows on disk until compact)" if gone else ""),
    )
    yield "segments", f"{found['segments']}, version {found['revision']} of the index"
    yield "created", f"{found['created']}, changed {found['changed']}, by {found['version']}"
    revision = f" at {model['revision']}" if model["revision"] else ""
    yield "model", f"{model['name']}{revision} in {model['bits']} bits, {model['path']}"
    yield "fingerprint", model["fingerprint"]
    if model["bytes"]:
        kinds = ", ".join(f"{kind} {_bytes(size)}" for kind, size in model["bytes"].items())
        yield "model bytes", kinds
    yield "dimensions", ", ".join(f"{part.upper()} {dim}" for part, dim in found["dims"].items())
    yield "prompt", found["prompt"]
    if found["query_prompt"] != found["prompt"]:
        yield "query prompt", found["query_prompt"]
    yield (
        "embedding",
        f"rw {found['rw']}, pooling {found['pooling']}, max tokens {found['max_tokens']}",
    )
    yield "passages", "documents whole" if found["chunk"] is None else f"chunk {found['chunk']}"
    types = found["index_type"]
    same = types["hs"] == types["rw"]
    yield "index type", types["hs"] if same else f"hs {types['hs']}, rw {types['rw']}"
    yield "raw rows", found["store"]
    yield "alpha", str(found["alpha"])
    yield "standardize", found["standardize"]
    yield "drift", _drift(found["drift"])
    each = disk["per_document"]
    yield (
        "disk",
        f"{_bytes(found['bytes'])}"
        + (f", {each:.0f} bytes a document" if each is not None else "")
        + ": "
        + ", ".join(f"{kind} {_bytes(disk[kind])}" for kind in disk if kind != "per_document"),
    )
    yield "read so far", ", ".join(f"{name} {count}" for name, count in found["counts"].items())
    yield "fields", _fields(found["fields"])
    left = found["unfinished"]
    if left is not None:
        purpose = {"add": "an add", "build": "a build"}.get(left["purpose"], "a build or an add")
        count = "an unknown number of" if left["documents"] is None else left["documents"]
        yield (
            "unfinished",
            f"{purpose} has embedded {count} documents ({_bytes(left['bytes'])}) and runs, or was "
            "interrupted; the same command goes on with it",
        )


def _drift(drift: Mapping[str, Any]) -> str:
    parts = [f"{part} {drift[part]:.3f}" for part in ("hs", "rw") if drift[part] is not None]
    told = f"{', '.join(parts)} on {drift['rows']} rows: " if parts else ""
    return f"{told}{drift['reason']}"


def _fields(fields: Mapping[str, list[str]] | None) -> str:
    if fields is None:
        return "too many to know them all"
    named = [f"{name} ({', '.join(kinds)})" for name, kinds in fields.items()]
    more = f" and {len(named) - _FIELDS} more" if len(named) > _FIELDS else ""
    return ", ".join(named[:_FIELDS]) + more if named else "none"


def _bytes(size: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"


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
