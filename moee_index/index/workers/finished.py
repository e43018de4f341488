"""What a process says of a shard that it has embedded, beside its files.

A second run, and a process that was asked twice, recognize the shard by it: the same documents,
embedded with the same options.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from moee_index.atomic import json_bytes, write_file
from moee_index.errors import IndexDamagedError, StorageError
from moee_index.fusion import Moments
from moee_index.index.store.manifest import Building
from moee_index.index.store.workers_folder import MOMENTS, SHARD, done_folder
from moee_index.index.write.resume import DERIVED, option_differences
from moee_index.types import PARTS, Pair


@dataclass(frozen=True)
class Finished:
    """A shard whose documents and raw rows are all on disk.

    run: which embedded it. rejected: documents that could not be used. texts, tokens: computed;
    resumed: rows that were there before. hardware: device and type that computed.
    """

    shard: int
    digest: str
    run: str
    documents: int
    rows: int
    truncated: int
    rejected: int
    texts: int
    tokens: float
    resumed: int
    hardware: str

    def write(self, folder: Path, moments: Pair[Moments]) -> None:
        """Beside the files, last of all. Raises StorageError."""
        from safetensors.numpy import save

        arrays = {}
        for part, each in moments:
            arrays[f"{part}.mean"], arrays[f"{part}.squares"] = each.mean, each.squares
        write_file(folder / MOMENTS, save(arrays))
        write_file(folder / SHARD, json_bytes(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Finished | None:
        """None where the folder holds no finished shard."""
        try:
            content: dict[str, Any] = json.loads((folder / SHARD).read_bytes())
            return cls(**{field.name: content[field.name] for field in fields(cls)})
        except (OSError, ValueError, KeyError, TypeError):
            return None


def finished_shard(directory: Path, shard: int, digest: str, wanted: Building) -> Finished | None:
    """A shard that is embedded already, as it is wanted; None where it is to be embedded."""
    folder = done_folder(directory, shard)
    finished = Finished.read(folder)
    try:
        building = Building.read(folder)
    except (IndexDamagedError, StorageError):
        return None
    if finished is None or building is None or finished.digest != digest:
        return None
    different = [
        difference
        for difference in option_differences(building, wanted)
        if difference[0] not in DERIVED
    ]
    return None if different or building.purpose != wanted.purpose else finished


def read_moments(folder: Path, rows: int) -> Pair[Moments]:
    """Of the rows of a finished shard. Raises IndexDamagedError."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = folder / MOMENTS
    try:
        arrays = load(path.read_bytes())
        return PARTS.map(
            lambda part: Moments(
                rows,
                arrays[f"{part}.mean"].astype(np.float64),
                arrays[f"{part}.squares"].astype(np.float64),
            )
        )
    except (OSError, SafetensorError, KeyError) as error:
        raise IndexDamagedError(
            f"{path} is damaged ({error}); remove {folder} and start the same command again"
        ) from error
