"""Streams of decompressed bytes: gzip, and zstd that notices where a file was cut off."""

from __future__ import annotations

import gzip
import io
from typing import IO, TYPE_CHECKING, Any, cast

from moee_index.readers.kinds import GZIP, ZSTD

if TYPE_CHECKING:
    import zstandard

# Bounds what one call to the decompressor can produce (a zstd block of 4 bytes makes 128 KiB).
ZSTD_READ = 4096


def decompressed(raw: IO[bytes], compression: str) -> IO[bytes]:
    """The stream's bytes unpacked, as one of kinds.py's endings says."""
    if compression == GZIP:
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="rb"))
    if compression == ZSTD:
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
