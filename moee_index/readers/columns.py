"""Columns of runs and judgements: how a line is divided, and what a header's names mean.

Other projects name them in many ways (qid, topic, docno, pid, rel, label). Which columns a file
needs is left to the readers of it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection
from typing import Literal

ColumnKind = Literal["query", "document", "relevance", "rank"]

# In small letters and digits.
_NAMES: dict[str, ColumnKind] = {
    **dict.fromkeys(("queryid", "qid", "query", "topic", "topicid", "topicno", "qnum"), "query"),
    **dict.fromkeys(("corpusid", "docid", "doc", "docno", "documentid", "document"), "document"),
    **dict.fromkeys(("pid", "passageid", "passage", "did"), "document"),
    **dict.fromkeys(("score", "relevance", "rel", "label", "grade", "relevancy"), "relevance"),
    **dict.fromkeys(("judgment", "judgement", "qrel", "similarity"), "relevance"),
    "rank": "rank",
}


def kind_of_column(name: str) -> ColumnKind | None:
    """What a column of that name holds, or a field of a JSON object; None for all others."""
    return _NAMES.get(re.sub("[^a-z0-9]", "", name.lower()))


def split_columns(line: str, counts: Collection[int]) -> list[str]:
    """The columns of a line: between tabs where that gives one of these numbers of them, else
    between blanks of any kind."""
    between_tabs = [column.strip() for column in line.split("\t")]
    return between_tabs if len(between_tabs) in counts else line.split()


def split_commas(line: str) -> list[str]:
    """The fields of a CSV row that is one line. Raises ValueError."""
    try:
        return [
            column.strip()
            for column in next(csv.reader([line], strict=True, skipinitialspace=True))
        ]
    except (csv.Error, StopIteration) as error:
        raise ValueError(f"broken row ({error})") from None
