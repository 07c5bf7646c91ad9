"""The anatomy of the damage as figures: one heat map, layer by weight, each."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lobert.report.style import COLUMN_WIDTH, FAINT
from lobert.results.anatomy import Anatomy, Cell, columns_of, drop, row_of, rows_of
from lobert.results.record import Number

HEAT = LinearSegmentedColormap.from_list("heat", ["#ffffff", "#08457e"])
CHANGE = LinearSegmentedColormap.from_list("change", ["#b3400a", "#ffffff", "#0072b2"])
TITLES = {
    "query": "query", "key": "key", "value": "value", "attention_output": "attn.\noutput", "intermediate": "FFN\nin",
    "output": "FFN\nout", "word_embeddings": "word embed.", "pooler": "pooler",
}  # fmt: skip
LEAST_CHANGE = 1.0  # point at the end of the scale: less is noise, and should not look like damage


def change(anatomy: Anatomy, cell: Cell) -> Number:
    """Points that the score changes by where only the weight's group is compressed; negative is a loss."""
    points = drop(anatomy, cell)
    return None if points is None else -points


@dataclass(frozen=True)
class HeatMap:
    """One quantity of all weights; `signed` has a scale centred on zero."""

    name: str
    title: str
    value: Callable[[Anatomy, Cell], Number]
    signed: bool = False


MAPS = (
    HeatMap("weights", "relative error of the weights", lambda _, cell: cell.error),
    HeatMap("outputs", "relative error of the outputs", lambda _, cell: cell.output_error),
    HeatMap("score", "change of {metric} in points,\none group compressed alone", change, signed=True),
)


def draw_anatomy(anatomy: Anatomy, heat: HeatMap) -> Figure | None:
    """One map of an anatomy; None where its quantity was not measured."""
    values = [number for cell in anatomy.cells if (number := heat.value(anatomy, cell)) is not None]
    if not values:
        return None
    rows, columns = rows_of(anatomy), columns_of(anatomy) or [""]
    most = max([abs(value) for value in values] + [LEAST_CHANGE] * heat.signed) or 1.0
    figure = Figure(figsize=(COLUMN_WIDTH, 0.21 * len(rows) + 1.05), layout="constrained")
    panel = figure.add_subplot()
    for cell in anatomy.cells:
        _cell(panel, cell, rows, columns, heat.value(anatomy, cell), most, heat.signed)
    _labels(panel, rows, columns)
    panel.set_title(heat.title.format(metric=anatomy.metric), loc="left")
    colours = panel.scatter([], [], c=[], cmap=CHANGE if heat.signed else HEAT, vmin=-most * heat.signed, vmax=most)
    figure.colorbar(colours, ax=panel, fraction=0.05, pad=0.02).outline.set_linewidth(0.4)
    return figure


def words(value: float, signed: bool) -> str:
    """A number as it stands in a cell."""
    if not signed:
        return f"{value:.2f}"
    return "0.0" if round(value, 1) == 0 else f"{value:+.1f}".replace("-", "\u2212")


def _cell(
    panel: Axes, cell: Cell, rows: list[str], columns: list[str], value: Number, most: float, signed: bool
) -> None:
    """One rectangle with its number; a weight outside the layers is as wide as all columns."""
    row = rows.index(row_of(cell))
    left, width = (0, len(columns)) if cell.layer is None else (columns.index(cell.role), 1)
    share = 0.0 if value is None else value / most
    colour = CHANGE((share + 1) / 2) if signed else HEAT(share)
    edge = FAINT if value is None else "white"
    panel.add_patch(Rectangle((left, row), width, 1, facecolor=colour, edgecolor=edge, linewidth=0.8))
    text = "–" if value is None else words(value, signed)
    ink = "white" if abs(share) > 0.55 else "#1a1d21"
    panel.text(left + width / 2, row + 0.5, text, ha="center", va="center_baseline", fontsize=6.5, color=ink)


def _labels(panel: Axes, rows: list[str], columns: list[str]) -> None:
    panel.set_xlim(0, len(columns))
    panel.set_ylim(len(rows), 0)
    panel.set_xticks([i + 0.5 for i in range(len(columns))], [_title(role, "\n") for role in columns])
    panel.set_yticks(
        [i + 0.5 for i in range(len(rows))],
        [_title(row, " ") for row in rows],
    )
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)


def _title(name: str, gap: str) -> str:
    """The words at a row or a column."""
    return f"layer {name}" if name.isdecimal() else TITLES.get(name, name.replace("_", gap))
