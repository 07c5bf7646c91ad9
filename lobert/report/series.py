"""Which runs make one series of a chart, and how it is drawn: the same on the page and in the figures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lobert.results.record import Record

# Readable on white and, the lighter ones, on a dark page; told apart by colour-blind eyes, and by their markers.
LIGHT = ("#0072b2", "#d55e00", "#008f68", "#b5508f", "#b07d00", "#7a4a2b")
DARK = ("#4ba3e3", "#f07a28", "#21b98f", "#d98bbd", "#e0ac33", "#b98a67")
MARKERS = ("circle", "square", "triangle", "diamond", "down", "pentagon", "hexagon")
BASELINE = ("#5f6b7a", "#98a5b5", "cross")
FEWER_LAYERS, DENSE = "fewer layers", "not compressed"

# Settings that name a series where they vary between the runs of one compression on one task.
NAMING = {
    "student_layers": "{} layers",
    "objective": "{} norm",
    "allocate": "{}",
    "order": "{}",
    "budget": "by {}",
    "init": "from {}",
    "kd": "kd {}",
    "refit_head": "refit {}",
}


@dataclass(frozen=True)
class Series:
    """A name for the legend, colours for a light and a dark ground, the name of a marker.

    `lap` counts the series before it that have the same colour: where there are no markers, lines differ by it.
    """

    name: str
    light: str
    dark: str
    marker: str
    lap: int = 0


def is_baseline(record: Record) -> bool:
    """Whether a run has fewer layers than its teacher, and is not compressed beside that."""
    return record.decomp == "none" and record.encoder_parameters < record.teacher_encoder_parameters


def compression(record: Record) -> str:
    """The compression in words."""
    if record.decomp == "none":
        return FEWER_LAYERS if is_baseline(record) else DENSE
    return record.decomp


def series_names(records: Sequence[Record]) -> list[str]:
    """The series of each record: its compression, and what varies within that on the same task."""
    return [_name(record, [other for other in records if other.task == record.task]) for record in records]


def draw_series(names: Iterable[str]) -> dict[str, Series]:
    """A colour and a marker for each name, in sorted order; no two alike among the first 42."""
    ordered = sorted(set(names), key=lambda name: (name.startswith(FEWER_LAYERS), name))
    return {name: _draw(name, number) for number, name in enumerate(ordered)}


def _name(record: Record, of_task: Sequence[Record]) -> str:
    alike = [other for other in of_task if compression(other) == compression(record)]
    varying = [key for key in NAMING if len({getattr(other, key) for other in alike}) > 1]
    if compression(record) == FEWER_LAYERS:
        varying = [key for key in varying if key != "student_layers"]  # the chart's other axis shows it
    parts = [compression(record), *(NAMING[key].format(getattr(record, key)) for key in varying)]
    if len({other.encoder for other in of_task}) > 1:
        parts.append(record.encoder)
    return " · ".join(parts)


def _draw(name: str, number: int) -> Series:
    if name.startswith(FEWER_LAYERS):
        return Series(name, *BASELINE)
    lap, colour = divmod(number, len(LIGHT))
    return Series(name, LIGHT[colour], DARK[colour], MARKERS[number % len(MARKERS)], lap)
