"""The report's pictures as PNG bytes: curves over alpha and the weight of words, figure 1's radar,
bars, intervals.

They need matplotlib (the extra `reports`); the analyses draw through `drawn` too. The same input
gives the same bytes: no clock, no version, no settings of the user's go into a picture.
Colours are Okabe & Ito's, which colour-blind readers tell apart; shape and stroke say it again.
"""

from __future__ import annotations

import importlib.util
import io
import math
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")
INSTALL = "pip install 'moee-index[reports]'"


@dataclass(frozen=True)
class Style:
    color: str
    marker: str
    stroke: str
    hatch: str


STYLES = {
    "HS": Style("#0072B2", "o", "--", ""),
    "RW": Style("#E69F00", "s", ":", "///"),
    "concat": Style("#009E73", "^", "-.", "..."),
    "sum": Style("#D55E00", "D", "-", "xxx"),
}
# Of raw and standardised vectors, where HS and RW do not need the report's colours.
COLORS = {"raw": "#CC79A7", "standardised": "#0072B2"}
_OTHERS = (
    Style("#56B4E9", "v", (0, (5, 1)), ""),  # type: ignore[arg-type]
    Style("#CC79A7", "P", (0, (3, 1, 1, 1)), "\\\\\\"),  # type: ignore[arg-type]
    Style("#6E6E6E", "X", (0, (1, 1)), "+++"),  # type: ignore[arg-type]
    Style("#F0E442", "*", (0, (5, 5)), "ooo"),  # type: ignore[arg-type]
)


Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Curve:
    """One panel over alpha. points: (alpha, score) of `sum`; levels: other methods' scores.

    raw_hs: HS alone is not standardised as the HS within `sum` is, so it is not its alpha 0.
    """

    title: str
    points: Sequence[tuple[float, float]]
    levels: Mapping[str, float]
    raw_hs: bool = False


def available() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


_SETTINGS = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "hatch.linewidth": 0.6,
    # Names of models and tasks are no formulas, whatever signs they hold.
    "text.parse_math": False,
}


def style_of(name: str, others: Sequence[str] = ()) -> Style:
    """A method's own style (`sum (α = 1)` is `sum`); others: outside names, which take turns."""
    method = name.split(" ")[0]
    if method in STYLES:
        return STYLES[method]
    place = others.index(name) if name in others else len(others)
    return _OTHERS[place % len(_OTHERS)]


