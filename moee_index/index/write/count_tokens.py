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
from moee_index.index.write.resume import begun_build
from moee_index.index.write.windows import (
    Counts,
    Documents,
    check_documents,
    passages_of,
    read_through,
)
from moee_index.token_weights import TokenCounts, TokenWeights
from moee_index.types import IDF, Notify, Progress, TextEncoder


def with_token_weights(
    directory: Path,
    documents: Documents,
    encoder: TextEncoder,
    chunk: str | None,
    *,
    count: bool,
    anew: bool,
    skip_bad: bool,
    progress: Progress,
    notify: Notify,
) -> TextEncoder:
    """An encoder that can embed: one that lacks token weights, or with `count` one that has some,
    gets those of the index or of the interrupted build that is there, else, or with `anew`, those
    of the corpus.

    Raises MisuseError for documents that can be read only once, CorpusError where none has a text,
    and what reading them raises.
    """
    if count and encoder.spec.pooling != IDF:
        raise MisuseError(
            f"--idf corpus is for --pooling {IDF}, and here it is {encoder.spec.pooling}"
        )
    if not (count or encoder.spec.lacks_token_weights):
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
    why = "as requested" if count else f"for {encoder.spec.model} brings no table"
    notify(
        f"token weights: counted over {counted(counts.texts, 'text')} of the corpus, {why}; they "
        "stay as they are in the index"
    )
    return encoder.with_token_weights(counts.weights())


def _there(directory: Path) -> TokenWeights | None:
    """The table of the index or of the interrupted build in a directory."""
    try:
        manifest = Manifest.read(directory)
    except NotAnIndexError:
        begun = begun_build(directory)
        return None if begun is None else begun_token_weights(*begun)
    return token_weights_of(directory, manifest)


def _texts(
    documents: Documents, encoder: TextEncoder, chunk: str | None, skip_bad: bool
) -> Iterator[list[str]]:
    """The texts that a build would embed, some at a time."""
    split = passages_of(encoder, chunk)
    for window in read_through(documents, Counts(), skip_bad=skip_bad, split=split):
        yield [content for prepared in window.documents for content in prepared.contents]
