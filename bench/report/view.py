"""Scores with what columns and series are called, how figures are shown, and the pictures drawn."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from moee_index.bench.report import plots
from moee_index.bench.report.markup import NOTHING, Picture, TableRow, Words, quoted
from moee_index.bench.report.table import SERIES_FIELDS, Figure, Scores, Series, System, short
from moee_index.fusion import METHODS

SAMPLE = "sample, no score"
METHOD_NAMES = {"hs": "HS", "rw": "RW", "concat": "concat", "sum": "sum"}
_OUTSIDE = {"bm25": "BM25", "tfidf": "TF-IDF", "words": "words alone"}
_ABOVE = "the figures are in the table above."


def model_label(name: str) -> str:
    """A model's name as people write it, quoted."""
    name = quoted(name)
    return _OUTSIDE.get(name, name)


def pictured(system: System) -> bool:
    """Of an outside model that has all of MoEE's methods, `sum` alone is drawn."""
    return not system.outside or system.method not in METHODS or system.method == "sum"


class View:
    """Scores, and what their columns and series are called: as short as tells them apart.

    series, systems: names by series and by column. others: the outside columns that are drawn.
    """

    def __init__(self, scores: Scores) -> None:
        self.scores = scores
        self.pictures = Pictures()
        every = list(dict.fromkeys(system.series for system in scores.columns))
        models = {series.model for series in every}
        self._short = len({short(model) for model in models}) == len(models)
        inside = scores.series()
        self._varying = [
            name
            for name in SERIES_FIELDS
            if name not in ("model", "prompt") and len({getattr(s, name) for s in inside}) > 1
        ]
        self.series = {s: self._series(s) for s in every}
        drawn = [self.column(s) for s in scores.outside() if pictured(s)]
        self.others = list(dict.fromkeys(drawn))
        self.systems = {system: self._system(system) for system in scores.columns}

    def model(self, series: Series) -> str:
        return model_label(short(series.model) if self._short else series.model)

    def _series(self, series: Series) -> Words:
        more = [f"{name} {quoted(getattr(series, name))}" for name in self._varying]
        prompt = f"prompt {quoted(series.prompt or 'none')}"
        return Words(", ".join([self.model(series), prompt, *more]))

    def column(self, system: System) -> str:
        """Within its series' table: HS, RW, concat, sum (α = 1); outside: the model's name."""
        method = METHOD_NAMES.get(system.method, quoted(system.method))
        if system.alpha is not None:
            method += f" (α = {system.alpha:g})"
        if system.lexical is not None and not system.outside:
            method += f" with words {system.lexical:g}"
        if not system.outside:
            return method
        name = self.model(system.series)
        return name if system.method in ("dense", system.series.model) else f"{name}, {method}"

    def _system(self, system: System) -> Words:
        """With its series; an outside baseline with what it may share with another."""
        if not system.outside:
            return Words(f"{self.series[system.series]}: {self.column(system)}")
        prompt, run = system.series.prompt, system.series.run
        more = [f"prompt {quoted(prompt)}"] if prompt else []
        more += [f"run {quoted(run)}"] if "run" in self._varying else []
        return Words(", ".join([f"{self.column(system)} (outside)", *more]))


class Pictures:
    """Draws and names pictures; nothing is drawn where matplotlib is absent."""

    def __init__(self) -> None:
        self.drawing = plots.available()
        self.drawn: list[Picture] = []
        self.skipped = 0

    def add(
        self,
        kind: str,
        series: str,
        alt: str,
        title: str,
        draw: Callable[[str], bytes],
        figures: str = _ABOVE,
    ) -> Picture | None:
        """The picture that `draw` makes of its title, in `<kind>-<series>.png`, numbered where that
        repeats. figures: where they can be read, for the alternative text.
        """
        if not self.drawing:
            self.skipped += 1
            return None
        slug = re.sub(r"[^a-z0-9.]+", "-", f"{kind} {series}".lower()).strip("-.")[:80].strip("-.")
        taken = {picture.name for picture in self.drawn}
        name, number = f"{slug}.png", 1
        while name in taken:
            number += 1
            name = f"{slug}-{number}.png"
        self.drawn.append(Picture(name, draw(title), f"{alt}: {title}; {figures}"))
        return self.drawn[-1]


def text_of(figure: Figure | None) -> str:
    return NOTHING if figure is None else figure.text


def score_row(
    labels: Sequence[str], figures: Sequence[Figure | None], *, strong: bool = False
) -> TableRow:
    """A row that says of sampled figures that they are: once, if all are, else at each."""
    samples = [figure.sample for figure in figures if figure is not None]
    if samples and all(samples):
        cells = [f"{labels[0]} ({SAMPLE})", *labels[1:], *map(text_of, figures)]
        return TableRow(cells, strong)
    marked = [f"{f.text} (sample)" if f is not None and f.sample else text_of(f) for f in figures]
    return TableRow([*labels, *marked], strong)


def counted(count: int) -> str:
    return f"{count} task" if count == 1 else f"{count} tasks"


def sampled(figures: Iterable[Figure | None]) -> str:
    """What a picture's title adds when a figure in it was sampled."""
    return f" ({SAMPLE})" if any(f is not None and f.sample for f in figures) else ""
