"""mteb's encoder over ours: conformance, what is heard of tasks, standardizing, methods, meta."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from mteb.cache import ResultCache
from mteb.types import PromptType
from paths import PARITY
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import average_precision_score

from fakes.mock_tasks import check_list, of_known, tried
from fakes.tasks import (
    classification_task,
    identity_of,
    logged,
    pair_task,
    put,
    random_embeddings,
    reseed,
    scores_of,
    search_task,
    stored_over,
    sts_task,
    summary_task,
    with_vectors,
)
from fakes.word_encoder import fake_spec
from moee_index.bench.adapter.encoder import MoeeEncoder, Setting
from moee_index.bench.adapter.meta import model_name
from moee_index.bench.adapter.search import MoeeSearch
from moee_index.bench.adapter.standardizers import Fits
from moee_index.bench.adapter.task_inputs import TaskTexts, role_of, texts_in, texts_of
from moee_index.bench.adapter.vectors import (
    FITS,
    REFERENCE_TEXTS,
    authors_vectors,
    method_vectors,
    reference_texts,
)
from moee_index.bench.mteb_internals import generators
from moee_index.bench.vector_cache.encoder import StoredEncoder
from moee_index.bench.vector_cache.store import VectorStore
from moee_index.errors import MisuseError, ModelError
from moee_index.fusion import METHODS, Standardizer, score, standardise_batch, unit_vectors
from moee_index.types import Embeddings
from stress.conformance import failures, text_tasks

TEXT_TASKS = text_tasks()
NAMES = [f"t{i}" for i in range(300)]


@pytest.fixture(scope="module")
def olmoe(tmp_path_factory: pytest.TempPathFactory) -> StoredEncoder:
    """A real encoder of random weights, its vectors shared by the tests of this module."""
    store = VectorStore(tmp_path_factory.mktemp("vectors"))
    return StoredEncoder.open(store, PARITY / "olmoe", bits=32, prompt="prompteol", rw="auto")


@pytest.fixture
def given(tmp_path: Path) -> tuple[StoredEncoder, Embeddings]:
    """Random vectors of the texts t0, t1, …; no model can be loaded."""
    embeddings = random_embeddings(len(NAMES))
    stored = with_vectors(tmp_path, NAMES, embeddings)
    # The calibrated fit needs vectors of its own texts.
    texts = reference_texts()
    put(stored.store, stored.identity.key(False), texts, random_embeddings(len(texts), seed=9))
    return stored, embeddings


def sims(embeddings: Embeddings, left: list[int], right: list[int], fitted: Any) -> np.ndarray:
    """sim_HS and sim_RW of pairs in float64, [2, n]; the maths written down once more."""
    found = []
    for part in ("hs", "rw"):
        rows = getattr(embeddings, part).astype(np.float64)
        if fitted is not None:
            mean, deviation = rows[fitted].mean(0), rows[fitted].std(0, ddof=1)
            rows = (rows - mean) / deviation
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        found.append((rows[left] * rows[right]).sum(1))
    return np.array(found)


# Conformance


@pytest.mark.parametrize("setting", [Setting("sum"), Setting("concat", fit="batch")])
def test_every_text_task_of_mteb_runs(olmoe: StoredEncoder, setting: Setting) -> None:
    told: list[str] = []
    check_list("text", TEXT_TASKS)
    assert of_known("text", failures(MoeeEncoder(olmoe, setting, notify=told.append))) == []
    assert len(told) == (setting.fit == "corpus")


class Recorder(MoeeEncoder):
    """Notes what mteb hands over."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.calls: list[tuple[str, str, str, list[str]]] = []

    def encode(self, inputs: Any, **options: Any) -> Any:
        texts = texts_in(inputs)
        place = (role_of(options.get("prompt_type")), options["hf_split"], options["hf_subset"])
        self.calls.append((*place, texts))
        return super().encode(inputs, **options)


@pytest.mark.parametrize("number", range(len(TEXT_TASKS)))
def test_what_is_heard_is_what_is_handed_over(tmp_path: Path, number: int) -> None:
    with tried(TEXT_TASKS[number].metadata.name):
        compare_heard(tmp_path, type(TEXT_TASKS[number])())


