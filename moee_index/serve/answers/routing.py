"""How a query and a document, or two documents, pass the experts, and who uses an expert most."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from moee_index.errors import MisuseError
from moee_index.index.lexical.syntax import parse_query, plain_query
from moee_index.index.routing import SEED, ExpertUse, Use, as_json, compare_routing
from moee_index.serve.engine.engine import QUERY_TOKENS
from moee_index.serve.engine.trace import Trace
from moee_index.serve.errors import UnknownNameError
from moee_index.serve.indexes import ServedIndex, Version
from moee_index.serve.server import Server
from moee_index.text import check_text, cut, shown
from moee_index.types import Embeddings

_MOST_DOCUMENTS = 8
# Characters of a document that is told beside an expert.
_SHOWN = 160

# Kept as long as the version of the index is.
_uses: WeakKeyDictionary[Version, ExpertUse] = WeakKeyDictionary()
_counting = threading.Lock()


@dataclass(frozen=True)
class Pairing:
    """What is compared: a document (or passage, by its name) with a query or with another. syntax:
    whether the query may hold signs, which are no part of what is searched for."""

    document: str
    query: str | None = None
    other: str | None = None
    syntax: bool = False

    def check(self) -> None:
        """Raises MisuseError."""
        if (self.query is None) == (self.other is None):
            raise MisuseError("compare the document with one of query and other")
        check_text(self.document, "the document")
        if self.other is not None:
            check_text(self.other, "the other document")
        elif not check_text(self.query, "the query").strip():
            raise MisuseError("the query is empty; give some text")


async def routing(server: Server, index: str, pairing: Pairing, trace: Trace) -> dict[str, Any]:
    """What the two share, layer by layer. Raises UnknownNameError, MisuseError."""
    pairing.check()
    engine, served = server.engine, server.indexes.get(index)
    with ExitStack() as stack:
        async with engine.in_time():
            await engine.in_thread(served.refresh)
            version = stack.enter_context(served.holding())
            trace.about |= {"index": served.name, "revision": version.revision}
            encoder = await engine.encoder(served.model)
            right = await engine.in_thread(_vectors, version, pairing.document)
            if pairing.query is not None:
                trace.note([pairing.query])
                parsed = (parse_query if pairing.syntax else plain_query)(pairing.query)
                tokens = await engine.tokenize(encoder, [parsed.text], trace, query=True)
                with engine.admitted(QUERY_TOKENS + tokens.count):
                    left = await engine.embed(tokens, trace)
            else:
                assert pairing.other is not None
                left = await engine.in_thread(_vectors, version, pairing.other)
            with trace.stage("scan"):
                comparison = await engine.in_thread(
                    compare_routing, left, right, version.index.standardizer, encoder.rw_widths,
                    encoder.spec.rw,
                )  # fmt: skip
    return {
        "index": served.name,
        "revision": version.revision,
        "kind": encoder.spec.rw,
        "document": pairing.document,
        "query": pairing.query,
        "other": pairing.other,
        **as_json(comparison),
    }


def _vectors(version: Version, name: str) -> Embeddings:
    """Raw vectors of a document or a passage. Raises UnknownNameError, MisuseError for a document
    of several passages."""
    # Its client may leave meanwhile, and give up the version.
    with version.held():
        if name not in version.index.passages([name]):
            raise UnknownNameError(f"{version.name} has no document {shown(name)!r}")
        return version.index.vectors([name])


async def expert_documents(
    server: Server, index: str, layer: int, expert: int, without: str | None, trace: Trace
) -> dict[str, Any]:
    """The documents that use an expert most, and among how many rows they were looked for."""
    engine, served = server.engine, server.indexes.get(index)
    if without is not None:
        check_text(without, "the id")
    async with engine.in_time():
        encoder = await engine.encoder(served.model)
        with engine.admitted(QUERY_TOKENS), trace.stage("scan"):
            return await engine.in_thread(
                _documents, served, encoder.rw_widths, encoder.spec.rw, layer, expert, without
            )


def _documents(
    served: ServedIndex,
    widths: tuple[int, ...],
    kind: str,
    layer: int,
    expert: int,
    without: str | None,
) -> dict[str, Any]:
    with served.held() as version:
        with _counting:
            if version not in _uses:
                _uses[version] = version.index.expert_use(widths, kind)
            use = _uses[version]
        return {
            "index": served.name,
            "revision": version.revision,
            "layer": layer,
            "expert": expert,
            "rows": use.rows,
            "looked_at": use.looked_at,
            "seed": SEED,
            "documents": [
                _use_json(each) for each in use.of(layer, expert, _MOST_DOCUMENTS, without)
            ],
        }


def _use_json(use: Use) -> dict[str, Any]:
    return {
        "id": use.document.id,
        "passage": use.name,
        "title": use.document.title,
        "text": cut(use.text, _SHOWN),
        "amount": use.amount,
    }
