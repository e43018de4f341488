"""What two texts share of routing, and who uses an expert most."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from fakes.indexes import fake_documents
from fakes.word_encoder import FakeEncoder
from moee_index import Encoder, Index
from moee_index.errors import MisuseError
from moee_index.fusion import Standardizer
from moee_index.index import delete_documents, routing
from moee_index.index.routing import ExpertUse, compare_routing, layer_columns, usage
from moee_index.types import Document, Embeddings

WIDTHS = (3, 5)


def embeddings(rows: int, seed: int = 0) -> Embeddings:
    chance = np.random.default_rng(seed)
    return Embeddings(
        chance.normal(size=(rows, 4)).astype(np.float32),
        chance.normal(size=(rows, sum(WIDTHS))).astype(np.float32),
    )


def test_cells_add_up_to_the_similarity_of_a_search(tmp_path: Path) -> None:
    """In every layer's numbers, with a standardizer, for a real model."""
    encoder = Encoder.load()
    documents = [Document(f"d{n}", f"the {n}th text is about {n * n} things") for n in range(70)]
    with Index.build(tmp_path / "i", documents, encoder) as index:
        widths = encoder.rw_widths
        assert widths == (64, 64, 64, 64) and sum(widths) == encoder.spec.rw_dim
        query = encoder.encode(["what is it about"], query=True)
        for hit in index.search("what is it about", 3):
            compared = compare_routing(
                query, index.vectors([hit.id]), index.standardizer, widths, encoder.spec.rw
            )
            assert compared.hs == pytest.approx(hit.hs, abs=1e-6)
            assert compared.rw == pytest.approx(hit.rw, abs=1e-6)
            cells = sum(float(layer.shared.sum()) for layer in compared.layers)
            assert cells == pytest.approx(hit.rw, abs=1e-6)
            for layer in compared.layers:
                assert layer.left.sum() == pytest.approx(1) and layer.right.min() > 0
                assert -1 <= layer.agreement <= 1


def test_layers_of_different_widths_are_kept_apart() -> None:
    left, right = embeddings(1), embeddings(1, seed=1)
    compared = compare_routing(left, right, Standardizer(), WIDTHS, "softmax")
    assert [len(layer.shared) for layer in compared.layers] == [3, 5]
    first, second = left.rw[0].astype(float), right.rw[0].astype(float)
    for layer, columns in zip(compared.layers, layer_columns(WIDTHS), strict=True):
        a, b = first[columns], second[columns]
        cosine = float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        assert layer.agreement == pytest.approx(cosine)
        np.testing.assert_allclose(layer.left, a)


def test_a_layer_of_zeros_agrees_with_nothing() -> None:
    left = Embeddings(np.ones((1, 4), np.float32), np.zeros((1, 8), np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compared = compare_routing(left, embeddings(1), Standardizer(), WIDTHS, "logits")
    assert [layer.agreement for layer in compared.layers] == [0.0, 0.0]
    assert compared.rw == 0.0


def test_logits_are_told_as_the_layers_probabilities() -> None:
    rw = np.array([[1000.0, 999.0, -1000.0, 0, 0, 0, 0, 0]], dtype=np.float32)
    used = usage(rw, WIDTHS, "logits")[0]
    np.testing.assert_allclose(used[:3], [1 / (1 + np.exp(-1)), 1 / (1 + np.e), 0], atol=1e-12)
    np.testing.assert_allclose(used[3:], 0.2)
    np.testing.assert_array_equal(usage(rw, WIDTHS, "sigmoid"), rw)
    with pytest.raises(MisuseError, match="8 columns, and the layers 7 experts"):
        usage(rw, (3, 4), "logits")


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index.build(tmp_path / "i", fake_documents(300), FakeEncoder())


def test_documents_that_use_an_expert_most(index: Index) -> None:
    widths = (2, index.spec.rw_dim - 2)
    use = ExpertUse(index.snapshot, widths, "softmax")
    assert use.rows == use.looked_at == 300
    names = list(index.ids())
    rw = index.vectors(names).rw
    for layer, expert, column in ((0, 1, 1), (1, 0, 2), (1, widths[1] - 1, index.spec.rw_dim - 1)):
        order = np.argsort(-rw[:, column], kind="stable")
        found = use.of(layer, expert, 5)
        assert [each.document.id for each in found] == [names[row] for row in order[:5]]
        assert found[0].amount == pytest.approx(float(rw[order[0], column]))
        others = use.of(layer, expert, 5, without=names[order[0]])
        assert [each.document.id for each in others] == [names[row] for row in order[1:6]]


@pytest.mark.parametrize(("layer", "expert"), [(2, 0), (0, 2), (-1, 0), (0, -1)])
def test_an_expert_that_is_not_there(index: Index, layer: int, expert: int) -> None:
    use = ExpertUse(index.snapshot, (2, index.spec.rw_dim - 2), "softmax")
    with pytest.raises(MisuseError, match=f"no expert {expert} in layer {layer}"):
        use.of(layer, expert, 5)


def test_of_many_rows_some_are_drawn_by_a_fixed_chance(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "MOST_ROWS", 40)
    widths = (index.spec.rw_dim,)
    first, second = (ExpertUse(index.snapshot, widths, "softmax") for _ in range(2))
    assert (first.rows, first.looked_at) == (300, 40)
    for expert in range(index.spec.rw_dim):
        ids = [each.document.id for each in first.of(0, expert, 8)]
        assert ids == [each.document.id for each in second.of(0, expert, 8)]
        assert len(set(ids)) == len(ids)


def test_deleted_documents_use_nothing(tmp_path: Path) -> None:
    Index.build(tmp_path / "i", fake_documents(30), FakeEncoder()).close()
    gone = [document.id for document in fake_documents(30)[:28]]
    delete_documents(tmp_path / "i", gone)
    with Index.open(tmp_path / "i") as index:
        use = ExpertUse(index.snapshot, (index.spec.rw_dim,), "softmax")
        assert use.rows == 2
        assert {each.document.id for each in use.of(0, 0, 9)}.isdisjoint(gone)
