"""What is not a checkpoint, not a whole one, or one whose parts do not fit: refused by name, before
anything is embedded, and for the reason that is the true one.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fakes.mutations import LFS_POINTER
from fakes.small_checkpoint import edit_json as edit
from moee_index.encode.encoder import Encoder
from moee_index.errors import MisuseError, ModelError, MoeeIndexError
from moee_index.model.checkpoint.find import find_checkpoint
from moee_index.model.load.quantize import quantize_checkpoint

Change = Callable[[Path], object]


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors = change(tensors) or tensors
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def split(folder: Path, *, index: bool = True) -> None:
    """The weights in two shards."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {f"model-0000{n}-of-00002.safetensors": names[n - 1 :: 2] for n in (1, 2)}
    for file, some in files.items():
        save_file({name: tensors[name] for name in some}, folder / file)
    if index:
        weight_map = {name: file for file, some in files.items() for name in some}
        edit(folder / "model.safetensors.index.json", weight_map=weight_map)


SECOND = "model-00002-of-00002.safetensors"

# Folders that are something else or not whole: how they come to be, and what is said.
FOLDERS: dict[str, tuple[Change, str]] = {
    "empty": (lambda folder: [file.unlink() for file in folder.iterdir()], "is empty"),
    "an adapter": (
        lambda folder: (
            (folder / "config.json").unlink(),
            edit(folder / "adapter_config.json", base_model_name_or_path="owner/base"),
        ),
        r"is an adapter \(LoRA\) of owner/base, not a checkpoint; merge it",
    ),
    "an adapter beside a config": (
        lambda folder: (
            (folder / "model.safetensors").rename(folder / "adapter_model.bin"),
            edit(folder / "adapter_config.json"),
        ),
        r"is an adapter \(LoRA\) of its base model",
    ),
    "GGUF": (
        lambda folder: (
            (folder / "config.json").unlink(),
            (folder / "model.safetensors").rename(folder / "model.gguf"),
        ),
        r"model\.gguf holds GGUF; give --model the checkpoint it was made from",
    ),
    "pickled": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        r"no \.safetensors file: pytorch_model\.bin holds pickled weights \(which are never read\)",
    ),
    "ONNX": (
        lambda folder: (folder / "model.safetensors").rename(folder / "model.onnx"),
        r"model\.onnx holds ONNX",
    ),
    "a folder above": (
        lambda folder: shutil.move(shutil.move(folder, f"{folder}-"), folder / "inner"),
        r"is not a checkpoint, but .*inner may be one",
    ),
    "sentence-transformers": (
        lambda folder: (
            (folder / "0_Transformer").mkdir(),
            (folder / "model.safetensors").rename(folder / "0_Transformer" / "model.safetensors"),
            (folder / "modules.json").write_text("[]"),
        ),
        "sentence-transformers folder, whose model is in .*0_Transformer",
    ),
    "two variants": (
        lambda folder: shutil.copy(folder / "model.safetensors", folder / "model.fp16.safetensors"),
        r"holds its weights twice: model\.fp16\.safetensors and model\.safetensors",
    ),
    "whole and in shards": (
        lambda folder: (
            shutil.copy(folder / "model.safetensors", folder / "kept"),
            split(folder),
            (folder / "kept").rename(folder / "model.safetensors"),
        ),
        r"holds its weights twice: model\.safetensors and model-00001-of-00002",
    ),
    "a shard missing": (
        lambda folder: (split(folder), (folder / SECOND).unlink()),
        rf"{SECOND} is missing; the checkpoint is incomplete",
    ),
    "a shard missing without an index": (
        lambda folder: (split(folder, index=False), (folder / SECOND).unlink()),
        rf"{SECOND} is missing; the checkpoint is incomplete",
    ),
    "a tensor in two shards": (
        lambda folder: (
            split(folder),
            shutil.copy(folder / SECOND, folder / "model-00001-of-00002.safetensors"),
        ),
        "is on disk twice: in .*model-00001.* and in .*model-00002",
    ),
    "saved by DDP": (
        lambda folder: change_weights(
            folder, lambda tensors: {f"module.{name}": value for name, value in tensors.items()}
        ),
        r"named as DataParallel .* names them \('module\..*rename the tensors",
    ),
    "saved compiled": (
        lambda folder: change_weights(
            folder, lambda tensors: {f"_orig_mod.{name}": value for name, value in tensors.items()}
        ),
        "named as torch.compile names them",
    ),
    "no embedding": (
        lambda folder: change_weights(
            folder, lambda tensors: [tensors.pop("model.embed_tokens.weight")] and tensors
        ),
        r"tensors are missing, the first is 'embed_tokens\.weight'",
    ),
    "weights of another type": (
        lambda folder: change_weights(
            folder,
            lambda tensors: tensors.update(
                {"model.norm.weight": torch.zeros(32, dtype=torch.int32)}
            ),
        ),
        r"'model\.norm\.weight' is stored as I32",
    ),
    "no model type": (
        lambda folder: edit(folder / "config.json", model_type=None),
        r"config\.json has no 'model_type'",
    ),
    "too many layers": (
        lambda folder: edit(folder / "config.json", num_hidden_layers=10**9),
        r"config\.json: 'num_hidden_layers' is 1000000000, more than all the weights",
    ),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_that_is_no_whole_checkpoint_is_told(checkpoint: Path, kind: str) -> None:
    change, said = FOLDERS[kind]
    change(checkpoint)
    with pytest.raises(ModelError, match=said):
        Encoder.load(checkpoint)


