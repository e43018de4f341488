"""The devices that --device takes."""

from __future__ import annotations

import pytest
import torch

from moee_index.errors import MisuseError, ModelError, MoeeIndexError
from moee_index.model.run.hardware import choose_device


@pytest.mark.parametrize(
    "device", ["mps", "cud", "cuda:x", "meta", "cuda:", "", " cpu", "cpu:0", "cuda:-1", "CPU"]
)
def test_devices_that_there_are_not(device: str) -> None:
    with pytest.raises(MisuseError, match=r"is none of auto, cpu and cuda\[:N\]"):
        choose_device(device)


@pytest.mark.parametrize(
    ("count", "device", "error", "said"),
    [
        (0, "cuda", ModelError, "torch finds no CUDA device"),
        (0, "cuda:7", MisuseError, "torch finds no CUDA device"),
        (1, "cuda:7", MisuseError, "there is 1 CUDA device, numbered from 0"),
        (2, "cuda:2", MisuseError, "there are 2 CUDA devices"),
    ],
)
def test_cards_that_there_are_not(
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    device: str,
    error: type[MoeeIndexError],
    said: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    with pytest.raises(error, match=said):
        choose_device(device)
