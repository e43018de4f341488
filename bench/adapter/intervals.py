"""A second look at the vectors of a setting: what mteb's own scores do not say.

    extras_for(task, split, subset, vectors, *, scores=None) -> dict[str, float]

    task      a loaded mteb task (`task.load_data()` done)
    split, subset   as mteb names them ("test", "default")
    vectors   texts → float [len(texts), d]: the vectors of the setting that mteb evaluated. It is
              called with the very lists that mteb's evaluator hands over, duplicates included
    scores    mteb's own scores of this split and subset, if at hand; what they hold already is
              taken from there instead of being computed again
    returns   name → value, for extras.json; empty where there is nothing to add

STS: `ci95_low`, `ci95_high`, the bootstrap interval of the cosine Spearman correlation (Efron &
Tibshirani 1993, percentiles). Clustering: `ami`, adjusted mutual information (Vinh, Epps & Bailey
2010), which unlike V-measure is 0 for random clusters, and `v_measure` of the same clusters.
V-measure is normalised mutual information with the arithmetic mean, so no `nmi` stands beside it.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moee_index.bench.mteb_internals import clusters_sets, splits_of

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask

Floats = npt.NDArray[np.float64]
Vectors = Callable[[Sequence[str]], npt.NDArray[Any]]

DRAWS = 2000
# Draws are ranked in blocks: 2000 draws of 3750 pairs at once would take 60 MB an array.
_BLOCK = 100
# What mteb's evaluators start k-means from (`Evaluator.__init__`), and a fresh task its samples.
_SEED = 42
# mteb's sign for a row without a label at a level.
_NO_LABEL = -1


def extras_for(
    task: AbsTask,
    split: str,
    subset: str,
    vectors: Vectors,
    *,
    scores: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """What stands beside the scores of one task, split and subset; see the module."""
    from mteb.abstasks import AbsTaskClustering, AbsTaskSTS

    if isinstance(task, AbsTaskSTS):
        return _sts(task, splits_of(task, subset)[split], vectors)
    if isinstance(task, AbsTaskClustering):
        if scores is not None and "ami" in scores and "v_measure" in scores:
            return {"ami": float(scores["ami"]), "v_measure": float(scores["v_measure"])}
        return _clustering(task, splits_of(task, subset)[split], vectors)
    if clusters_sets(task) and task.metadata.modalities == ["text"]:
        return _clustering_sets(task, splits_of(task, subset)[split], vectors)
    return {}


def _sts(task: Any, rows: Any, vectors: Vectors) -> dict[str, float]:
    from sklearn.metrics.pairwise import paired_cosine_distances

    first, second = task.column_names
    if not isinstance(first, str) or len(rows) < 2:
        return {}
    left, right = vectors(list(rows[first])), vectors(list(rows[second]))
    similarity = 1 - paired_cosine_distances(left, right)
    interval = bootstrap_spearman(similarity, rows["score"], seed=task.metadata.name)
    return {} if interval is None else {"ci95_low": interval[0], "ci95_high": interval[1]}


def bootstrap_spearman(
    x: npt.ArrayLike, y: npt.ArrayLike, *, seed: str, draws: int = DRAWS, level: float = 0.95
) -> tuple[float, float] | None:
    """Percentile bootstrap interval of the Spearman correlation of x and y, float [n] each.

    Pairs are drawn with replacement, and ranked anew within each draw. The draws depend on `seed`
    and n alone: all settings of a task are judged on the same resamples. None where no draw has
    a correlation (all values equal).
    """
    correlations = bootstrap_correlations(x, y, seed=seed, draws=draws)
    finite = correlations[np.isfinite(correlations)]
    if not finite.size:
        return None
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_correlations(
    x: npt.ArrayLike, y: npt.ArrayLike, *, seed: str, draws: int = DRAWS
) -> Floats:
    """float64 [draws]: the Spearman correlation of each resample; NaN where one is constant."""
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape or first.size < 2:
        raise ValueError(f"two lists of one length are needed, not {first.shape}, {second.shape}")
    n = len(first)
    levels = [np.unique(values, return_inverse=True)[1] for values in (first, second)]
    generator = np.random.default_rng(zlib.crc32(seed.encode()))
    found = np.full(draws, np.nan)
    for start in range(0, draws, _BLOCK):
        drawn = generator.integers(0, n, size=(min(_BLOCK, draws - start), n))
        a, b = (_centered_ranks(level[drawn]) for level in levels)
        above, *lengths = (np.einsum("dn,dn->d", *pair) for pair in ((a, b), (a, a), (b, b)))
        below = np.sqrt(lengths[0] * lengths[1])
        np.divide(above, below, out=found[start : start + _BLOCK], where=below > 0)
    return found


def _centered_ranks(levels: npt.NDArray[np.int64]) -> Floats:
    """Average ranks within each row less their mean, by counting: a sixth of the time of sorting.

    levels: int [draws, n], the values' places among the distinct ones.
    """
    size = int(levels.max()) + 1
    places = levels + size * np.arange(len(levels))[:, None]
    counts = np.bincount(places.ravel(), minlength=size * len(levels)).reshape(-1, size)
    ranks = counts.cumsum(axis=1) - (counts + levels.shape[1]) / 2
    found: Floats = ranks.ravel()[places]
    return found


def _clustering_sets(task: Any, rows: Any, vectors: Vectors) -> dict[str, float]:
    """AMI and V-measure of mteb's own partition (`ClusteringEvaluator`), mean over the sets."""
    from sklearn.cluster import MiniBatchKMeans

    measured = []
    for one in rows:
        labels = one[task.label_column_name]
        if len(set(labels)) <= 1:
            measured.append((1.0, 1.0))  # as mteb counts a set of one class
            continue
        found = MiniBatchKMeans(
            n_clusters=len(set(labels)), batch_size=500, n_init="auto", random_state=_SEED
        ).fit(vectors(list(one[task.input_column_name])))
        measured.append(_agreement(labels, found.labels_))
    return _means(measured)