def compare_heard(tmp_path: Path, task: Any) -> None:
    task.load_data()
    stored = stored_over(tmp_path, logged())
    encoder = Recorder(stored, Setting("sum"))
    splits = [(split, subset) for split in task.eval_splits for subset in task.hf_subsets]
    heard: list[tuple[str, str, str, list[str]]] = []
    for split, subset in splits:
        reseed(task)
        encoder.prepare(task, split, subset)
        found = texts_of(task, split, subset)
        heard += [(c.role, c.hf_split, c.hf_subset, list(c.texts)) for c in found.calls]
        assert found.fitted
    computed = stored.texts_computed
    for split, subset in splits:
        reseed(task)
        task.evaluate(encoder, split, subsets_to_run=[subset], encode_kwargs={"batch_size": 2})
    # mteb encodes queries before the corpus.
    assert sorted(encoder.calls) == sorted(heard)
    assert stored.texts_computed == computed
    assert encoder.fit == "corpus"


def test_hearing_leaves_a_task_as_it_was() -> None:
    task = type(next(t for t in TEXT_TASKS if t.metadata.type == "MultilabelClassification"))()
    task.load_data()
    reseed(task)
    first = texts_of(task, "test", "default")
    assert texts_of(task, "test", "default") == first
    drawn = [generator.random() for generator in generators(task).values()]
    assert drawn
    reseed(task)
    assert [generator.random() for generator in generators(task).values()] == drawn


def test_a_task_that_is_not_for_text_is_refused() -> None:
    task = mteb.get_tasks(modalities=["image"], exclusive_modality_filter=True)[0]
    with pytest.raises(MisuseError, match="not a task for text"):
        texts_of(task, "test", "default")


# What is fitted on


def test_corpus_is_the_evaluated_split_as_given(given: tuple[StoredEncoder, Embeddings]) -> None:
    stored, embeddings = given
    # Equal texts count as often as they are given.
    first, second = [0, 1, 2, 2, 2, 3, 4], [5, 6, 7, 8, 9, 10, 10]
    task = sts_task([NAMES[i] for i in first], [NAMES[i] for i in second], range(7))
    encoder = MoeeEncoder(stored, Setting("concat"))
    encoder.prepare(task, "test", "default")
    texts = [{"text": [NAMES[i] for i in first]}]
    place = {"hf_split": "test", "hf_subset": "default"}
    found = encoder.encode(texts, task_metadata=task.metadata, **place)
    rows = [*first, *second]
    joined = np.concatenate([embeddings.hs, embeddings.rw], axis=1).astype(np.float64)
    z = (joined[first] - joined[rows].mean(0)) / joined[rows].std(0, ddof=1)
    np.testing.assert_allclose(found, z / np.linalg.norm(z, axis=1, keepdims=True), atol=1e-6)


def test_training_texts_are_not_fitted_on(given: tuple[StoredEncoder, Embeddings]) -> None:
    stored, embeddings = given
    task = classification_task(NAMES[:40], [0, 1] * 20, NAMES[40:100], [0, 1] * 30)
    heard = texts_of(task, "test", "default")
    assert [call.hf_split for call in heard.calls] == ["train", "test"]
    assert set(heard.calls[0].texts) <= set(NAMES[:40])
    encoder = MoeeEncoder(stored, Setting("hs"))
    encoder.prepare(task, "test", "default")
    found = encoder.encode(
        [{"text": NAMES[:5]}],
        task_metadata=task.metadata,
        hf_split="train",
        hf_subset="default",
    )
    hs = embeddings.hs.astype(np.float64)
    z = (hs[:5] - hs[40:100].mean(0)) / hs[40:100].std(0, ddof=1)
    np.testing.assert_allclose(found, z / np.linalg.norm(z, axis=1, keepdims=True), atol=1e-6)
    assert 0 <= scores_of(encoder, task)["accuracy"] <= 1


