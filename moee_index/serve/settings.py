"""What a server is told at its start, checked once."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from moee_index.errors import MisuseError, StorageError
from moee_index.index.held import Segments
from moee_index.text import shown

# Where clients have their key.
KEY_VARIABLE = "MOEE_INDEX_API_KEY"
# A head's threads wait for shards most of the time.
_HEAD_THREADS = 32
# Names of indexes stand in addresses and before `#`.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_LEAST_KEY = 16
_ORIGIN = re.compile(r"https?://[^/\s?#@]+", re.IGNORECASE)


@dataclass(frozen=True)
class Limits:
    """What a server takes, and for how long. Bytes, tokens, seconds.

    batch_tokens: of one forward pass, padding included; queue_tokens: of all requests that are in;
    body: of one request; bodies: of all that are being read; deadline: for one request, from its
    body's being there; reading, writing: for a client to send a body, to take an answer; loading:
    for the models; stall: for one batch, after which the model thread is taken for hung; grace:
    for what was accepted before a SIGTERM. hits: of one request in all.
    """

    batch_tokens: int = 4096
    queue_tokens: int = 300_000
    body: int = 8 << 20
    bodies: int = 64 << 20
    header: int = 16 << 10
    filter: int = 4096
    hits: int = 10_000
    deadline: float = 60.0
    reading: float = 30.0
    writing: float = 30.0
    loading: float = 1800.0
    stall: float = 120.0
    grace: float = 30.0


@dataclass(frozen=True)
class Access:
    """Who may ask. keys: as bytes, none: anybody; hosts: further names of this server; origins:
    further sites whose pages may ask; any_address: whether it listens beyond loopback, where an
    address in place of a name is its own."""

    keys: tuple[bytes, ...] = ()
    hosts: frozenset[str] = frozenset()
    origins: frozenset[str] = frozenset()
    any_address: bool = False


@dataclass(frozen=True)
class Spread:
    """Servers that hold the segments of an index. urls: of them, in any order; key: that they want;
    timeout: seconds that each has for an answer."""

    urls: tuple[str, ...]
    key: str | None = None
    timeout: float = 30.0


@dataclass(frozen=True)
class Settings:
    """A server's settings. indexes: name → directory; segments: of the one index, the ones that are
    served, to a head alone; spread: the servers that hold the segments of an index, which is served
    in place of `indexes`; threads: that tokenise and search; log_texts: whether the log may hold
    what was asked."""

    indexes: Mapping[str, Path] = field(default_factory=dict)
    access: Access = Access()
    limits: Limits = Limits()
    threads: int = 4
    log_texts: bool = False
    segments: Segments | None = None
    spread: Spread | None = None


def is_loopback(host: str) -> bool:
    """Whether a host to listen on can be reached from this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_access(
    host: str,
    *,
    keys: tuple[bytes, ...],
    no_auth: bool,
    allowed_hosts: Sequence[str] = (),
    cors_origins: Sequence[str] = (),
) -> Access:
    """Raises MisuseError for a server that anybody could ask though nobody said so."""
    if not is_loopback(host) and not keys and not no_auth:
        raise MisuseError(
            f"--host {host} can be reached from other machines: give --api-key-file FILE, or "
            "--no-auth if anybody may ask"
        )
    if keys and no_auth:
        raise MisuseError("--no-auth contradicts --api-key-file; give one")
    for origin in cors_origins:
        if not _ORIGIN.fullmatch(origin):
            raise MisuseError(
                f"--cors-origin {shown(origin)!r} is no origin; write it as https://example.org"
            )
    hosts = {allowed.lower() for allowed in allowed_hosts}
    if not is_loopback(host):
        hosts.add(host.lower())
    return Access(
        keys,
        frozenset(hosts),
        frozenset(origin.lower() for origin in cors_origins),
        any_address=not is_loopback(host),
    )


def read_keys(file: Path) -> tuple[bytes, ...]:
    """API keys of a file, one a line; empty lines and those that begin with # aside.

    Raises StorageError where it cannot be read, MisuseError where it holds no key, or one that
    is short or could not stand in a header.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise MisuseError(f"{file} is not UTF-8; give a text file with one key a line") from error
    except OSError as error:
        raise StorageError(f"{file} cannot be read: {error.strerror or error}") from error
    keys = []
    for number, line in enumerate(lines, 1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if len(key) < _LEAST_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise MisuseError(
                f"{file}:{number}: a key is {_LEAST_KEY} or more ASCII characters without blanks; "
                'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'
            )
        keys.append(key.encode("ascii"))
    if not keys:
        raise MisuseError(f"{file} holds no key; write one a line")
    return tuple(keys)


class Served(TypedDict, total=False):
    """What a server serves, of its settings."""

    indexes: Mapping[str, Path]
    threads: int
    segments: Segments
    spread: Spread


def what_is_served(
    given: Sequence[str],
    named: Sequence[str],
    *,
    segments: str | None,
    of_shards: bool,
    shard_key_file: Path | None,
    shard_timeout: float,
) -> Served:
    """From a command line: indexes, segments of one, or an index on other servers. given:
    directories, addresses for a head. Raises MisuseError for what does not go together."""
    if of_shards:
        if segments is not None or named:
            other = "--segments" if segments is not None else "--name"
            raise MisuseError(f"{other} is for an index that is here, --shards for one elsewhere")
        key = os.environ.get(KEY_VARIABLE)
        if shard_key_file is not None:
            key = read_keys(shard_key_file)[0].decode("ascii")
        return {"spread": Spread(tuple(given), key, shard_timeout), "threads": _HEAD_THREADS}
    if shard_key_file is not None:
        raise MisuseError("--shard-key-file is for a head; give --shards and addresses too")
    indexes = named_indexes(map(Path, given), named)
    if segments is None:
        return {"indexes": indexes}
    if len(indexes) != 1:
        raise MisuseError("--segments are of one index; name that one alone")
    return {"indexes": indexes, "segments": Segments.parse(segments)}


def named_indexes(directories: Iterable[Path], named: Iterable[str]) -> dict[str, Path]:
    """Name → directory of the indexes to serve: the directory's own name, or N of `N=DIR`.

    Raises MisuseError for a name that cannot stand in an address, or that two of them have.
    """
    pairs = [(path.resolve().name, path, f"{path}") for path in directories]
    for pair in named:
        own, equals, directory = pair.partition("=")
        if not equals or not directory:
            raise MisuseError(f"--name {shown(pair)!r} is not NAME=DIR")
        pairs.append((own, Path(directory), f"--name {pair}"))
    indexes: dict[str, Path] = {}
    for name, path, where in pairs:
        if not _NAME.fullmatch(name):
            raise MisuseError(
                f"{shown(where)}: {shown(name)!r} cannot be an index's name here (letters, digits, "
                "'.', '_' and '-'); give another with --name NAME=DIR"
            )
        if name in indexes:
            raise MisuseError(
                f"{shown(where)}: {name!r} is also the name of {indexes[name]}; give one of them "
                "another with --name NAME=DIR"
            )
        indexes[name] = path
    return indexes
