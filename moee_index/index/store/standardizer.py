"""The frozen standardizer of an index as a safetensors file; fitting it is write/derive.py's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moee_index.atomic import write_file
from moee_index.errors import IndexDamagedError
from moee_index.fusion import Standardizer


def write_standardizer(path: Path, standardizer: Standardizer, rows: int) -> None:
    """rows: how many it was fitted on, or would have been: what was left as it is for want of rows
    can be told by that later."""
    from safetensors.numpy import save

    arrays = {**standardizer.to_arrays(), "rows": np.array([rows], dtype=np.int64)}
    write_file(path, save(arrays, {"standardize": standardizer.which}))


def read_standardizer(path: Path, which: str, content: bytes | None = None) -> Standardizer:
    """Raises IndexDamagedError where the file is altered or is for other parts than `which`."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        standardizer = Standardizer.from_arrays(load(content or path.read_bytes()))
        if standardizer.which != which:
            raise ValueError(f"it is for {standardizer.which}, not for {which}")
    except (SafetensorError, ValueError, OSError) as error:
        raise IndexDamagedError(
            f"{path} is damaged ({error}); restore it or build again with --overwrite"
        ) from error
    return standardizer