def test_folders_of_the_hubs_cache_are_told(small_checkpoint: Path, tmp_path: Path) -> None:
    home = tmp_path / "models--owner--olmoe"
    snapshot = home / "snapshots" / "0123"
    shutil.copytree(small_checkpoint, snapshot)
    with pytest.raises(ModelError, match=r"folder of the hub's cache.*give --model owner/olmoe"):
        Encoder.load(home)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="download is not complete: fetch owner/olmoe again"):
        Encoder.load(snapshot)
    (home / "blobs").mkdir()
    (home / "blobs" / "ab.incomplete").touch()
    with pytest.raises(ModelError, match="download was interrupted: fetch owner/olmoe again"):
        Encoder.load(snapshot)


@pytest.mark.parametrize(
    ("model", "options", "error", "said"),
    [
        ("", {}, MisuseError, "--model is empty"),
        (" ", {}, MisuseError, "--model is empty"),
        ("caf\udce9", {}, MisuseError, "--model is not UTF-8"),
        ("x" * 5000, {}, ModelError, "neither a directory nor a hub id"),
        ("a\x00b", {}, ModelError, "neither a directory nor a hub id"),
        ("owner/name", {"revision": "nope"}, ModelError, "at revision 'nope' could be fetched"),
    ],
)
def test_names_that_are_no_model(
    model: str, options: dict[str, Any], error: type[MoeeIndexError], said: str
) -> None:
    with pytest.raises(error, match=said):
        Encoder.load(model, offline=True, **options)


def test_an_unknown_revision_names_those_that_are_there(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    home = tmp_path / "models--owner--olmoe"
    shutil.copytree(small_checkpoint, home / "snapshots" / "0123")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("0123")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="not at revision 'nope'; known there: main"):
        Encoder.load("owner/olmoe", revision="nope", offline=True)


# Files that hold something else, and what is said of each.
CONTENTS = {
    "LFS": (LFS_POINTER, "is a Git LFS pointer, not the file itself; fetch the file"),
    "empty": (b"", "is empty; copy it again"),
    "a page": (b"<!DOCTYPE html><html>", "is a web page, not the file itself"),
    "packed": (b"\x1f\x8b\x08\x00rest", "is a gzip archive; unpack it"),
    "zeros": (bytes(5000), "holds nothing but zeros"),
}
FILES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "moee_index.json", "model.safetensors.index.json", "model.safetensors"),
)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", CONTENTS)
def test_what_a_file_holds_instead_is_told(checkpoint: Path, name: str, kind: str) -> None:
    content, said = CONTENTS[kind]
    (checkpoint / name).write_bytes(content)
    with pytest.raises(ModelError, match=rf"{name} {said}"):
        Encoder.load(checkpoint)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_file_that_ends_early_is_told(checkpoint: Path, name: str) -> None:
    content = (checkpoint / name).read_bytes()
    (checkpoint / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match=rf"{name} cannot be read .*the file ends early\); copy"):
        Encoder.load(checkpoint)


