"""What several processes that write one index keep in its folder `workers` until it is published.

    INDEX/workers/building.json        settings, as of an unfinished segment
    INDEX/workers/token-weights.npy    where texts are pooled by weights that were counted
    INDEX/workers/run                  which run the processes belong to: those of another one stop
    INDEX/workers/shards.json          how documents are divided, and a digest of each shard
    INDEX/workers/spool-0000.jsonl     the documents of one bucket; a shard is some buckets
    INDEX/workers/shard-0000/          one process's: its lock, and a segment that it is writing
    INDEX/workers/done-0000/           a segment that is embedded whole, with
        shard.json  moments.safetensors    what it holds, and the moments of its rows

Who writes what, and when, is left to index/workers.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from moee_index.atomic import storage_errors
from moee_index.index.store.layout import BUILDING, WORKERS, segment_folders
from moee_index.index.store.reading import known

RUN = "run"
SHARDS = "shards.json"
SHARD = "shard.json"
MOMENTS = "moments.safetensors"


def workers_folder(directory: Path) -> Path:
    return directory / WORKERS


def spool_name(bucket: int) -> str:
    return f"spool-{bucket:04d}.jsonl"


def working_folder(directory: Path, shard: int) -> Path:
    """Where a shard is locked, and on one machine also written."""
    return directory / WORKERS / f"shard-{shard:04d}"


def done_folder(directory: Path, shard: int) -> Path:
    return directory / WORKERS / f"done-{shard:04d}"


def begun_by_workers(directory: Path) -> bool:
    return known((directory / WORKERS / BUILDING).exists)


def placed_segments(directory: Path, listed: Collection[str]) -> list[Path]:
    """Finished shards that were put beside the manifest and are not in it: their run was killed
    just before it published. listed: names of the segments in the manifest."""
    return [
        folder
        for folder in segment_folders(directory)
        if folder.name not in listed and (folder / SHARD).exists()
    ]


def holds_work(directory: Path, listed: Collection[str]) -> bool:
    """Whether anything that several processes have embedded can be gone on with."""
    folder = workers_folder(directory)
    if not known(folder.is_dir):
        return False
    with storage_errors(folder):
        rows = folder.glob("shard-*/segment-*/hs.*")
        found = any(folder.glob("done-*")) or any(path.stat().st_size for path in rows)
    return found or bool(placed_segments(directory, listed))


def remove_workers(directory: Path, listed: Collection[str] | None = None) -> None:
    """Remove the folder, and with `listed` also what was put beside the manifest and is not in
    it. Its settings go last, so that a crash leaves it recognizable. Raises StorageError."""
    folder = workers_folder(directory)
    with storage_errors(folder):
        for segment in placed_segments(directory, listed) if listed is not None else []:
            shutil.rmtree(segment)
        if folder.is_dir():
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != BUILDING:
                    path.unlink()
            shutil.rmtree(folder)
