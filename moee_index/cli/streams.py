"""The process's streams: what people read, made harmless for a terminal; what programs read, in
UTF-8 whatever the locale; and streams that are closed or full.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import NoReturn

import click

from moee_index.errors import StorageError
from moee_index.text import escaped

# What JSON may hold as it is and a terminal acts on: C1 controls, bidirectional marks, line ends.
_ACTING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def prepare_streams() -> None:
    """Make the three streams usable: a closed one must not get the number of a file that is opened
    later, and no character of a corpus may end a table half-way.

    Writing to a closed stdout is an error, to a closed stderr it is not: notes are lost, not work.
    """
    for number, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest free number, which is this one
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    if sys.stdout is None:
        sys.stdout = _Closed()
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    for stream, errors in ((sys.stdout, "replace"), (sys.stderr, "backslashreplace")):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors=errors)


class _Closed(io.TextIOBase):
    """In place of a closed stdout."""

    def writable(self) -> bool:
        return True

    def write(self, _: str) -> NoReturn:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def say(text: str = "") -> None:
    """Print for people: in every line what would act on a terminal is shown as an escape."""
    with _writing():
        click.echo("\n".join(escaped(line) for line in text.split("\n")))


def say_marked(pieces: Iterable[tuple[str, bool]]) -> None:
    """Print pieces of a line for people; those that are marked are bold on a terminal, and nowhere
    else."""
    bold = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    with _writing():
        click.echo(
            "".join(
                click.style(escaped(text), bold=True) if marked and bold else escaped(text)
                for text, marked in pieces
            )
        )


def say_aside(text: str) -> None:
    """Print for people on stderr, if that is possible: nothing may end because it is not."""
    with contextlib.suppress(OSError):
        click.echo("\n".join(escaped(line) for line in text.split("\n")), err=True)


def print_line(text: str) -> None:
    """Print a line for programs, in UTF-8; bytes of a file name that are none are escaped."""
    with _writing():
        click.echo(text.encode("utf-8", "backslashreplace"))


def print_json_line(text: str) -> None:
    """Print JSON in which what a terminal would act on is escaped, which means the same."""
    print_line(_ACTING.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise  # whoever reads has seen enough: click ends the process quietly
    except OSError as error:
        raise StorageError(
            f"stdout cannot be written ({error.strerror or error}); is it closed, or the disk full?"
        ) from error
