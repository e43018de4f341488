"""Files of lines, plain or compressed: bytes in, numbered lines of text out.

Handles compression, UTF-8 and line ends, refuses what is no text, and reports how far through a
file it is. What a line means is left to the readers beside this one.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from moee_index.errors import CorpusError
from moee_index.readers.compressed import decompressed
from moee_index.readers.kinds import compression_of, refuse_other_kind
from moee_index.readers.line_ends import LineSource, Returns
from moee_index.text import escaped

# A longer line is a file of another kind (a JSON array, a binary): it would fill the memory.
MAX_LINE = 64 * 2**20
# As many bytes of a file are looked at, at most, to tell what it is.
HEAD = 2**16
COMPRESSED = (".gz", ".zst")
BYTE_ORDER_MARK = "\ufeff"
# What reading raises where the disk or the decompressor fails.
READ_ERRORS = (EOFError, OSError, zlib.error)


class BadLineError(CorpusError):
    """One line cannot be used, while the lines after it can. Message: `file:line: reason`."""

    def __init__(self, source: str, line: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.line = line
        self.reason = reason


def split_name(path: Path) -> tuple[str, str, str]:
    """(stem, kind, compression) of a file name: `a.b.JSONL.gz` is ("a.b", ".jsonl", ".gz")."""
    compression = path.suffix.lower()
    if compression not in COMPRESSED:
        return path.stem, compression, ""
    inner = Path(path.stem)
    return inner.stem, inner.suffix.lower(), compression


class ByteSource:
    """An open file and how much of it has been read; `stream` gives its decompressed bytes.

    head: the first of these bytes, at most HEAD; they are still in `stream`.
    size: bytes on disk, None where that is unknown (stdin, a pipe).
    """

    def __init__(self, raw: IO[bytes], stream: IO[bytes], size: int | None, head: bytes) -> None:
        self.raw = raw
        self.stream = stream
        self.size = size
        self.head = head
        self._reported: int | None = None

    def report(self, fraction: float) -> None:
        """Say how much is done, for readers that do not go from front to back."""
        self._reported = round(fraction * (self.size or 0))

    @property
    def position(self) -> int:
        """Bytes read so far, as they lie on disk (compressed); 0 where that is unknown."""
        if self.size is None or self.raw.closed:
            return 0
        return min(self.raw.tell() if self._reported is None else self._reported, self.size)


@contextmanager
def open_bytes(
    path: str | Path, stdin: IO[bytes] | None = None, *, text: bool = True
) -> Iterator[ByteSource]:
    """Open a file for reading, decompressed by what it begins with; `-` is stdin, which stays open.

    text: refuse what is no UTF-8 text by its first bytes, saying what it is.
    Raises CorpusError when the file does not exist, cannot be opened or is refused.
    """
    if str(path) == "-":
        with _peekable(stdin if stdin is not None else _stdin()) as source:
            yield _looked_at(source, "stdin", None, "", text)
        return
    name = escaped(str(path))
    with _opened(path, name) as raw:
        status = os.fstat(raw.fileno())
        size = status.st_size if stat.S_ISREG(status.st_mode) else None
        yield _looked_at(raw, name, size, split_name(Path(path))[2], text)


def _opened(path: str | Path, name: str) -> IO[bytes]:
    try:
        return Path(path).open("rb", buffering=HEAD)
    except FileNotFoundError:
        raise CorpusError(f"{name}: no such file; check the path") from None
    except IsADirectoryError:
        raise CorpusError(f"{name}: is a folder; name a file in it") from None
    except OSError as error:
        raise CorpusError(f"{name}: cannot be opened ({error.strerror or error})") from None
    except ValueError as error:  # a zero byte in the name
        raise CorpusError(f"{name}: is no name of a file ({error})") from None


def _looked_at(raw: IO[bytes], name: str, size: int | None, named: str, text: bool) -> ByteSource:
    """The source, once its first bytes are known. named: the compression that its name says."""
    try:
        head = _peek(raw)
        compression = compression_of(head)
        if named and not compression:
            fault = f"is empty, and no {named} file is; fetch or write it again"
            if head:
                fault = f"is not compressed, though its name ends in {named}; rename or refetch it"
            raise CorpusError(f"{name}: {fault}")
        stream = decompressed(raw, compression)
        if compression:
            head = _peek(stream)
    except READ_ERRORS as error:
        fail_reading(name, error)
    if text:
        refuse_other_kind(head, name)
    return ByteSource(raw, stream, size, head)


def _peek(stream: IO[bytes]) -> bytes:
    """The next bytes, left where they are: what one call to the system gives, at most HEAD."""
    return cast("io.BufferedReader", stream).peek(HEAD)[:HEAD]


@contextmanager
def _peekable(stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """A stream whose next bytes can be looked at; it stays open."""
    if hasattr(stream, "peek"):
        yield stream
        return
    buffered = io.BufferedReader(cast("io.RawIOBase", stream), HEAD)
    try:
        yield cast("IO[bytes]", buffered)
    finally:
        if not stream.closed:
            buffered.detach()


def _stdin() -> IO[bytes]:
    """A separate reader over stdin: a process cannot end while a thread waits in sys.stdin's."""
    try:
        number = sys.stdin.fileno()
    except (OSError, ValueError):
        return sys.stdin.buffer
    return open(number, "rb", closefd=False)


