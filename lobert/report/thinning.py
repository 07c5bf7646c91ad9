"""The curves of a run, thinned so that a page of hundreds of runs stays small."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lobert.curves import COLUMNS, CURVES_FILE, read_curves
from lobert.errors import LobertError, first_line

MOST_POINTS = 200
LOSS, DEV = "train/", "val/"


@dataclass(frozen=True)
class Curve:
    """Values of one term over optimizer steps; at most `MOST_POINTS` of each."""

    steps: tuple[int, ...]
    values: tuple[float, ...]


def run_curves(run: Path) -> dict[str, Curve]:
    """The curves of the student in a run's folder by their names, losses first; none where it was not trained.

    Raises:
        LobertError: the file is there and cannot be read.
    """
    path = run / "student" / CURVES_FILE
    if not path.is_file():
        return {}
    try:
        points = _points(path)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LobertError(f"{path} is no file of curves ({first_line(error)}): its curves are left out") from error
    return {name: thin(points[name]) for name in sorted(points, key=lambda name: (name.startswith(DEV), name))}


def thin(points: Sequence[tuple[int, float]]) -> Curve:
    """At most `MOST_POINTS` of the points, evenly picked, the first and the last among them."""
    last, most = len(points) - 1, MOST_POINTS - 1
    picked = points if last <= most else [points[round(index * last / most)] for index in range(MOST_POINTS)]
    return Curve(tuple(step for step, _ in picked), tuple(value for _, value in picked))


def _points(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Finite points by name; a loss that is not a number has no place in a chart."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in read_curves(path):
        if missing := [column for column in COLUMNS if row.get(column) is None]:
            raise ValueError(f"a row lacks {missing[0]}")
        value = float(row["value"])
        if math.isfinite(value) and row["name"].startswith((LOSS, DEV)):
            curves.setdefault(row["name"], []).append((int(row["step"]), value))
    return curves
