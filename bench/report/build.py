"""report.md and report.html of one run, or of several beside each other.

    write_report(directories, out)

What a section says stands in report.j2; this gathers what it asks for. The same run directories
give the same bytes: the only times are those that run.json holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from moee_index.bench.report import gap, paper
from moee_index.bench.report.compare import comparison
from moee_index.bench.report.markup import Block, Words, compose, html, markdown, write_files
from moee_index.bench.report.names import SAMPLE, Names, Pictures
from moee_index.bench.report.plots import INSTALL
from moee_index.bench.report.runs import about, missing, paper_tasks, record, what_ran
from moee_index.bench.report.series import alphas, overview, radars, series_report
from moee_index.bench.report.table import Scores, gather
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
    scores = gather(runs)
    pictures = Pictures()
    blocks = _blocks(runs, scores, pictures)
    if pictures.skipped and tell is not None:
        tell(NO_PLOTS)
    contents = [(picture.name, picture.png) for picture in pictures.drawn]
    contents.append(("report.md", markdown(blocks).encode()))
    contents.append(("report.html", html(blocks).encode()))
    return write_files(Path(out), contents)


def _blocks(runs: Sequence[Run], scores: Scores, pictures: Pictures) -> list[Block]:
    names = Names(scores)
    here, lacking = paper_tasks(scores)
    context = {
        "models": Words(", ".join(dict.fromkeys(names.model(s) for s in scores.series()))),
        "runs": len(runs),
        "about": about(runs, scores),
        "sample": SAMPLE,
        "unrecorded": ", ".join(run.label for run in runs if not run.record),
        "what_ran": what_ran(runs),
        "missing": missing(runs, scores, names.systems),
        "overview": overview(scores, names),
        "comparison": comparison(runs, scores),
        "series": [series_report(scores, s, names, pictures) for s in scores.series()],
        "radars": list(radars(scores, names, pictures)),
        "alphas": alphas(scores, names, pictures),
        "gap": gap.gap(scores, names),
        "deepseek": f"paper's {paper.DEEPSEEK}",
        "source": paper.source(),
        "trained": gap.trained(scores, names),
        "here": len(here),
        "lacking": ", ".join(lacking),
        "record": record(runs),
    }
    context["no_plots"] = NO_PLOTS[0].upper() + NO_PLOTS[1:] if pictures.skipped else ""
    return compose("report.j2", context)
