"""Candidate lists of WikiQA's form: a query, right and wrong candidates a line.

Reads them; what is made of them is for others to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moee_index.errors import CorpusError
from moee_index.readers.lines import Lines, open_bytes, parse_object
from moee_index.readers.trec import Qrels


@dataclass(frozen=True)
class ListData:
    """Candidate lists. texts[q]: the candidates of query q, in an order that tells nothing."""

    queries: list[str]
    texts: list[list[str]]
    qrels: Qrels


def load_lists(path: Path) -> ListData:
    """Candidate lists in the form `{"query", "positive": […], "negative": […]}` a line.

    Raises CorpusError naming file and line.
    """
    data = ListData([], [], {})
    with open_bytes(path) as source:
        lines = Lines(source.stream, str(path))
        for number, line in enumerate(lines):
            try:
                fields = parse_object(line)
                query, right = str(fields["query"]), set(map(str, fields["positive"]))
                texts = sorted(right | set(map(str, fields["negative"])))
            except (KeyError, TypeError, ValueError) as error:
                raise CorpusError(f"{lines.source}: no candidate list ({error})") from None
            data.queries.append(query)
            data.texts.append(texts)
            data.qrels[str(number)] = {list_key(i): int(t in right) for i, t in enumerate(texts)}
    return data


def list_key(position: int) -> str:
    return f"{position:06}"
