"""What the tools give, bounded in size whatever the documents hold."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from moee_index.text import cut, one_line

# Characters of a hit's text, of a title or address, of a value of metadata and of all of it.
SNIPPET = 400
_TITLE = 200
_ADDRESS = 2000
_VALUE = 200
_METADATA = 1000
# Of a document that is fetched.
_WHOLE_VALUE = 2000
_WHOLE_METADATA = 10_000
# Texts are looked at no further than that for what is shown of them.
_LOOKED_AT = 8


def hit_result(hit: Mapping[str, Any], identifier: str, index: str) -> dict[str, Any]:
    """A hit as assistants read it: id, title, a part of the text, address; then what is ours."""
    metadata = hit["metadata"]
    result = {
        **named(identifier, metadata),
        "text": hit["snippet"],
        "index": index,
        "score": round(hit["score"], 4),
    }
    told = {"title", *(["url"] if "url" in result else [])}
    others = {name: value for name, value in metadata.items() if name not in told}
    if small := bounded(others, _VALUE, _METADATA):
        result["metadata"] = small
    return result


def named(identifier: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """id and title of a document, its address where it has one."""
    title = metadata.get("title")
    said = one_line(title[: _LOOKED_AT * _TITLE]) if isinstance(title, str) else ""
    found = {"id": identifier, "title": cut(said or one_line(identifier), _TITLE)}
    url = metadata.get("url")
    if isinstance(url, str) and len(url) <= _ADDRESS and url.startswith(("https://", "http://")):
        found["url"] = url
    return found


def snippet(text: str) -> str:
    """The beginning of a text on one line."""
    return cut(" ".join(text[: _LOOKED_AT * SNIPPET].split()), SNIPPET)


def whole_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a document that is fetched."""
    return bounded(metadata, _WHOLE_VALUE, _WHOLE_METADATA)


def bounded(metadata: Mapping[str, Any], value_most: int, most: int) -> dict[str, Any]:
    """Metadata of at most `most` characters of JSON: long values are cut, or told as JSON that is
    cut, and fields that find no room are counted under "…"."""
    kept: dict[str, Any] = {}
    room = most
    for name, value in metadata.items():
        short = _short(value, value_most)
        size = len(name) + len(json.dumps(short, ensure_ascii=False))
        if size <= room:
            kept[name] = short
            room -= size
    if left := len(metadata) - len(kept):
        kept["…"] = f"{left} more"
    return kept


def _short(value: Any, most: int) -> Any:
    if isinstance(value, str):
        return cut(value, most)
    written = json.dumps(value, ensure_ascii=False)
    return value if len(written) <= most else cut(written, most)