def test_of_a_search_task_the_corpus_alone_is_fitted_on(
    given: tuple[StoredEncoder, Embeddings],
) -> None:
    stored, embeddings = given
    task = search_task(NAMES[:80], NAMES[100:110], {f"q{i}": {"d1": 1} for i in range(10)})
    encoder = MoeeEncoder(stored, Setting("rw"))
    encoder.prepare(task, "test", "default")
    expected = Standardizer.fit(Embeddings(embeddings.hs[:80], embeddings.rw[:80]))
    fitted = encoder._fits.of(encoder._fits.owner(next(iter(encoder._fits._rows)), None))
    assert fitted.rw is not None
    assert expected.rw is not None
    np.testing.assert_array_equal(fitted.rw.mean, expected.rw.mean)
    np.testing.assert_array_equal(fitted.rw.deviation, expected.rw.deviation)


def test_splits_evaluated_in_turn_keep_their_training_texts_apart(
    given: tuple[StoredEncoder, Embeddings],
) -> None:
    stored, _ = given
    task = classification_task(NAMES[:40], [0, 1] * 20, NAMES[40:100], [0, 1] * 30)
    other = classification_task(NAMES[:40], [0, 1] * 20, NAMES[200:260], [0, 1] * 30)
    task.dataset["validation"] = other.dataset["test"]
    encoder = MoeeEncoder(stored, Setting("hs"))
    alone = {}
    for split in ("validation", "test"):
        one = encoder.with_setting(Setting("hs"))
        one._fits = Fits(stored)
        one.prepare(task, split, "default")
        alone[split] = encode(one, task, "train", NAMES[:5])
        encoder.prepare(task, split, "default")
    assert not np.allclose(alone["validation"], alone["test"])
    for _ in range(2):
        for split in ("validation", "test"):
            np.testing.assert_array_equal(encode(encoder, task, "train", NAMES[:5]), alone[split])
            encode(encoder, task, split, NAMES[:3])


def encode(encoder: MoeeEncoder, task: Any, split: str, texts: list[str], **options: Any) -> Any:
    return encoder.encode(
        [{"text": texts}],
        task_metadata=task.metadata,
        hf_split=split,
        hf_subset="default",
        **options,
    )


def test_calibrated_is_a_pure_function_of_the_text(
    given: tuple[StoredEncoder, Embeddings],
) -> None:
    stored, _ = given
    task = sts_task(NAMES[:9], NAMES[9:18], range(9))
    encoder = MoeeEncoder(stored, Setting("sum", 0.3, fit="calibrated"))
    alone = [encode(encoder, task, "test", [name]) for name in NAMES[:9]]
    np.testing.assert_array_equal(encode(encoder, task, "test", NAMES[:9]), np.concatenate(alone))


def test_unprepared_corpus_is_calibrated_and_says_so(
    given: tuple[StoredEncoder, Embeddings],
) -> None:
    stored, _ = given
    task = sts_task(NAMES[:9], NAMES[9:18], range(9))
    told: list[str] = []
    encoder = MoeeEncoder(stored, Setting("sum"), notify=told.append)
    assert experiment(encoder)["fit"] == "calibrated"
    found = encode(encoder, task, "test", NAMES[:4])
    encode(encoder, task, "test", NAMES[:4])
    calibrated = MoeeEncoder(stored, Setting("sum", fit="calibrated"))
    np.testing.assert_array_equal(found, encode(calibrated, task, "test", NAMES[:4]))
    assert len(told) == 1
    assert "reference texts" in told[0]
    assert experiment(encoder)["fit"] == "calibrated"

    encoder.prepare(task, "test", "default")
    assert experiment(encoder)["fit"] == "corpus"
    assert not np.allclose(found, encode(encoder, task, "test", NAMES[:4]))
    with pytest.raises(MisuseError, match=r"STSBenchmark, split dev.*prepare"):
        encode(encoder, task, "dev", NAMES[:4])


def test_reference_texts_are_fixed() -> None:
    texts = reference_texts()
    assert len(texts) == len(set(texts)) == 400
    for line in REFERENCE_TEXTS.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        assert fields["url"].startswith("https://en.wikinews.org/")
        assert fields["licence"] == "CC BY 2.5, Wikinews contributors"


# Methods


