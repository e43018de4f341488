"""What is served: the models and what their vectors are called, the indexes, single documents."""

from __future__ import annotations

from typing import Any

from moee_index.serve.answers.vectors import METHODS
from moee_index.serve.errors import UnknownNameError
from moee_index.serve.indexes import ServedIndex
from moee_index.serve.server import Server
from moee_index.text import check_text, shown


async def models(server: Server) -> list[dict[str, Any]]:
    """An entry a name that embeddings can be asked for, the bare models first, with their options.
    as_shipped: whether these are the checkpoint's own."""
    encoders = await server.engine.encoders()
    bare: list[dict[str, Any]] = [
        {
            "id": name,
            "encoder": {**encoder.spec.options(), "fingerprint": encoder.spec.fingerprint},
            "as_shipped": encoder.as_shipped(),
        }
        for name, encoder in encoders.items()
    ]
    bases = (*server.model_names(), *(served.name for served in server.indexes))
    spaces = [{"id": f"{base}#{method}"} for base in bases for method in METHODS]
    common = {"object": "model", "created": server.started, "owned_by": "moee-index"}
    return [{**entry, **common} for entry in bare] + [{**entry, **common} for entry in spaces]


def indexes(server: Server) -> list[dict[str, Any]]:
    """An entry an index, in the order of the command line."""
    return [_index(served) for served in server.indexes]


def _index(served: ServedIndex) -> dict[str, Any]:
    """What an index is. fields: metadata field → kinds of its values, None where there are
    thousands; digest: of its manifest, which no other version of any index has."""
    with served.held() as version:
        manifest, spec = version.index.manifest, version.index.spec
        fields = version.index.fields
        kinds = None if fields is None else {name: sorted(fields[name]) for name in sorted(fields)}
        return {
            "name": served.name,
            "revision": version.revision,
            "digest": version.digest,
            "documents": manifest.documents,
            "rows": manifest.rows,
            "model": served.model,
            "dims": dict(spec.dims),
            "encoder": {**spec.options(), "fingerprint": spec.fingerprint},
            "standardize": manifest.standardize,
            "index_type": dict(manifest.index_type),
            "alpha": manifest.alpha,
            "lexical": version.index.lexical,
            "chunk": manifest.chunk,
            "language": manifest.language,
            "fields": kinds,
            "unreadable": served.fault is not None,
        }


def document(served: ServedIndex, identifier: str) -> dict[str, Any]:
    """A document with its metadata, and its passages where it was split. Raises
    UnknownNameError."""
    check_text(identifier, "the id")
    with served.held() as version:
        stored = version.index.documents([identifier]).get(identifier)
        if stored is None:
            raise UnknownNameError(f"{served.name} has no document {shown(identifier)!r}")
        answer: dict[str, Any] = {
            "index": served.name,
            "revision": version.revision,
            "id": stored.id,
            "text": stored.text,
            "metadata": stored.metadata,
        }
        if version.index.manifest.chunk is not None:
            passages = version.index.passages([identifier])[identifier]
            answer["passages"] = [{"id": passage.id, "text": passage.text} for passage in passages]
    return answer


async def tei_info(server: Server) -> dict[str, Any]:
    """The first model, in the words of Text Embeddings Inference."""
    encoders = await server.engine.encoders()
    name = server.model_names()[0]
    spec, limits = encoders[name].spec, server.settings.limits
    return {
        "model_id": name,
        "model_sha": spec.revision,
        "model_dtype": f"{spec.bits}-bit",
        "model_type": {"embedding": {"pooling": spec.pooling}},
        "max_input_length": spec.max_tokens,
        "max_batch_tokens": limits.batch_tokens,
        "max_client_batch_size": limits.queue_tokens,
        "auto_truncate": True,
    }
