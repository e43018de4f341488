"""The frozen standardizer of an index as a safetensors file; fitting it is write/derive.py's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from moee_index.atomic import write_file
from moee_index.errors import IndexDamagedError, first_line
from moee_index.fusion import PartStandardizer, Standardizer
from moee_index.index.store.reading import HINT
from moee_index.types import Pair


def write_standardizer(path: Path, standardizer: Standardizer, rows: int) -> None:
    """rows: how many it was fitted on, or would have been: what was left as it is for want of rows
    can be told by that later."""
    from safetensors.numpy import save

    arrays = {**standardizer.to_arrays(), "rows": np.array([rows], dtype=np.int64)}
    write_file(path, save(arrays, {"standardize": standardizer.which}))


def read_standardizer(path: Path, which: str, content: bytes, dims: Pair[int]) -> Standardizer:
    """content: of the file at `path`. Raises IndexDamagedError where it is no standardizer, or is
    one for other parts than `which` or other dimensions."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        standardizer = Standardizer.from_arrays(load(content))
        # An earlier version names a part that was fitted where nothing varies, too.
        if which not in (standardizer.which, standardizer.fitted):
            raise ValueError(f"it is for {standardizer.which}, not for {which}")
        for part, dim in dims:
            _check_part(standardizer[part], part, dim)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise IndexDamagedError(f"{path} is damaged ({first_line(error)}); {HINT}") from error
    return standardizer


def rows_fitted(content: bytes) -> int | None:
    """How many rows a standardizer that reads was fitted on; None where an earlier version did not
    record it."""
    from safetensors.numpy import load

    rows = load(content).get("rows")
    return None if rows is None or rows.shape != (1,) else int(rows[0])


def _check_part(frozen: PartStandardizer | None, part: str, dim: int) -> None:
    if frozen is None:
        return
    if len(frozen.mean) != dim:
        raise ValueError(f"it is for {len(frozen.mean)} dimensions of {part.upper()}, not {dim}")
    finite = np.isfinite(frozen.mean).all() and np.isfinite(frozen.deviation).all()
    if not finite or not (frozen.deviation[frozen.kept] > 0).all():
        raise ValueError(f"its numbers for {part.upper()} are no means and deviations")
