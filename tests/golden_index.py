"""Index directories made of fixed vectors, and what is to be the same in them for ever.

The vectors are small whole numbers, the rows that are standardised a power of two of them: means
and squared deviations are then exact, in whatever order a processor adds them up. What follows
(root, quotient, rounding to float32 and float16) is rounded correctly by IEEE 754, and numpy sums
a row of float64 in an order that does not depend on the width of vectors. So files are compared by
their bytes. Where FAISS computes, it is given unit vectors whose coordinates are 0 and ±1/2: their
inner products are exact too. What HNSW links still differs between releases of FAISS (1.15.0 and
1.15.1), so it is compared under the release it was made with. k-means is a matter of the matrix
product in use: no IVF and no PQ.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from golden import GOLDEN, run, write

from moee_index import Document, Embeddings, Index
from moee_index.index import (
    add_documents,
    build_index,
    compact_index,
    delete_documents,
    reindex,
    verify_index,
)

FILES = "index-files.json"
ANSWERS = "stored-answers.json"
STORED = {"plain": GOLDEN / "stored-plain", "passages": GOLDEN / "stored-passages"}
CHUNK = "8:2"
_WORDS = (
    "amber birch cloud delta ember frost grain harbour island juniper kettle lantern meadow "
    "north orchard pebble quartz river saffron thistle umber valley willow yarrow Zürich naïve "
    "東京 Ελλάδα 🙂 caf\u00e9\u0301 don't co-op x=1 “quoted”"
)
WORDS = _WORDS.split()
FIXED_SPEC = {
    "model": "fixed",
    "path": "/nowhere/fixed",
    "revision": None,
    "fingerprint": "f" * 64,
    "bits": 32,
    "double_quant": False,
    "prompt": "none",
    "query_prompt": "none",
    "rw": "logits",
    "pooling": "last",
    "max_tokens": 512,
    "hs_dim": 24,
    "rw_dim": 12,
}


def _bytes(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def words(seed: str, count: int) -> str:
    digests = b"".join(_bytes(f"{seed}/{block}") for block in range(count // 32 + 1))
    return " ".join(WORDS[digests[place] % len(WORDS)] for place in range(count))


def document(number: int) -> Document:
    """One of them is empty (left out), one is long: 58 passages, so that 200 make 256 rows."""
    count = 350 if number == 30 else 1 + _bytes(f"count {number}")[0] % 8
    text = words(f"text {number % 150}", count)
    metadata: dict[str, Any] = {"year": 1990 + number % 30, "nested": {"a": number % 5}}
    if number % 3:
        metadata["lang"] = ("en", "de")[number % 2]
    if number % 4 == 0:
        metadata["tags"] = [WORDS[number % len(WORDS)], "x"]
    return Document(
        id=f"d{number}",
        text="  \n" if number == 7 else text,
        metadata=metadata,
        title=f"Title {number}" if number % 5 == 0 else "",
        source=f"golden.jsonl:{number + 1}",
    )


def fixed_spec(spec: Any) -> Any:
    """An `EncoderSpec`, made of any other: the class has no public name."""
    return replace(spec, **FIXED_SPEC)


@dataclass
class FixedPlan:
    encoder: FixedEncoder
    texts: Sequence[str]
    batches: Sequence[Sequence[int]]
    tokens: int
    truncated: Sequence[bool]

    def encode(self, batch: int) -> Embeddings:
        return self.encoder.encode([self.texts[position] for position in self.batches[batch]])


@dataclass
class FixedEncoder:
    """Texts hashed into whole numbers from -8 to 7, times `scale`; `exact`: four of ±1."""

    spec: Any
    scale: float = 1.0
    exact: bool = False
    batch_tokens: int = 64

    def with_batch_tokens(self, batch_tokens: int) -> FixedEncoder:
        return replace(self, batch_tokens=batch_tokens)

    def plan(self, texts: Sequence[str], *, query: bool = False) -> FixedPlan:
        places: dict[str, list[int]] = {}
        for place, text in enumerate(texts):
            places.setdefault(text, []).append(place)
        order = sorted(places, key=lambda text: (len(text), places[text][0]))
        batches = [
            [place for text in order[start : start + 10] for place in places[text]]
            for start in range(0, len(order), 10)
        ]
        truncated = [len(text) > 1000 for text in texts]
        return FixedPlan(self, texts, batches, sum(map(len, order)), truncated)

    def encode(self, texts: Sequence[str], *, query: bool = False) -> Embeddings:
        hs = [self._row(_bytes(text), self.spec.hs_dim) for text in texts]
        rw = [self._row(_bytes(f"rw {text}"), self.spec.rw_dim) for text in texts]
        return Embeddings(hs=np.array(hs, dtype=np.float32), rw=np.array(rw, dtype=np.float32))

    def _row(self, digest: bytes, dim: int) -> list[float]:
        if not self.exact:
            return [(digest[place] % 16 - 8) * self.scale for place in range(dim)]
        row = [0.0] * dim
        for place in sorted(range(dim), key=lambda place: digest[place])[:4]:
            row[place] = 1.0 if digest[place] % 2 else -1.0
        return row

    def passages(
        self, documents: Sequence[tuple[str, str]], chunking: Any
    ) -> list[list[tuple[int, int]]]:
        """Runs of `chunking.size` words, each from `chunking.overlap` words before."""
        return [list(self._spans(text, chunking)) for _, text in documents]

    def _spans(self, text: str, chunking: Any) -> Iterator[tuple[int, int]]:
        places = [found.span() for found in re.finditer(r"\S+", text)]
        step = chunking.size - chunking.overlap
        for start in range(0, max(len(places) - chunking.overlap, 1), step):
            part = places[start : start + chunking.size]
            yield part[0][0], part[-1][1]


# What is in a directory


def contents(directory: Path) -> dict[str, Any]:
    """Every file: SHA-256 of its bytes, of a database what it holds, the manifest line by line."""
    files: dict[str, Any] = {}
    databases = [path for path in directory.rglob("*") if path.suffix == ".sqlite"]
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.name == "manifest.json":
            files[name] = manifest_lines(path, len(databases))
        elif path.suffix == ".sqlite":
            files[name] = sha256(database(path).encode())
        elif path.is_file():
            files[name] = sha256(path.read_bytes())
    return files


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def manifest_lines(path: Path, databases: int) -> list[str]:
    """A manifest without dates, the program's version, and what depends on SQLite's release or on
    Python's."""
    text = path.read_text(encoding="utf-8")
    for pattern, put, count in (
        (r'"(created|changed)": "\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00"', r'"\1": "DATE"', 2),
        (r'^ "program": "[^"\n]+"', ' "program": "VERSION"', 1),
        (r'^ "sha256": "[0-9a-f]{64}"', ' "sha256": "SHA256"', 1),
        (
            r'(\.sqlite": \{\s+"size": )\d+(,\s+"sha256": )"[0-9a-f]{64}"',
            r'\1SIZE\2"SHA256"',
            databases,
        ),
    ):
        text, replaced = re.subn(pattern, put, text, flags=re.MULTILINE)
        assert replaced == count, (pattern, replaced)
    # Each Python has another Unicode.
    text = re.sub(r'("words": "rules \d+, Unicode) [\d.]+"', r'\1 UNICODE"', text)
    return text.splitlines()


