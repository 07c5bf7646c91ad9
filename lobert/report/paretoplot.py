"""The Pareto front as a figure: a panel per task, in the colours and markers of the page."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lobert.report.axes import Axis, front, logarithmic
from lobert.report.points import Point, Teacher
from lobert.report.series import Series
from lobert.report.style import COLUMN_WIDTH, GREY, MARKS, in_legend

INK = "#1a1d21"
FRONT: dict[str, Any] = {"color": GREY, "alpha": 0.3, "linewidth": 3.5}


def draw_pareto(
    points: Sequence[Point],
    teachers: Sequence[Teacher],
    axis: Axis,
    measured: str | None,
    series: Mapping[str, Series],
) -> Figure:
    """Score against `axis`, in the looks of `series`. Of latencies only those under `measured` are drawn."""
    shown = [point for point in points if place(point, axis, measured) is not None]
    tasks = sorted({point.record.task for point in points})
    columns = min(2, max(1, len(tasks)))
    rows = -(-len(tasks) // columns) or 1
    figure = Figure(
        figsize=(COLUMN_WIDTH * columns, 2.3 * rows + 0.13 * _legend_rows(series, columns)), layout="constrained"
    )
    for number, task in enumerate(tasks):
        panel = figure.add_subplot(rows, columns, number + 1)
        own = [point for point in shown if point.record.task == task]
        taught = [teacher for teacher in teachers if teacher.task == task]
        _panel(panel, own, taught, axis, measured, series)
        metric = next(point.record.metric for point in points if point.record.task == task)
        panel.set_ylabel(f"{metric}, points")
        panel.set_title(task, loc="left", fontweight="bold")
    marks = [_key(one) for name, one in series.items() if any(point.series == name for point in shown)]
    _legend(figure, marks, hollow=any(point.group.single for point in shown), columns=columns)
    return figure


def place(point: Point, axis: Axis, measured: str | None) -> float | None:
    """Where a point stands across; nowhere where its latency was measured under another condition."""
    if axis.key == "latency" and point.condition != measured:
        return None
    return point.x[axis.key]


def _panel(
    panel: Axes, points: Sequence[Point], teachers: Sequence[Teacher], axis: Axis, measured: str | None,
    series: Mapping[str, Series],
) -> None:  # fmt: skip
    where = [place(point, axis, measured) or 0.0 for point in points]
    stars = [t.milliseconds.get(measured or "") if axis.key == "latency" else t.x[axis.key] for t in teachers]
    panel.grid(True)
    _scale(panel, [*where, *(star for star in stars if star is not None)])
    _front(panel, points, where)
    _lines(panel, points, where, series)
    for teacher, star in zip(teachers, stars, strict=True):
        _teacher(panel, teacher, star, several=len(teachers) > 1)
    for point, x in zip(points, where, strict=True):
        _mark(panel, point, x, series[point.series])
    panel.set_xlabel(f"{axis.title}, {axis.unit}")
    if axis.key == "latency" and measured:
        panel.set_xlabel(f"{axis.title}, {axis.unit}\n{textwrap.fill(measured, 46)}", linespacing=1.3)


def _scale(panel: Axes, values: Sequence[float]) -> None:
    if logarithmic(values):
        panel.set_xscale("log")
        panel.set_xlim(min(values) / 1.15, max(values) * 1.15)
        wide = max(values) > 100 * min(values)
        panel.xaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
    elif values:
        panel.set_xlim(0, 1.06 * max(values))


def _front(panel: Axes, points: Sequence[Point], where: Sequence[float]) -> None:
    kept = front([(x, point.score.mean) for x, point in zip(where, points, strict=True)])
    across, scores = [where[i] for i in kept], [points[i].score.mean for i in kept]
    panel.step(across, scores, where="post", zorder=1, solid_capstyle="butt", **FRONT)


def _lines(panel: Axes, points: Sequence[Point], where: Sequence[float], series: Mapping[str, Series]) -> None:
    """A thin line through the points that differ in size alone."""
    for chain in dict.fromkeys(point.chain for point in points):
        own = sorted((x, p.score.mean, p.series) for x, p in zip(where, points, strict=True) if p.chain == chain)
        colour = series[own[0][2]].light
        panel.plot([x for x, _, _ in own], [y for _, y, _ in own], color=colour, linewidth=0.7, alpha=0.7, zorder=2)


def _teacher(panel: Axes, teacher: Teacher, star: float | None, several: bool) -> None:
    panel.axhline(teacher.score, color=INK, linewidth=0.8, linestyle=(0, (5, 3)), zorder=1.5)
    name = f"teacher {teacher.encoder}" if several else "teacher"
    panel.annotate(
        f"{name} {teacher.score:.1f}", (0, teacher.score), xycoords=("axes fraction", "data"), xytext=(3, 2),
        textcoords="offset points", fontsize=6.5, color=INK, zorder=5,
    )  # fmt: skip
    if star is not None:
        panel.plot([star], [teacher.score], marker="*", markersize=8, color=INK, markeredgecolor="white", zorder=4)


def _mark(panel: Axes, point: Point, x: float, series: Series) -> None:
    """A marker with its deviation; hollow where there is a single seed."""
    mark = panel.errorbar(
        [x], [point.score.mean], yerr=point.score.deviation, fmt=MARKS[series.marker], color=series.light, zorder=3,
        elinewidth=0.9, capsize=1.8, capthick=0.9,
    )  # fmt: skip
    mark.lines[0].set(**_face(series.light, hollow=point.group.single))


def _face(colour: str, hollow: bool = False) -> dict[str, Any]:
    filled = {"markerfacecolor": colour, "markeredgecolor": "white", "markeredgewidth": 0.4}
    empty = {"markerfacecolor": "white", "markeredgecolor": colour, "markeredgewidth": 1.0}
    return {"markersize": 4.5, **(empty if hollow else filled)}


def _key(series: Series) -> Line2D:
    style: dict[str, Any] = {"color": series.light, "linewidth": 0.7, "marker": MARKS[series.marker]}
    return Line2D([], [], label=in_legend(series.name), **style, **_face(series.light))


def _legend(figure: Figure, marks: list[Line2D], hollow: bool, columns: int) -> None:
    marks = [*marks, Line2D([], [], label="front", **FRONT)]
    if hollow:
        marks.append(Line2D([], [], marker="o", linestyle="", label="one seed", **_face(GREY, hollow=True)))
    figure.legend(
        handles=marks, loc="outside lower center", ncols=_legend_columns([str(m.get_label()) for m in marks], columns),
        frameon=False, handlelength=1.6, columnspacing=1.0, borderaxespad=0.2, labelspacing=0.35,
    )  # fmt: skip


def _legend_columns(names: Sequence[str], columns: int) -> int:
    """As many as the longest name leaves room for, at about 28 characters an inch and a marker each."""
    longest = max([10, *map(len, names)])
    return max(1, min(4 * columns, int(COLUMN_WIDTH * columns * 17 / (longest + 6))))


def _legend_rows(series: Mapping[str, Series], columns: int) -> int:
    return -(-(len(series) + 2) // _legend_columns(list(series), columns))
