"""Curves: a CSV file always, W&B where it is asked for."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from lobert.artefacts import write_atomic
from lobert.curves import COLUMNS, CURVES_FILE, read_curves
from lobert.errors import LobertError, suggest

WANDB_MODES = ("online", "offline", "disabled")


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
            self._keep_rows_before(step)
        epoch = metrics.get("epoch", 0)
        rows = [(step, int(epoch), name, value) for name, value in metrics.items() if name != "epoch"]
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    def _keep_rows_before(self, step: int) -> None:
        """Keep only rows of earlier steps: an interrupted run may have logged beyond its checkpoint."""
        self._started = True
        rows = read_curves(self.path) if self.path.exists() else []
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([row[column] for column in COLUMNS] for row in rows if int(row["step"]) < step)
        write_atomic(self.path, text.getvalue())


@dataclass(frozen=True)
class WandbSettings:
    """How to log to Weights & Biases; `group` gathers the jobs of a sweep."""

    project: str
    mode: str = "online"
    group: str | None = None
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", tuple(self.tags))
        if self.mode not in WANDB_MODES:
            raise LobertError(f"logger.wandb.mode={self.mode} is not known: {suggest(self.mode, WANDB_MODES)}")


class WandbRun:
    """The one W&B run of a job: curves of teacher and student, the record as its summary. Only process zero has it."""

    def __init__(
        self, settings: WandbSettings, name: str, folder: Path, config: Mapping[str, Any], metrics: list[str]
    ) -> None:
        try:
            import wandb
        except ImportError:
            raise LobertError(
                "logger=wandb needs the package wandb: type pip install 'lobert[wandb]', or logger=csv"
            ) from None
        folder.mkdir(parents=True, exist_ok=True)
        self.summary: dict[str, Any] = {}
        self.run = wandb.init(
            project=settings.project,
            name=name,
            group=settings.group,
            tags=settings.tags,
            mode=settings.mode,  # type: ignore[arg-type]
            dir=folder,
            config=dict(config),
            job_type="train",
            reinit="finish_previous",
        )
        for metric in metrics:
            self.run.define_metric(f"val/{metric}", summary="max")

    def logger(self, prefix: str = "") -> WandbLogger:
        """A Lightning logger that writes into this run."""
        return WandbLogger(experiment=self.run, prefix=prefix)

    def finish(self, failed: bool) -> None:
        """Write the summary and close the run."""
        self.run.summary.update(self.summary)
        self.run.finish(exit_code=int(failed))
