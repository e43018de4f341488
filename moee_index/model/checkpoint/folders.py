"""What a folder is that is not a checkpoint, or not a whole one, and what to do with it.

Asked where `find` has not found what it needs; reads names, and of an adapter its config.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from moee_index.errors import ModelError
from moee_index.model.checkpoint.faults import unreadable
from moee_index.text import shown

INDEX_FILE = "model.safetensors.index.json"
_ADAPTER = "adapter_config.json"
_CONVERT = "convert the checkpoint to safetensors first"

# Forms of weights that are never read, by the endings of their files.
_OTHER_WEIGHTS = (
    ((".gguf",), "GGUF", "give --model the checkpoint it was made from"),
    (
        (".bin", ".pt", ".pth", ".ckpt"),
        "pickled weights (which are never read)",
        f"{_CONVERT}, for instance with transformers: load and save_pretrained",
    ),
    ((".onnx", ".onnx_data"), "ONNX", "give --model the checkpoint it was made from"),
    ((".h5", ".msgpack", ".npz"), "weights of TensorFlow, Flax or MLX", _CONVERT),
)
_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.safetensors")
# `model.fp16.safetensors`: another form of the weights in `model.safetensors`.
_VARIANT = re.compile(r"model(\.[\w-]+)?\.safetensors")
_HUB_FOLDER = re.compile(r"models--(?P<owner>[^/]+?)--(?P<name>[^/]+)")


def names_in(path: Path) -> list[str]:
    """Names in a directory, sorted. Raises ModelError where it cannot be read."""
    try:
        return sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise unreadable(path, error) from error


def without_config(path: Path) -> ModelError:
    """The error for a folder without config.json: what it seems to be."""
    names = names_in(path)
    missing = f"{path / 'config.json'} does not exist"
    if _ADAPTER in names:
        return _adapter_error(path)
    if hub := _HUB_FOLDER.fullmatch(path.resolve().name):
        return ModelError(
            f"{path} is a folder of the hub's cache, whose checkpoints are under {path}/snapshots; "
            f"give --model {hub['owner']}/{hub['name']}"
        )
    if waiting := unfinished_download(path):
        return ModelError(f"{missing}; {waiting}")
    if not names:
        return ModelError(f"{path} is empty; {path} is not a checkpoint")
    inside = [name for name in names if (path / name / "config.json").is_file()]
    if inside:
        return ModelError(
            f"{missing}; {path} is not a checkpoint, but {path / inside[0]} may be one"
        )
    if other := _other_weights(names):
        return ModelError(f"{missing}; {path} is not a checkpoint: {other}")
    return ModelError(f"{missing}; {path} is not a checkpoint")


def without_weights(path: Path, names: Collection[str]) -> ModelError:
    """The error for a folder with a config.json and no safetensors file."""
    if _ADAPTER in names:
        return _adapter_error(path)
    if waiting := unfinished_download(path):
        return ModelError(f"{path} has no .safetensors file; {waiting}")
    if other := _other_weights(names):
        return ModelError(f"{path} has no .safetensors file: {other}")
    inside = [
        folder
        for name in sorted(names)
        if (folder := path / name).is_dir() and any(folder.glob("*.safetensors"))
    ]
    if inside:
        sentences = "modules.json" in names
        what = "a sentence-transformers folder, whose model is in" if sentences else "they are in"
        return ModelError(f"{path} has no .safetensors file: {what} {inside[0]}; give --model that")
    return ModelError(f"{path} has no .safetensors file; {_CONVERT} (pickled weights are not read)")


def unfinished_download(path: Path) -> str | None:
    """What to say of a snapshot in the hub's cache from which files are missing; None for any
    other directory."""
    if path.parent.name != "snapshots":
        return None
    hub = _HUB_FOLDER.fullmatch(path.parent.parent.name)
    if hub is None:
        return None
    begun = any((path.parent.parent / "blobs").glob("*.incomplete"))
    state = "its download was interrupted" if begun else "its download is not complete"
    return f"{state}: fetch {hub['owner']}/{hub['name']} again, without --offline"


def _adapter_error(path: Path) -> ModelError:
    base = "its base model"
    # The advice holds whether or not the adapter's own config can be read.
    with contextlib.suppress(OSError, ValueError, RecursionError):
        said = json.loads((path / _ADAPTER).read_text(encoding="utf-8"))
        if isinstance(said, dict) and isinstance(said.get("base_model_name_or_path"), str):
            base = shown(said["base_model_name_or_path"])
    return ModelError(
        f"{path} is an adapter (LoRA) of {base}, not a checkpoint; merge it into the base model "
        "first (PEFT's merge_and_unload) and give --model the result"
    )


def _other_weights(names: Collection[str]) -> str | None:
    for endings, title, advice in _OTHER_WEIGHTS:
        if (name := next((name for name in names if name.endswith(endings)), None)) is not None:
            return f"{name} holds {title}; {advice}"
    return None


def choose_weights(path: Path, names: Sequence[str]) -> list[str]:
    """The weight files of a directory without an index, of all its names.

    Raises ModelError where a shard is missing, or the weights are there in several forms.
    """
    weights = [name for name in names if name.endswith(".safetensors")]
    if not weights:
        raise without_weights(path, names)
    shards = [match for name in weights if (match := _SHARD.fullmatch(name))]
    for match in shards[:1]:
        count = int(match["count"])
        of_one = {int(other["number"]) for other in shards if other["count"] == match["count"]}
        if absent := sorted(set(range(1, count + 1)) - of_one):
            name = f"{match['stem']}-{absent[0]:05}-of-{match['count']}.safetensors"
            raise missing_file(path, name)
    forms = [name for name in weights if _VARIANT.fullmatch(name)]
    twice = forms if len(forms) > 1 else [*forms[:1], *(match[0] for match in shards[:1])]
    if len(twice) > 1:
        raise weights_twice(path, *twice[:2])
    return weights


def missing_file(path: Path, name: str) -> ModelError:
    """The error for a weight file that is named and not there."""
    more = unfinished_download(path) or "copy it too"
    return ModelError(f"{path / name} is missing; the checkpoint is incomplete: {more}")


def weights_twice(path: Path, one: str, other: str) -> ModelError:
    """The error for two forms of the same weights in one folder."""
    return ModelError(
        f"{path} holds its weights twice: {one} and {other}; keep the form that is meant and move "
        "the other away"
    )
