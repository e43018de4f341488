"""Where the head's index comes from: which version its shards serve, whether they hold all of it.

All of them must serve the same version of one index, and each segment must be on one of them. A
newer version is taken as soon as all have it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.numpy import load

from moee_index.errors import (
    FingerprintMismatchError,
    IndexDamagedError,
    MisuseError,
    MoeeIndexError,
    counted,
)
from moee_index.fusion import Standardizer
from moee_index.index.alike import identity_differences
from moee_index.index.lexical.language import NO_LANGUAGE
from moee_index.index.lexical.words import Words
from moee_index.index.snapshot import joined_fields
from moee_index.index.store.layout import MANIFEST
from moee_index.index.store.manifest import Manifest
from moee_index.serve.errors import RevisionError, ServerMismatchError, ShardError
from moee_index.serve.searchable import Opened
from moee_index.serve.settings import Spread
from moee_index.serve.shards import wire
from moee_index.serve.shards.asking import Asked, Placed
from moee_index.serve.shards.connection import Shard
from moee_index.serve.shards.index import Described, SpreadIndex
from moee_index.serve.shards.words import SpreadWords
from moee_index.token_weights import TokenWeights
from moee_index.types import EncoderSpec

# Seconds that a shard has to say what it holds; requests at work may keep one from more.
_LOOK = 5.0
# Threads that ask shards, in all.
_THREADS = 256


@dataclass(frozen=True)
class Holdings:
    """What a shard says of itself. spec: of the encoder; created: when the index was built;
    segments: the ones it holds, all: how many there are."""

    url: str
    index: str
    digest: str
    revision: int
    created: str
    spec: EncoderSpec
    segments: range
    all: int

    @classmethod
    def of(cls, shard: Shard, told: Mapping[str, Any]) -> Holdings:
        """Raises ServerMismatchError for a shard of another version of this program."""
        if told.get("format") != wire.FORMAT:
            raise ServerMismatchError(
                f"{shard.url} speaks format {told.get('format')} of shards, and this head "
                f"{wire.FORMAT}; run the same version of moee-index on both"
            )
        return cls(
            shard.url, told["index"], told["digest"], told["revision"], told["created"],
            EncoderSpec.from_stored(told["encoder"]), range(told["first"], told["last"] + 1),
            told["segments"],
        )  # fmt: skip


class Shards:
    """The servers of --shards, as the source of an index. Raises MisuseError for addresses."""

    def __init__(self, spread: Spread) -> None:
        if not spread.urls:
            raise MisuseError("name the servers: moee-index serve --shards URL URL …")
        self._shards = [Shard(url, spread.key, spread.timeout) for url in spread.urls]
        urls = [shard.url for shard in self._shards]
        if twice := next((url for url in urls if urls.count(url) > 1), None):
            raise MisuseError(f"the shard {twice} is named twice; name it once")
        self._pool = ThreadPoolExecutor(_THREADS, "shard")
        self._outdated = threading.Event()

    def __str__(self) -> str:
        return f"the index of {', '.join(shard.url for shard in self._shards)}"

    def name(self) -> str:
        """The name that the first shard serves the index by. Raises ServerMismatchError."""
        (holdings,) = self._look(self._shards[:1])
        if isinstance(holdings, MoeeIndexError):
            raise _at_start(holdings)
        return holdings.index

    def looks(self) -> bool:
        """Only where a shard has said that it serves another version: looking takes a round trip,
        and the server does it every second."""
        return self._outdated.is_set()

    def mark(self) -> Hashable:
        """What each shard says that it holds, or why it does not."""
        self._outdated.clear()
        return tuple(
            str(each) if isinstance(each, MoeeIndexError) else (each.digest, each.segments)
            for each in self._look(self._shards)
        )

    def _look(self, shards: Sequence[Shard]) -> list[Holdings | MoeeIndexError]:
        """What each shard holds, or why it does not say so."""

        def look(shard: Shard) -> Holdings | MoeeIndexError:
            try:
                return Holdings.of(shard, shard.ask("", timeout=min(_LOOK, shard.timeout)))
            except MoeeIndexError as error:
                return error

        return list(self._pool.map(look, shards))

    def open(self) -> Opened:
        """The version that all shards serve.

        Raises ServerMismatchError where one cannot be asked, FingerprintMismatchError for two
        models, MisuseError for two indexes and for segments that are held twice or by none,
        RevisionError where not all have the same version yet.
        """
        each: list[Holdings] = []
        for found in self._look(self._shards):
            if isinstance(found, MoeeIndexError):
                raise _at_start(found)
            each.append(found)
        _check_one_index(each)
        order = sorted(range(len(each)), key=lambda number: each[number].segments.start)
        _check_whole([each[number] for number in order])
        placed = [Placed(self._shards[number], each[number].segments) for number in order]
        first = each[0]
        asked = Asked(placed, first.digest, first.revision, self._outdated.set, self._pool)
        spread = tuple((one.url, one.segments) for one in each)
        return Opened(SpreadIndex(asked, self._described(asked, first)), first.digest, spread)

    def _described(self, asked: Asked, holdings: Holdings) -> Described:
        """What describes the index, from the first shard; the fields of all."""
        version = {"digest": asked.digest, "revision": asked.revision}

        def ask(numbered: tuple[int, Placed]) -> Any:
            number, placed = numbered
            body = json.dumps({**version, "whole": number == 0}).encode("ascii")
            return placed.shard.ask("/description", body)

        told = list(self._pool.map(ask, enumerate(asked.placed)))
        whole, url = told[0], asked.placed[0].shard.url
        written = base64.b64decode(whole["manifest"])
        if hashlib.sha256(written).hexdigest() != asked.digest:
            raise IndexDamagedError(f"{url} has sent another manifest than it serves; ask again")
        manifest = Manifest.from_bytes(written, Path(f"{url}/{MANIFEST}"))
        weights = whole["token_weights"]
        return Described(
            holdings.index,
            manifest,
            Standardizer.from_arrays(load(base64.b64decode(whole["standardizer"]))),
            None if weights is None else TokenWeights.from_bytes(base64.b64decode(weights)),
            joined_fields(_fields(each["fields"]) for each in told),
            SpreadWords(Words(manifest.language or NO_LANGUAGE)),
        )

    def without_paths(self, message: str, name: str) -> str:
        """The same: there are addresses of shards in it, which say where to look."""
        return message


def _fields(told: Mapping[str, Sequence[str]] | None) -> dict[str, set[str]] | None:
    return None if told is None else {name: set(kinds) for name, kinds in told.items()}


def _at_start(error: MoeeIndexError) -> MoeeIndexError:
    """Not for later, as it is for requests: nothing is served yet."""
    return ServerMismatchError(str(error)) if isinstance(error, ShardError) else error


def _check_one_index(each: Sequence[Holdings]) -> None:
    """Raises FingerprintMismatchError for two models, MisuseError for two indexes, RevisionError
    for two versions of one."""
    first = each[0]
    for other in each[1:]:
        if other.digest == first.digest:
            continue
        if differs := identity_differences(first.spec, other.spec):
            raise FingerprintMismatchError(
                f"{first.url} and {other.url} serve indexes that were built with {differs}; give "
                "a head the shards of one index"
            )
        if first.created != other.created or first.revision == other.revision:
            raise MisuseError(
                f"{first.url} and {other.url} serve two indexes (built {first.created}, revision "
                f"{first.revision}; built {other.created}, revision {other.revision}); give a head "
                "the shards of one"
            )
        raise RevisionError(
            f"{first.url} is at revision {first.revision} of {first.index}, and {other.url} at "
            f"{other.revision}; copy the newest to all"
        )


def _check_whole(each: Sequence[Holdings]) -> None:
    """Raises MisuseError where a segment is held twice, or by none. each: in their order."""
    expected, last = 0, each[0]
    for holdings in each:
        held = holdings.segments
        if held.start < expected:
            raise MisuseError(
                f"segment {held.start} is on {last.url} and on {holdings.url}; give them segments "
                "that do not overlap (--segments)"
            )
        if held.start > expected:
            raise _gap(expected, held.start, holdings)
        expected, last = held.stop, holdings
    if expected < last.all:
        raise _gap(expected, last.all, last)


def _gap(first: int, stop: int, holdings: Holdings) -> MisuseError:
    told = f"segment {first} is" if stop == first + 1 else f"segments {first}-{stop - 1} are"
    return MisuseError(
        f"{told} on none of the shards, and {holdings.index} has "
        f"{counted(holdings.all, 'segment')} (revision {holdings.revision}); start a server with "
        "--segments for what is missing, and name it too"
    )
