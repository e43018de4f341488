"""An index as one file for other programs: its passages, their texts, and vectors to search them.

    export_index(index, "news.parquet")

One vector a row by default, `sum` as [h ; √α·r] of standardised unit parts: the inner product with
the vector that `moee-index embed --index … --method sum --alpha …` gives for a query is
sim_HS + α·sim_RW, and cosine and Euclidean distance order in the same way (DESIGN, maths 1). So any
vector database answers as `query` does.

The formats are in formats.py.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from moee_index.errors import IndexDamagedError, MisuseError
from moee_index.export.formats import (
    FORMATS,
    ExportRow,
    Layout,
    Writer,
    check_target,
    files_of,
    ids_beside,
    whole_file,
)
from moee_index.export.single_vectors import one_vectors
from moee_index.fusion import Method, Standardizer, check_search, unit_vectors
from moee_index.index.store.document_reader import StoredDocument
from moee_index.text import escaped
from moee_index.types import PARTS, Embeddings, FloatArray, Progress, filled, ignore, one

if TYPE_CHECKING:
    from moee_index.index import Index
    from moee_index.index.filters import Filter
    from moee_index.index.segment import Mask

__all__ = ["FORMATS", "ExportReport", "check_export", "export_index", "ids_beside"]

# Rows together in memory, and in a row group of Parquet, and characters of their texts.
ROWS = 1000
CHARACTERS = 16 << 20


@dataclass(frozen=True)
class Content:
    """Which vectors are written. method: None where both parts are separate; alpha: only for
    `sum`; raw: neither standardised nor normalised."""

    method: Method | None
    alpha: float | None
    raw: bool

    @property
    def parts(self) -> bool:
        return self.method is None

    def dims(self, hs: int, rw: int) -> dict[str, int]:
        """Column → dimensions."""
        if self.method is None:
            return {"hs": hs, "rw": rw}
        return {"vector": {"hs": hs, "rw": rw}.get(self.method, hs + rw)}

    def columns(self, embeddings: Embeddings, standardizer: Standardizer) -> dict[str, FloatArray]:
        """Column → float32 [n, dims], of raw embeddings."""
        if self.method is not None:
            vectors = one_vectors(
                embeddings,
                self.method,
                raw=self.raw,
                alpha=self.alpha,
                standardizer=standardizer,
            )
            return {"vector": vectors}
        if self.raw:
            return {"hs": embeddings.hs, "rw": embeddings.rw}
        units = unit_vectors(embeddings, standardizer)
        return {"hs": units.hs.astype(np.float32), "rw": units.rw.astype(np.float32)}

    def query(self, name: str) -> str:
        """How a query has to be embedded for these vectors, in a sentence. name: of the index."""
        start = f"moee-index embed --index {shlex.quote(name)}"
        if self.parts:
            raw = " --raw" if self.raw else ""
            told = f"`{start} --method hs{raw} TEXT` and `… --method rw{raw} TEXT`"
        elif self.raw:
            told = f"`{start} --method {self.method} --raw TEXT`"
        else:
            alpha = f" --alpha {self.alpha!r}" if self.method == "sum" else ""
            told = f"`{start} --method {self.method}{alpha} TEXT`"
        told = f"embed queries with {told}"
        if self.raw:
            return f"{told}; these vectors are raw: standardise and normalise before comparing"
        if self.parts:
            return f"{told}; inner products are sim_HS and sim_RW, sum is sim_HS + α·sim_RW"
        score = (
            "sim_HS + α·sim_RW" if self.method == "sum" else f"the score of method {self.method}"
        )
        return f"{told}; the inner product is {score}, cosine gives the same order"


@dataclass(frozen=True)
class ExportReport:
    """What was written. ids: the second file, of npy alone. rows: passages; documents: that these
    belong to. dims: column → dimensions. method: None for two columns; alpha: of `sum`. bytes: of
    all files. query: how a query has to be embedded for these vectors."""

    index: str
    file: str
    ids: str | None
    rows: int
    documents: int
    dims: dict[str, int]
    method: str | None
    alpha: float | None
    raw: bool
    filter: str | None
    bytes: int
    seconds: float
    facts: dict[str, str]
    query: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def check_export(
    path: str | Path,
    *,
    method: str | None = None,
    alpha: float | None = None,
    raw: bool = False,
    parts: bool = False,
    overwrite: bool = False,
) -> Content:
    """What `export_index` refuses before it looks at an index; alpha may still be None for `sum`.

    Raises MisuseError for a contradiction, an unknown ending or a file that is there; StorageError
    for a directory that is not.
    """
    path = Path(path)
    if parts and (method is not None or alpha is not None):
        raise MisuseError(
            "--parts writes HS and RW separately, but --method and --alpha join them; leave those "
            "out"
        )
    if parts and path.suffix == ".npy":
        raise MisuseError(
            f"{path}: .npy holds one matrix, but --parts needs two; take .parquet, .jsonl or "
            ".safetensors, or export --method hs and --method rw"
        )
    chosen = None if parts else method or "sum"
    if raw and chosen == "sum":
        raise MisuseError(
            "--raw has no `sum`: its parts are normalised by definition; take --method hs, rw or "
            "concat, or --parts"
        )
    if chosen is not None:
        check_search(chosen, alpha, 1)
    check_target(path, overwrite=overwrite)
    return Content(cast("Method | None", chosen), alpha, raw)


def export_index(
    index: Index,
    path: str | Path,
    *,
    method: str | None = None,
    alpha: float | None = None,
    raw: bool = False,
    parts: bool = False,
    filter: str | Filter | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> ExportReport:
    """Write the passages that count to a .parquet, .jsonl, .npy or .safetensors file.

    The ending decides the format. method: sum (the default), concat, hs, rw: one vector a row whose
    inner product with a query's is that method's score; alpha: weight of RW in sum, None is the
    index's. raw: as the model gave them (hs, rw, concat, or parts). parts: columns `hs` and `rw`
    instead of one `vector`. filter: only documents whose metadata match. overwrite: replace a
    file that is there. In memory are at most 1000 rows with 16 million characters of texts (or
    one row that is longer), as much that was read ahead, and their vectors; for .safetensors the
    names of all rows too, up to the 100 MB of its header. The file appears whole or not at all,
    and the same version of an index gives the same bytes.

    A .npy holds the matrix alone; `ids_beside` names the file with the ids of its rows.

    Raises MisuseError (also where the index is closed), FilterError, StorageError,
    IndexDamagedError.
    """
    started = time.perf_counter()
    path = Path(path)
    content = check_export(
        path, method=method, alpha=alpha, raw=raw, parts=parts, overwrite=overwrite
    )
    if content.method == "sum":
        content = replace(content, alpha=index.alpha if alpha is None else float(alpha))
    _check_outside(path, index)
    with index.held():
        if path.suffix == ".safetensors":  # which has names alone
            index.snapshot.check_names()
        masks = index.snapshot.masks(filter)
        facts = _facts(index, content)
        condition = filter if filter is None or isinstance(filter, str) else filter.text
        if condition is not None:
            facts["filter"] = condition
        layout = Layout(
            dims=content.dims(index.spec.hs_dim, index.spec.rw_dim),
            rows=_count(index, masks),
            names=lambda: (row.name for _, _, row in _rows(index, masks)),
            facts=facts,
        )
        with whole_file(path, layout, overwrite=overwrite) as writer:
            documents = _write(index, masks, content, writer, layout.rows, progress or ignore)
    files = files_of(path)
    return ExportReport(
        index=str(index.directory),
        file=str(path),
        ids=str(files[1]) if len(files) > 1 else None,
        rows=layout.rows,
        documents=documents,
        dims=dict(layout.dims),
        method=content.method,
        alpha=content.alpha,
        raw=raw,
        filter=condition,
        bytes=sum(file.stat().st_size for file in files),
        seconds=time.perf_counter() - started,
        facts=facts,
        query=content.query(str(index.directory)),
    )


def _write(
    index: Index,
    masks: list[Mask | None],
    content: Content,
    writer: Writer,
    total: int,
    progress: Progress,
) -> int:
    """Write all rows, block by block; returns the number of documents."""
    done = documents = 0
    for block in _blocks(index, masks):
        rows = [row for _, _, row in block]
        writer.write(rows, content.columns(_raw(index, block), index.standardizer))
        done += len(rows)
        documents += sum(row.is_first for row in rows)
        progress("exporting", done, total)
    if done != total:
        raise IndexDamagedError(
            f"{index.directory} gave {done} rows instead of {total}; run moee-index verify"
        )
    return documents


def _raw(index: Index, block: list[_Row]) -> Embeddings:
    """The raw vectors of a block."""
    taken = [
        index.snapshot.segments[segment].raw.take(np.array([row for _, row, _ in rows]))
        for segment, rows in _runs(block)
    ]
    return Embeddings(*(np.concatenate([each[part] for each in taken]) for _, part in PARTS))


def _check_outside(path: Path, index: Index) -> None:
    """A file in the index directory would be taken for a part of it, or removed as a leftover."""
    if path.resolve().is_relative_to(index.snapshot.home.resolve()):
        raise MisuseError(f"{path} is inside the index; name a file outside {index.directory}")


def _facts(index: Index, content: Content) -> dict[str, str]:
    """What a reader of the file has to know, as text; the same for every place of an index."""
    manifest, spec = index.manifest, index.spec
    name = escaped(index.snapshot.home.resolve().name)
    facts = {
        "index": name,
        "revision": manifest.revision,
        "model": spec.model,
        "model_revision": spec.revision,
        "fingerprint": spec.fingerprint,
        **spec.options(without=("double_quant",)),
        "hs_dim": spec.hs_dim,
        "rw_dim": spec.rw_dim,
        "chunk": manifest.chunk,
        "content": "parts" if content.parts else content.method,
        "alpha": content.alpha,
        "standardize": "none" if content.raw else manifest.standardize,
        "normalised": "no" if content.raw else "yes",
        "query": content.query(name),
        "program": f"moee-index {manifest.program}",
    }
    return {key: str(value) for key, value in facts.items() if value is not None}


# A row of a segment: (number of the segment, row there, what stands beside its vectors).
_Row = tuple[int, int, ExportRow]


def _rows(index: Index, masks: list[Mask | None]) -> Iterator[_Row]:
    """All rows to export, in the order of the index."""
    for number, (segment, mask) in enumerate(zip(index.snapshot.segments, masks, strict=True)):
        for document in segment.documents.in_order():
            if mask is None or mask[document.first]:
                for offset, row in enumerate(_of(document)):
                    yield number, document.first + offset, row


def _of(document: StoredDocument) -> Iterator[ExportRow]:
    split = len(document.spans) > 1
    for row in document.rows:
        yield ExportRow(
            id=document.id,
            passage=document.name_at(row) if split else None,
            text=document.passage(row),
            title=document.title,
            metadata=document.metadata,
            is_first=row == document.first,
        )


def _blocks(index: Index, masks: list[Mask | None]) -> Iterator[list[_Row]]:
    """Rows together: so many, or fewer whose texts are long."""
    return filled(_rows(index, masks), (one, ROWS), (lambda row: _characters(row[2]), CHARACTERS))


def _characters(row: ExportRow) -> int:
    fields = row.metadata.values()
    return len(row.text) + sum(len(value) for value in fields if isinstance(value, str))


def _runs(block: list[_Row]) -> Iterator[tuple[int, list[_Row]]]:
    """A block by segment."""
    for segment, rows in groupby(block, key=lambda row: row[0]):
        yield segment, list(rows)


def _count(index: Index, masks: list[Mask | None]) -> int:
    return sum(
        segment.entry.rows if mask is None else int(mask.sum())
        for segment, mask in zip(index.snapshot.segments, masks, strict=True)
    )
