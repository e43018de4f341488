"""What is killed in `crashes`: the functions behind commands, over an index of hashed words.

Who starts and kills them is for `crashes` to say.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fakes.word_encoder import FakeEncoder, fake_spec
from moee_index.index import (
    Index,
    add_documents,
    build_index,
    compact_index,
    delete_documents,
    reindex,
    reindex_lexical,
)
from moee_index.types import (
    Document,
)

_WINDOW = 64
# Of the reader, which must leave some of the machine to the command.
_PAUSE = 0.005


def encoder() -> FakeEncoder:
    """Batches of some eight texts, each long enough that a command can be killed within."""
    spec = fake_spec(max_tokens=512)
    return FakeEncoder(spec, batch_tokens=130, seconds_per_batch=0.002)


def sample(count: int) -> list[Document]:
    """Texts of 3 to 30 words."""
    rng = np.random.default_rng(5)
    return [
        Document(f"d{n}", " ".join(f"w{w}" for w in rng.integers(0, 500, rng.integers(3, 31))))
        for n in range(count)
    ]


@dataclass(frozen=True)
class Change:
    """One command over an index. documents: what build and add are given; ids: what delete is."""

    command: str
    documents: Sequence[Document] = ()
    ids: Sequence[str] = ()
    standardize: str = "both"
    overwrite: bool = False
    language: str = "none"

    def run(self, directory: Path) -> None:
        """Raises what the command raises. Started again after it ended it changes nothing."""
        if self.command == "build":
            build_index(
                directory,
                self.documents,
                encoder(),
                standardize=self.standardize,
                overwrite=self.overwrite,
                window=_WINDOW,
            )
        elif self.command == "add":
            add_documents(directory, self.documents, encoder(), update=True)
        elif self.command == "delete":
            delete_documents(directory, self.ids, missing_ok=True)
        elif self.command == "reindex":
            reindex(directory, standardize=self.standardize)
        elif self.command == "postings":
            reindex_lexical(directory, language=self.language)
        else:
            compact_index(directory)


# In processes of their own, which are forked from one that has imported this module


def work(change: Change, directory: Path, pipe: Any) -> None:
    """In a process of its own: tell that it begins, do it, tell how long it took or what failed."""
    pipe.send("ready")
    began = time.perf_counter()
    try:
        change.run(directory)
        pipe.send(time.perf_counter() - began)
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def read_for_ever(directory: Path, stop: Any, answers: Any) -> None:
    """Open, search and look up until told to stop; tell how often, and every error."""
    queries = encoder().vectors(["w1 w2", "w3"])
    opened, errors = 0, []
    answers.put("ready")
    while not stop.is_set():
        try:
            with Index.open(directory) as index:
                found = index.search_embeddings(queries, 5)
                index.search_embeddings(queries, 5, lexical=0.5, texts=["w1 w2", "w3"])
                index.documents([*(hit.id for hit in found[0]), "nowhere"])
                index.vectors([hit.id for hit in found[0]])
            opened += 1
            time.sleep(_PAUSE)
        except Exception as error:
            errors.append(f"a reader saw {type(error).__name__}: {error}")
    answers.put((opened, errors))