@pytest.mark.parametrize("standardize", ["both", "rw", "hs", "none"])
@pytest.mark.parametrize("method", METHODS)
def test_cosines_are_the_products_scores(method: Any, standardize: str) -> None:
    embeddings = random_embeddings(50)
    fitted = Standardizer.fit(embeddings)
    setting = Setting(method, 0.7 if method == "sum" else None, standardize)
    found = method_vectors(blocks(embeddings, 7), 50, setting, fitted).astype(np.float64)
    assert found.shape == (50, setting.dimensions(20, 12))
    units = unit_vectors(embeddings, setting.standardizer(fitted))
    expected = score(units[:1], units, method, setting.alpha).score
    np.testing.assert_allclose(found @ found[0], expected, atol=1e-6)


def blocks(embeddings: Embeddings, size: int) -> Iterator[tuple[slice, Embeddings]]:
    for start in range(0, len(embeddings), size):
        rows = slice(start, min(start + size, len(embeddings)))
        yield rows, Embeddings(embeddings.hs[rows], embeddings.rw[rows])


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 4.0])
@pytest.mark.parametrize("fit", ["corpus", "calibrated"])
def test_sts_and_pairs_rank_by_the_sum(
    given: tuple[StoredEncoder, Embeddings], fit: str, alpha: float
) -> None:
    stored, embeddings = given
    left, right = list(range(150)), list(range(150, 300))
    rng = np.random.default_rng(4)
    gold = rng.standard_normal(150)
    labels = (gold > 0).astype(int).tolist()
    first, second = NAMES[:150], NAMES[150:]
    setting = Setting("sum", alpha, fit=fit)
    fitted: Any = left + right
    if fit == "calibrated":
        reference = random_embeddings(400, seed=9)
        embeddings = Embeddings(
            np.concatenate([embeddings.hs, reference.hs]),
            np.concatenate([embeddings.rw, reference.rw]),
        )
        fitted = range(300, 700)
    hs, rw = sims(embeddings, left, right, list(fitted))
    summed = hs + alpha * rw

    sts = sts_task(first, second, gold)
    encoder = MoeeEncoder(stored, setting)
    encoder.prepare(sts, "test", "default")
    found = scores_of(encoder, sts)
    expected = spearmanr(summed, gold).statistic
    for metric in among(found, "cosine_spearman", "spearman", "euclidean_spearman"):
        assert found[metric] == pytest.approx(expected, abs=1e-4), metric
    assert found["cosine_pearson"] == pytest.approx(pearsonr(summed, gold).statistic, abs=1e-5)

    pairs = pair_task(first, second, labels)
    encoder.prepare(pairs, "test", "default")
    found = scores_of(encoder, pairs)
    expected = average_precision_score(labels, summed)
    for metric in among(found, "cosine_ap", "dot_ap", "euclidean_ap", "similarity_ap"):
        assert found[metric] == pytest.approx(expected, abs=1e-4), metric


def test_summarization_ranks_by_the_sum(given: tuple[StoredEncoder, Embeddings]) -> None:
    stored, embeddings = given
    human = [list(range(i * 20, i * 20 + 4)) for i in range(8)]
    machine = [list(range(i * 20 + 4, i * 20 + 20)) for i in range(8)]
    relevance = np.random.default_rng(2).random((8, 16)).round(3).tolist()
    task = summary_task(named(human), named(machine), relevance)
    encoder = MoeeEncoder(stored, Setting("sum", 0.5))
    encoder.prepare(task, "test", "default")
    rows = [i for group in (*human, *machine) for i in group]
    expected = []
    for people, machines, gold in zip(human, machine, relevance, strict=True):
        best = [
            max(float(hs + 0.5 * rw) for hs, rw in sims(embeddings, [m] * 4, people, rows).T)
            for m in machines
        ]
        expected.append(spearmanr(best, gold).statistic)
    found = scores_of(encoder, task)
    for metric in among(found, "cosine_spearman", "dot_spearman", "spearman"):
        assert found[metric] == pytest.approx(np.mean(expected), abs=1e-4)


def among(found: dict[str, Any], main: str, *others: str) -> list[str]:
    """A task's main metric, and those of the others that the installed mteb gives."""
    return [main, *(name for name in others if name in found)]


