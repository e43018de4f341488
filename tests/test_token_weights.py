"""Token weights: Lucene's inverse document frequencies, shares that add up to 1, files that are
told apart by what they hold."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moee_index.errors import MisuseError, ModelError
from moee_index.token_weights import TokenCounts, TokenWeights, read_token_weights

TEXTS = st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=8)


def weights(*values: float) -> TokenWeights:
    return TokenWeights(np.array(values, dtype=np.float32))


@given(texts=TEXTS)
def test_a_token_weighs_what_lucene_says(texts: list[list[int]]) -> None:
    counts = TokenCounts()
    counts.reach(10)
    for text in texts:
        counts.add(text)
    found = counts.weights().values
    for token in range(10):
        held = sum(token in text for text in texts)
        wanted = math.log(1 + (len(texts) - held + 0.5) / (held + 0.5))
        assert found[token] == pytest.approx(wanted, rel=1e-6)


@given(
    values=st.lists(st.floats(0, 1e6, width=32), min_size=1, max_size=20),
    tokens=st.lists(st.integers(0, 19), min_size=1, max_size=600),
)
def test_shares_follow_the_weights_and_add_up_to_one(
    values: list[float], tokens: list[int]
) -> None:
    tokens = [token % len(values) for token in tokens]
    shares = weights(*values).of(tokens)
    assert shares.sum(dtype=np.float64) == pytest.approx(1, abs=1e-5)
    whole = math.fsum(values[token] for token in tokens)
    if whole > 0:
        wanted = [values[token] / whole for token in tokens]
    else:
        wanted = [1 / len(tokens)] * len(tokens)
    assert np.allclose(shares, wanted, rtol=1e-5, atol=1e-9)


def test_a_file_holds_the_same_table(tmp_path: Path) -> None:
    table = weights(0.5, 2.0, 0.0)
    path = tmp_path / "idf.npy"
    path.write_bytes(table.to_bytes())
    read = read_token_weights(path)
    assert read is not None
    assert read.values.tolist() == [0.5, 2.0, 0.0]
    assert read.checksum == table.checksum
    assert table.to_bytes() == read.to_bytes()
    assert weights(0.5, 2.0, 1e-9).checksum != table.checksum
    assert read_token_weights(tmp_path / "none.npy") is None


def npz() -> bytes:
    import io

    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(1))
    return stream.getvalue()


def pickled() -> bytes:
    import io

    stream = io.BytesIO()
    np.save(stream, np.array([{}], dtype=object), allow_pickle=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no table",
        weights(1, 2).to_bytes()[:-1],
        np.zeros(3).tobytes(),
        weights(1, 2).to_bytes().replace(b"<f4", b"<f8"),
        npz(),
        pickled(),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "idf.npy"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"idf\.npy is no table of token weights"):
        read_token_weights(path)


@pytest.mark.parametrize(
    "values",
    [[], [[1.0]], [-1.0], [math.nan], [math.inf]],
)
def test_what_are_no_weights_is_refused(values: list[float]) -> None:
    with pytest.raises(MisuseError, match="token weights"):
        TokenWeights(np.array(values, dtype=np.float32))


def test_a_token_beyond_the_table_is_refused() -> None:
    with pytest.raises(ModelError, match="token 2 has no weight"):
        weights(1, 2).of([0, 2])
