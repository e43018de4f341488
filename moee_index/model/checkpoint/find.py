"""Find a checkpoint and describe it: files, config, defaults, fingerprint.

Reads safetensors headers but no weights, builds no model, and imports nothing heavy.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from moee_index.errors import MisuseError, ModelError
from moee_index.model.checkpoint.faults import read_header, reading, unreadable
from moee_index.model.checkpoint.folders import (
    INDEX_FILE,
    choose_weights,
    missing_file,
    names_in,
    weights_twice,
    without_config,
)
from moee_index.model.checkpoint.hub import find_folder
from moee_index.model.checkpoint.quant_config import SourceFormat, source_format
from moee_index.text import shown, text_fault
from moee_index.types import EncoderOptions

BUNDLED = "tiny"
DEFAULTS_FILE = "moee_index.json"
FORMAT = 1
EDGE = 64 * 1024

# The options a checkpoint may set in `moee_index.json`, beside its quantization.
DEFAULT_KEYS = tuple(
    name.replace("_", "-")
    for name in EncoderOptions.names("prompt", "query_prompt", "pooling")
    if EncoderOptions.__dataclass_fields__[name].metadata.get("own")
)

# How much words weigh in searches of its indexes, and how they are stemmed there; these decide no
# embedding, and so are no options.
LEXICAL_KEY = "lexical"
LANGUAGE_KEY = "language"
_KNOWN_KEYS = (*DEFAULT_KEYS, LEXICAL_KEY, LANGUAGE_KEY)

# The weights of a model in one file.
WHOLE = "model.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint directory that has been inspected, not loaded.

    `quantization` describes our own 4 bits: `double_quant` and the fingerprint of the checkpoint
    that was quantised. `source` describes quantization by others. Both None: 16 or 32 bits.
    """

    name: str
    path: Path
    revision: str | None
    config: dict[str, Any]
    defaults: dict[str, Any]
    quantization: dict[str, Any] | None
    weights: tuple[Path, ...] = field(repr=False)
    source: SourceFormat | None = None

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over config.json, tokenizer.json and each weight file's name, size, header and
        first and last 64 KiB. A 4-bit checkpoint has the fingerprint of what it was made from."""
        if self.quantization is not None and self.quantization.get("source_fingerprint"):
            return str(self.quantization["source_fingerprint"])
        digest = hashlib.sha256()
        for name in ("config.json", "tokenizer.json"):
            part = self.path / name
            digest.update(name.encode())
            with reading(part):
                digest.update(part.read_bytes() if part.is_file() else b"absent")
        for weight_file in self.weights:
            digest.update(weight_file.name.encode())
            with reading(weight_file):
                _update_with_edges(digest, weight_file)
        return digest.hexdigest()

    @cached_property
    def most_weights(self) -> int:
        """More weights than the files can hold: two a byte."""
        return 2 * sum(_size(file) for file in self.weights)

    def count_tensors(self) -> int:
        """Tensors in the weight files, by their headers; none for a file without a header that can
        be read, which whoever reads its weights tells."""
        count = 0
        for file in self.weights:
            with reading(file):
                count += len(read_header(file))
        return count


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise unreadable(file, error) from error


def _update_with_edges(digest: Any, weight_file: Path) -> None:
    size = weight_file.stat().st_size
    digest.update(str(size).encode())
    with weight_file.open("rb") as stream:
        header = int.from_bytes(stream.read(8), "little")
        stream.seek(0)
        digest.update(stream.read(min(size, 8 + header)))
        stream.seek(0)
        digest.update(stream.read(EDGE))
        stream.seek(max(0, size - EDGE))
        digest.update(stream.read(EDGE))


def bundled_path() -> Path:
    """Directory of the model that ships with the package."""
    return Path(__file__).parent.parent / BUNDLED


def find_checkpoint(
    model: str | Path | None = None, *, revision: str | None = None, offline: bool = False
) -> Checkpoint:
    """Find a checkpoint: the bundled `tiny` (None), a directory, or a hub id.

    Raises ModelError if there is none, or if it has no safetensors or no config; MisuseError for an
    empty name, or a revision of a directory.
    """
    if not isinstance(model, str | os.PathLike | None):
        raise MisuseError(f"--model is of type {type(model).__name__}; it is a path or a hub id")
    if model is None or str(model) == BUNDLED:
        return open_checkpoint(bundled_path(), name=BUNDLED)
    if not str(model).strip():
        raise MisuseError("--model is empty; give a checkpoint directory or a hub id (owner/name)")
    if fault := text_fault(str(model)):
        raise MisuseError(f"--model {fault}")
    path = _expanded(Path(model))
    kind = _kind(path)
    if kind is None:
        folder = find_folder(str(model), revision, offline)
        return open_checkpoint(folder, name=str(model), revision=folder.name)
    if not stat.S_ISDIR(kind):
        raise ModelError(f"{path} is a file; --model takes a checkpoint directory or a hub id")
    if revision is not None:
        raise MisuseError(f"--revision {revision} has no meaning for the directory {path}")
    return open_checkpoint(path, name=path.resolve().name)


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError as error:  # nothing says where home is
        raise ModelError(
            f"--model {path}: there is no home directory for ~; write the whole path"
        ) from error


def _kind(path: Path) -> int | None:
    """The mode of what is at a path; None where there is nothing, or no path can be of that name.
    Raises ModelError where the system does not let us look."""
    try:
        return path.stat().st_mode
    except ValueError:  # a zero byte
        return None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return None
        raise unreadable(path, error) from error


def open_checkpoint(path: Path, *, name: str, revision: str | None = None) -> Checkpoint:
    """Read the JSON files of a checkpoint directory and list its weight files.

    Raises ModelError if it is incomplete, or quantised in a way that is not supported.
    """
    names = names_in(path)
    if "config.json" not in names or _kind(path / "config.json") is None:
        raise without_config(path)
    config = read_object(path / "config.json")
    record = read_object(path / DEFAULTS_FILE) if DEFAULTS_FILE in names else {}
    _check_record(record, path / DEFAULTS_FILE)
    quantization = record.get("quantization")
    return Checkpoint(
        name=name,
        path=path,
        revision=revision,
        config=config,
        defaults={key: record[key] for key in _KNOWN_KEYS if key in record},
        quantization=quantization,
        weights=_weight_files(path, names),
        # Ours keep the original's config.json, which may describe how the original was quantised.
        source=source_format(config, path) if quantization is None else None,
    )


def _check_record(record: dict[str, Any], file: Path) -> None:
    """Raise ModelError unless this version knows all that moee_index.json says; the defaults'
    values are left to whoever uses them."""
    unknown = sorted(set(record) - set(_KNOWN_KEYS) - {"format", "quantization"})
    if unknown:
        raise ModelError(
            f"{file}: unknown key {shown(unknown[0])!r}; known: {', '.join(_KNOWN_KEYS)}"
        )
    if record.get("format", FORMAT) != FORMAT:
        raise ModelError(
            f"{file} has format {shown(str(record['format']))}, this version reads {FORMAT}: "
            "update moee-index or quantise the model again"
        )
    quantization = record.get("quantization")
    if quantization is None:
        return
    if not isinstance(quantization, dict):
        raise ModelError(f"{file}: 'quantization' must be an object")
    for key, known in (("type", "nf4"), ("block", 64)):
        if quantization.get(key, known) != known:
            raise ModelError(
                f"{file}: 'quantization' has {key} {shown(str(quantization[key]))}, this version "
                f"reads {known}: update moee-index or quantise the model again"
            )
    kinds = {"double_quant": bool, "turned": bool, "bytes": int, "digest": str}
    for key, kind in {**kinds, "source_fingerprint": str}.items():
        if quantization.get(key) is not None and type(quantization[key]) is not kind:
            raise ModelError(f"{file}: {key!r} of 'quantization' is not of type {kind.__name__}")


def _weight_files(path: Path, names: list[str]) -> tuple[Path, ...]:
    if INDEX_FILE not in names:
        return tuple(path / name for name in choose_weights(path, names))
    index = path / INDEX_FILE
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index}: no 'weight_map'; the checkpoint is incomplete")
    for name in weight_map.values():
        if not isinstance(name, str) or text_fault(name) or not name or Path(name).name != name:
            raise ModelError(f"{index}: {shown(str(name))!r} is not a file name")
    files = sorted(set(weight_map.values()))
    for name in files:
        if _kind(path / name) is None:
            raise missing_file(path, name)
    if WHOLE in names and WHOLE not in files:
        raise weights_twice(path, WHOLE, f"{files[0]} of {INDEX_FILE}")
    return tuple(path / name for name in files)


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelError naming the file and what is wrong with it."""
    with reading(path):
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    return content
