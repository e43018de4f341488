"""What a file is by its first bytes, whatever its name says: compressions, and the kinds of file
that are no text. What is done about it is left to lines.py.
"""

from __future__ import annotations

import re

from moee_index.errors import CorpusError

GZIP, ZSTD, PLAIN = ".gz", ".zst", ""

# A zstd file may begin with a frame to be skipped, as pzstd writes them.
_COMPRESSIONS = ((rb"\x1f\x8b", GZIP), (rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2aM\x18", ZSTD))
_PARQUET = re.compile(rb"PAR[1E][\0-\x1f]")
_SHEET = "save its sheet as CSV UTF-8, or unpack it"
# Each long or odd enough that no text begins with it.
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (rb"PK(\x03\x04|\x05\x06)", "a ZIP archive or an Office file (.xlsx, .docx, .ods)", _SHEET),
    (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file (.xls, .doc)", _SHEET),
    (rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", "compressed with bzip2", "unpack it with bunzip2"),
    (rb"\xfd7zXZ\0", "compressed with xz", "unpack it with unxz"),
    (rb"\x04\x22M\x18", "compressed with lz4", "unpack it with unlz4"),
    (rb"\xff\x06\0\0sNaPpY", "compressed with Snappy", "unpack it first"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (rb"(?s).{257}ustar", "a tar archive", "unpack it with tar -xf"),
    (_PARQUET.pattern, "a Parquet file", "give it the ending .parquet"),
    (rb"ARROW1\0\0", "an Arrow file", "write it as Parquet"),
    (rb"Obj\x01", "an Avro file", "write it as Parquet or JSON lines"),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file", "write it as Parquet or JSON lines"),
    (rb"\x93NUMPY", "a NumPy array", "write its texts as JSON lines"),
    (rb"SQLite format 3\0", "an SQLite database", "write its table as CSV or JSON lines"),
    (rb"%PDF-\d\.\d", "a PDF", "take its text out first, for instance with pdftotext"),
    (
        rb"version https://git-lfs\.github\.com/spec/",
        "a Git LFS pointer (the file itself was not fetched)",
        "fetch it with git lfs pull",
    ),
)
# A mark of byte order, or ASCII characters each beside zeros.
_WIDE = (
    (rb"\xff\xfe\0\0|\0\0\xfe\xff|([\x09-\x7e]\0{3}){4}|(\0{3}[\x09-\x7e]){4}", "UTF-32"),
    (rb"\xff\xfe|\xfe\xff|([\x09-\x7e]\0){4}|(\0[\x09-\x7e]){4}", "UTF-16"),
)


def compression_of(head: bytes) -> str:
    """The compression that the bytes begin with, as the ending of a name: .gz, .zst or none."""
    return next((ending for magic, ending in _COMPRESSIONS if re.match(magic, head)), PLAIN)


def is_parquet(head: bytes) -> bool:
    return _PARQUET.match(head) is not None


def refuse_other_kind(head: bytes, name: str) -> None:
    """Raises CorpusError where these first bytes of a file belong to no UTF-8 text: says what the
    file is and what to do. Text in some other 8-bit encoding passes."""
    for pattern, what, advice in _OTHERS:
        if re.match(pattern, head):
            raise CorpusError(f"{name}: is {what}, not text; {advice}")
    for pattern, encoding in _WIDE:
        if re.match(pattern, head):
            raise CorpusError(
                f"{name}: is {encoding} text, not UTF-8; convert it, for instance: "
                f"iconv -f {encoding} -t UTF-8"
            )