def fail_reading(where: str, error: Exception) -> NoReturn:
    """Turn a failure of the disk or the decompressor into one line that says what to do."""
    if isinstance(error, EOFError):
        raise CorpusError(
            f"{where}: compressed data ends here, the file was cut off; fetch or write it again"
        ) from None
    if isinstance(error, gzip.BadGzipFile) and "Not a gzipped" in str(error):  # behind a member
        raise CorpusError(
            f"{where}: something else follows the compressed data; cut it off, or fetch the file "
            "again"
        ) from None
    if isinstance(error, OSError) and error.errno is not None:  # the disk's, not the file's
        raise CorpusError(f"{where}: cannot be read further ({error.strerror})") from None
    raise CorpusError(f"{where}: cannot be read further ({error}); is the file damaged?") from None


def not_utf8(raw: bytes, error: UnicodeDecodeError) -> str:
    """The reason for which bytes are no text."""
    return (
        f"not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start + 1}); "
        "convert the file, for instance: iconv -f ISO-8859-1 -t UTF-8"
    )


class Lines(Iterator[str]):
    """Lines of a byte stream as text; `number` is the number of the last one, from 1.

    Only LF ends a line (a CR before it belongs to the end); every other character that Unicode
    counts as a line separator stays in the line. A byte order mark at the start of a line is
    dropped: where files were joined, one stands at the start of each.

    A line that is not UTF-8 or longer than MAX_LINE raises BadLineError, and the next call goes on
    behind it; truncated or damaged compressed data raises CorpusError.

    keep_ends: leave the line ends and later byte order marks as they are (for csv, where a field
    may hold them). returns: a CR alone ends a line too.
    """

    def __init__(
        self, stream: IO[bytes], name: str, *, keep_ends: bool = False, returns: bool = False
    ) -> None:
        self._stream: LineSource = Returns(stream) if returns else stream
        self._keep_ends = keep_ends
        self._ends = (b"\n", b"\r") if returns else (b"\n",)
        self.name = name
        self.number = 0

    @property
    def source(self) -> str:
        """`file:line` of the last line."""
        return f"{self.name}:{self.number}"

    def __next__(self) -> str:
        raw = self._readline()
        if not raw:
            raise StopIteration
        self.number += 1
        if len(raw) > MAX_LINE and not raw.endswith(self._ends):
            self._skip_line()
            raise BadLineError(
                self.source,
                raw[:200].decode("utf-8", "backslashreplace") + "…",
                f"a line of more than {MAX_LINE // 2**20} MiB; is this a file of lines?",
            )
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadLineError(
                self.source,
                raw.rstrip(b"\r\n").decode("utf-8", "backslashreplace"),
                not_utf8(raw, error),
            ) from None
        if self.number == 1 or not self._keep_ends:
            line = line.lstrip(BYTE_ORDER_MARK)
        return line if self._keep_ends else self._without_end(line)

    def _without_end(self, line: str) -> str:
        if line.endswith("\n"):
            return line[:-2] if line.endswith("\r\n") else line[:-1]
        return line[:-1] if line.endswith("\r") and len(self._ends) > 1 else line

    def _readline(self) -> bytes:
        try:
            return self._stream.readline(MAX_LINE + 1)
        except READ_ERRORS as error:
            fail_reading(f"{self.name}:{self.number + 1}", error)

    def _skip_line(self) -> None:
        while (rest := self._readline()) and not rest.endswith(self._ends):
            pass


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None


# JSON has no NaN and no Infinity, but Python's reader takes them: they become null, so that
# everything that was read can be written again.
_DECODER = json.JSONDecoder(parse_constant=lambda _: None, parse_float=_finite)


def parse_object(line: str) -> dict[str, Any]:
    """The JSON object of one line; the last of duplicate keys holds, NaN and Infinity are None.

    Raises ValueError with a reason that fits behind `file:line: `.
    """
    try:
        value = _DECODER.decode(line)
    except RecursionError:
        raise ValueError("broken JSON (nested too deeply)") from None
    except json.JSONDecodeError as error:
        raise ValueError(_broken(line, error)) from None
    except ValueError as error:
        raise ValueError(f"broken JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(
            f'{json_kind(value)} where a JSON object belongs; make it {{"text": …}}, one a line'
        )
    if "\\ud" in line or "\\uD" in line:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            half = ord(error.object[error.start])
            raise ValueError(f"half a surrogate pair (\\u{half:04x}), which is not text") from None
    return value


def is_object(line: str) -> bool:
    """Whether a line is a JSON object that holds anything."""
    try:
        return line.lstrip().startswith("{") and bool(parse_object(line))
    except ValueError:
        return False


def _broken(line: str, error: json.JSONDecodeError) -> str:
    """Why a line is no JSON, and what it may be instead."""
    behind = line[error.pos :].strip() if error.msg == "Extra data" else ""
    if behind == ",":
        return "broken JSON (a comma behind the object; take it out, or write one array [ … ])"
    if behind.lstrip(", ").startswith("{"):
        return "broken JSON (more than one object on the line; give each a line of its own)"
    reason = f"broken JSON ({error.msg} at column {error.colno})"
    if line.strip() in ("{", "["):
        return f"{reason}; if its objects go over several lines, name the file .json"
    return f"{reason}; is it a page of HTML or XML?" if line.lstrip().startswith("<") else reason


def json_kind(value: object) -> str:
    """The kind of a JSON value, for a message."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, bytes):
        return "bytes that are not UTF-8"
    return "a list" if isinstance(value, list) else "an object"
