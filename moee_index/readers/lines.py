"""Files of lines, plain or compressed: bytes in, numbered lines of text out.

Handles gzip, zstd, UTF-8 and line ends, and reports how far through a file it is. What a line means
is left to the readers beside this one.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

from moee_index.errors import CorpusError

if TYPE_CHECKING:
    import zstandard

# A longer line is a file of another kind (a JSON array, a binary): it would fill the memory.
MAX_LINE = 64 * 2**20
# Bounds what one call to the decompressor can produce (a zstd block of 4 bytes makes 128 KiB).
ZSTD_READ = 4096
COMPRESSED = (".gz", ".zst")
UTF8_BOM = b"\xef\xbb\xbf"
UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


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

    size: bytes on disk, None where that is unknown (stdin, a pipe).
    """

    def __init__(self, raw: IO[bytes], stream: IO[bytes], size: int | None) -> None:
        self.raw = raw
        self.stream = stream
        self.size = size
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
def open_bytes(path: str | Path, stdin: IO[bytes] | None = None) -> Iterator[ByteSource]:
    """Open a file for reading, decompressed by its ending; `-` is stdin, which stays open.

    Raises CorpusError when the file does not exist or cannot be opened.
    """
    if str(path) == "-":
        source = stdin if stdin is not None else _stdin()
        yield ByteSource(source, source, None)
        return
    path = Path(path)
    try:
        raw = path.open("rb")
    except FileNotFoundError:
        raise CorpusError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise CorpusError(f"{path}: is a folder; name a file in it") from None
    except OSError as error:
        raise CorpusError(f"{path}: cannot be opened ({error.strerror or error})") from None
    with raw:
        status = path.stat()
        size = status.st_size if stat.S_ISREG(status.st_mode) else None
        yield ByteSource(raw, _decompressed(raw, path), size)


def _stdin() -> IO[bytes]:
    """A separate reader over stdin: a process cannot end while a thread waits in sys.stdin's."""
    try:
        number = sys.stdin.fileno()
    except (OSError, ValueError):
        return sys.stdin.buffer
    return open(number, "rb", closefd=False)


def _decompressed(raw: IO[bytes], path: Path) -> IO[bytes]:
    compression = split_name(path)[2]
    if compression == ".gz":
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="rb"))
    if compression == ".zst":
        return io.BufferedReader(_ZstdStream(raw), buffer_size=2**17)
    return raw


class _ZstdStream(io.RawIOBase):
    """Decompressed bytes of a .zst file of one or more frames.

    zstandard's own stream_reader ends quietly where a file was cut off; this one raises EOFError.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._input = b""
        self._output = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            if not self._fill():
                return 0
        count = min(len(buffer), len(self._output))
        buffer[:count] = self._output[:count]
        self._output = self._output[count:]
        return count

    def _fill(self) -> bool:
        import zstandard

        data = self._input or self._raw.read(ZSTD_READ)
        self._input = b""
        if not data:
            if self._frame is not None:
                raise EOFError("compressed data ends in the middle of a frame")
            return False
        if self._frame is None:
            self._frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            self._output = memoryview(self._frame.decompress(data))
        except zstandard.ZstdError as error:
            raise OSError(f"broken zstd data: {error}") from None
        if self._frame.eof:
            self._input = self._frame.unused_data
            self._frame = None
        return True


def fail_reading(where: str, error: Exception) -> NoReturn:
    """Turn a failure of the disk or the decompressor into one line that says what to do."""
    if isinstance(error, EOFError):
        raise CorpusError(
            f"{where}: compressed data ends here, the file was cut off; fetch or write it again"
        ) from None
    raise CorpusError(f"{where}: cannot be read further ({error}); is the file damaged?") from None


class Lines(Iterator[str]):
    """Lines of a byte stream as text; `number` is the number of the last one, from 1.

    Only LF ends a line (a CR before it belongs to the end); every other character that Unicode
    counts as a line separator stays in the line. A byte order mark at the start is dropped.

    A line that is not UTF-8 or longer than MAX_LINE raises BadLineError, and the next call goes on
    behind it; truncated or damaged compressed data raises CorpusError.

    keep_ends: leave the line ends as they are (for csv, where a field may hold them).
    """

    def __init__(self, stream: IO[bytes], name: str, *, keep_ends: bool = False) -> None:
        self._stream = stream
        self._keep_ends = keep_ends
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
        if len(raw) > MAX_LINE and not raw.endswith(b"\n"):
            self._skip_line()
            raise BadLineError(
                self.source,
                raw[:200].decode("utf-8", "backslashreplace") + "…",
                f"a line of more than {MAX_LINE // 2**20} MiB; is this a file of lines?",
            )
        if self.number == 1 and raw.startswith(UTF8_BOM):
            raw = raw[len(UTF8_BOM) :]
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            encoding = "UTF-16" if self.number == 1 and raw[:2] in UTF16_BOMS else "ISO-8859-1"
            raise BadLineError(
                self.source,
                raw.rstrip(b"\r\n").decode("utf-8", "backslashreplace"),
                f"not UTF-8 (byte 0x{raw[error.start]:02x} at position {error.start + 1}); "
                f"convert the file, for instance: iconv -f {encoding} -t UTF-8",
            ) from None
        if self._keep_ends or not line.endswith("\n"):
            return line
        return line[:-2] if line.endswith("\r\n") else line[:-1]

    def _readline(self) -> bytes:
        try:
            return self._stream.readline(MAX_LINE + 1)
        except (EOFError, OSError, zlib.error) as error:
            fail_reading(f"{self.name}:{self.number + 1}", error)

    def _skip_line(self) -> None:
        while (rest := self._readline()) and not rest.endswith(b"\n"):
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
        raise ValueError(f"broken JSON ({error.msg} at column {error.colno})") from None
    except ValueError as error:
        raise ValueError(f"broken JSON ({error})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{json_kind(value)} where a JSON object belongs, one object a line")
    if "\\ud" in line or "\\uD" in line:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            half = ord(error.object[error.start])
            raise ValueError(f"half a surrogate pair (\\u{half:04x}), which is not text") from None
    return value


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
    return "a list" if isinstance(value, list) else "an object"
