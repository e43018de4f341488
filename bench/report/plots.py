"""The report's pictures as PNG bytes: curves over alpha, figure 1's radar, bars, intervals.

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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INSTALL = "pip install 'moee-index[reports]'"


@dataclass(frozen=True)
class Style:
    colour: str
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
COLOURS = {"raw": "#CC79A7", "standardised": "#0072B2"}
_OTHERS = (
    Style("#56B4E9", "v", (0, (5, 1)), ""),  # type: ignore[arg-type]
    Style("#CC79A7", "P", (0, (3, 1, 1, 1)), "\\\\\\"),  # type: ignore[arg-type]
    Style("#6E6E6E", "X", (0, (1, 1)), "+++"),  # type: ignore[arg-type]
    Style("#F0E442", "*", (0, (5, 5)), "ooo"),  # type: ignore[arg-type]
)


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
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    where, columns = "outside lower center", min(4, len(found))
    figure.legend(
        list(found.values()), list(found), loc=where, ncols=columns, frameon=False, fontsize=9
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


def _curve(axis: Any, curve: Curve) -> None:
    alphas = [alpha for alpha, _ in curve.points]
    positive = [alpha for alpha in alphas if alpha > 0]
    points = list(curve.points)
    if positive and max(positive) > 20 * min(positive):
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        points = [(alpha, score) for alpha, score in points if alpha > 0]
    elif 0 not in alphas and "HS" in curve.levels and not curve.raw_hs:
        points.insert(0, (0.0, curve.levels["HS"]))
    notes = {
        "HS": "HS (raw)" if curve.raw_hs else "HS (α = 0)",
        "RW": "RW (α → ∞)",
        "concat": "concat",
    }
    for name, score in curve.levels.items():
        style = STYLES[name]
        axis.axhline(
            100 * score, color=style.colour, linestyle=style.stroke, lw=1.6, label=notes[name]
        )
    style = STYLES["sum"]
    axis.plot(
        [alpha for alpha, _ in points],
        [100 * score for _, score in points],
        color=style.colour,
        marker=style.marker,
        markersize=4,
        label="sum",
    )
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
        for name, line in lines.items():
            style = style_of(name)
            axis.plot(
                [*angles, angles[0]],
                [100 * score for score in [*line, line[0]]],
                color=style.colour,
                marker=style.marker,
                linestyle=style.stroke,
                markersize=5,
                lw=2,
                label=name,
            )
        main = next((name for name in lines if name.split(" ")[0] == "sum"), None)
        if main is not None:
            closed = [100 * score for score in [*lines[main], lines[main][0]]]
            axis.fill([*angles, angles[0]], closed, color=STYLES["sum"].colour, alpha=0.08)
        axis.set_xticks(angles, axes, fontsize=10)
        for angle, label in zip(angles, axis.get_xticklabels(), strict=True):
            side = math.sin(angle)
            label.set_ha("center" if abs(side) < 0.1 else "left" if side > 0 else "right")
        axis.set_rlabel_position(180 / len(axes))
        axis.tick_params(axis="y", labelsize=8, labelcolor="#555555")
        below(figure, axis)

    return drawn(title, (7.4, 5.8), draw)


def bars(
    title: str,
    groups: Sequence[str],
    lengths: Mapping[str, Sequence[float | None]],
    others: Sequence[str] = (),
) -> bytes:
    """Grouped bars, groups downwards, scores times 100.

    lengths: name → one score a group, None for no bar. others: as in `style_of`.
    """
    names = list(lengths)
    height = 0.84 / len(names)

    def draw(figure: Figure) -> None:
        axis: Any = figure.add_subplot()
        for i, name in enumerate(names):
            style = style_of(name, others)
            shown = [(g, s) for g, s in enumerate(lengths[name]) if s is not None]
            axis.barh(
                [g + (i - (len(names) - 1) / 2) * height for g, _ in shown],
                [100 * score for _, score in shown],
                height * 0.92,
                color=style.colour,
                hatch=style.hatch,
                edgecolor="white",
                lw=0,
                label=name,
            )
        axis.set_yticks(range(len(groups)), groups)
        axis.set_ylim(len(groups) - 0.5, -0.5)
        axis.grid(visible=False, axis="y")
        axis.axvline(0, color="#555555", lw=0.8)
        axis.set_xlabel("score × 100")
        below(figure, axis)

    return drawn(title, (7.0, 1.3 + len(groups) * (0.12 + 0.17 * len(names))), draw)


def intervals(
    title: str,
    tasks: Sequence[str],
    points: Mapping[str, Sequence[tuple[float, float, float] | None]],
    others: Sequence[str] = (),
) -> bytes:
    """Scores with their intervals, tasks downwards. points: name → (score, low, high) a task."""
    names = list(points)

    def draw(figure: Figure) -> None:
        axis: Any = figure.add_subplot()
        for i, name in enumerate(names):
            style = style_of(name, others)
            shift = (i - (len(names) - 1) / 2) * 0.8 / len(names)
            shown = [(t + shift, p) for t, p in enumerate(points[name]) if p is not None]
            axis.errorbar(
                [100 * score for _, (score, _, _) in shown],
                [place for place, _ in shown],
                xerr=[
                    [max(0.0, 100 * (score - low)) for _, (score, low, _) in shown],
                    [max(0.0, 100 * (high - score)) for _, (score, _, high) in shown],
                ],
                fmt=style.marker,
                color=style.colour,
                markersize=4.5,
                lw=1.4,
                capsize=2.5,
                label=name,
            )
        axis.set_yticks(range(len(tasks)), tasks)
        axis.set_ylim(len(tasks) - 0.5, -0.5)
        for edge in range(1, len(tasks)):
            axis.axhline(edge - 0.5, color="#eeeeee", lw=0.8)
        axis.grid(visible=False, axis="y")
        axis.set_xlabel("Spearman correlation × 100")
        below(figure, axis)

    return drawn(title, (7.0, 1.4 + len(tasks) * (0.16 + 0.17 * len(names))), draw)
