"""Find a checkpoint and describe it: files, config, defaults, fingerprint.

Reads safetensors headers but no weights, builds no model, and imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from moee_index.errors import MisuseError, ModelError, first_line
from moee_index.model.checkpoint.quant_config import SourceFormat, source_format
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

_HUB_FILES = [
    "config.json",
    DEFAULTS_FILE,
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "vocab.*",
    "merges.txt",
    "*.model",
]
_HUB_FOLDERS = ["*/*"]  # where repositories keep other forms of the same weights


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
            digest.update(part.read_bytes() if part.is_file() else b"absent")
        for weight_file in self.weights:
            digest.update(weight_file.name.encode())
            _update_with_edges(digest, weight_file)
        return digest.hexdigest()


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

    Raises ModelError if there is none, or if it has no safetensors or no config.
    """
    if model is None or str(model) == BUNDLED:
        return open_checkpoint(bundled_path(), name=BUNDLED)
    path = Path(model).expanduser()
    if path.is_dir():
        if revision is not None:
            raise MisuseError(f"--revision {revision} has no meaning for the directory {path}")
        return open_checkpoint(path, name=path.resolve().name)
    if path.exists():
        raise ModelError(f"{path} is a file; --model takes a checkpoint directory or a hub id")
    return _from_hub(str(model), revision, offline)


def open_checkpoint(path: Path, *, name: str, revision: str | None = None) -> Checkpoint:
    """Read the JSON files of a checkpoint directory and list its weight files.

    Raises ModelError if it is incomplete, or quantised in a way that is not supported.
    """
    config = _read_json(path / "config.json", required=True)
    record = _read_json(path / DEFAULTS_FILE, required=False)
    unknown = sorted(set(record) - set(DEFAULT_KEYS) - {"format", "quantization"})
    if unknown:
        raise ModelError(
            f"{path / DEFAULTS_FILE}: unknown key {unknown[0]!r}; known: {', '.join(DEFAULT_KEYS)}"
        )
    if record.get("format", FORMAT) != FORMAT:
        raise ModelError(
            f"{path / DEFAULTS_FILE} has format {record['format']}, this version reads {FORMAT}: "
            "update moee-index or quantise the model again"
        )
    quantization = record.get("quantization")
    if quantization is not None and not isinstance(quantization, dict):
        raise ModelError(f"{path / DEFAULTS_FILE}: 'quantization' must be an object")
    return Checkpoint(
        name=name,
        path=path,
        revision=revision,
        config=config,
        defaults={key: record[key] for key in DEFAULT_KEYS if key in record},
        quantization=quantization,
        weights=_weight_files(path),
        # Ours keep the original's config.json, which may describe how the original was quantised.
        source=source_format(config, path) if quantization is None else None,
    )


def _weight_files(path: Path) -> tuple[Path, ...]:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        weight_map = _read_json(index, required=True).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise ModelError(f"{index}: no 'weight_map'; the checkpoint is incomplete")
        names = sorted(set(weight_map.values()))
        if bad := [name for name in names if not isinstance(name, str) or Path(name).name != name]:
            raise ModelError(f"{index}: {bad[0]!r} is not a file name")
    else:
        names = sorted(file.name for file in path.glob("*.safetensors"))
    if not names:
        raise ModelError(
            f"{path} has no .safetensors file; convert the checkpoint to safetensors first "
            "(pickled weights are never read)"
        )
    for name in names:
        if not (path / name).is_file():
            raise ModelError(f"{path / name} is missing; the checkpoint is incomplete")
    return tuple(path / name for name in names)


def _read_json(path: Path, *, required: bool) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if required:
            raise ModelError(f"{path} does not exist; {path.parent} is not a checkpoint") from None
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    return content


def _from_hub(repository: str, revision: str | None, offline: bool) -> Checkpoint:
    import os

    from huggingface_hub import is_offline_mode, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    offline = offline or is_offline_mode() or bool(os.environ.get("HF_HUB_OFFLINE"))
    failure = f"there is no directory {repository!r}, and no model of that name could be fetched"
    try:
        folder = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=_HUB_FILES,
            ignore_patterns=_HUB_FOLDERS,
            local_files_only=offline,
        )
    except HFValidationError:
        raise ModelError(
            f"{repository!r} is neither a directory nor a hub id (owner/name); give --model either"
        ) from None
    except GatedRepoError as error:
        raise ModelError(
            f"the hub's model {repository} is gated: accept its terms on "
            f"https://huggingface.co/{repository}, log in with `hf auth login`, and start again"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"no directory {repository!r}, and the hub shows no model of that name: check the "
            "name; if the model is private, log in with `hf auth login`"
        ) from error
    except LocalEntryNotFoundError as error:
        why = "offline, and it is not in the hub's cache" if offline else first_line(error)
        raise ModelError(f"{failure}: {why}") from error
    except Exception as error:  # the hub client raises its own, httpx's and OS errors
        raise ModelError(f"{failure}: {first_line(error)}") from error
    path = Path(folder)
    return open_checkpoint(path, name=repository, revision=path.name)
