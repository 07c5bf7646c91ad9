"""The plots of the page for a paper, as PNG and PDF."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path

from matplotlib.figure import Figure

from lobert.report.axes import AXES
from lobert.report.curveplot import Curves, draw_curves
from lobert.report.heatplot import MAPS, draw_anatomy
from lobert.report.paretoplot import draw_pareto, place
from lobert.report.points import Point, Teacher, conditions, make_points, make_teachers
from lobert.report.series import Series, draw_series
from lobert.report.style import paper_style, save_figure
from lobert.results.anatomy import Anatomy
from lobert.results.record import Record

FORMATS = (".png", ".pdf")
NO_CURVES: Mapping[int, Curves] = {}


def pareto_figure(records: Sequence[Record], axis: str = "encoder", measured: str | None = None) -> Figure:
    """Score against the quantity `axis` of `AXES`: a panel per task, a point per group of seeds, the front.

    Milliseconds are drawn of one condition only (see `lobert.report.axes.condition`): `measured`, or that of the most
    points.
    """
    points, teachers = make_points(records), make_teachers(records)
    chosen = measured or next(iter(conditions(points)), None)
    with paper_style():
        return draw_pareto(points, teachers, AXES[axis], chosen, draw_series(point.series for point in points))


def write_plots(
    records: Sequence[Record],
    folder: Path,
    curves: Mapping[int, Curves] = NO_CURVES,
    anatomies: Sequence[Anatomy] = (),
) -> list[Path]:
    """Write every plot into `folder` as PNG and PDF, and return the files.

    `curves` are those of the students, by the `id` of the record of their run.
    """
    written: dict[Path, None] = {}
    with paper_style():
        for name, figure in all_figures(records, curves, anatomies):
            stem = _free(folder, name, written)
            for path in (stem.with_name(stem.name + ending) for ending in FORMATS):
                save_figure(figure, path)
                written[path] = None
    return list(written)


def all_figures(
    records: Sequence[Record], curves: Mapping[int, Curves], anatomies: Sequence[Anatomy]
) -> Iterator[tuple[str, Figure]]:
    """Names and figures, one at a time: fronts and curves by task, then the anatomies. In the style of the caller."""
    points, teachers = make_points(records), make_teachers(records)
    series = draw_series(point.series for point in points)  # of all tasks, so that they look alike in all
    for task in sorted({point.record.task for point in points}):
        own = [point for point in points if point.record.task == task]
        taught = [teacher for teacher in teachers if teacher.task == task]
        for name, figure in chain(_fronts(own, taught, series), _curves(own, curves, series)):
            yield f"{name}-{task}", figure
    for anatomy in anatomies:
        kept = "" if anatomy.keep is None else f"-{anatomy.keep:g}"
        for heat in MAPS:
            drawn = draw_anatomy(anatomy, heat)
            if drawn:
                yield f"anatomy-{heat.name}-{anatomy.task}-{anatomy.encoder}-{anatomy.decomp}{kept}", drawn


def _fronts(
    points: Sequence[Point], teachers: Sequence[Teacher], series: Mapping[str, Series]
) -> Iterator[tuple[str, Figure]]:
    for key, axis in AXES.items():
        for number, measured in enumerate(conditions(points) if key == "latency" else [None]):
            if any(place(point, axis, measured) is not None for point in points):
                name = f"pareto-{key}-{number + 1}" if number else f"pareto-{key}"
                yield name, draw_pareto(points, teachers, axis, measured, series)


def _curves(
    points: Sequence[Point], curves: Mapping[int, Curves], series: Mapping[str, Series]
) -> Iterator[tuple[str, Figure]]:
    figure = draw_curves(points, curves, series)
    if figure:
        yield "curves", figure


def _free(folder: Path, name: str, taken: Mapping[Path, None]) -> Path:
    """A path without ending for a name that may hold anything, that no other plot has."""
    safe = re.sub(r"[^A-Za-z0-9._+-]+", "_", name)[:120]
    stems = (folder / (safe if number == 1 else f"{safe}-{number}") for number in range(1, len(taken) + 2))
    return next(stem for stem in stems if stem.with_name(f"{stem.name}.png") not in taken)
