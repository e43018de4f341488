"""`bench analyze`: layers captured rightly, measures with known answers, one report at the end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import PARITY

from fakes.task_data import keep_places
from moee_index.bench.analyses import clusters, complementarity, controls, prompts, routing
from moee_index.bench.analyses.layers import (
    POOLINGS,
    LayerCapture,
    LayerShape,
    LayerVectors,
    collect,
)
from moee_index.bench.analyses.run import analyse_texts, analyze
from moee_index.bench.analyses.similarity import cosines, method_scores, spearman
from moee_index.bench.analyses.task_texts import Labelled, Material, Pairs, gather
from moee_index.bench.analyses.writing import plain
from moee_index.bench.report.markup import show
from moee_index.bench.tasks import Question
from moee_index.bench.vector_cache.encoder import StoredEncoder
from moee_index.bench.vector_cache.store import VectorStore
from moee_index.encode.encoder import Encoder
from moee_index.errors import CorpusError, MisuseError, StorageError
from moee_index.types import Embeddings

KINDS = ("olmoe", "qwen2_moe", "deepseek")
TEXTS = json.loads((PARITY / "texts.json").read_text(encoding="utf-8"))


def pairs_of(left: list[int], right: list[int], gold: list[float], name: str = "pairs") -> Pairs:
    count = max(left + right) + 1
    return Pairs(name, np.arange(count), np.array(left), np.array(right), np.array(gold))


# Layers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("prompt", ["prompteol", "none"])
def test_the_last_layer_and_all_routing_are_the_encoders(
    kind: str, prompt: str, tmp_path: Path
) -> None:
    """Both poolings of one pass are what the encoder gives under each, in every batch."""
    texts = [*TEXTS, "Wow!", TEXTS[0]]
    for pooling in POOLINGS:
        encoder = Encoder.load(PARITY / kind, bits=32, prompt=prompt, pooling=pooling)
        wanted = encoder.encode(texts)
        (tmp_path / pooling).mkdir()
        vectors = collect(encoder.with_batch_tokens(200), texts, tmp_path / pooling)
        assert encoder.running.pooling == pooling
        found = vectors.embeddings(pooling, np.arange(len(texts)))
        assert np.abs(found.hs - wanted.hs).max() <= 1e-5 * np.abs(wanted.hs).max()
        assert np.abs(found.rw - wanted.rw).max() <= 1e-5 * np.abs(wanted.rw).max()
        joined = [
            vectors.rw(pooling)[:, vectors.shape.rw_columns(layer)]
            for layer in range(len(vectors.shape.rw_widths))
        ]
        assert np.array_equal(np.concatenate(joined, axis=1), found.rw)
        # the two files are no names any more: nothing is left behind, however a run ends
        assert list((tmp_path / pooling).iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_each_layer_is_what_transformers_counts_as_its_hidden_state(
    kind: str, tmp_path: Path
) -> None:
    """Recomputed by hand: the final norm over the last layer, the routers' own matrices."""
    import torch

    encoder = Encoder.load(PARITY / kind, bits=32, prompt="none")
    text = "A person plays an instrument"
    vectors = collect(encoder, [text], tmp_path)
    seen: list[torch.Tensor] = []
    handles = [
        layer.register_forward_hook(
            lambda _module, _inputs, output: seen.append(
                (output[0] if isinstance(output, tuple) else output).detach().clone()
            )
        )
        for layer in encoder.running.model.layers
    ]
    encoder.encode([text])
    for handle in handles:
        handle.remove()
    shape = vectors.shape
    assert shape.layers == len(seen) == encoder.running.model.config.num_hidden_layers
    for layer in range(1, shape.layers):
        assert np.allclose(vectors.hs("last", layer)[0], seen[layer - 1][0, -1].numpy(), atol=1e-5)
    with torch.inference_mode():
        normed = encoder.running.model.norm(seen[-1])[0, -1].numpy()
    assert np.allclose(vectors.hs("last")[0], normed, atol=1e-5)


def test_a_dense_first_layer_has_no_routing() -> None:
    encoder = Encoder.load(PARITY / "deepseek", bits=32)
    with LayerCapture(encoder.running) as capture:
        shape = capture.shape()
    assert shape.rw_layers == (2, 3, 4)
    assert shape.rw_dim == encoder.spec.rw_dim
    assert [shape.rw_columns(layer) for layer in range(3)] == [
        slice(0, 8),
        slice(8, 16),
        slice(16, 24),
    ]


