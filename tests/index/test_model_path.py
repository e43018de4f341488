"""An index finds its model from anywhere, and where both were moved together."""

from __future__ import annotations

from pathlib import Path

import pytest

from moee_index.encode.encoder import Encoder
from moee_index.errors import ModelError


def test_a_relative_model_is_found_from_anywhere(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moee_index.index import Index
    from moee_index.types import Document

    monkeypatch.chdir(tmp_path)
    encoder = Encoder.load("olmoe")
    assert encoder.spec.path == str(tmp_path / "olmoe")
    documents = [Document("a", "rain on the roof"), Document("b", "ships at sea")]
    Index.build("index", documents, encoder).close()
    monkeypatch.chdir("/")
    with Index.open(tmp_path / "index", Encoder.for_spec) as index:
        assert index.search("ships at sea", k=1)[0].id == "b"
    # both moved together
    (tmp_path / "elsewhere").mkdir()
    for name in ("olmoe", "index"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    with Index.open(tmp_path / "elsewhere" / "index", Encoder.for_spec) as index:
        assert index.search("ships at sea", k=1)[0].id == "b"
    (tmp_path / "elsewhere" / "olmoe").rename(tmp_path / "gone")
    with (
        Index.open(tmp_path / "elsewhere" / "index", Encoder.for_spec) as index,
        pytest.raises(ModelError, match="no longer there; give its new place with --model"),
    ):
        index.search("ships at sea", k=1)
