"""Make the header of a safetensors file; tensors are written by the callers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

# The header is padded to a multiple of this, so that tensors begin aligned.
_ALIGN = 8


def safetensors_header(
    tensors: Mapping[str, tuple[str, Sequence[int], int]], facts: Mapping[str, str]
) -> tuple[bytes, dict[str, slice]]:
    """The first bytes of a file, and for each tensor the bytes of the file that hold it.

    tensors: name -> (safetensors' name of its type, shape, bytes a number), in the file's order.
    """
    header: dict[str, Any] = {"__metadata__": dict(facts)}
    end = 0
    for name, (dtype, shape, width) in tensors.items():
        start, end = end, end + math.prod(shape) * width
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGN)
    content = len(text).to_bytes(_ALIGN, "little") + text
    offsets = {name: header[name]["data_offsets"] for name in tensors}
    return content, {
        name: slice(len(content) + start, len(content) + end)
        for name, (start, end) in offsets.items()
    }
