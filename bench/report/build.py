"""report.md and report.html of one run, or of several beside each other.

    write_report(directories, out)

What a section says stands in report.j2; this gathers what it asks for. The same run directories
give the same bytes: the only times are those that run.json holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moee_index.bench.report import paper
from moee_index.bench.report.compare import comparison
from moee_index.bench.report.gap import gaps, trained
from moee_index.bench.report.markup import Block, Words, compose, html, markdown, write_files
from moee_index.bench.report.plots import INSTALL
from moee_index.bench.report.runs import about, facts, missing, paper_tasks, times, what_ran
from moee_index.bench.report.series import alphas, overview, radars, series_report
from moee_index.bench.report.table import gather
from moee_index.bench.report.view import SAMPLE, View
from moee_index.bench.report.weights import weights
from moee_index.bench.run_dir import Run, read_runs
from moee_index.types import Notify

NO_PLOTS = f"no plots: matplotlib is not installed; to have them: {INSTALL}"


def write_report(
    directories: Sequence[Path], out: Path, *, tell: Notify | None = None
) -> list[Path]:
    """Write report.md, report.html and the plots into `out`. Returns the files written.

    directories: what `moee-index bench --out` wrote; several are compared with each other.
    tell: gets one line where plots were left out.

    Raises MisuseError (no directory, one twice), MoeeIndexError (a file is missing or broken),
    StorageError.
    """
    runs = read_runs(directories)
    view = View(gather(runs))
    blocks = _blocks(runs, view)
    if view.pictures.skipped and tell is not None:
        tell(NO_PLOTS)
    contents = [(picture.name, picture.png) for picture in view.pictures.drawn]
    contents.append(("report.md", markdown(blocks).encode()))
    contents.append(("report.html", html(blocks).encode()))
    return write_files(Path(out), contents)


def _blocks(runs: Sequence[Run], view: View) -> list[Block]:
    every = view.scores.series()
    here, lacking = paper_tasks(view.scores)
    context = {
        "models": Words(", ".join(dict.fromkeys(map(view.model, every)))),
        "runs": len(runs),
        "about": about(runs, view.scores),
        "sample": SAMPLE,
        "unrecorded": ", ".join(run.label for run in runs if not run.record),
        "what_ran": what_ran(runs),
        "missing": missing(runs, view),
        "overview": overview(view),
        "comparison": comparison(runs, view),
        "series": [series_report(view, series) for series in every],
        "radars": list(radars(view)),
        "alphas": list(alphas(view)),
        "weights": list(weights(view)),
        "gaps": list(gaps(view)),
        "deepseek": paper.DEEPSEEK,
        "source": paper.source(),
        "trained": trained(view),
        "here": len(here),
        "lacking": ", ".join(lacking),
        "times": times(runs),
        "facts": facts(runs),
    }
    context["no_plots"] = NO_PLOTS[0].upper() + NO_PLOTS[1:] if view.pictures.skipped else ""
    return compose("report.j2", context)