def test_last_and_mean_of_one_token_are_the_same(tmp_path: Path) -> None:
    encoder = Encoder.load(PARITY / "olmoe", bits=32, prompt="{text}")
    plan = encoder.plan(["a", "the weather is fine today"])
    tokens = sorted(len(text.ids) for batch in range(1) for text in plan.distinct(batch)[0])
    assert tokens[0] == 1 and tokens[1] > 1
    vectors = collect(encoder, ["a", "the weather is fine today"], tmp_path)
    for layer in range(1, vectors.shape.layers + 1):
        last, mean = vectors.hs("last", layer), vectors.hs("mean", layer)
        assert np.array_equal(last[0], mean[0])
        assert not np.allclose(last[1], mean[1])


def test_hooks_see_a_batch_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moee_index.model.run.model.PIECE_TOKENS", 8)
    encoder = Encoder.load(PARITY / "olmoe", bits=32, pooling="last")
    vectors = collect(encoder, TEXTS, tmp_path)
    found = vectors.embeddings("last", np.arange(len(TEXTS)))
    assert encoder.running.divides_batches
    wanted = encoder.encode(TEXTS)
    assert np.abs(found.hs - wanted.hs).max() <= 1e-5 * np.abs(wanted.hs).max()
    assert np.abs(found.rw - wanted.rw).max() <= 1e-5 * np.abs(wanted.rw).max()


def test_hooks_are_gone_and_the_encoder_is_as_before(tmp_path: Path) -> None:
    encoder = Encoder.load(PARITY / "olmoe", bits=32)
    before = encoder.encode(TEXTS)

    def hooks() -> int:
        return sum(len(one._forward_hooks) for one in encoder.running.model.modules())

    count = hooks()
    collect(encoder, TEXTS, tmp_path)
    with pytest.raises(RuntimeError, match="stop"), LayerCapture(encoder.running):
        assert hooks() > count
        raise RuntimeError("stop")
    assert hooks() == count
    after = encoder.encode(TEXTS)
    assert np.array_equal(before.hs, after.hs) and np.array_equal(before.rw, after.rw)


def test_a_disk_without_room_is_told_before_the_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass
    class Usage:
        free: int

    shape = LayerShape(28, 2048, (64,) * 28, tuple(range(1, 29)), "logits")
    assert shape.bytes(10_000) == 10_000 * 2 * 4 * (28 * 2048 + 28 * 64)
    monkeypatch.setattr("shutil.disk_usage", lambda directory: Usage(shape.bytes(10_000) - 1))
    with pytest.raises(StorageError, match=r"4\.7 GB.*--limit"):
        LayerVectors(tmp_path, 10_000, shape)
    assert list(tmp_path.iterdir()) == []


# Clusters


def test_identical_clusters_agree_whatever_their_numbers() -> None:
    first = np.repeat(np.arange(5), 20)
    renamed = np.array([3, 0, 4, 1, 2])[first]
    assert clusters.agreement(first, renamed) == pytest.approx(
        {"ami": 1.0, "nmi": 1.0, "jaccard": 1.0, "exact": 1.0}
    )


def test_independent_clusters_agree_by_chance() -> None:
    rng = np.random.default_rng(3)
    found = clusters.agreement(rng.integers(0, 5, 4000), rng.integers(0, 5, 4000))
    assert abs(found["ami"]) < 0.005
    # two texts share a cluster in 1/5 of the pairs: in both 1/25, in either 9/25
    assert found["jaccard"] == pytest.approx(1 / 9, abs=0.005)
    assert found["exact"] == pytest.approx(0.2, abs=0.03)


def test_agreement_of_a_case_counted_by_hand() -> None:
    found = clusters.agreement(np.array([0, 0, 0, 1, 1, 1]), np.array([0, 0, 1, 1, 1, 1]))
    # together in the first: 6 pairs, in the second: 1 + 6, in both: 1 + 3
    assert found["jaccard"] == pytest.approx(4 / 9)
    assert found["exact"] == pytest.approx(5 / 6)