def database(path: Path) -> str:
    """Schema and rows, with no byte of the file: its header has SQLite's release in it."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as connection:
        schema = connection.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
        ).fetchall()
        marks = [connection.execute(f"PRAGMA {name}").fetchone() for name in _MARKS]
        tables = [name for kind, name, _, _ in schema if kind == "table"]
        rows = [
            connection.execute(f"SELECT * FROM {name} ORDER BY 1, 2").fetchall() for name in tables
        ]
    return repr((schema, marks, list(zip(tables, rows, strict=True))))


_MARKS = ("user_version", "application_id", "encoding", "journal_mode")


# Every state that an index goes through


def states(folder: Path, spec: Any) -> dict[str, dict[str, Any]]:
    """State → file → what it holds, of an index from its build on."""
    fixed = fixed_spec(spec)
    found = _changed(folder, FixedEncoder(fixed))
    encoder = FixedEncoder(fixed, scale=1 + 2**-11)
    some = [document(number) for number in range(31, 95)]
    build_index(folder / "float16", some, encoder, store="float16", window=64)
    found["float16"] = contents(folder / "float16")
    encoder = FixedEncoder(fixed, exact=True)
    options: dict[str, Any] = {"standardize": "none", "index_type": "HNSW8"}
    build_index(folder / "linked", some, encoder, **options)
    found["HNSW8"] = contents(folder / "linked")
    reindex(folder / "linked", standardize="none", index_type="SQ8")
    found["SQ8"] = contents(folder / "linked")
    return found


def _changed(folder: Path, encoder: FixedEncoder) -> dict[str, dict[str, Any]]:
    index, found = folder / "index", {}
    build_index(index, map(document, range(200)), encoder, chunk=CHUNK, window=64)
    found["fresh"] = contents(index)
    once = Path(shutil.copytree(index, folder / "once"))
    reindex(once, standardize="hs")
    found["fresh, reindexed"] = contents(once)
    again = [replace(document(number), text=f"again {number}") for number in range(100, 104)]
    new = [document(number) for number in range(200, 216)]
    add_documents(index, [document(3), *again, *new], encoder, update=True)
    found["added to"] = contents(index)
    delete_documents(index, [f"d{number}" for number in (*range(40, 54), 205, 210)])
    found["deleted from"] = contents(index)
    other = Path(shutil.copytree(index, folder / "other"))
    compact_index(index)
    found["compacted"] = contents(index)
    reindex(other, standardize="rw")
    found["reindexed"] = contents(other)
    return found


def faiss_version() -> str:
    return metadata.version("faiss-cpu")


def write_states(folder: Path, spec: Any) -> None:
    write(FILES, {"faiss": faiss_version(), "states": states(folder, spec)})


def without_links(state: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on FAISS's release: all but codes, their checksums, and what the
    manifest says of them."""
    kept = {name: held for name, held in state.items() if not name.endswith((".faiss", ".crc"))}
    lines = kept.pop("manifest.json")
    return {**kept, "manifest.json": lines[: lines.index(' "files": {')]}


