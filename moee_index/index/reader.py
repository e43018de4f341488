"""An index as its users see it: opened, searched, described, closed.

Knows how the files of one generation fit together. Refuses to write: building is build.py's.
Everything is opened at once, so that a reader keeps its version while a newer one is built and
takes its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np

from moee_index.embeddings import Embeddings, EncoderSpec, TextEncoder
from moee_index.errors import IndexDamagedError, MisuseError, NotAnIndexError
from moee_index.fusion import Standardizer, check_search, unit_vectors
from moee_index.hits import Hit
from moee_index.index.compare import check_spec
from moee_index.index.derive import dims_of, read_standardizer
from moee_index.index.documents import DocumentReader, StoredDocument
from moee_index.index.manifest import (
    DOCUMENTS,
    MANIFEST,
    NORMS,
    PARTS,
    STANDARDIZER,
    Manifest,
    codes_name,
    raw_name,
)
from moee_index.index.pair import open_part
from moee_index.index.search import PairSearcher, Ranking
from moee_index.index.vectors import RowReader, map_rows

if TYPE_CHECKING:
    from moee_index.index.intake import Documents
    from moee_index.index.verify import VerifyReport

LoadEncoder = Callable[[EncoderSpec], TextEncoder]
_ATTEMPTS = 5


class Hits(list[Hit]):
    """The hits of one query, best first. exact: no document can have been missed."""

    def __init__(self, hits: Sequence[Hit], exact: bool) -> None:
        super().__init__(hits)
        self.exact = exact


class Index:
    """A finished index, opened for reading. A context manager; use it from one thread at a time.

    Make one with `Index.build` or `Index.open`.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        block_rows: int | None,
    ) -> None:
        self.directory = directory
        self.manifest = manifest
        self._load: LoadEncoder | None = None
        self._encoder: TextEncoder | None = None
        dims, rows = dims_of(manifest.spec), manifest.documents

        def path(name: str) -> Path:
            return manifest.path(directory, name)

        self.standardizer: Standardizer = read_standardizer(
            path(STANDARDIZER), manifest.standardize
        )
        raw = {part: path(raw_name(part, manifest.store)) for part in PARTS}
        self._raw = RowReader(raw, manifest.store, rows, dims)
        norms = map_rows(path(NORMS), np.dtype("<f4"), rows, len(PARTS))
        pair = {
            part: open_part(path(codes_name(part)), manifest.index_type[part], rows, dims[part])
            for part in PARTS
        }
        self._documents = DocumentReader(path(DOCUMENTS))
        if len(self._documents) != rows:
            self._documents.close()
            raise IndexDamagedError(
                f"{path(DOCUMENTS)} holds {len(self._documents)} documents instead of {rows}; "
                "restore it or build again with --overwrite"
            )
        self._searcher = PairSearcher(
            pair,
            manifest.index_type,
            self._raw,
            norms,
            self.standardizer,
            manifest.codes_error,
            block_rows,
        )

    @classmethod
    def build(
        cls,
        directory: str | Path,
        documents: Documents,
        encoder: TextEncoder,
        **options: Any,
    ) -> Index:
        """Build an index (`build_index` takes the same options), then open it with the encoder."""
        from moee_index.index.build import build_index

        build_index(directory, documents, encoder, **options)
        return cls.open(directory, encoder)

    @classmethod
    def open(
        cls,
        directory: str | Path,
        encoder: TextEncoder | LoadEncoder | None = None,
        *,
        block_rows: int | None = None,
    ) -> Index:
        """Open a finished index.

        encoder: what embeds queries, or a function from the index's `EncoderSpec` to one, called
        at the first query; None for `search_embeddings` alone. block_rows: documents scanned at a
        time; None chooses.

        Raises NotAnIndexError, IndexDamagedError, FingerprintMismatchError.
        """
        directory = Path(directory)
        for attempt in range(_ATTEMPTS):
            manifest = Manifest.read(directory)
            try:
                index = cls(directory, manifest, block_rows)
                break
            except IndexDamagedError:
                # A writer may have put a newer version in place since the manifest was read.
                now = Manifest.read(directory).generation
                if attempt + 1 == _ATTEMPTS or now == manifest.generation:
                    raise
        if encoder is not None:
            try:
                index.use_encoder(encoder)
            except BaseException:
                index.close()
                raise
        return index

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of files and threads; the index cannot be searched any more."""
        self._searcher.close()
        self._documents.close()

    def __len__(self) -> int:
        return self.manifest.documents

    @property
    def spec(self) -> EncoderSpec:
        """The encoder that the index was built with."""
        return self.manifest.spec

    @property
    def alpha(self) -> float:
        """The index's default weight of RW in method `sum`."""
        return self.manifest.alpha

    # Encoders

    def check_encoder(self, spec: EncoderSpec) -> None:
        """Raises FingerprintMismatchError naming each field that differs, and both values."""
        check_spec(self.spec, spec, self.directory)

    def use_encoder(self, encoder: TextEncoder | LoadEncoder) -> None:
        """Embed queries with this encoder, or with what this function gives at the first query.

        Raises FingerprintMismatchError.
        """
        spec = getattr(encoder, "spec", None)
        if isinstance(spec, EncoderSpec):
            self.check_encoder(spec)
            self._encoder = cast(TextEncoder, encoder)
        else:
            self._load = cast(LoadEncoder, encoder)

    def encoder(self) -> TextEncoder:
        """The encoder in use, loaded now if it was not yet. Raises MisuseError if there is none."""
        if self._encoder is None:
            if self._load is None:
                raise MisuseError(
                    f"{self.directory} was opened without an encoder; give Index.open one, or call "
                    "search_embeddings"
                )
            self.use_encoder(self._load(self.spec))
        assert self._encoder is not None
        return self._encoder

    # Search

    @overload
    def search(  # type: ignore[overload-overlap]
        self,
        query: str,
        k: int = ...,
        alpha: float | None = ...,
        method: str = ...,
        min_score: float | None = ...,
        encoder: TextEncoder | None = ...,
    ) -> Hits: ...

    @overload
    def search(
        self,
        query: Sequence[str],
        k: int = ...,
        alpha: float | None = ...,
        method: str = ...,
        min_score: float | None = ...,
        encoder: TextEncoder | None = ...,
    ) -> list[Hits]: ...

    def search(
        self,
        query: str | Sequence[str],
        k: int = 10,
        alpha: float | None = None,
        method: str = "sum",
        min_score: float | None = None,
        encoder: TextEncoder | None = None,
    ) -> Hits | list[Hits]:
        """The k best documents for a query, or for each of several in one pass.

        alpha: weight of RW in method `sum`; None is the index's default. k above the number of
        documents gives all. Documents that score below `min_score` are left out. Equal scores
        stand in document order.

        Raises MisuseError for an empty query and for k, alpha or method out of range;
        FingerprintMismatchError for an encoder other than the one the index was built with.
        """
        check_search(method, alpha, k)
        texts = [query] if isinstance(query, str) else list(query)
        for text in texts:
            if not text.strip():
                raise MisuseError("the query is empty; give some text")
        if encoder is not None:
            self.use_encoder(encoder)
        if not texts:
            return []
        embeddings = self.encoder().encode(texts, query=True)
        found = self.search_embeddings(embeddings, k, alpha, method, min_score)
        return found[0] if isinstance(query, str) else found

    def search_embeddings(
        self,
        embeddings: Embeddings,
        k: int = 10,
        alpha: float | None = None,
        method: str = "sum",
        min_score: float | None = None,
    ) -> list[Hits]:
        """As `search`, for raw query embeddings: hs [q, d], rw [q, layers * experts].

        Raises MisuseError for other dimensions, ModelError for values that are not finite.
        """
        weight = check_search(method, alpha, k, default_alpha=self.manifest.alpha)
        if min_score is not None and not np.isfinite(min_score):
            raise MisuseError(f"min_score is {min_score!r}; it must be a finite number")
        for part, values, dim in (
            ("HS", embeddings.hs, self.spec.hs_dim),
            ("RW", embeddings.rw, self.spec.rw_dim),
        ):
            if values.ndim != 2 or values.shape[1] != dim:
                raise MisuseError(f"{part} of the queries has shape {values.shape}, not [q, {dim}]")
        queries = unit_vectors(embeddings, self.standardizer)
        rankings = self._searcher.search(queries, int(k), method, weight, min_score)  # type: ignore[arg-type]
        return [self._hits(ranking) for ranking in rankings]

    def _hits(self, ranking: Ranking) -> Hits:
        stored = self._documents.get([int(row) for row in ranking.rows])
        scores = ranking.scores
        hits = []
        for place, row in enumerate(ranking.rows):
            document = stored[int(row)]
            hits.append(
                Hit(
                    rank=place + 1,
                    id=document.id,
                    score=float(scores.score[place]),
                    hs=float(scores.hs[place]),
                    rw=float(scores.rw[place]),
                    text=document.text,
                    metadata=document.metadata,
                )
            )
        return Hits(hits, ranking.exact)

    # What there is

    def vectors(self, ids: Sequence[str]) -> Embeddings:
        """Raw embeddings of documents by id, in the order of `ids`.

        Raises MisuseError naming an id that is not there.
        """
        known = self._documents.rows_of(ids)
        for identifier in ids:
            if identifier not in known:
                raise MisuseError(f"{self.directory} has no document {identifier!r}")
        return self._raw.take(np.array([known[i] for i in ids], dtype=np.int64))

    def documents(self, ids: Sequence[str]) -> dict[str, StoredDocument]:
        """Text and metadata of documents by id; ids that are not there are left out."""
        rows = self._documents.rows_of(ids)
        stored = self._documents.get(list(rows.values()))
        return {identifier: stored[row] for identifier, row in rows.items()}

    def info(self) -> dict[str, Any]:
        """What `info INDEX --json` prints (INTERFACE)."""
        manifest, spec = self.manifest, self.spec
        model = {name: getattr(spec, name) for name in ("path", "revision", "fingerprint", "bits")}
        return {
            "documents": manifest.documents,
            "dims": dims_of(spec),
            "model": {"name": spec.model, **model, "bytes": manifest.model_bytes},
            "prompt": spec.prompt,
            "query_prompt": spec.query_prompt,
            "rw": spec.rw,
            "pooling": spec.pooling,
            "max_tokens": spec.max_tokens,
            "standardize": manifest.standardize,
            "index_type": manifest.index_type,
            "alpha": manifest.alpha,
            "bytes": manifest.size,
            "created": manifest.created,
            "version": manifest.program,
        }

    def verify(self, full: bool = False) -> VerifyReport:
        """As `verify_index`, for this index's directory."""
        from moee_index.index.verify import verify_index

        return verify_index(self.directory, full=full)


def default_index(directory: str | Path = "indexes") -> tuple[Path, str]:
    """The index to use when none is named, and why: the only finished one, or the newest.

    Raises NotAnIndexError when there is none.
    """
    directory = Path(directory)
    found: list[tuple[str, Path]] = []
    if directory.is_dir():
        for path in sorted(directory.iterdir()):
            if (path / MANIFEST).is_file():
                found.append((Manifest.read(path).created, path))
    if not found:
        raise NotAnIndexError(
            f"there is no index in {directory}; make one with moee-index build, or name one with "
            "--index"
        )
    if len(found) == 1:
        return found[0][1], f"the only index in {directory}"
    created, path = max(found)
    return path, f"the newest of {len(found)} in {directory}, built {created}"
