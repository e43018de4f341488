"""The pair of FAISS indexes, one file a part: written, opened, and trusted only where checked.

Unit vectors in, codes or neighbor lists out. `flat` means float16 codes that are scanned
completely, so its answers are exact after rescoring; it is what `auto` chooses at every size,
because an index that may miss documents is built only on request. `approx` is flat too, with
candidates beside it (approximate/). Any other type is a FAISS factory string, and approximate.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from moee_index.atomic import replacing, storage_errors
from moee_index.backends import load_faiss
from moee_index.dependencies import lacking
from moee_index.errors import IndexDamagedError, MisuseError, StorageError, counted
from moee_index.index.store.checksums import Bytes, Codes
from moee_index.index.store.reading import HINT, obstacle, reading
from moee_index.text import check_text, text_fault
from moee_index.types import FloatArray, Pair

FLAT = "flat"
APPROXIMATE = "approx"
Blocks = Callable[[], Iterable[FloatArray]]


class Neighbours(Protocol):
    """What a search needs of an approximate FAISS index."""

    def search(
        self, queries: FloatArray, depth: int, /
    ) -> tuple[FloatArray, npt.NDArray[np.int64]]: ...


_SEED = 20250415
_TRAIN_BYTES = 512 << 20
_TABLE_BYTES = 2 << 30
_MIN_NPROBE = 8
_reading_faiss = threading.Lock()


def check_index_type(requested: str, dims: Pair[int]) -> tuple[str, str]:
    """The index type to build, and the reason.

    Raises MisuseError for a factory string that FAISS refuses at these dimensions.
    """
    if check_text(requested, "the index type") == "auto":
        return FLAT, "every document is compared, so answers are exact; other types only on request"
    if requested == FLAT:
        return FLAT, "as requested"
    if requested == APPROXIMATE:
        return APPROXIMATE, "as requested; documents may be missed, and how many is measured"
    for part, dim in dims:
        _made(requested, part, dim)
    return requested, "as requested; approximate: documents may be missed"


def segment_type(index_type: str) -> str:
    """The type of the two files of a segment in an index of this type."""
    return FLAT if index_type == APPROXIMATE else index_type


def check_recall(index_type: str, recall: float | None) -> None:
    """Raises MisuseError where a recall is asked for that no index of this type can promise."""
    if recall is not None and index_type != APPROXIMATE:
        raise MisuseError(
            f"a recall is measured of index type {APPROXIMATE}, not of {index_type}; leave it out, "
            f"or give --index-type {APPROXIMATE}"
        )


def _made(factory: str, part: str, dim: int) -> Any:
    faiss = load_faiss()
    where = f"index type {factory!r} does not fit {part.upper()} with {dim} dimensions"
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise MisuseError(
            f"{where} ({short(error)}); give flat or another factory string"
        ) from None
    inverted = _inverted_lists(index)
    if isinstance(index, faiss.IndexIDMap | faiss.IndexIDMap2) or (inverted and not inverted.nlist):
        raise MisuseError(f"{where}; give flat or a type such as HNSW32 or IVF256,Flat")
    if inverted:
        inverted.cp.seed = _SEED
        # FAISS warns on stderr for small corpora, once a sub-quantizer; it trains all the same.
        inverted.cp.min_points_per_centroid = 1
    return index


def write_flat(path: Path, blocks: Iterable[FloatArray], rows: int, dim: int) -> float:
    """Write unit vectors as an `IndexScalarQuantizer` of float16 codes, never whole in memory.

    Returns the longest difference between a vector and its codes. Raises StorageError.
    """
    longest = 0.0
    with replacing(path) as temporary, storage_errors(path), temporary.open("wb") as file:
        file.write(_header(rows, dim))
        written = 0
        for block in blocks:
            codes = block.astype("<f2")
            difference = block - codes.astype(np.float32)
            longest = max(longest, float(np.square(difference).sum(axis=1).max(initial=0.0)))
            file.write(codes.tobytes())
            written += len(block)
        assert written == rows
    return math.sqrt(longest)


def _header(rows: int, dim: int) -> bytes:
    """What FAISS writes before the codes; checked against FAISS itself on one row."""
    faiss = load_faiss()

    def serialized(count: int) -> bytes:
        quantizer = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexScalarQuantizer(dim, quantizer, faiss.METRIC_INNER_PRODUCT)
        if count:
            index.add(np.zeros((count, dim), dtype=np.float32))
        return bytes(faiss.serialize_index(index).tobytes())

    def with_counts(count: int) -> bytes:
        # fourcc, int32 d, then int64 ntotal; at the end the uint64 length of the codes.
        empty = serialized(0)
        return b"".join((empty[:8], count.to_bytes(8, "little"), empty[16:-8])) + (
            count * dim * 2
        ).to_bytes(8, "little")

    if with_counts(1) + bytes(2 * dim) != serialized(1):
        raise lacking("faiss-cpu", "writes flat indexes in an unknown layout")
    return with_counts(rows)


def write_factory(path: Path, factory: str, part: str, blocks: Blocks, rows: int, dim: int) -> None:
    """Train and fill an approximate index; the same rows give the same file.

    Raises MisuseError when it cannot be trained on so few rows, StorageError.
    """
    faiss = load_faiss()
    index = _made(factory, part, dim)
    threads = faiss.omp_get_max_threads()
    if "HNSW" in factory or "NSG" in factory:
        # Links depend on the order in which threads come by.
        faiss.omp_set_num_threads(1)
    try:
        if not index.is_trained:
            index.train(_sample(blocks, rows, dim))
        for block in blocks():
            index.add(block)
    except RuntimeError as error:
        raise MisuseError(
            f"index type {factory!r} cannot be built for {part.upper()} from "
            f"{counted(rows, 'document')} ({short(error)}); what is embedded is kept: build "
            "again with --overwrite and --index-type flat, or moee-index reindex --index-type "
            "flat an index that is there"
        ) from None
    finally:
        faiss.omp_set_num_threads(threads)
    with replacing(path) as temporary, storage_errors(path), temporary.open("wb") as file:
        try:
            # Through our own file: an error as FAISS's own closes, such as a full disk, it only
            # prints, and leaves the file cut off.
            faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
        except RuntimeError as error:
            raise StorageError(f"FAISS cannot write {path} ({short(error)})") from None


def _sample(blocks: Blocks, rows: int, dim: int) -> FloatArray:
    most = max(1, min(rows, _TRAIN_BYTES // (4 * dim)))
    chosen = np.arange(rows)
    if most < rows:
        chosen = np.sort(np.random.default_rng(_SEED).choice(rows, most, replace=False))
    taken = np.empty((most, dim), dtype=np.float32)
    start = 0
    for block in blocks():
        low, high = np.searchsorted(chosen, (start, start + len(block)))
        taken[low:high] = block[chosen[low:high] - start]
        start += len(block)
    return taken


def open_part(path: Path, index_type: str, rows: int, dim: int, *, checked: bool = False) -> Any:
    """The FAISS index of a finished file, memory-mapped where its type allows.

    Never `add` to it: FAISS aborts the process on a memory-mapped index. checked: what FAISS reads
    of the file is known to be what was written, so a refusal is FAISS's own. Raises
    IndexDamagedError where the file is damaged or is not the index that was asked for, StorageError
    where it may not or cannot be read, LibraryError.
    """
    faiss = load_faiss()
    with reading(path):
        size = path.stat().st_size
        try:
            index = _read(path, size if index_type == FLAT else size + _TABLE_BYTES)
        except (RuntimeError, MemoryError) as error:
            if stopped := obstacle(path, str(error)):
                raise stopped from error
            if isinstance(error, MemoryError):
                raise
            if checked:
                raise lacking("faiss-cpu", f"does not read {path} ({short(error)})") from None
            raise IndexDamagedError(f"{path} is damaged ({short(error)}); {HINT}") from None
    if index is None:  # FAISS has a form for no index at all
        raise IndexDamagedError(f"{path} holds no index; {HINT}")
    if (index.ntotal, index.d) != (rows, dim):
        raise IndexDamagedError(
            f"{path} holds {index.ntotal} vectors of {index.d}, not {rows} of {dim}; {HINT}"
        )
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise IndexDamagedError(f"{path} does not use the inner product; {HINT}")
    if index_type == FLAT:
        if (
            not isinstance(index, faiss.IndexScalarQuantizer)
            or index.sq.qtype != faiss.ScalarQuantizer.QT_fp16
            or index.codes.size() != rows * dim * 2
        ):
            raise IndexDamagedError(f"{path} does not hold float16 codes; {HINT}")
    else:
        inverted = _inverted_lists(index)
        if inverted:
            inverted.nprobe = min(inverted.nlist, max(_MIN_NPROBE, math.isqrt(inverted.nlist)))
    return index


def _read(path: Path, room: int) -> Any:
    """FAISS's own reading of a file. room: bytes that a vector in it may take at most.

    A damaged length must not make FAISS allocate or loop for ever. (Product quantisers compute a
    table after reading, FAISS's own limit for it is 2 GiB.)
    """
    faiss = load_faiss()
    with contextlib.ExitStack() as opened:
        name = str(path)
        if not _is_utf8(name):
            # FAISS takes no other name; the system has one for every file that is open.
            name = f"/dev/fd/{opened.enter_context(path.open('rb')).fileno()}"
        # The limits are the process's, and another file may be opened at the same time.
        opened.enter_context(_reading_faiss)
        faiss.set_deserialization_vector_byte_limit(room + 1)
        faiss.set_deserialization_loop_limit(room + 1)
        return faiss.read_index(name, faiss.IO_FLAG_MMAP_IFC)


def read_mapped(content: Bytes, path: Path) -> Any:
    """What FAISS reads of a file's bytes, which are known to be what was written; the name of the
    file may be gone already. Raises LibraryError."""
    faiss = load_faiss()
    place = 0

    def read(count: int) -> bytes:
        nonlocal place
        place += count
        return bytes(content[place - count : place])

    with _reading_faiss:
        faiss.set_deserialization_vector_byte_limit(len(content) + 1)
        faiss.set_deserialization_loop_limit(len(content) + 1)
        try:
            return faiss.read_index(faiss.PyCallbackIOReader(read))
        except RuntimeError as error:
            raise lacking("faiss-cpu", f"does not read {path} ({short(error)})") from None


def _is_utf8(name: str) -> bool:
    return text_fault(name) is None


def codes_of(index: Any) -> Codes:
    """The codes of a flat index as float16 [n, d], a view that must not outlive the index."""
    faiss = load_faiss()
    flat = faiss.rev_swig_ptr(index.codes.data(), index.codes.size())
    # Left writable: torch warns of memory that is not, and silencing a warning is the process's
    # affair, which threads would undo for one another. Nothing here writes; what did would fault.
    codes: Codes = flat.view(np.float16).reshape(index.ntotal, index.d)
    return codes


def neighbors(
    index: Neighbours, query: FloatArray, depth: int
) -> tuple[npt.NDArray[np.int64], float]:
    """Rows nearest to one unit vector [d] by an approximate index, and the last one's similarity.

    A list shorter than `depth` is all that the index would ever find.
    """
    similarities, rows = index.search(query[None, :], depth)
    filled = rows[0] >= 0
    last = float(similarities[0][filled][-1]) if filled.any() else 0.0
    return rows[0][filled].astype(np.int64), last


def _inverted_lists(index: Any) -> Any:
    faiss = load_faiss()
    try:
        return faiss.extract_index_ivf(index)
    except RuntimeError:
        return None


def short(error: BaseException) -> str:
    """FAISS's message without its C++ signature, in one line."""
    text = " ".join(str(error).split())
    for mark in ("Error: ", ".cpp:"):
        if mark in text:
            text = text.split(mark)[-1]
    return text.partition(": ")[2] if text[:1].isdigit() else text