def named(groups: list[list[int]]) -> list[list[str]]:
    return [[NAMES[i] for i in group] for group in groups]


def test_four_methods_and_ten_alphas_take_one_pass(tmp_path: Path) -> None:
    log = tmp_path / "log"
    stored = stored_over(tmp_path / "v", logged(log))
    task = sts_task(["a b", "c", "d"], ["e f", "c", "g h i"], [0, 2, 1])
    first = MoeeEncoder(stored, Setting("hs"))
    first.prepare(task, "test", "default")
    assert len(log.read_text().splitlines()) == 5
    settings = [Setting(method) for method in ("hs", "rw", "concat")]
    settings += [Setting("sum", alpha / 4) for alpha in range(10)]
    settings += [Setting("sum", standardize=which) for which in ("rw", "hs", "none")]
    for setting in settings:
        scores_of(first.with_setting(setting), task)
        again = MoeeEncoder(stored, setting)
        again.prepare(task, "test", "default", texts_of(task, "test", "default"))
        scores_of(again, task)
    assert len(log.read_text().splitlines()) == 5


def test_queries_take_the_query_prompt(tmp_path: Path) -> None:
    stored = stored_over(tmp_path, query_prompt="prompteol")
    encoder = MoeeEncoder(stored, Setting("hs", standardize="none"))
    task = search_task(["a", "b"], ["c"], {"q0": {"d0": 1}})
    one = encode(encoder, task, "test", ["c"], prompt_type=PromptType.query)
    two = encode(encoder, task, "test", ["c"], prompt_type=PromptType.document)
    assert not np.allclose(one, two)
    np.testing.assert_array_equal(two, encode(encoder, task, "test", ["c"]))


def test_no_texts_give_no_vectors(given: tuple[StoredEncoder, Embeddings]) -> None:
    encoder = MoeeEncoder(given[0], Setting("sum", standardize="none"))
    assert encode(encoder, sts_task(["a"], ["b"], [0]), "test", []).shape == (0, 32)
    with pytest.raises(MisuseError, match="hold no text"):
        encoder.encode(
            [{"image": [1]}], task_metadata=TEXT_TASKS[0].metadata, hf_split="a", hf_subset="b"
        )


# The authors' way


@pytest.mark.parametrize("method", [*METHODS, "raw hs"])
def test_batch_is_the_authors_way_to_1e_9(olmoe: StoredEncoder, method: str) -> None:
    """The authors' HS alone is raw; standardised by batch it is the control that they lack."""
    rng = np.random.default_rng(1)
    words = ["a dog", "the cat", "sat", "ran", "on", "under", "mat", "house", "red", "slowly"]
    sentences = [" ".join(rng.choice(words, rng.integers(3, 9))) + f" {i}" for i in range(330)]
    first, second, gold = sentences[:165], sentences[165:], rng.random(165)
    alpha = 0.6 if method == "sum" else None
    found = scores_of(
        MoeeEncoder(
            olmoe,
            Setting("hs", standardize="none", fit="batch")
            if method == "raw hs"
            else Setting(method, alpha, fit="batch"),
        ),
        sts_task(first, second, gold),
    )

    # numpy and scipy alone, from raw vectors: batches of 128 in file order, sides apart.
    def z(x):  # type: ignore[no-untyped-def]
        cut = [x[i : i + 128].astype(np.float64) for i in range(0, len(x), 128)]
        return np.concatenate([(b - b.mean(0)) / (b.std(0, ddof=1) + 1e-8) for b in cut])

    def cos(x, y):  # type: ignore[no-untyped-def]
        return (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)

    (h, r), (g, s) = ((e.hs, e.rw) for e in (olmoe.encode(first), olmoe.encode(second)))
    h64, g64 = h.astype(np.float64), g.astype(np.float64)
    joined = [z(np.concatenate(pair, axis=1)) for pair in ((h, r), (g, s))]
    scores = {
        "raw hs": cos(h64, g64),
        "hs": cos(z(h), z(g)),
        "rw": cos(z(r), z(s)),
        "concat": cos(*joined),
        "sum": cos(z(h), z(g)) + 0.6 * cos(z(r), z(s)),
    }[method]
    assert found["cosine_spearman"] == pytest.approx(spearmanr(scores, gold).statistic, abs=1e-9)
    assert found["cosine_pearson"] == pytest.approx(pearsonr(scores, gold).statistic, abs=1e-9)
    assert found["pearson"] == pytest.approx(found["cosine_pearson"], abs=1e-9)


