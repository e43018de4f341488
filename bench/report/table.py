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
from moee_index.bench.run_dir import EXTRA_SETTING, Row, Run
from moee_index.errors import MoeeIndexError
from moee_index.fusion import METHODS

# Types in the paper's order, then what else mteb has, by name.
_ORDER = (*paper.TYPES, "Retrieval")
# Stands beside a main score, never in its place.
_SIDE_METRICS = ("cosine_ap",)
_EXTRA = ("task", "split", "subset", *EXTRA_SETTING)
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
    """One column. alpha: for `sum` alone. outside: it is there to compare with. lexical: the weight
    of words; None where these do not count."""

    series: Series
    method: str
    alpha: float | None
    outside: bool
    lexical: float | None = None


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
        """A series' columns in their order, those with words left out."""
        return [s for s in self.inside(series) if s.lexical is None]

    def inside(self, series: Series) -> list[System]:
        """As `of`, those with words too."""
        return in_order(s for s in self.columns if s.series == series and not s.outside)

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


def in_order(systems: Iterable[System]) -> list[System]:
    """Columns of MoEE: HS, RW, concat, then sum by rising alpha; each by rising weight of words."""
    return sorted(systems, key=lambda s: (METHODS.index(s.method), s.alpha or 0, s.lexical or 0))


def short(model: str) -> str:
    """A model's name without organisation or folders."""
    return model.replace("\\", "/").rstrip("/").split("/")[-1]


def gather(runs: Sequence[Run]) -> Scores:
    """All rows of all runs. Raises MoeeIndexError where two rows contradict each other."""
    scores = Scores()
    for run in runs:
        extras = _extras(run)
        for (system, unit), metrics in _by_column(run, scores.raw_hs).items():
            main = next((m for m in metrics if m not in _SIDE_METRICS), next(iter(metrics)))
            row = metrics.pop(main)
            beside = {
                name: other.score for name, other in metrics.items() if other.score is not None
            }
            column = scores.columns.setdefault(system, {})
            if row.score is None:
                scores.broken.append((system, unit))
            else:
                column[unit] = Cell(row.score, row.sample, row.metric, row.paper)
                beside |= extras.get(tuple(getattr(row, name) for name in _EXTRA), {})
            if beside:
                scores.beside[system, unit] = beside
    return scores


def _by_column(run: Run, raw_hs: set[Series]) -> dict[tuple[System, Unit], dict[str, Row]]:
    """System and unit → metric → row. raw_hs: gets the series that a raw HS was joined with."""
    # Untrained weights stand beside a trained model; alone they are what the run is about.
    trained = any(not _untrained(row.model) for row in run.rows if row.method in METHODS)
    joined = _raw_hs(run)
    raw_hs.update(joined.values())
    columns: dict[tuple[System, Unit], dict[str, Row]] = {}
    for row in run.rows:
        series = _series(run, row)
        outside = row.method not in METHODS or (trained and _untrained(row.model))
        moee = joined.get(series, series)
        system = System(moee, row.method, row.alpha, outside, row.lexical)
        unit = Unit(row.task, row.type, row.split, row.subset)
        metrics = columns.setdefault((system, unit), {})
        if row.metric in metrics and metrics[row.metric].score != row.score:
            raise MoeeIndexError(
                f"{run.label}: two scores for {row.task}, {row.metric}, {row.method} of "
                f"{row.model} with the same options; run the bench again with --overwrite"
            )
        metrics[row.metric] = row
    return columns


def _untrained(model: str) -> bool:
    return "untrained" in short(model).lower()


def _series(run: Run, row: Row) -> Series:
    return Series(run.label, *(getattr(row, name) for name in SERIES_FIELDS[1:]))


def _raw_hs(run: Run) -> dict[Series, Series]:
    """The authors' way leaves HS alone as it is: its series → that of its standardized RW and sum,
    beside which it belongs.
    """
    methods: dict[Series, set[str]] = {}
    for row in run.rows:
        methods.setdefault(_series(run, row), set()).add(row.method)
    joined = {}
    for raw, alone in methods.items():
        whole = replace(raw, standardize="both")
        others = methods.get(whole, set())
        by_authors = (raw.fit, raw.standardize) == ("batch", "none")
        if by_authors and alone == {"hs"} and others and "hs" not in others:
            joined[raw] = whole
    return joined


def _extras(run: Run) -> dict[tuple[object, ...], dict[str, float]]:
    """Task, split, subset and setting (which has no rw and pooling) → name → value."""
    values: dict[tuple[object, ...], dict[str, float]] = {}
    for entry in run.extras:
        value = entry.get("value")
        if isinstance(value, int | float) and not isinstance(value, bool):
            key = tuple(entry.get(name) for name in _EXTRA)
            values.setdefault(key, {})[entry["name"]] = float(value)
    return values


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


def average(column: Mapping[Unit, Cell], units: Sequence[Unit]) -> Figure | None:
    """Mean over tasks of the mean over each task's units, a sample if one of them is; None where
    the column lacks one."""
    if not units or any(unit not in column for unit in units):
        return None
    tasks: dict[str, list[float]] = {}
    for unit in units:
        tasks.setdefault(unit.task, []).append(column[unit].score)
    means = [sum(values) / len(values) for values in tasks.values()]
    sample = any(column[unit].sample for unit in units)
    return Figure(sum(means) / len(means), sample)


def mean_of_types(column: Mapping[Unit, Cell], units: Sequence[Unit]) -> Figure | None:
    """The paper's average: the unweighted mean of the types' averages."""
    types = type_order(u.type for u in units)
    means = [average(column, [u for u in units if u.type == kind]) for kind in types]
    found = [mean for mean in means if mean is not None]
    if not found or len(found) < len(means):
        return None
    return Figure(sum(m.score for m in found) / len(found), any(m.sample for m in found))


def by_type(
    scores: Scores, systems: Sequence[System], units: Sequence[Unit], types: Sequence[str] = ()
) -> dict[str, list[Figure | None]]:
    """Type (those of the units, or `types`) → each system's average over its units."""
    return {
        kind: [average(scores.columns[s], [u for u in units if u.type == kind]) for s in systems]
        for kind in types or type_order(unit.type for unit in units)
    }


def tasks_of(units: Iterable[Unit], kind: str | None = None) -> int:
    """How many tasks the units belong to, all or those of a type."""
    return len({unit.task for unit in units if kind in (None, unit.type)})
