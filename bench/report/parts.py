"""What the report's sections share: names of columns, figures in words, pictures.

Knows how long a name must be to tell columns apart, and how a sampled figure is marked. Refuses to
know which tables there are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moee_index.bench.report import plots
from moee_index.bench.report.document import NOTHING, Block, Picture, TableRow, quoted
from moee_index.bench.report.table import SERIES_FIELDS, Average, Scores, Series, System, short
from moee_index.fusion import METHODS

SAMPLE = "sample, no score"
METHOD_NAMES = {"hs": "HS", "rw": "RW", "concat": "concat", "sum": "sum"}
_OUTSIDE = {"bm25": "BM25", "tfidf": "TF-IDF"}


def model_label(name: str) -> str:
    """A model's name as people write it."""
    return _OUTSIDE.get(name, name)


class Names:
    """What columns and series are called: as short as tells them apart."""

    def __init__(self, scores: Scores) -> None:
        found = list(dict.fromkeys(system.series for system in scores.columns))
        models = {series.model for series in found}
        self._short = len({short(model) for model in models}) == len(models)
        inside = scores.series()
        self._varying = [
            name
            for name in SERIES_FIELDS
            if name not in ("model", "prompt") and len({getattr(s, name) for s in inside}) > 1
        ]
        self.series = {s: self._series(s) for s in found}
        self.others = list(
            dict.fromkeys(self.column(s) for s in scores.outside() if self.pictured(s))
        )
        self.systems = {system: self._system(system) for system in scores.columns}

    @staticmethod
    def pictured(system: System) -> bool:
        """Of an outside model that has all of MoEE's methods, `sum` alone is drawn."""
        return not system.outside or system.method not in METHODS or system.method == "sum"

    def model(self, series: Series) -> str:
        name = short(series.model) if self._short else series.model
        return model_label(quoted(name))

    def _series(self, series: Series) -> str:
        more = [f"{name} {quoted(getattr(series, name))}" for name in self._varying]
        return ", ".join([self.model(series), f"prompt {quoted(series.prompt or 'none')}", *more])

    def column(self, system: System) -> str:
        """Within its series' table: HS, RW, concat, sum (α = 1); outside: the model's name."""
        if system.outside:
            name = self.model(system.series)
            known = system.method in ("dense", system.series.model)
            return name if known else f"{name}, {self.method(system)}"
        return self.method(system)

    @staticmethod
    def method(system: System) -> str:
        name = METHOD_NAMES.get(system.method, quoted(system.method))
        return name if system.alpha is None else f"{name} (α = {system.alpha:g})"

    def _system(self, system: System) -> str:
        """With its series; an outside baseline with what it may share with another."""
        if not system.outside:
            return f"{self.series[system.series]}: {self.column(system)}"
        prompt, run = system.series.prompt, system.series.run
        more = [f"prompt {quoted(prompt)}"] if prompt else []
        more += [f"run {quoted(run)}"] if "run" in self._varying else []
        return ", ".join([f"{self.column(system)} (outside)", *more])


class Pictures:
    """Draws and names pictures; nothing is drawn where matplotlib is absent."""

    def __init__(self) -> None:
        self.drawing = plots.available()
        self.drawn: list[Picture] = []
        self.skipped = 0

    def add(self, kind: str, about: str, alt: str, draw: Callable[[], bytes]) -> list[Block]:
        """The picture as blocks; its file is `<kind>-<about>.png`, numbered where that repeats."""
        if not self.drawing:
            self.skipped += 1
            return []
        slug = re.sub(r"[^a-z0-9.]+", "-", f"{kind} {about}".lower()).strip("-.")[:80].strip("-.")
        taken = {picture.name for picture in self.drawn}
        name, number = f"{slug}.png", 1
        while name in taken:
            number += 1
            name = f"{slug}-{number}.png"
        self.drawn.append(Picture(name, draw(), alt))
        return [self.drawn[-1]]


@dataclass(frozen=True)
class Value:
    """One figure of a table, already in words."""

    text: str
    sample: bool = False


NO_VALUE = Value(NOTHING)


def value_of(found: Average | None) -> Value:
    return NO_VALUE if found is None else Value(f"{100 * found.score:.2f}", found.sample)


def score_row(labels: Sequence[str], values: Sequence[Value], *, strong: bool = False) -> TableRow:
    """A row that says of sampled figures that they are: once, if all are, else at each."""
    shown = [value for value in values if value.text != NOTHING]
    if shown and all(value.sample for value in shown):
        return TableRow([f"{labels[0]} ({SAMPLE})", *labels[1:], *(v.text for v in values)], strong)
    cells = [f"{v.text} (sample)" if v.sample else v.text for v in values]
    return TableRow([*labels, *cells], strong)


def counted(count: int) -> str:
    return f"{count} task" if count == 1 else f"{count} tasks"


def sampled(averages: Sequence[Average | None]) -> str:
    """What a picture's title adds when a figure in it was sampled."""
    return f" ({SAMPLE})" if any(a is not None and a.sample for a in averages) else ""
