"""`bench analyze`: the paper's claims about HS and RW looked at on any model, in one report.

Joins tasks, an encoder and the analyses; the arithmetic is in `analyses/`, the layers' vectors come
from `layers.py`. Data sets are read in `task_texts`.

One pass over the distinct STS texts under the model's own prompt gives the layers (both poolings);
one pass over each clustering task's texts gives HS and RW; one pass for each of the paper's nine
prompts gives similarities, of which scores alone are kept.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moee_index.atomic import now, storage_errors
from moee_index.bench.analyses import clusters, complementarity, controls, prompts, routing
from moee_index.bench.analyses.layers import LayerVectors, Pooling, collect
from moee_index.bench.analyses.section import Section
from moee_index.bench.analyses.similarity import FORMS, cosines, method_scores
from moee_index.bench.analyses.task_texts import Material, gather
from moee_index.bench.analyses.writing import Report, write
from moee_index.bench.data import DataError, DataSets
from moee_index.bench.mteb_internals import as_tested
from moee_index.bench.tasks import Question, choose
from moee_index.bench.vector_cache.encoder import StoredEncoder
from moee_index.encode.encoder import Encoder
from moee_index.environment import versions
from moee_index.errors import MisuseError, ModelError
from moee_index.model.checkpoint.find import BUNDLED, find_checkpoint
from moee_index.types import Embeddings, EncoderSpec, Notify, Progress, ignore

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask

Passes = Callable[[str], Progress]
ANALYSES = ("clusters", "prompts", "complementarity", "routing", "controls")
TASKS = ("STS", "Clustering")
"""Task types that `analyze` takes, and what it runs on unless told otherwise."""


@as_tested()
def analyze(
    question: Question,
    stored: StoredEncoder,
    out: Path,
    *,
    offline: bool = False,
    limit: int | None = None,
    only: Sequence[str] | None = None,
    tell: Notify = ignore,
    progress: Passes = lambda what: ignore,
) -> Report:
    """Run the analyses and write analysis.json, analysis.md, analysis.html and PNG plots to `out`.

    question: the tasks asked for and where their data lie; without any, TASKS are taken. stored:
    the model; what the passes of prompts and clustering tasks give stays in its store, so a run
    that was interrupted goes on there. limit: a sample of so many pairs or texts of each task.
    only: some of ANALYSES. progress: given the name of a pass, what is told (done, total) of the
    texts that had to be embedded. Tasks that cannot run are in the report's `missing`: a caller
    ends with status 1 where there are any.

    Raises MisuseError for an unknown analysis or task and where there is nothing to analyse,
    StorageError where the disk is full, ModelError for what the model does wrong.
    """
    chosen = _chosen(only)
    if not question.tasks and question.benchmark is None:
        question = replace(question, tasks=TASKS)
    selection = choose(question)
    for note in selection.notes:
        tell(note)
    missing = [(one.task, one.why) for one in selection.missing]
    tasks: list[AbsTask] = []
    with DataSets(question.data, offline=offline, limit=limit) as data:
        for task in selection.tasks:
            if task.metadata.type not in TASKS:
                tell(f"{task.metadata.name} is left out: analyses take {' and '.join(TASKS)}")
                continue
            try:
                missing += [(task.metadata.name, note) for note in data.load(task)]
                tasks.append(task)
            except DataError as error:
                name = task.metadata.name
                missing.append((name, str(error).removeprefix(f"{name}: ")))
        for name, why in missing:
            tell(f"{name}: {why}")
        if not tasks:
            raise MisuseError(
                "no STS and no Clustering task with data at hand; name some with --tasks, and "
                "their folder with --data"
            )
        # Rows are read here, while the cache of the data sets is there.
        material = gather(tasks, tell)
    return analyse_texts(
        material, stored, out, chosen, limit=limit, missing=missing, tell=tell, progress=progress
    )


def analyse_texts(
    material: Material,
    stored: StoredEncoder,
    out: Path,
    chosen: Sequence[str] = ANALYSES,
    *,
    limit: int | None = None,
    missing: Sequence[tuple[str, str]] = (),
    tell: Notify = ignore,
    progress: Passes = lambda what: ignore,
) -> Report:
    """`analyze` of texts at hand. limit: what they were cut to, for the report."""
    with storage_errors(out, "{path}: no folder for the report ({why}); take another --out"):
        out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    sections = _sections(_Run(stored, material, tell, progress), chosen, out)
    spec = stored.spec
    record: dict[str, Any] = {
        "finished": now(),
        "seconds": round(time.monotonic() - started, 1),
        "versions": versions(),
        "model": {"name": spec.model, "revision": spec.revision, **spec.identity()},
        "bundled": is_bundled(spec),
        "limit": limit,
        "tasks": [
            *(
                {"task": one.name, "pairs": len(one), "texts": len(one.rows)}
                for one in material.pairs
            ),
            *({"task": one.name, "texts": len(one.texts)} for one in material.labelled),
        ],
        "missing": [{"task": task, "why": why} for task, why in missing],
    }
    return write(out, record, sections, tell)


def is_bundled(spec: EncoderSpec) -> bool:
    """Whether the model is the bundled one, under whatever name or path."""
    return spec.model == BUNDLED or spec.fingerprint == find_checkpoint(BUNDLED).fingerprint


def _chosen(only: Sequence[str] | None) -> tuple[str, ...]:
    if only is None:
        return ANALYSES
    unknown = [name for name in only if name not in ANALYSES]
    if unknown or not only:
        what = f"analysis {unknown[0]!r} is unknown" if unknown else "no analysis is named"
        raise MisuseError(f"{what}; known: {', '.join(ANALYSES)}")
    return tuple(name for name in ANALYSES if name in only)


@dataclass(frozen=True, eq=False)
class _Run:
    """What every step is handed."""

    stored: StoredEncoder
    material: Material
    tell: Notify
    progress: Passes

    @property
    def pooling(self) -> Pooling:
        return "mean" if self.stored.identity.pooling == "mean" else "last"


def _sections(run: _Run, chosen: Sequence[str], out: Path) -> list[Section]:
    """The analyses asked for, in the order of ANALYSES."""
    material = run.material
    found: list[Section] = []
    with tempfile.TemporaryDirectory(prefix=".layers-", dir=out) as scratch:
        vectors: LayerVectors | None = None
        if material.pairs and set(chosen) - {"prompts"}:
            vectors = _layers(run, Path(scratch))
        if "clusters" in chosen:
            found.append(clusters.analyse(_to_cluster(run, vectors)))
        if "prompts" in chosen and material.pairs:
            found.append(_prompts(run, vectors))
        if vectors is not None:
            if "complementarity" in chosen:
                found.append(_complementarity(run, vectors))
            if "routing" in chosen:
                found.append(_routing(run, vectors))
            if "controls" in chosen:
                found.append(controls.analyse(vectors, material.pairs))
        del vectors
    if not found:
        raise MisuseError(
            f"{', '.join(chosen)} needs an STS task, and none is there; name one with --tasks"
        )
    return found


def _layers(run: _Run, scratch: Path) -> LayerVectors:
    """The pass that the store cannot spare: every layer, both poolings."""
    encoder = run.stored.loaded_encoder()
    if not isinstance(encoder, Encoder):
        raise ModelError(
            "the layers of a model can be looked at through the product's encoder only"
        )
    run.tell(
        f"layers: {len(run.material.texts)} texts under prompt {encoder.spec.prompt!r}, both "
        "poolings"
    )
    return collect(encoder, run.material.texts, scratch, run.progress("layers"))


def _to_cluster(run: _Run, vectors: LayerVectors | None) -> Iterator[clusters.ToCluster]:
    """Sets of texts one at a time: of STS tasks from the layers' pass, of others embedded here."""
    for pairs in run.material.pairs if vectors is not None else ():
        rows = pairs.rows[clusters.chosen(pairs.name, len(pairs.rows))]
        yield clusters.ToCluster(pairs.name, vectors.embeddings(run.pooling, rows), None)  # type: ignore[union-attr]
    for task in run.material.labelled:
        some = clusters.some_of(task)
        run.tell(f"clusters: {len(some.texts)} texts of {some.name}")
        embeddings = run.stored.encode(some.texts, progress=run.progress(some.name))
        yield clusters.ToCluster(some.name, embeddings, some.labels)


