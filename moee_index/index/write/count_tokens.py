"""The token weights that a build needs where its model brings none: counted over the corpus in a
pass of its own, before anything is embedded.

What is counted are the texts as they will be embedded: passages where documents are split, each as
far as it fits the model. The same corpus gives the same table.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from moee_index.errors import CorpusError, MisuseError, NotAnIndexError, counted
from moee_index.index.store.manifest import Manifest
from moee_index.index.store.token_weights import begun_token_weights, token_weights_of
from moee_index.index.write.windows import (
    Counts,
    Documents,
    Rejects,
    check_documents,
    passages_of,
    windows,
)
from moee_index.token_weights import TokenCounts, TokenWeights
from moee_index.types import Notify, Progress, TextEncoder

_AT_A_TIME = 1024


def with_token_weights(
    directory: Path,
    documents: Documents,
    encoder: TextEncoder,
    chunk: str | None,
    *,
    anew: bool,
    skip_bad: bool,
    progress: Progress,
    notify: Notify,
) -> TextEncoder:
    """An encoder that can embed: one that lacks token weights gets those of the index or of the
    interrupted build that is there, else, or with `anew`, those of the corpus.

    Raises MisuseError for documents that can be read only once, CorpusError where none has a text,
    and what reading them raises.
    """
    if not encoder.spec.lacks_token_weights:
        return encoder
    check_documents(documents)
    weights = None if anew else _there(directory)
    if weights is not None:
        return encoder.with_token_weights(weights)
    if isinstance(documents, Iterator):
        raise MisuseError(
            "documents are read twice where token weights are counted over them: give a list, or a "
            "function that begins to read them again"
        )
    counts = TokenCounts()
    for texts in _texts(documents, encoder, chunk, skip_bad):
        encoder.count_tokens(texts, counts)
        progress("counting tokens", counts.texts, None)
    if not counts.texts:
        raise CorpusError("the corpus holds no text to count tokens in; give another one")
    notify(
        f"token weights: counted over {counted(counts.texts, 'text')} of the corpus, for "
        f"{encoder.spec.model} brings no table; they stay as they are in the index"
    )
    return encoder.with_token_weights(counts.weights())


def _there(directory: Path) -> TokenWeights | None:
    """The table of the index or of the interrupted build in a directory."""
    try:
        manifest = Manifest.read(directory)
    except NotAnIndexError:
        return begun_token_weights(directory)
    return token_weights_of(directory, manifest)


def _texts(
    documents: Documents, encoder: TextEncoder, chunk: str | None, skip_bad: bool
) -> Iterator[list[str]]:
    """The texts that a build would embed, some at a time."""
    seen = dict[str, str]()
    counts = Counts()
    for window in windows(
        documents,
        _AT_A_TIME,
        lambda identifier, before: seen.get(identifier),
        Rejects(None, counts),
        counts,
        skip_bad=skip_bad,
        split=passages_of(encoder, chunk),
    ):
        for prepared in window.documents:
            seen[prepared.document.id] = prepared.document.source
        yield [content for prepared in window.documents for content in prepared.contents]
