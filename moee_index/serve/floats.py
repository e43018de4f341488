"""Vectors in JSON: base64 of little-endian float32, as OpenAI's clients read them."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.errors import MisuseError


def encoded(values: npt.NDArray[np.float32]) -> str:
    """The numbers of an array, row by row."""
    return base64.b64encode(values.astype("<f4").tobytes()).decode("ascii")


def decoded(name: str, text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """float32 [n]. name: for messages. Raises MisuseError for what are no finite numbers."""
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MisuseError(f"{name} is not base64 ({error})") from error
    if len(content) % 4:
        raise MisuseError(
            f"{name} has {len(content)} bytes, which are no float32 numbers of 4 bytes each"
        )
    values = np.frombuffer(content, dtype="<f4").astype(np.float32)
    if not np.isfinite(values).all():
        raise MisuseError(f"{name} holds values that are not finite")
    return values
