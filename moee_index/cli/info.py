"""`moee-index info`: what an index holds, or what this program finds on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from moee_index.cli.console import Console
from moee_index.cli.options import json_option
from moee_index.cli.output import print_json
from moee_index.cli.streams import say
from moee_index.errors import counted

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
            raise click.UsageError(
                "--prune-cache is about the program, not an index; leave INDEX out"
            )
        from moee_index.model.load.cache import Cache

        freed = Cache(console.tell).prune()
        console.tell(f"removed {freed / 1e9:.2f} GB of cached 4-bit forms")
    if index is None:
        from moee_index.environment import describe_program

        description = describe_program()
    else:
        from moee_index.index.describe import describe
        from moee_index.index.snapshot import Snapshot

        with closing(Snapshot.open(index)) as snapshot:
            description = describe(snapshot)
    if as_json:
        print_json(description)
    elif index is None:
        _print(description, "")
    else:
        for name, told in _lines(description, index):
            say(f"{name:<14} {' '.join(told.split())}")


def _lines(index: Mapping[str, Any], directory: Path) -> Iterator[tuple[str, str]]:
    """The fields of an index, name and value."""
    model, deleted, disk = index["model"], index["deleted"], index["disk"]
    gone = deleted["documents"]
    yield (
        "documents",
        f"{index['documents']} in {counted(index['rows'], 'row')}"
        + (
            f"; {gone} deleted ({counted(deleted['rows'], 'row')} on disk until compact)"
            if gone
            else ""
        ),
    )
    yield "segments", f"{index['segments']}, version {index['revision']} of the index"
    yield "created", f"{index['created']}, changed {index['changed']}, by {index['version']}"
    revision = f" at {model['revision']}" if model["revision"] else ""
    yield "model", f"{model['name']}{revision} in {model['bits']} bits, {model['path']}"
    yield "fingerprint", model["fingerprint"]
    if model["bytes"]:
        kinds = ", ".join(f"{kind} {_bytes(size)}" for kind, size in model["bytes"].items())
        yield "model bytes", kinds
    yield "dimensions", ", ".join(f"{part.upper()} {dim}" for part, dim in index["dims"].items())
    yield "prompt", index["prompt"]
    if index["query_prompt"] != index["prompt"]:
        yield "query prompt", index["query_prompt"]
    yield (
        "embedding",
        f"rw {index['rw']}, pooling {index['pooling']}, max tokens {index['max_tokens']}",
    )
    yield "passages", "documents whole" if index["chunk"] is None else f"chunk {index['chunk']}"
    types = index["index_type"]
    same = types["hs"] == types["rw"]
    yield "index type", types["hs"] if same else f"hs {types['hs']}, rw {types['rw']}"
    if "approximate" in index:
        yield "recall", _recall(index["approximate"])
    if "early_exit" in index:
        from moee_index.index.approximate.cost import told_exit

        yield "early exit", told_exit(index["early_exit"])
    if "scan" in index:
        from moee_index.index.approximate.cost import told_cost

        yield "scan", told_cost(index["scan"], directory)
    yield "raw rows", index["store"]
    words = index["lexical"]
    yield (
        "words",
        "no postings; moee-index reindex --lexical writes them"
        if words is None
        else f"{words['words']}, language {words['language']}, postings {_bytes(words['bytes'])}",
    )
    yield "alpha", str(index["alpha"])
    yield "lexical", str(index["lexical_weight"])
    yield "standardize", index["standardize"]
    yield "drift", _drift(index["drift"])
    each = disk["per_document"]
    yield (
        "disk",
        f"{_bytes(index['bytes'])}"
        + (f", {each:.0f} bytes a document" if each is not None else "")
        + ": "
        + ", ".join(f"{kind} {_bytes(disk[kind])}" for kind in disk if kind != "per_document"),
    )
    yield "read so far", ", ".join(f"{name} {count}" for name, count in index["counts"].items())
    yield "fields", _fields(index["fields"])
    left = index["unfinished"]
    if left is not None:
        purpose = {"add": "an add", "build": "a build"}.get(left["purpose"], "a build or an add")
        embedded = left["documents"]
        count = (
            "an unknown number of documents" if embedded is None else counted(embedded, "document")
        )
        yield (
            "unfinished",
            f"{purpose} has embedded {count} ({_bytes(left['bytes'])}) and runs, or was "
            "interrupted; the same command resumes it",
        )


def _recall(approximate: Mapping[str, Any]) -> str:
    if not approximate["measured"]:
        return "1: every row is looked at"
    each = ", ".join(f"{one['search']} {one['recall']:.3f}" for one in approximate["measured"])
    judged = approximate["judged"]
    over = "" if judged is None else f"; over judged queries {judged['recall']:.3f}"
    return (
        f"{approximate['recall']:.3f} of the ten best (asked for {approximate['wanted']:g}); reads "
        f"{approximate['reach']['lists']} of {approximate['lists']} lists and "
        f"{counted(approximate['reach']['depth'], 'candidate')}; {each}{over}"
    )


def _drift(drift: Mapping[str, Any]) -> str:
    parts = [f"{part} {drift[part]:.3f}" for part in ("hs", "rw") if drift[part] is not None]
    told = f"{', '.join(parts)} on {counted(drift['rows'], 'row')}: " if parts else ""
    return f"{told}{drift['reason']}"


def _fields(fields: Mapping[str, list[str]] | None) -> str:
    if fields is None:
        return "too many to list"
    named = [f"{name} ({', '.join(kinds)})" for name, kinds in fields.items()]
    more = f" and {len(named) - _FIELDS} more" if len(named) > _FIELDS else ""
    return ", ".join(named[:_FIELDS]) + more if named else "none"


def _bytes(size: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return counted(size, "byte")


def _print(value: dict[str, Any], indent: str) -> None:
    for key, held in value.items():
        if isinstance(held, dict):
            say(f"{indent}{key}")
            _print(held, indent + "  ")
        elif isinstance(held, list):
            say(f"{indent}{key}")
            for item in held:
                say(f"{indent}  {item}")
        else:
            say(f"{indent}{key:<{max(1, 18 - len(indent))}} {held}")
