"""The scores of one or several runs as columns over tasks, and their averages.

A column is one system: a model with one way of making a similarity. Columns that differ in method
and alpha alone stand side by side: they are a series. Outside baselines (a method that is none of
MoEE's four, or untrained weights) stand beside every series.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from moee_index.bench.report import paper
from moee_index.bench.run_dir import Row, Run
from moee_index.errors import MoeeIndexError
from moee_index.fusion import METHODS

# Types in the paper's order, then what else mteb has, by name.
_ORDER = (*paper.TYPES, "Retrieval")
# Stands beside a main score, never in its place.
_SIDE_METRICS = ("cosine_ap",)
SERIES_FIELDS = ("run", "model", "prompt", "standardize", "fit", "rw", "pooling")


@dataclass(frozen=True)
class Series:
    """What the columns of one table share. run: the directory's label."""

    run: str
    model: str
    prompt: str | None
    standardize: str | None
    fit: str | None
    rw: str | None
    pooling: str | None


@dataclass(frozen=True)
class System:
    """One column. alpha: for `sum` alone. outside: it is there to compare with."""

    series: Series
    method: str
    alpha: float | None
    outside: bool


@dataclass(frozen=True)
class Unit:
    """What mteb gives one main score: a task's split and subset."""

    task: str
    type: str
    split: str
    subset: str


@dataclass(frozen=True)
class Figure:
    """score: mteb's scale. sample: taken on a part of the data, hence no score."""

    score: float
    sample: bool

    @property
    def text(self) -> str:
        return f"{100 * self.score:.2f}"


@dataclass(frozen=True)
class Cell(Figure):
    """A main score, and the paper's where it has one."""

    metric: str
    paper: float | None


@dataclass(frozen=True)
class Average(Figure):
    """Mean of `tasks` tasks; sample: at least one of them was sampled."""

    tasks: int


@dataclass
class Scores:
    """All scores.

    columns: system → unit → main score. beside: further values by name (metrics, extras). broken:
    scores that are no numbers. raw_hs: series whose HS alone is not standardised.
    """

    columns: dict[System, dict[Unit, Cell]] = field(default_factory=dict)
    beside: dict[tuple[System, Unit], dict[str, float]] = field(default_factory=dict)
    broken: list[tuple[System, Unit]] = field(default_factory=list)
    raw_hs: set[Series] = field(default_factory=set)

    def series(self) -> list[Series]:
        """Every series that has a column of MoEE, as they come."""
        return list(dict.fromkeys(s.series for s in self.columns if not s.outside))

    def of(self, series: Series) -> list[System]:
        """A series' columns: HS, RW, concat, then sum by rising alpha."""
        found = [s for s in self.columns if s.series == series and not s.outside]
        return sorted(found, key=lambda s: (METHODS.index(s.method), s.alpha or 0))

    def outside(self) -> list[System]:
        """Every outside baseline, with one `sum` alone."""
        found = [s for s in self.columns if s.outside]
        series = dict.fromkeys(s.series for s in found)
        return [s for one in series for s in _one_sum([s for s in found if s.series == one])]

    def beside_series(self, series: Series) -> list[System]:
        """The outside baselines of the same run. One that was run with several prompts stands
        beside the series of each prompt.
        """
        found = [s for s in self.outside() if s.series.run == series.run]
        prompts: dict[tuple[str, str], set[str | None]] = {}
        for system in found:
            key = (system.series.model, system.method)
            prompts.setdefault(key, set()).add(system.series.prompt)
        return [
            s
            for s in found
            if s.series.prompt in (None, series.prompt)
            or len(prompts[s.series.model, s.method]) == 1
        ]

    def common(self, systems: Sequence[System]) -> list[Unit]:
        """The units that every one of these columns has."""
        return common([self.columns[system] for system in systems])

    def main(self, series: Series) -> list[System]:
        """A series' columns with one `sum` alone: alpha 1 where it was run, else the least."""
        return _one_sum(self.of(series))


def _one_sum(columns: Sequence[System]) -> list[System]:
    sums = sorted((s for s in columns if s.method == "sum"), key=lambda s: s.alpha or 0)
    kept = next((s for s in sums if s.alpha == 1), sums[0] if sums else None)
    return [s for s in columns if s.method != "sum" or s is kept]


def short(model: str) -> str:
    """A model's name without organisation or folders."""
    return model.replace("\\", "/").rstrip("/").split("/")[-1]


def gather(runs: Sequence[Run]) -> Scores:
    """All rows of all runs. Raises MoeeIndexError where two rows contradict each other."""
    scores = Scores()
    for run in runs:
        models = {row.model for row in run.rows if row.method in METHODS}
        # Untrained weights stand beside a trained model; alone they are what the run is about.
        trained = any(not _untrained(model) for model in models)
        values: dict[tuple[System, Unit], dict[str, Row]] = {}
        for row in run.rows:
            key = _system(run, row, trained), Unit(row.task, row.type, row.split, row.subset)
            metrics = values.setdefault(key, {})
            if row.metric in metrics and metrics[row.metric].score != row.score:
                raise MoeeIndexError(
                    f"{run.label}: two scores for {row.task}, {row.metric}, {row.method} of "
                    f"{row.model} with the same options; run the bench again with --overwrite"
                )
            metrics[row.metric] = row
        for (system, unit), metrics in values.items():
            _put(scores, system, unit, metrics)
        _put_extras(scores, run)
    _join_raw_hs(scores)
    return scores