def _complementarity(run: _Run, vectors: LayerVectors) -> Section:
    """Errors of HS and RW, and as a control those of the middle layer's HS."""
    middle = (vectors.shape.layers + 1) // 2
    control = middle < vectors.shape.layers
    judged = []
    for pairs in run.material.pairs:
        own = vectors.embeddings(run.pooling, pairs.rows)
        for form in FORMS:
            scores = method_scores(own, pairs, form)
            if control:
                other = vectors.hs(run.pooling, middle)[pairs.rows]
                scores["other"] = cosines(other, pairs, form)
            judged.append(complementarity.Judged(pairs.name, form, pairs.gold, scores))
    words = f"HS of layer {middle} of {vectors.shape.layers}" if control else None
    return complementarity.analyse(judged, words)


def _routing(run: _Run, vectors: LayerVectors) -> Section:
    shape = vectors.shape
    whole = vectors.rw(run.pooling)
    return routing.analyse(
        [(pairs, np.asarray(whole[pairs.rows])) for pairs in run.material.pairs],
        [shape.rw_columns(layer) for layer in range(len(shape.rw_widths))],
        shape.rw_layers,
        run.pooling,
        shape.rw,
    )


def _prompts(run: _Run, vectors: LayerVectors | None) -> Section:
    """The nine prompts, one pass each; of a pass only the pairs' scores stay in memory."""
    tasks = [prompts.PromptScores(pairs) for pairs in run.material.pairs]
    own = run.stored.identity.prompt
    for prompt in prompts.NINE:
        if prompt == own and vectors is not None:
            for task in tasks:
                task.add(prompt, vectors.embeddings(run.pooling, task.pairs.rows))
            continue
        run.tell(f"prompts: {len(run.material.texts)} texts under {prompt!r}")
        stored = run.stored.with_prompt(prompt)
        found = stored.encode(run.material.texts, progress=run.progress(prompt))
        for task in tasks:
            rows = task.pairs.rows
            task.add(prompt, Embeddings(found.hs[rows], found.rw[rows]))
    return prompts.analyse(tasks, run.pooling)
