"""Weight files in the making: mapped, whole or not at all."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from moee_index.errors import ModelError, StorageError
from moee_index.model.load.weight_file import Draft, Specs, check_digest

SPECS: Specs = {
    "b.codes": ((3, 5), torch.uint8),
    "a.scale": ((7,), torch.float32),
    "c.norm": ((3,), torch.bfloat16),
}


def test_what_is_filled_is_what_the_library_reads(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "entry"
    beside = tmp_path / "config.json"
    beside.write_text("{}")
    with Draft(target, SPECS) as draft:
        draft.tensors["b.codes"][:] = torch.arange(15, dtype=torch.uint8).view(3, 5)
        draft.tensors["a.scale"][:] = torch.linspace(-1, 1, 7)
        draft.tensors["c.norm"][:] = torch.tensor([1.0, 2.0, -3.0])
        assert not target.exists()
        draft.publish("said.json", {"format": 1, **draft.checksum()}, [beside])
        kept = draft.tensors["a.scale"]
    with safe_open(target / "model.safetensors", framework="pt") as reader:
        assert set(reader.keys()) == set(SPECS)
        for name, (shape, dtype) in SPECS.items():
            tensor = reader.get_tensor(name)
            assert tuple(tensor.shape) == shape and tensor.dtype == dtype
            assert torch.equal(tensor, draft.tensors[name])
    assert torch.equal(kept, torch.linspace(-1, 1, 7))  # still mapped after the renaming
    said = json.loads((target / "said.json").read_text())
    check_digest(target / "model.safetensors", said["bytes"], said["digest"])
    assert sorted(file.name for file in target.iterdir()) == [
        "config.json",
        "model.safetensors",
        "said.json",
    ]
    assert [entry.name for entry in target.parent.iterdir()] == ["entry"]
    content = bytearray((target / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (target / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="checksum"):
        check_digest(target / "model.safetensors", said["bytes"], said["digest"])


def test_a_draft_that_is_not_published_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Draft(tmp_path / "entry", SPECS):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_before_a_weight_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match="No space left on device; free space"):
        Draft(tmp_path / "entry", SPECS)
    assert list(tmp_path.iterdir()) == []


def test_the_first_of_two_wins_and_the_second_goes_on(tmp_path: Path) -> None:
    target = tmp_path / "entry"
    with Draft(target, SPECS) as slow:
        with Draft(target, SPECS) as quick:
            quick.publish("said.json", quick.checksum())
        slow.tensors["a.scale"].fill_(2)
        with pytest.raises(StorageError):
            slow.publish("said.json", slow.checksum())
    assert slow.tensors["a.scale"].eq(2).all()  # what it holds stays valid
    assert [entry.name for entry in tmp_path.iterdir()] == ["entry"]
    with pytest.raises(StorageError, match="exists"):
        Draft(target, SPECS)
