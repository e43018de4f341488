"""Damage to files, as hypothesis draws it: JSON values with other keys, types and numbers, bytes
that are flipped or cut, files that are something else. Knows nothing of the program under test.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

LFS_POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size 12345\n"
)

# What stands in the place of a value: every type of JSON, and numbers at the edges of types.
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 7, 99, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 10**30, -(2**63)),
    *(0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")),
    *(
        "",
        "x",
        "0",
        "64",
        "true",
        "null",
        "nonsense",
        "a/b",
        "..",
        "/",
        "\x00",
        "\ud800",
        "é\n\x1b",
    ),
    *([], {}, [0], [None], [[]], ["x"], {"x": 1}, {"": None}, [1, "1", None], {"type": "nonsense"}),
)

# How often a walk through a value goes on below a key, of four times: not all damage is at the top.
_DEEPER = st.integers(0, 3)


@st.composite
def mutated_json(draw: st.DrawFn, value: Any, changes: int = 3) -> Any:
    """A copy of a JSON value after one to `changes` changes: a key deleted, renamed, added or set
    to an odd value or to another's, an item of a list deleted, doubled or moved."""
    changed = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, changes))):
        changed = _change(draw, changed)
    return changed


def mutated_file(value: Any) -> st.SearchStrategy[bytes]:
    """A JSON file as `mutated_json` leaves it."""
    return mutated_json(value).map(_written)


@st.composite
def flipped(draw: st.DrawFn, content: bytes, most: int = 8) -> bytes:
    """Content in which one to `most` bytes are other ones."""
    damaged = bytearray(content)
    if not damaged:
        return draw(st.binary(min_size=1, max_size=most))
    for _ in range(draw(st.integers(1, most))):
        place = draw(st.integers(0, len(damaged) - 1))
        damaged[place] ^= draw(st.integers(1, 255))
    return bytes(damaged)


def truncated(content: bytes) -> st.SearchStrategy[bytes]:
    """A beginning of content, which may be empty; never all of it."""
    return st.integers(0, max(0, len(content) - 1)).map(lambda size: content[:size])


def something_else(content: bytes) -> st.SearchStrategy[bytes]:
    """Another file under the name of one: an LFS pointer, an archive, bytes of any kind, the
    content in another encoding, twice, or nested beyond all measure."""
    return st.one_of(
        st.sampled_from(
            [
                LFS_POINTER,
                b"\x1f\x8b\x08\x00" + content[:64],
                b"PK\x03\x04" + content[:64],
                b"<!DOCTYPE html><title>404</title>",
                b"\xef\xbb\xbf" + content,
                content[:4096].decode("latin-1").encode("utf-16"),
                content + content,
                b"\x00" * max(1, len(content)),
                b"[" * 100_000,
                b'{"a":' * 100_000,
                b"null",
                b"[]",
                b"{}",
                b"1",
            ]
        ),
        st.binary(max_size=64),
    )


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """A file that is flipped, cut or something else."""
    return st.one_of(flipped(content), truncated(content), something_else(content))


@st.composite
def mutated_safetensors(draw: st.DrawFn, content: bytes) -> bytes:
    """A safetensors file with a changed header before the same numbers."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    changed = _written(draw(mutated_json(header)))
    length = draw(st.sampled_from([len(changed)] * 6 + [0, 1, len(changed) + 9, 2**40, 2**64 - 1]))
    return length.to_bytes(8, "little") + changed + content[8 + size :]


def _written(value: Any) -> bytes:
    return json.dumps(value).encode()


def _change(draw: st.DrawFn, value: Any) -> Any:
    """One change somewhere in a value."""
    holder = value
    while isinstance(holder, dict | list) and holder:
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        key = draw(st.sampled_from(keys))
        if not isinstance(holder[key], dict | list) or not draw(_DEEPER):
            change = draw(st.sampled_from(_OF_MEMBERS))
            change(draw, holder, key)
            return value
        holder = holder[key]
    odd = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))
    if holder is value:
        return odd
    if isinstance(holder, dict):
        holder[draw(st.sampled_from(["", "x", "type"]))] = odd
    else:
        holder.append(odd)
    return value


def _set(draw: st.DrawFn, holder: Any, key: Any) -> None:
    holder[key] = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))


def _scale(draw: st.DrawFn, holder: Any, key: Any) -> None:
    """A number next to the one that is there, or many times it; of others the type changes."""
    number = holder[key]
    if isinstance(number, bool) or not isinstance(number, int | float):
        holder[key] = draw(st.sampled_from([str(number), [number], {"value": number}]))
        return
    holder[key] = draw(
        st.sampled_from([number + 1, number - 1, -number, number * 2, number // 2, number * 10**6])
    )


def _delete(_draw: st.DrawFn, holder: Any, key: Any) -> None:
    del holder[key]


def _swap(draw: st.DrawFn, holder: Any, key: Any) -> None:
    """Two values of one object or list change places."""
    keys = list(holder) if isinstance(holder, dict) else range(len(holder))
    other = draw(st.sampled_from(keys))
    holder[key], holder[other] = holder[other], holder[key]


def _double(draw: st.DrawFn, holder: Any, key: Any) -> None:
    """The value once more: an item behind itself, or under a key with something before it."""
    if isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    else:
        prefix = draw(st.sampled_from(["_", "x", "module.", "text_"]))
        holder[prefix + key] = copy.deepcopy(holder[key])


def _rename(draw: st.DrawFn, holder: Any, key: Any) -> None:
    if isinstance(holder, dict):
        _double(draw, holder, key)
    del holder[key]


_OF_MEMBERS: tuple[Callable[[st.DrawFn, Any, Any], None], ...] = (
    *(_set, _set, _set, _scale, _scale),
    *(_delete, _swap, _double, _rename),
)
