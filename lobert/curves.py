"""Reading the curves that a training leaves; needs neither Lightning nor torch."""

import csv
from pathlib import Path

CURVES_FILE = "metrics.csv"
COLUMNS = ("step", "epoch", "name", "value")


def read_curves(path: Path) -> list[dict[str, str]]:
    """The rows of a curve file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
