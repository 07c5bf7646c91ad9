"""Training curves as a figure: a panel per loss term and dev metric, a line per compression."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lobert.report.facts import title
from lobert.report.points import Point
from lobert.report.series import LIGHT, Series
from lobert.report.style import COLUMN_WIDTH, in_legend
from lobert.report.thinning import Curve

MOST_LINES = len(LIGHT)  # more would not be told apart

DASHES = ("-", "--", ":", "-.")

Curves = Mapping[str, Curve]


def draw_curves(points: Sequence[Point], curves: Mapping[int, Curves], series: Mapping[str, Series]) -> Figure | None:
    """Curves of the best group of each series, means and deviations over seeds; None where nothing was trained.

    `curves` are by the `id` of the record of their run.
    """
    trained = [point for point in points if any(id(record) in curves for record in point.group.records)]
    drawn = best_of_series(trained)[:MOST_LINES]
    names = list(dict.fromkeys(name for p in drawn for r in p.group.records for name in curves.get(id(r), {})))
    if not names:
        return None
    figure = Figure(figsize=(COLUMN_WIDTH, 1.15 * len(names) + 0.4 + 0.14 * len(drawn)), layout="constrained")
    panels = list(figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0])
    for panel, name in zip(panels, names, strict=True):
        panel.set_title(name, loc="left")
        panel.grid(True)
        for point in drawn:
            runs = [curves[id(r)][name] for r in point.group.records if name in curves.get(id(r), {})]
            _line(panel, runs, series[point.series], in_legend(title(point.series, point.record)))
    panels[-1].set_xlabel("optimizer step")
    _legend(figure, panels)
    return figure


def best_of_series(points: Sequence[Point]) -> list[Point]:
    """The point with the highest score of each series, in the order of the points."""
    best: dict[str, Point] = {}
    for point in points:
        if point.series not in best or point.score.mean > best[point.series].score.mean:
            best[point.series] = point
    return list(best.values())


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One entry for each line that is in any panel."""
    pairs = [pair for panel in panels for pair in zip(*panel.get_legend_handles_labels(), strict=True)]
    lines = {label: handle for handle, label in pairs}
    style: dict[str, Any] = {"frameon": False, "handlelength": 1.6, "labelspacing": 0.3}
    figure.legend(handles=list(lines.values()), labels=list(lines), loc="outside lower center", **style)


def _line(panel: Axes, runs: Sequence[Curve], series: Series, label: str) -> None:
    """The mean of the runs and their deviation where they have the same steps, else each by itself."""
    if not runs:
        return
    style: dict[str, Any] = {"color": series.light, "linestyle": DASHES[series.lap % len(DASHES)], "linewidth": 0.9}
    if len({run.steps for run in runs}) > 1:
        for number, run in enumerate(runs):
            panel.plot(run.steps, run.values, label=None if number else label, **style)
        return
    columns = list(zip(*(run.values for run in runs), strict=True))
    means = [fmean(column) for column in columns]
    marker = "o" if len(means) < 10 else None
    panel.plot(runs[0].steps, means, marker=marker, markersize=2.5, label=label, **style)
    if len(runs) > 1:
        spreads = [stdev(column) for column in columns]
        low, high = ([m + sign * s for m, s in zip(means, spreads, strict=True)] for sign in (-1, 1))
        panel.fill_between(runs[0].steps, low, high, color=series.light, alpha=0.2, linewidth=0)