def blobs(count: int, centres: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    of = rng.integers(0, centres, count)
    middle = 40 * rng.standard_normal((centres, dim))
    return (middle[of] + rng.standard_normal((count, dim))).astype(np.float32), of


def test_clusters_of_the_same_groups_agree_and_of_others_do_not() -> None:
    hs, of = blobs(300, 3, 8, seed=1)
    same = (np.eye(3)[of] @ np.random.default_rng(5).standard_normal((3, 6))).astype(np.float32)
    other, _ = blobs(300, 3, 6, seed=2)
    agree = clusters.compare(Embeddings(hs, same), 3, of)
    assert agree["hs_rw"]["ami"] == pytest.approx(1.0)
    assert agree["hs_rw"]["exact"] == agree["hs_labels"]["exact"] == pytest.approx(1.0)
    assert abs(agree["chance"]["ami"]) < 0.05
    apart = clusters.compare(Embeddings(hs, other), 3)
    assert abs(apart["hs_rw"]["ami"]) < 0.05
    assert apart["hs_hs"]["ami"] == pytest.approx(1.0)


def test_big_sets_are_cut_to_a_sample_that_is_always_the_same() -> None:
    rows = clusters.chosen("Task", 10_000)
    assert len(rows) == clusters.MOST_TEXTS == len(np.unique(rows))
    assert np.array_equal(rows, clusters.chosen("Task", 10_000))
    assert not np.array_equal(rows, clusters.chosen("Other", 10_000))
    assert np.array_equal(clusters.chosen("Task", 7), np.arange(7))
    texts = [f"t{i}" for i in range(10_000)]
    some = clusters.some_of(Labelled("Task", texts, np.arange(10_000) % 9000))
    assert some.texts == [texts[row] for row in rows]
    assert len(np.unique(some.labels)) == some.labels.max() + 1


# Similarities


def test_similarities_are_cosines_of_raw_and_standardised_rows() -> None:
    rng = np.random.default_rng(0)
    own = Embeddings(
        (3 + rng.standard_normal((90, 7))).astype(np.float32),
        rng.standard_normal((90, 5)).astype(np.float32),
    )
    pairs = pairs_of(list(range(45)), list(range(45, 90)), list(range(45)))
    z = (own.hs - own.hs.mean(0, dtype=float)) / own.hs.astype(float).std(0, ddof=1)
    zr = (own.rw - own.rw.mean(0, dtype=float)) / own.rw.astype(float).std(0, ddof=1)

    def cosine(rows: np.ndarray) -> np.ndarray:
        rows = rows.astype(float)
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray((rows[:45] * rows[45:]).sum(1))

    assert np.allclose(cosines(own.hs, pairs, "raw"), cosine(own.hs), atol=1e-9)
    found = method_scores(own, pairs, "standardised")
    assert np.allclose(found["hs"], cosine(z), atol=1e-6)
    assert np.allclose(found["sum"], cosine(z) + cosine(zr), atol=1e-6)
    assert np.allclose(found["concat"], cosine(np.concatenate([z, zr], axis=1)), atol=1e-6)
    from scipy.stats import spearmanr

    noise = rng.standard_normal(45)
    assert spearman(noise, pairs.gold) == pytest.approx(
        100 * spearmanr(noise, pairs.gold).statistic
    )
    assert np.isnan(spearman(np.ones(45), pairs.gold))


# Prompts


def test_prompts_of_one_order_correlate_and_blocks_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    base, other = rng.standard_normal(200), rng.standard_normal(200)
    scores = {
        f"p{number}": {"hs": np.exp(base * (number + 1)), "rw": other + 5 * number}
        for number in range(4)
    }
    matrix = prompts.correlations(scores)
    assert matrix.shape == (8, 8)
    found = prompts.block_means(matrix)
    assert found["hs_hs"] == pytest.approx(1.0)
    assert found["rw_rw"] == pytest.approx(1.0)
    assert abs(found["hs_rw"]) < 0.2
    assert found["hs_rw"] == pytest.approx(found["hs_rw_same_prompt"])


def test_averages_leave_out_a_prompt_with_itself() -> None:
    matrix = np.array(
        [[1, 0.2, 0.5, 0.1], [0.2, 1, 0.3, 0.7], [0.5, 0.3, 1, 0.4], [0.1, 0.7, 0.4, 1]]
    )
    assert prompts.block_means(matrix) == pytest.approx(
        {"hs_hs": 0.2, "rw_rw": 0.4, "hs_rw": 0.4, "hs_rw_same_prompt": 0.6}
    )


def test_spread_over_prompts() -> None:
    assert prompts.spread(np.array([60.0, 62.0, 70.0])) == pytest.approx(
        {"mean": 64.0, "std": np.sqrt(28.0), "min": 60.0, "max": 70.0, "range": 10.0}
    )


def test_there_are_nine_prompts_and_none_is_not_one() -> None:
    assert len(prompts.NINE) == 9 and "none" not in prompts.NINE


# Complementarity


def test_errors_of_a_case_made_by_hand() -> None:
    """Ten pairs in gold order; HS swaps the first with the last, RW the second with the ninth."""
    gold = np.arange(10.0)
    hs, rw = gold.copy(), gold.copy()
    hs[[0, 9]], rw[[1, 8]] = hs[[9, 0]], rw[[8, 1]]
    assert complementarity.rank_distance(hs, gold).tolist() == [0.9, *[0.0] * 8, 0.9]
    judged = complementarity.Judged(
        "task", "raw", gold, {"hs": hs, "rw": rw, "sum": gold, "other": hs}
    )
    section = complementarity.analyse([judged], "a copy of HS")
    row = next(one for one in section.record["rows"] if one["threshold"] == 0.2)
    found = row["hs_rw"]
    assert found["only_first"] == found["only_second"] == pytest.approx(0.2)
    assert found["both"] == 0.0 and found["neither"] == pytest.approx(0.6)
    assert found["one_sided"] == pytest.approx(1.0)
    # independent at 0.2 each: either 0.36, both 0.04
    assert found["by_chance"] == pytest.approx(0.32 / 0.36)
    assert found["phi"] == pytest.approx(-0.25)
    # a score beside itself: the same errors, none of them one-sided
    assert row["hs_other"]["one_sided"] == 0.0 and row["hs_other"]["phi"] == pytest.approx(1.0)
    assert row["sum"]["only_hs"] == row["sum"]["only_rw"] == 1.0
    assert np.isnan(row["sum"]["both"]) and row["sum"]["spoiled"] == 0.0
    assert "copy of HS" in " ".join(section.notes)


def test_overlap_without_errors_is_not_defined() -> None:
    found = complementarity.overlap(np.zeros(4, dtype=bool), np.zeros(4, dtype=bool))
    assert found["neither"] == 1.0 and np.isnan(found["one_sided"]) and np.isnan(found["phi"])


# Routing, controls


def one_good_layer() -> tuple[Pairs, np.ndarray, list[slice]]:
    """60 pairs; the second of three layers holds the gold angle, the others noise."""
    rng = np.random.default_rng(0)
    gold = rng.permutation(60).astype(float)
    angle = np.pi / 2 * (1 - gold / 60)
    rows = rng.standard_normal((120, 12))
    rows[:60, 4:8] = [1, 0, 0, 0]
    rows[60:, 4:8] = np.stack([np.cos(angle), np.sin(angle), 0 * angle, 0 * angle], axis=1)
    pairs = pairs_of(list(range(60)), list(range(60, 120)), gold.tolist())
    return pairs, rows.astype(np.float32), [slice(0, 4), slice(4, 8), slice(8, 12)]


def test_the_layer_that_knows_is_found() -> None:
    pairs, own, columns = one_good_layer()
    found = routing.measure(own, pairs, columns, "raw")
    assert found["alone"][1] == pytest.approx(100.0)
    assert max(abs(found["alone"][0]), abs(found["alone"][2])) < 40
    assert found["without"][1] < found["all"]
    whole = cosines(own, pairs, "raw", "rw")
    assert found["all"] == pytest.approx(spearman(whole, pairs.gold))
    rest = cosines(own[:, [*range(4), *range(8, 12)]], pairs, "raw", "rw")
    assert found["without"][1] == pytest.approx(spearman(rest, pairs.gold))


@pytest.mark.parametrize("form", ["raw", "standardised"])
def test_products_by_layer_add_up_to_the_whole_cosine(form: Any) -> None:
    pairs, own, columns = one_good_layer()
    found = routing.layer_products(own, pairs, columns, form)
    assert np.allclose(found.cosine(range(3)), cosines(own, pairs, form, "rw"), atol=1e-9)


def test_one_routed_layer_cannot_be_left_out() -> None:
    pairs, own, _ = one_good_layer()
    found = routing.measure(own[:, 4:8], pairs, [slice(0, 4)], "raw")
    assert found["all"] == found["alone"][0] == pytest.approx(100.0)
    assert np.isnan(found["without"][0])


class GivenVectors:
    """Two layers of HS: the first knows the gold order, the last is noise."""

    def __init__(self) -> None:
        self.pairs, self._rw, _ = one_good_layer()
        noise = np.random.default_rng(9).standard_normal((120, 4)).astype(np.float32)
        self._hs = [self._rw[:, 4:8], noise]
        self.shape = LayerShape(2, 4, (4, 4, 4), (1, 1, 2), "logits")

    def hs(self, pooling: Any, layer: int | None = None) -> np.ndarray:
        return self._hs[(layer or 2) - 1]

    def rw(self, pooling: Any) -> np.ndarray:
        return self._rw

    def embeddings(self, pooling: Any, rows: np.ndarray) -> Embeddings:
        return Embeddings(self._hs[1][rows], self._rw[rows])


def test_controls_look_at_each_layer_and_at_their_mean() -> None:
    given = GivenVectors()
    found = controls.measure(given, given.pairs, "last")["raw"]
    assert found["hs_layers"][0] == pytest.approx(100.0)
    assert (
        found["hs_layers"][1]
        == found["hs"]
        == pytest.approx(spearman(cosines(given.hs("last"), given.pairs, "raw"), given.pairs.gold))
    )
    mean = (given.hs("last", 1) + given.hs("last", 2)) / 2
    assert found["hs_layers_mean"] == pytest.approx(
        spearman(cosines(mean, given.pairs, "raw"), given.pairs.gold)
    )
    assert found["rw_layers"][1] == pytest.approx(100.0)
    assert found["hs_layers_sum"] > found["hs"]


# The tasks' texts


@dataclass
class _Split:
    columns: dict[str, list[Any]]

    @property
    def column_names(self) -> list[str]:
        return list(self.columns)

    def __getitem__(self, column: str) -> list[Any]:
        return self.columns[column]


def mteb_task(name: str, columns: dict[str, list[Any]]) -> Any:
    import mteb

    task = mteb.get_task(name)
    task.dataset = {split: _Split(columns) for split in task.eval_splits}
    task.data_loaded = True
    return task


def test_texts_of_tasks_are_gathered_once() -> None:
    first = [f"text {i % 7}" for i in range(12)]
    second = [f"text {i}" for i in range(12)]
    sts = mteb_task(
        "STSBenchmark", {"sentence1": first, "sentence2": second, "score": list(range(12))}
    )
    other = mteb_task(
        "BIOSSES", {"sentence1": second, "sentence2": first, "score": [1.0] * 6 + [2.0] * 6}
    )
    sets = mteb_task(
        "TwentyNewsgroupsClustering",
        {
            "sentences": [["a b", "c d", "e", "f", "g", "h"], ["a b", "i", "j", "k", "l"]],
            "labels": [["x", "y", "x", "y", "x", "y"], ["x", "z", "x", "z", "x"]],
        },
    )
    told: list[str] = []
    small = mteb_task("STS12", {"sentence1": ["a"], "sentence2": ["b"], "score": [1.0]})
    material = gather([sts, other, sets, small], told.append)
    assert sorted(material.texts) == sorted({*first, *second})
    assert [one.name for one in material.pairs] == ["STSBenchmark", "BIOSSES"]
    for pairs, left, right in (
        (material.pairs[0], first, second),
        (material.pairs[1], second, first),
    ):
        texts = [material.texts[row] for row in pairs.rows]
        assert [texts[row] for row in pairs.left] == left
        assert [texts[row] for row in pairs.right] == right
    (labelled,) = material.labelled
    assert labelled.texts == ["a b", "c d", "e", "f", "g", "h", "i", "j", "k", "l"]
    assert labelled.labels.tolist() == [0, 1, 0, 1, 0, 1, 2, 0, 2, 0]
    assert told == ["STS12 is left out: 1 pairs say nothing"]


def test_what_cannot_be_analysed_is_said() -> None:
    with pytest.raises(MisuseError, match="no STS and no Clustering"):
        gather([])
    broken = mteb_task("STSBenchmark", {"sentence1": ["a"] * 12, "score": [1.0] * 12})
    with pytest.raises(CorpusError, match=r"STSBenchmark.*'sentence2'"):
        gather([broken])
    nothing = mteb_task(
        "STSBenchmark", {"sentence1": ["a"] * 12, "sentence2": [None] * 12, "score": [1.0] * 12}
    )
    with pytest.raises(CorpusError, match="row 0"):
        gather([nothing])


# The whole


def sentences(count: int) -> list[str]:
    rng = np.random.default_rng(4)
    words = np.array(
        ["a", "man", "plays", "reads", "the", "old", "guitar", "book", "rain", "river"]
    )
    return [" ".join(rng.choice(words, rng.integers(3, 9))) + f" {i}" for i in range(count)]


def small_material() -> Material:
    texts = sentences(80)
    pairs = [
        pairs_of(list(range(40)), list(range(40, 80)), [float(i % 6) for i in range(40)], "STS-a"),
        Pairs(
            "STS b (en|x)",
            np.arange(10, 60),
            np.arange(0, 25),
            np.arange(25, 50),
            np.linspace(0, 5, 25),
        ),
    ]
    labelled = [Labelled("Sets", sentences(60), np.arange(60) % 4)]
    return Material(texts, pairs, labelled)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredEncoder:
    store = VectorStore(tmp_path_factory.mktemp("store"))
    return StoredEncoder.open(store, PARITY / "deepseek", bits=32, prompt="prompteol", cache=False)


def test_every_analysis_is_in_the_report(
    stored: StoredEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    passes: dict[str, list[tuple[int, int]]] = {}
    # with or without matplotlib on this machine: the report without plots
    monkeypatch.setattr("moee_index.bench.analyses.writing.available", lambda: False)
    report = analyse_texts(
        small_material(),
        stored,
        tmp_path / "out",
        limit=40,
        missing=[("STS99", "no data | here")],
        tell=told.append,
        progress=lambda what: (
            lambda _, done, total: passes.setdefault(what, []).append((done, total))
        ),
    )
    names = ["analysis.json", "analysis.md", "analysis.html"]
    assert [path.name for path in report.files] == names
    # scratch files are gone
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(names)
    record = json.loads((tmp_path / "out" / "analysis.json").read_text(encoding="utf-8"))
    assert record == report.record
    assert list(record["analyses"]) == [
        "clusters",
        "prompts",
        "complementarity",
        "routing",
        "controls",
    ]
    assert record["model"]["prompt"] == "prompteol" and record["bundled"] is False
    assert report.missing == [("STS99", "no data | here")]
    # prompteol is the model's own prompt here: the layers' pass gave its vectors already
    assert set(passes) == {"layers", "Sets", *prompts.NINE} - {"prompteol"}
    assert all(calls[-1][0] == calls[-1][1] for calls in passes.values())
    assert sum("matplotlib" in line for line in told) == 1
    text = (tmp_path / "out" / "analysis.md").read_text(encoding="utf-8")
    assert "sample of at most 40" in text and "STS99" in text and "matplotlib" in text
    assert "bundled" not in text
    assert "nan" not in text.lower()
    page = (tmp_path / "out" / "analysis.html").read_text(encoding="utf-8")
    assert (
        page.count("<h2") == 6 and "<script" not in page and "http" not in page.split("<body>")[1]
    )
    # MoE layers are counted as decoder layers: the first one is dense
    assert record["analyses"]["routing"]["layers"] == [2, 3, 4]
    assert "| layer 1 |" in text

    rows = record["analyses"]["controls"]["rows"]
    hs = next(
        one["hs"]
        for one in rows
        if (one["task"], one["pooling"], one["vectors"]) == ("STS-a", "last", "raw")
    )
    spread = record["analyses"]["prompts"]["rows"][0]
    assert spread["vectors"] == "raw" and len(spread["correlations"]) == 18
    assert spread["sts"]["hs"]["prompteol"] == pytest.approx(hs)
    own = record["analyses"]["routing"]["rows"][0]
    assert own["all"] == pytest.approx(spread["sts"]["rw"]["prompteol"])


def test_a_second_run_embeds_the_layers_alone(stored: StoredEncoder, tmp_path: Path) -> None:
    material = small_material()
    analyse_texts(material, stored, tmp_path, ["clusters", "prompts"])
    passes: list[str] = []
    analyse_texts(
        material,
        stored,
        tmp_path,
        ["clusters", "prompts"],
        progress=lambda what: lambda _, done, total: passes.append(what),
    )
    assert set(passes) == {"layers"}


def test_plots_are_pictures_where_matplotlib_is(stored: StoredEncoder, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    told: list[str] = []
    report = analyse_texts(small_material(), stored, tmp_path, tell=told.append)
    pictures = sorted(path.name for path in report.files if path.suffix == ".png")
    assert pictures == [
        "clusters.png",
        "complementarity.png",
        "controls-layers.png",
        "controls.png",
        "prompts-scores.png",
        "prompts-sts-a.png",
        "prompts-sts-b--en-x.png",
        "routing.png",
    ]
    for name in pictures:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert f"]({name})" in (tmp_path / "analysis.md").read_text(encoding="utf-8")
    page = (tmp_path / "analysis.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == len(pictures)
    assert not any("matplotlib" in line for line in told)


@pytest.fixture(autouse=True)
def known_places(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_places(monkeypatch)


def write_sts(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  default: true\n  data_files:\n"
        "  - split: test\n    path: test.jsonl\n---\n"
    )
    texts = sentences(2 * count)
    lines = [
        {"sentence1": texts[i], "sentence2": texts[count + i], "score": float(i % 6)}
        for i in range(count)
    ]
    (folder / "test.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_tasks_by_name_a_missing_one_and_the_bundled_model(tmp_path: Path) -> None:
    write_sts(tmp_path / "data" / "mteb" / "biosses-sts", 40)
    stored = StoredEncoder.open(VectorStore(tmp_path / "store"), None, cache=False)
    told: list[str] = []
    report = analyze(
        Question(tasks=("BIOSSES", "STS12", "Banking77Classification"), data=tmp_path / "data"),
        stored,
        tmp_path / "out",
        limit=30,
        only=["routing", "complementarity"],
        tell=told.append,
    )
    assert [task for task, _ in report.missing] == ["STS12", "Banking77Classification"]
    assert list(report.record["analyses"]) == ["complementarity", "routing"]
    assert report.record["tasks"] == [{"task": "BIOSSES", "pairs": 30, "texts": 60}]
    text = (tmp_path / "out" / "analysis.md").read_text(encoding="utf-8")
    head = text.split("\n## ")[0]
    assert "its figures show that the tool works; they say nothing about the paper" in head.lower()
    assert "sample of at most 30" in head
    # pooling of the bundled model is mean, RW of four layers of 64 experts
    assert report.record["analyses"]["routing"]["layers"] == [1, 2, 3, 4]


def test_an_unknown_analysis_and_nothing_to_analyse_are_misuse(
    stored: StoredEncoder, tmp_path: Path
) -> None:
    write_sts(tmp_path / "data" / "mteb" / "biosses-sts", 12)
    question = Question(tasks=("BIOSSES",), data=tmp_path / "data")
    with pytest.raises(MisuseError, match=r"'word-clouds' is unknown.*clusters"):
        analyze(question, stored, tmp_path / "out", only=["word-clouds"])
    with pytest.raises(MisuseError, match="no analysis"):
        analyze(question, stored, tmp_path / "out", only=[])
    gone = Question(tasks=("STS12",), data=tmp_path / "data")
    with pytest.raises(MisuseError, match="no STS and no Clustering"):
        analyze(gone, stored, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    sets = Material([], [], small_material().labelled)
    with pytest.raises(MisuseError, match="routing needs an STS task"):
        analyse_texts(sets, stored, tmp_path / "out", ["routing"])


def test_an_output_folder_that_is_a_file_is_one_clear_line(
    stored: StoredEncoder, tmp_path: Path
) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(StorageError, match=r"out.*--out"):
        analyse_texts(small_material(), stored, tmp_path / "out", ["routing"])


def test_records_are_json_and_cells_are_short() -> None:
    given = {"a": np.float64(0.5), "b": [float("nan"), np.int64(3)], "c": np.array([[1.0, np.inf]])}
    assert plain(given) == {"a": 0.5, "b": [None, 3], "c": [[1.0, None]]}
    assert [show(one) for one in (1.234, 7, None, float("nan"), "x")] == [
        "1.23",
        "7",
        "–",
        "–",
        "x",
    ]
