"""Where 4-bit forms and fetched models are kept; a model runs where there is no such place."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from moee_index.encode.encoder import Encoder
from moee_index.errors import ModelError, StorageError
from moee_index.model.checkpoint.find import find_checkpoint
from moee_index.model.load.cache import Cache, cache_directory


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user id without a name and no HOME."""
    import pwd

    for name in ("HOME", "XDG_CACHE_HOME", "MOEE_INDEX_CACHE"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_nothing_is_kept_and_that_is_told_once(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moee_index.environment import describe_program
    from moee_index.model.load import load as loading

    with pytest.raises(StorageError, match="set MOEE_INDEX_CACHE"):
        cache_directory()
    told: list[str] = []
    Encoder.load(checkpoint, notify=told.append)
    assert not any("kept" in line for line in told), "a small model asks for no cache"
    monkeypatch.setattr(loading, "LARGE", 0)
    Encoder.load(checkpoint, notify=told.append)
    assert sum("the 4-bit form is not kept: there is no home" in line for line in told) == 1
    assert "set MOEE_INDEX_CACHE" in describe_program()["cache"]["directory"]
    monkeypatch.setenv("MOEE_INDEX_CACHE", "~/cache")
    with pytest.raises(StorageError, match="set MOEE_INDEX_CACHE"):
        cache_directory()
    with pytest.raises(ModelError, match="no home directory for ~; write the whole path"):
        Encoder.load("~/model")


@pytest.mark.parametrize("place", ["~/.cache/huggingface/hub", "relative/hub"])
def test_the_hubs_cache_is_never_made_where_the_program_was_started(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_HOME")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", place)
    with pytest.raises(ModelError, match=r"no place for the hub's cache.*set HF_HOME"):
        find_checkpoint("owner/name")


def test_a_cache_that_cannot_be_used_is_told_once_and_left_alone(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moee_index.model.load import load as loading

    monkeypatch.setattr(loading, "LARGE", 0)
    file = tmp_path / "file"
    file.write_text("not a directory")
    for place in (file, file / "below"):
        monkeypatch.setenv("MOEE_INDEX_CACHE", str(place))
        told: list[str] = []
        Encoder.load(checkpoint, notify=told.append)
        assert sum("the 4-bit form is not kept" in line for line in told) == 1
    monkeypatch.setenv("MOEE_INDEX_CACHE", str(tmp_path / "cache"))
    Encoder.load(checkpoint)
    ((name, _),) = Cache(told.append).entries()
    kept = tmp_path / "cache" / name / "model.safetensors"
    opened = Path.open

    def refuse(self: Path, *args: Any, **named: Any) -> Any:
        if self == kept:
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return opened(self, *args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        told.clear()
        Encoder.load(checkpoint, notify=told.append)
    assert not any("damaged" in line for line in told)
    assert sum("not kept" in line and "Permission denied" in line for line in told) == 1
    assert kept.exists(), "what may not be read is not removed"