def test_weights_that_end_early_say_how_much_is_missing(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    size = len(content)
    with pytest.raises(
        ModelError, match=rf"model\.safetensors is cut: it has {size - 100} bytes of the {size}"
    ):
        Encoder.load(checkpoint)
    weights.write_bytes(content[:100])
    with pytest.raises(ModelError, match=r"is cut: it has 100 bytes of the \d+ that its header al"):
        quantize_checkpoint(checkpoint, checkpoint.parent / "four")
    weights.write_bytes(content + b"more")
    with pytest.raises(ModelError, match=rf"is damaged: {size + 4} bytes, of which its header"):
        Encoder.load(checkpoint)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("code", [errno.EACCES, errno.EMFILE, errno.EIO])
def test_a_file_that_may_not_be_read_is_not_called_damaged(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    # as safetensors and tokenizers tell it: in words of their own, some of them untrue
    (checkpoint / name).write_bytes(b"damaged, but nobody can see it")
    opened = Path.open

    def refuse(self: Path, *args: Any, **named: Any) -> Any:
        if self.name == name:
            raise OSError(code, os.strerror(code), str(self))
        return opened(self, *args, **named)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ModelError, match=rf"{name} cannot be read \({os.strerror(code)}\)") as told:
        Encoder.load(checkpoint)
    assert "copy it again" not in str(told.value)


def test_too_many_open_files_are_told_as_that(checkpoint: Path) -> None:
    find_checkpoint(checkpoint)
    Encoder.load(checkpoint)  # all libraries are imported now
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, hard), hard))
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        with pytest.raises(ModelError, match="Too many open files") as told:
            Encoder.load(checkpoint)
        assert "damaged" not in str(told.value)
    finally:
        for file in held:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_lack_of_memory_is_told_as_that(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from moee_index.model.load import stream

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(stream, "_put", fail)
    with pytest.raises(ModelError, match="not enough memory for the weights of"):
        Encoder.load(checkpoint)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rope_scaling": {"type": "su", "factor": 2.0}}, r"with 'rope_scaling\.type' 'su'"),
        ({"hidden_size": "32"}, "with 'hidden_size' '32'"),
        ({"num_experts_per_tok": 99}, "'num_experts_per_tok' is 99, but there are 4 experts"),
        ({"dtype": "nonsense"}, "with 'dtype' 'nonsense'"),
        ({"num_attention_heads": 0}, "'num_attention_heads' is 0; it must be at least 1"),
        ({"hidden_act": "nothing"}, "with 'hidden_act' 'nothing'"),
        ({"model_type": ["olmoe"]}, "has no 'model_type'"),
    ],
)
def test_a_config_that_transformers_cannot_use_names_the_key(
    checkpoint: Path, changes: dict[str, Any], said: str
) -> None:
    edit(checkpoint / "config.json", **changes)
    with pytest.raises(ModelError, match=rf"config\.json.*{said}"):
        Encoder.load(checkpoint)


@pytest.mark.parametrize(
    "changes",
    [
        {"_attn_implementation": "flash_attention_2"},
        {"attn_implementation": "flash_attention_3"},
        {"return_dict": False},
        {"torchscript": True},
        {"output_attentions": True, "output_hidden_states": True, "output_router_logits": True},
    ],
)
def test_how_a_model_computes_is_not_the_configs_to_say(
    small_checkpoint: Path, checkpoint: Path, changes: dict[str, Any]
) -> None:
    edit(checkpoint / "config.json", **changes)
    wanted = Encoder.load(small_checkpoint).encode(["ships at sea"])
    found = Encoder.load(checkpoint).encode(["ships at sea"])
    assert (found.hs == wanted.hs).all() and (found.rw == wanted.rw).all()
