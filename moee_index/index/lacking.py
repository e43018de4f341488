"""What is said of an index that lacks what is asked of it, wherever its segments are."""

from __future__ import annotations

from pathlib import Path


def without_document(name: str, directory: Path) -> str:
    """What is said of an index where it has no document or passage of a name."""
    return f"{directory} has no document {name!r}"


def which_passage(name: str, directory: Path, count: int, first: str) -> str:
    """What is said where a document's only passage is meant and it has several."""
    return f"document {name!r} of {directory} has {count} passages; name one, as in {first}"


def without_postings(directory: Path) -> str:
    """What is said of an index where words are to count and it has none."""
    return (
        f"{directory} has no postings, which a search by words needs; moee-index reindex "
        f"{directory} --lexical writes them, and changes nothing else"
    )


def without_conditions(directory: Path) -> str:
    """What is said of an index where a query has conditions and it has no postings."""
    return (
        f'{directory} has no postings, by which +words, -words and "phrases" are looked up; '
        f"moee-index reindex {directory} --lexical writes them, --plain searches for the text as "
        "it is"
    )
