"""report.md and report.html of one run, or of several beside each other.

    write_report(directories, out)

Knows the order of the sections and where the files go. Refuses to know what a section says. The
same run directories give the same bytes: the only times are those that run.json holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from moee_index.bench.report.compare import comparison
from moee_index.bench.report.document import Block, Heading, Paragraph, markdown, quoted
from moee_index.bench.report.gap import gap, trained
from moee_index.bench.report.html import html
from moee_index.bench.report.parts import Names, Pictures
from moee_index.bench.report.plots import INSTALL
from moee_index.bench.report.runs import caveats, missing, record, twenty, what_ran
from moee_index.bench.report.scores_table import alphas, overview, radars, series_scores
from moee_index.bench.report.table import Scores, gather
from moee_index.bench.run_files import Run, read_runs
from moee_index.errors import StorageError
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
    blocks = compose(runs, scores, pictures)
    if pictures.skipped and tell is not None:
        tell(NO_PLOTS)
    files = {picture.name: picture.png for picture in pictures.drawn}
    files["report.md"] = markdown(blocks).encode()
    files["report.html"] = html(blocks).encode()
    return [_write(Path(out) / name, content) for name, content in files.items()]


def compose(runs: Sequence[Run], scores: Scores, pictures: Pictures) -> list[Block]:
    """The whole report as blocks."""
    names = Names(scores)
    models = list(dict.fromkeys(names.model(series) for series in scores.series()))
    title = "MTEB with " + ", ".join(models) if models else "MTEB, outside baselines"
    if len(runs) > 1:
        title += f": {len(runs)} runs compared"
    blocks: list[Block] = [Heading(1, title), *caveats(runs, scores)]
    blocks += [*what_ran(runs), *missing(runs, scores, names.systems)]
    blocks += overview(scores, names)
    blocks += comparison(runs, scores)
    if scores.series():
        blocks.append(Heading(2, "Scores by type and task"))
    for series in scores.series():
        blocks += series_scores(scores, series, names, pictures)
    blocks += radars(scores, names, pictures)
    blocks += alphas(scores, names, pictures)
    blocks += [*gap(scores, names), *trained(scores, names), *twenty(scores), *record(runs)]
    if pictures.skipped:
        blocks.insert(1, Paragraph(quoted(NO_PLOTS[0].upper() + NO_PLOTS[1:]) + "."))
    return blocks


def _write(path: Path, content: bytes) -> Path:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path} ({error.strerror or error}); choose another --out or make room"
        ) from None
    return path