@pytest.mark.parametrize("model", ["olmoe", "qwen2_moe", "deepseek"])
@pytest.mark.parametrize("prompt", ["none", "prompteol"])
def test_batch_vectors_are_those_of_the_authors_code(model: str, prompt: str) -> None:
    reference = np.load(PARITY / model / "reference.npz")
    raw = Embeddings(reference[f"{prompt}_hs_raw"], reference[f"{prompt}_rw_raw"])
    count = len(raw)

    def of(method: str) -> np.ndarray:
        which = "none" if method == "hs" else "both"
        return authors_vectors(blocks(raw, 4), count, Setting(method, None, which, "batch"))

    np.testing.assert_array_equal(of("hs"), reference[f"{prompt}_HS_embeddings"])
    np.testing.assert_allclose(of("rw"), reference[f"{prompt}_RW_embeddings"], atol=2e-5)
    np.testing.assert_allclose(of("concat"), reference[f"{prompt}_MoEE_embeddings"], atol=2e-5)
    parts = [reference[f"{prompt}_{part}_standardised"] for part in ("hs", "rw")]
    units = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
    np.testing.assert_allclose(of("sum"), np.concatenate(units, axis=1), atol=2e-5)


def test_batches_are_of_128_however_texts_come() -> None:
    embeddings = random_embeddings(300)
    setting = Setting("rw", fit="batch")
    expected = np.concatenate(
        [standardise_batch(embeddings.rw[i : i + 128]) for i in (0, 128, 256)]
    )
    for size in (1, 32, 100, 128, 129, 1000):
        found = method_vectors(blocks(embeddings, size), 300, setting, None)
        np.testing.assert_array_equal(found, expected)
    # A batch of one is zeros, as the authors' NaN becomes.
    last = method_vectors(blocks(random_embeddings(129), 50), 129, setting, None)
    assert not last[128].any()
    np.testing.assert_array_equal(standardise_batch(np.ones((1, 3))), np.zeros((1, 3)))


def test_values_that_are_not_finite_are_named() -> None:
    embeddings = random_embeddings(200)
    embeddings.rw[140, 2] = np.inf
    with pytest.raises(ModelError, match="RW of row 140"):
        method_vectors(blocks(embeddings, 64), 200, Setting("sum", fit="batch"), None)


# Settings and what mteb is told


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"method": "mean"}, "method"),
        ({"method": "hs", "alpha": 1.0}, "alpha"),
        ({"method": "sum", "alpha": -1.0}, "alpha"),
        ({"method": "sum", "alpha": float("nan")}, "alpha"),
        ({"method": "hs", "standardize": "some"}, "standardize"),
        ({"method": "hs", "fit": "query"}, "fit"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments: Any, named: str) -> None:
    with pytest.raises(MisuseError, match=named):
        Setting(**arguments)


def experiment(encoder: MoeeEncoder) -> dict[str, Any]:
    found = encoder.mteb_model_meta.experiment_kwargs
    assert found is not None
    return dict(found)


def test_each_setting_has_results_of_its_own(tmp_path: Path) -> None:
    settings = [
        *(Setting(m, s, w, f) for m, s in (("hs", None), ("rw", None), ("concat", None))
          for w in ("both", "rw", "hs", "none") for f in FITS),
        *(Setting("sum", alpha) for alpha in (0.0, 0.1, 0.5, 1.0, 1.00001)),
    ]  # fmt: skip
    changes: list[dict[str, Any]] = [
        {},
        {"bits": 4, "double_quant": True},
        {"bits": 4, "double_quant": False},
        {"bits": 16},
        {"bits": 16, "dequantised": True},
        {"prompt": "prompteol"},
        {"query_prompt": "prompteol"},
        {"prompt": "a/b {text}"},
        {"prompt": "a_b {text}"},
        {"rw": "softmax"},
        {"pooling": "mean"},
        {"max_tokens": 64},
        {"fingerprint": "e" * 64},
    ]
    cache = ResultCache(tmp_path)
    paths = []
    for change in changes:
        stored = stored_over(tmp_path / "v")
        stored.identity = identity_of(fake_spec(), **change)
        put(stored.store, stored.identity.key(False), ["a"], random_embeddings(1))
        for setting in settings if not change else settings[:2]:
            # The search model is told the same, and needs nothing prepared.
            meta = MoeeSearch(stored, setting).mteb_model_meta
            paths.append(cache.get_task_result_path("STS12", meta))
    assert len(set(paths)) == len(paths)
    assert all(path.is_relative_to(tmp_path) for path in paths)


