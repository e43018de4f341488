"""What a file is by its first bytes: read where it is compressed text, else refused by name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import sqlite3
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard

from moee_index.errors import CorpusError
from moee_index.readers.corpus import read_corpora
from moee_index.readers.lines import Lines, open_bytes

LINE = b'{"id": "1", "text": "cats and dogs"}\n'


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr("corpus.jsonl", LINE)
    return file.getvalue()


def tape() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as packed:
        entry = tarfile.TarInfo("corpus.jsonl")
        entry.size = len(LINE)
        packed.addfile(entry, io.BytesIO(LINE))
    return file.getvalue()


OTHERS = {
    "a ZIP archive": archive(),
    "an old Office file": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
    "compressed with bzip2": bz2.compress(LINE),
    "compressed with xz": lzma.compress(LINE),
    "compressed with lz4": b"\x04\x22\x4d\x18\x64\x40\xa7",
    "a 7z archive": b"7z\xbc\xaf\x27\x1c\0\4",
    "a tar archive": tape(),
    "a Parquet file": b"PAR1\x15\x04\x15",
    "an Arrow file": b"ARROW1\0\0",
    "an Avro file": b"Obj\x01\x02",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n",
    "a NumPy array": b"\x93NUMPY\x01\0",
    "a PDF": b"%PDF-1.7\n",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n",
    "UTF-16 text": LINE.decode().encode("utf-16"),
    "UTF-16 text, no mark": LINE.decode().encode("utf-16-be"),
    "UTF-32 text": LINE.decode().encode("utf-32"),
    "UTF-32 text, no mark": LINE.decode().encode("utf-32-le"),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.csv", "a.tsv", "a.jsonl.gz", "a.xlsx"])
def test_another_kind_of_file_is_named(tmp_path: Path, what: str, name: str) -> None:
    path = tmp_path / name
    data = OTHERS[what]
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    with pytest.raises(CorpusError) as caught:
        list(read_corpora([path], on_bad="skip"))
    assert str(caught.value).startswith(f"{path}: is {what.removesuffix(', no mark')}")
    assert "; " in str(caught.value), "says what to do"
    with pytest.raises(CorpusError, match="stdin: is "):
        list(read_corpora(["-"], stdin=io.BytesIO(data), on_bad="skip"))


def test_a_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with sqlite3.connect(path) as database:
        database.execute("create table t (a)")
    database.close()
    with pytest.raises(CorpusError, match=r"a\.jsonl: is an SQLite database"):
        list(read_corpora([path]))


@pytest.mark.parametrize(
    "data",
    [gzip.compress(LINE), zstandard.ZstdCompressor().compress(LINE)],
    ids=["gzip", "zstd"],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.ndjson"])
def test_compression_is_told_by_content(tmp_path: Path, data: bytes, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    reader = read_corpora([path])
    assert [document.text for document in reader] == ["cats and dogs"]
    assert reader.bytes_read == len(data)
    assert [d.id for d in read_corpora(["-"], stdin=io.BytesIO(data))] == ["1"]


def test_frames_and_members_of_compressed_files(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    skipped = struct.pack("<II", 0x184D2A50, 4) + b"pzst"
    frame = zstandard.ZstdCompressor().compress(LINE)
    path.write_bytes(skipped + frame + skipped + frame)
    assert [document.id for document in read_corpora([path])] == ["1", "1"]
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(LINE) * 2 + bytes(20))
    assert [document.id for document in read_corpora([path])] == ["1", "1"]
    path.write_bytes(gzip.compress(LINE) + b"garbage")
    with pytest.raises(CorpusError, match="something else follows the compressed data"):
        list(read_corpora([path], on_bad="skip"))


@pytest.mark.parametrize(
    "text", ["PK, the initials", "PAR1 is a receptor", "BZh", "7z files", "%PDF files", "version 1"]
)
def test_text_that_begins_like_another_kind_is_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text + "\n")
    assert [document.text for document in read_corpora([path])] == [text]


def test_names_and_fields_do_not_act_on_a_terminal(tmp_path: Path) -> None:
    path = tmp_path / "\x1b[2J.jsonl"
    try:
        path.write_text('{"doc\\u001bid": "1", "text": "a"}\n{"\\u202ebody": "b"}\n')
    except OSError:
        pytest.skip("this file system has no such names")
    said: list[str] = []
    reader = read_corpora([path], notify=said.append)
    assert next(reader).source.isprintable()
    with pytest.raises(CorpusError) as caught:
        next(reader)
    said.append(str(caught.value))
    assert len(said) == 2
    assert all(message.isprintable() for message in said)


def test_stdin_stays_open() -> None:
    class Unseekable(io.RawIOBase):
        def __init__(self) -> None:
            self.inner = io.BytesIO(b"one\ntwo\n")

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            return self.inner.readinto(buffer)

    for stdin in (io.BytesIO(b"one\ntwo\n"), Unseekable(), io.BufferedReader(Unseekable())):
        with open_bytes("-", stdin) as source:
            assert list(Lines(source.stream, "stdin")) == ["one", "two"]
            assert source.head == b"one\ntwo\n"
        assert not stdin.closed


def test_byte_order_marks_of_joined_files(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + LINE + b"\xef\xbb\xbf\xef\xbb\xbf" + LINE)
    assert [document.id for document in read_corpora([path])] == ["1", "1"]