def drawn(
    title: str, size: tuple[float, float], draw: Callable[[Figure], None], *, grid: bool = True
) -> bytes:
    """A titled figure as PNG; size in inches."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A prompt in a script that the font lacks: boxes in a title are no reason to speak up, in
        # whatever words.
        warnings.simplefilter("ignore", UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS | {"axes.grid": grid})
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure)
        figure.suptitle(textwrap.fill(title, round(10 * size[0])), fontsize=11)
        figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def below(figure: Figure, *axes: Any) -> None:
    """One legend below all panels, each name once."""
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    options = {"loc": "outside lower center", "frameon": False, "fontsize": 9}
    figure.legend([*handles.values()], [*handles], ncols=min(4, len(handles)), **options)


def _line(
    axis: Any, style: Style, x: Sequence[float], scores: Sequence[float], **options: Any
) -> None:
    axis.plot(
        x,
        [100 * score for score in scores],
        color=style.color,
        marker=style.marker,
        linestyle=style.stroke,
        **options,
    )


def alpha_curves(title: str, curves: Sequence[Curve]) -> bytes:
    """Score (times 100) against alpha, a panel a type; the other methods are level lines.

    The alpha axis is logarithmic where the values span more than a factor of 20; alpha 0 is HS.
    """
    across = min(2, len(curves))
    down = math.ceil(len(curves) / across)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(down, across, squeeze=False).ravel()
        for axis, curve in zip(grid, curves, strict=False):
            _curve(axis, curve)
        for axis in grid[len(curves) :]:
            axis.set_visible(False)
        figure.supylabel("score × 100", fontsize=10)
        below(figure, *grid[: len(curves)])

    return drawn(title, (5.0 if across == 1 else 7.0, 2.3 * down + 1.1), draw)


def weight_curves(title: str, panels: Mapping[str, Mapping[str, Points]]) -> bytes:
    """Score (times 100) against the weight of words, a panel a task, a line a method."""
    across = min(2, len(panels))
    down = math.ceil(len(panels) / across)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(down, across, squeeze=False).ravel()
        for axis, (name, lines) in zip(grid, panels.items(), strict=False):
            for method, points in lines.items():
                x, scores = zip(*points, strict=True)
                _line(axis, style_of(method), x, scores, markersize=4, label=method)
            axis.set_title(name, fontsize=10)
            axis.set_xlabel("weight of words")
        for axis in grid[len(panels) :]:
            axis.set_visible(False)
        figure.supylabel("score × 100", fontsize=10)
        below(figure, *grid[: len(panels)])

    return drawn(title, (5.0 if across == 1 else 7.0, 2.3 * down + 1.1), draw)


def _curve(axis: Any, curve: Curve) -> None:
    points = dict(curve.points)
    positive = [alpha for alpha in points if alpha > 0]
    if positive and max(positive) > 20 * min(positive):
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        points.pop(0, None)
    elif 0 not in points and "HS" in curve.levels and not curve.raw_hs:
        points = {0.0: curve.levels["HS"], **points}
    labels = {"HS": "HS (raw)" if curve.raw_hs else "HS (α = 0)", "RW": "RW (α → ∞)"}
    for name, score in curve.levels.items():
        style, label = STYLES[name], labels.get(name, name)
        axis.axhline(100 * score, color=style.color, linestyle=style.stroke, lw=1.6, label=label)
    _line(axis, STYLES["sum"], [*points], [*points.values()], markersize=4, label="sum")
    axis.set_title(curve.title, fontsize=10)
    axis.set_xlabel("α")
    axis.margins(y=0.15)


def radar(title: str, axes: Sequence[str], lines: Mapping[str, Sequence[float]]) -> bytes:
    """The paper's figure 1: a spoke a type, a closed line a method, scores times 100.

    lines: name → score on each spoke. The centre is 0, or below where a score is.
    """
    angles = [2 * math.pi * i / len(axes) for i in range(len(axes))]
    values = [100 * score for line in lines.values() for score in line]
    floor = min(0.0, 10 * math.floor(min(values) / 10))
    top = max(10.0, 10 * math.ceil(max(values) / 10))

    def draw(figure: Figure) -> None:
        axis: Any = figure.add_subplot(projection="polar")
        axis.set_theta_offset(math.pi / 2)
        axis.set_theta_direction(-1)
        axis.set_ylim(floor, top)
        axis.spines["polar"].set_color("#bbbbbb")
        around = [*angles, angles[0]]
        for name, line in lines.items():
            style, closed = style_of(name), [*line, line[0]]
            _line(axis, style, around, closed, markersize=5, lw=2, label=name)
            if style is STYLES["sum"]:
                axis.fill(around, [100 * s for s in closed], color=style.color, alpha=0.08)
        axis.set_xticks(angles, axes, fontsize=10)
        for angle, label in zip(angles, axis.get_xticklabels(), strict=True):
            side = math.sin(angle)
            label.set_ha("center" if abs(side) < 0.1 else "left" if side > 0 else "right")
        axis.set_rlabel_position(180 / len(axes))
        axis.tick_params(axis="y", labelsize=8, labelcolor="#555555")
        below(figure, axis)

    return drawn(title, (7.4, 5.8), draw)


def _downwards(
    figure: Figure,
    groups: Sequence[str],
    lines: Mapping[str, Sequence[T | None]],
    others: Sequence[str],
    share: float,
    mark: Callable[[Any, Style, list[float], list[T], str], None],
) -> Any:
    """Axes with groups from the top down; within a share of each, the lines below each other.

    mark: draws what a line has, at these heights, under its name.
    """
    axis: Any = figure.add_subplot()
    for i, (name, line) in enumerate(lines.items()):
        shift = (i - (len(lines) - 1) / 2) * share / len(lines)
        shown = [(group + shift, value) for group, value in enumerate(line) if value is not None]
        mark(axis, style_of(name, others), [at for at, _ in shown], [v for _, v in shown], name)
    axis.set_yticks(range(len(groups)), groups)
    axis.set_ylim(len(groups) - 0.5, -0.5)
    axis.grid(visible=False, axis="y")
    below(figure, axis)
    return axis


def bars(
    title: str,
    groups: Sequence[str],
    lengths: Mapping[str, Sequence[float | None]],
    others: Sequence[str] = (),
) -> bytes:
    """Grouped bars, groups downwards, scores times 100.

    lengths: name → one score a group, None for no bar. others: as in `style_of`.
    """
    share = 0.84

    def mark(axis: Any, style: Style, at: list[float], scores: list[float], name: str) -> None:
        look = {"color": style.color, "hatch": style.hatch, "edgecolor": "white", "lw": 0}
        height = 0.92 * share / len(lengths)
        axis.barh(at, [100 * score for score in scores], height, label=name, **look)

    def draw(figure: Figure) -> None:
        axis = _downwards(figure, groups, lengths, others, share, mark)
        axis.axvline(0, color="#555555", lw=0.8)
        axis.set_xlabel("score × 100")

    return drawn(title, (7.0, 1.3 + len(groups) * (0.12 + 0.17 * len(lengths))), draw)


def intervals(
    title: str,
    tasks: Sequence[str],
    points: Mapping[str, Sequence[tuple[float, float, float] | None]],
    others: Sequence[str] = (),
) -> bytes:
    """Scores with their intervals, tasks downwards. points: name → (score, low, high) a task."""

    def mark(
        axis: Any, style: Style, at: list[float], found: list[tuple[float, float, float]], name: str
    ) -> None:
        low = [max(0.0, 100 * (score - low)) for score, low, _ in found]
        high = [max(0.0, 100 * (high - score)) for score, _, high in found]
        look = {"fmt": style.marker, "color": style.color, "markersize": 4.5, "lw": 1.4}
        scores = [100 * score for score, _, _ in found]
        axis.errorbar(scores, at, xerr=[low, high], capsize=2.5, label=name, **look)

    def draw(figure: Figure) -> None:
        axis = _downwards(figure, tasks, points, others, 0.8, mark)
        for edge in range(1, len(tasks)):
            axis.axhline(edge - 0.5, color="#eeeeee", lw=0.8)
        axis.set_xlabel("Spearman correlation × 100")

    return drawn(title, (7.0, 1.4 + len(tasks) * (0.16 + 0.17 * len(points))), draw)