def test_what_mteb_is_told_is_true(olmoe: StoredEncoder) -> None:
    olmoe.encode(["a"])
    meta = MoeeEncoder(olmoe, Setting("sum", 0.5)).mteb_model_meta
    assert (meta.name, meta.revision) == ("local/olmoe", olmoe.identity.fingerprint)
    assert (meta.embed_dim, meta.max_tokens) == (64 + 24, 512)
    assert MoeeEncoder(olmoe, Setting("rw")).mteb_model_meta.embed_dim == 24
    assert meta.n_active_parameters == olmoe.facts["active_parameters"]
    assert meta.n_parameters > meta.n_active_parameters
    # The weights take 4 bytes each in 32 bits.
    assert meta.memory_usage_mb == pytest.approx(4 * meta.n_parameters / 2**20, rel=0.01)
    assert meta.similarity_fn_name is not None
    assert meta.similarity_fn_name.value == "cosine"
    assert meta.training_datasets is None
    assert meta.license is None
    assert experiment(MoeeEncoder(olmoe, Setting("sum", 0.5))) == {
        "method": "sum",
        "alpha": 0.5,
        "standardize": "both",
        "fit": "calibrated",
        "prompt": "prompteol",
        "query_prompt": "prompteol",
        "rw": "logits",
        "pooling": "last",
        "bits": 32,
        "double_quant": False,
        "max_tokens": 512,
    }


def test_the_bundled_model_names_its_teacher(tmp_path: Path) -> None:
    stored = StoredEncoder.open(VectorStore(tmp_path))
    put(stored.store, stored.identity.key(False), ["a"], random_embeddings(1))
    meta = MoeeEncoder(stored, Setting("sum")).mteb_model_meta
    assert meta.name == "moee-index/tiny"
    assert meta.license == "apache-2.0"
    trained_on = meta.get_training_datasets()
    teacher = mteb.get_model_meta("sentence-transformers/all-MiniLM-L6-v2")
    assert trained_on == teacher.get_training_datasets()
    assert trained_on
    assert not meta.use_instructions
    assert not stored.loaded
    assert [model_name(name) for name in ("tiny", "allenai/OLMoE", "dir")] == [
        "moee-index/tiny",
        "allenai/OLMoE",
        "local/dir",
    ]


def test_similarities_keep_the_precision_of_arrays(
    given: tuple[StoredEncoder, Embeddings],
) -> None:
    encoder = MoeeEncoder(given[0], Setting("hs"))
    left, right = np.random.default_rng(0).standard_normal((2, 6, 5))
    expected = left @ right.T / np.outer(*(np.linalg.norm(x, axis=1) for x in (left, right)))
    np.testing.assert_allclose(encoder.similarity(left, right), expected, atol=1e-12)
    pairwise = encoder.similarity_pairwise(left, right)
    np.testing.assert_allclose(pairwise, np.diag(expected), atol=1e-12)


def test_task_texts_tell_documents_and_queries_apart() -> None:
    task = search_task(["a", "b", "a"], ["q", "r"], {"q0": {"d0": 1}, "q1": {"d1": 1}})
    heard = texts_of(task, "test", "default")
    assert isinstance(heard, TaskTexts)
    assert heard.search
    assert heard.documents == ["a", "b", "a"]
    assert heard.queries == ["q", "r"]
    assert heard.fitted == [("document", ["a", "b", "a"])]