def _clustering(task: Any, rows: Any, vectors: Vectors) -> dict[str, float]:
    """AMI and V-measure as mteb's newer clustering tasks take them, on a fresh task's samples.

    mteb's task goes on with one random state from model to model, so that each of them is judged
    on other samples; here every setting sees the same ones.
    """
    from sklearn.cluster import MiniBatchKMeans

    if not isinstance(task.input_column_name, str):
        return {}
    state = random.Random(_SEED)  # noqa: S311 - a sample, no secret
    wanted = task.max_document_to_embed
    if task.max_fraction_of_documents_to_embed is not None:
        wanted = int(task.max_fraction_of_documents_to_embed * len(rows))
    if wanted is not None:
        rows = rows.select(state.sample(range(len(rows)), k=min(len(rows), wanted)))
    embedded = vectors(list(rows[task.input_column_name]))
    levels = [x if isinstance(x, list) else [x] for x in rows[task.label_column_name]]
    depth = max(map(len, levels), default=0)
    measured = []
    for level in range(depth if task.max_depth is None else min(task.max_depth, depth)):
        here = [i for i, x in enumerate(levels) if len(x) > level and x[level] != _NO_LABEL]
        labels = np.array([levels[i][level] for i in here])
        kmeans = MiniBatchKMeans(
            n_clusters=np.unique(labels).size,
            batch_size=task.k_mean_batch_size,
            n_init=1,
            random_state=_SEED,
        )
        points = embedded[here]
        for _ in range(task.n_clusters):
            drawn = state.choices(range(len(here)), k=task.max_documents_per_cluster)
            measured.append(_agreement(labels[drawn], kmeans.fit_predict(points[drawn])))
    return _means(measured)


def _agreement(labels: Any, clusters: Any) -> tuple[float, float]:
    """(AMI, V-measure) of a partition."""
    from sklearn.metrics.cluster import adjusted_mutual_info_score, v_measure_score

    return (
        float(adjusted_mutual_info_score(labels, clusters)),
        float(v_measure_score(labels, clusters)),
    )


def _means(measured: list[tuple[float, float]]) -> dict[str, float]:
    if not measured:
        return {}
    ami, v_measure = np.mean(measured, axis=0)
    return {"ami": float(ami), "v_measure": float(v_measure)}
