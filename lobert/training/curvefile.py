"""The curves of a training in a CSV file."""

import csv
import io
from collections.abc import Collection
from itertools import takewhile
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from lobert.curves import COLUMNS, CURVES_FILE
from lobert.storage.artefacts import write_atomic


class CurveFile(Logger):
    """Appends `step,epoch,name,value` rows to `metrics.csv`; a resumed run drops the rows it will write again."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / CURVES_FILE
        self._started = False

    @property
    def name(self) -> str:
        return "curves"

    @property
    def version(self) -> int:
        return 0

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """The run's config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        step = step or 0
        if not self._started:
            self._keep_rows_before(step, metrics)
        epoch = metrics.get("epoch", 0)
        rows = [(step, int(epoch), name, value) for name, value in metrics.items() if name != "epoch"]
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    def _keep_rows_before(self, step: int, names: Collection[str]) -> None:
        """Keep only the rows up to the first of these: an interrupted run may have logged beyond its checkpoint.

        Dev scores have the step of the losses before them, which a run that goes on with the scores leaves alone.
        """
        self._started = True
        rows = csv.DictReader(whole_lines(self.path)) if self.path.exists() else []
        earlier = takewhile(lambda row: int(row["step"]) < step + (row["name"] not in names), rows)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([row[column] for column in COLUMNS] for row in earlier)
        write_atomic(self.path, text.getvalue())


def whole_lines(path: Path) -> list[str]:
    """The lines of a text file, but for a last one that was not finished."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return lines if not lines or lines[-1].endswith("\n") else lines[:-1]