# Indexes that were written before


def write_stored(spec: Any) -> None:
    """Both index directories, and what they answer."""
    encoder = FixedEncoder(fixed_spec(spec))
    for directory in STORED.values():
        shutil.rmtree(directory, ignore_errors=True)
    numbers = [number for number in range(42) if number not in (7, 30)]
    build_index(STORED["plain"], map(document, numbers), encoder, standardize="both")
    long = [
        replace(document(number), text=words(f"long {number}", 20 + number % 9))
        for number in range(3)
    ]
    some = [*long, *(document(number) for number in range(60, 81))]
    options: dict[str, Any] = {"standardize": "both", "chunk": CHUNK}
    build_index(STORED["passages"], some, encoder, **options)
    add_documents(STORED["passages"], map(document, range(81, 87)), encoder)
    delete_documents(STORED["passages"], ["d1", "d65", "d83"])
    golden = {name: stored_answers(path, spec) for name, path in STORED.items()}
    write(ANSWERS, golden)
    write("stored-info.json", {name: info(path) for name, path in STORED.items()})


QUERIES = (document(12).text, words("long 2", 8), "something else")
SEARCHES: tuple[dict[str, Any], ...] = (
    {"method": "hs"},
    {"method": "rw"},
    {"method": "concat"},
    {"method": "sum"},
    {"method": "sum", "alpha": 0.25, "min_score": 0.1},
    {"method": "sum", "filter": 'year >= 2000 and lang = "en"'},
    {"method": "concat", "filter": "tags exists or nested.a in (1, 3)"},
    {"method": "sum", "passages": True},
    {"method": "hs", "passages": True, "filter": "not lang exists"},
)


def stored_answers(directory: Path, spec: Any) -> dict[str, list[list[dict[str, Any]]]]:
    """Search → query → hits, ids, scores, texts and all."""
    found = {}
    with Index.open(directory, FixedEncoder(fixed_spec(spec))) as index:
        for options in SEARCHES:
            name = ", ".join(f"{key} {value}" for key, value in options.items())
            hits = index.search(list(QUERIES), k=6, **options)
            found[name] = [[_hit(hit) for hit in one] for one in hits]
    return found


def _hit(hit: Any) -> dict[str, Any]:
    names = ("rank", "id", "score", "hs", "rw", "passage", "text", "metadata")
    return {name: getattr(hit, name) for name in names}


def info(directory: Path) -> Any:
    return json.loads(run("info", directory, "--json").stdout)


def sound(directory: Path) -> bool:
    return not verify_index(directory, full=True).problems