def _untrained(model: str) -> bool:
    return "untrained" in short(model).lower()


def _system(run: Run, row: Row, trained: bool) -> System:
    series = Series(run.label, row.model, row.prompt, row.standardize, row.fit, row.rw, row.pooling)
    outside = row.method not in METHODS or (trained and _untrained(row.model))
    return System(series, row.method, row.alpha, outside)


def _join_raw_hs(scores: Scores) -> None:
    """The authors' way leaves HS alone as it is: it belongs beside its standardised RW and sum."""
    for raw in [s for s in scores.columns if s.series.fit == "batch"]:
        series = replace(raw.series, standardize="both")
        alone = [s.method for s in scores.columns if s.series == raw.series] == ["hs"]
        others = [s.method for s in scores.columns if s.series == series]
        if raw.series.standardize != "none" or not alone or not others or "hs" in others:
            continue
        moved = replace(raw, series=series)
        scores.columns = {moved if s == raw else s: c for s, c in scores.columns.items()}
        scores.beside = {
            (moved if s == raw else s, unit): b for (s, unit), b in scores.beside.items()
        }
        scores.broken = [(moved if s == raw else s, unit) for s, unit in scores.broken]
        scores.raw_hs.add(series)


def _put(scores: Scores, system: System, unit: Unit, metrics: Mapping[str, Row]) -> None:
    main = next((m for m in metrics if m not in _SIDE_METRICS), next(iter(metrics)))
    row = metrics[main]
    column = scores.columns.setdefault(system, {})
    if row.score is None:
        scores.broken.append((system, unit))
    else:
        column[unit] = Cell(row.score, row.sample, row.metric, row.paper)
    for name, other in metrics.items():
        if name != main and other.score is not None:
            scores.beside.setdefault((system, unit), {})[name] = other.score


def _put_extras(scores: Scores, run: Run) -> None:
    """extras.json names a setting without rw and pooling: it belongs to all that fit."""
    fields = ("task", "split", "subset", "model", "method", "prompt", "alpha", "standardize", "fit")
    values: dict[tuple[object, ...], dict[str, float]] = {}
    for entry in run.extras:
        value = entry.get("value")
        if isinstance(value, int | float) and not isinstance(value, bool):
            key = tuple(entry.get(name) for name in fields)
            values.setdefault(key, {})[entry["name"]] = float(value)
    for system, column in scores.columns.items():
        series = system.series
        if series.run != run.label:
            continue
        setting = (series.model, system.method, series.prompt, system.alpha)
        for unit in column:
            found = values.get(
                (unit.task, unit.split, unit.subset, *setting, series.standardize, series.fit)
            )
            if found:
                scores.beside.setdefault((system, unit), {}).update(found)


def type_order(types: Iterable[str]) -> list[str]:
    """Types in the paper's order, then the others by name."""
    found = set(types)
    return [t for t in _ORDER if t in found] + sorted(found - set(_ORDER))


def natural(name: str) -> tuple[object, ...]:
    """A sort key in which STS9 stands before STS12."""
    return tuple(int(p) if p.isdigit() else p.lower() for p in re.split(r"(\d+)", name))


def unit_order(units: Iterable[Unit]) -> list[Unit]:
    """Units by type, task, split and subset."""
    found = set(units)
    types = type_order(u.type for u in found)
    return sorted(
        found, key=lambda u: (types.index(u.type), natural(u.task), u.split, natural(u.subset))
    )


def common(columns: Sequence[Mapping[Unit, Cell]]) -> list[Unit]:
    """The units that every column has."""
    if not columns:
        return []
    return unit_order(set(columns[0]).intersection(*columns[1:]))


def average(column: Mapping[Unit, Cell], units: Sequence[Unit]) -> Average | None:
    """Mean over tasks of the mean over each task's units; None where the column lacks one."""
    if not units or any(unit not in column for unit in units):
        return None
    tasks: dict[str, list[float]] = {}
    for unit in units:
        tasks.setdefault(unit.task, []).append(column[unit].score)
    means = [sum(values) / len(values) for values in tasks.values()]
    sample = any(column[unit].sample for unit in units)
    return Average(sum(means) / len(means), sample, len(means))


def mean_of_types(column: Mapping[Unit, Cell], units: Sequence[Unit]) -> Average | None:
    """The paper's average: the unweighted mean of the types' averages."""
    types = type_order(u.type for u in units)
    means = [average(column, [u for u in units if u.type == kind]) for kind in types]
    found = [mean for mean in means if mean is not None]
    if not found or len(found) < len(means):
        return None
    score = sum(mean.score for mean in found) / len(found)
    return Average(score, any(m.sample for m in found), sum(m.tasks for m in found))


def by_type(
    scores: Scores, systems: Sequence[System], units: Sequence[Unit], types: Sequence[str] = ()
) -> dict[str, list[Average | None]]:
    """Type (those of the units, or `types`) → each system's average over its units."""
    return {
        kind: [average(scores.columns[s], [u for u in units if u.type == kind]) for s in systems]
        for kind in types or type_order(unit.type for unit in units)
    }


def tasks_of(units: Iterable[Unit], kind: str | None = None) -> int:
    """How many tasks the units belong to, all or those of a type."""
    return len({unit.task for unit in units if kind in (None, unit.type)})
