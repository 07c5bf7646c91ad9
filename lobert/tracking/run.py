"""The one W&B run of a job, always finished: curves of teacher and student, the record as its summary."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lobert.errors import LobertError, first_line
from lobert.results.anatomy import Anatomy, drop
from lobert.results.record import Record
from lobert.tracking.identity import Identity
from lobert.tracking.settings import WandbSettings
from lobert.tracking.summary import GROUP_COLUMNS, SCORE, flat_record, group_rows

if TYPE_CHECKING:
    from pytorch_lightning.loggers import WandbLogger

STEP = "trainer/global_step"  # Lightning's name for the x-axis of a curve
TEACHER = "teacher"  # prefix of the curves of the teacher: teacher-train/loss
DAMAGE = {"score": "damage", "weights": "damage_weights", "outputs": "damage_outputs"}  # the heat maps
DAMAGE_COLUMNS = ("layer", "role", "group", "error", "output_error", "score", "drop", "agreement", "divergence")


def library() -> Any:
    """The package `wandb`; LobertError where it is missing."""
    try:
        import wandb
    except ImportError:
        raise LobertError("this needs the package wandb: type pip install 'lobert[wandb]', or logger=csv") from None
    return wandb


class WandbRun:
    """An open run. Only process zero has one."""

    def __init__(self, settings: WandbSettings, identity: Identity, folder: Path, config: Mapping[str, Any]) -> None:
        self.wandb = library()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self.run = self.wandb.init(
                project=settings.project,
                entity=settings.entity,
                mode=settings.mode,
                dir=folder,
                config=dict(config),
                name=identity.name,
                group=identity.group,
                job_type=identity.job_type,
                tags=identity.tags,
                reinit="finish_previous",
            )
        except (self.wandb.errors.Error, ValueError) as error:
            raise LobertError(
                f"W&B did not start the run ({first_line(error)}): type wandb login, or logger.wandb.mode=offline, or "
                "logger=csv"
            ) from None
        self._define_curves()

    def _define_curves(self) -> None:
        """Dev scores are summed up by the best and not by the last."""
        self.run.define_metric(STEP)
        for prefix in ("", f"{TEACHER}-"):
            self.run.define_metric(f"{prefix}train/*", step_metric=STEP)
            self.run.define_metric(f"{prefix}val/*", step_metric=STEP, summary="max")

    def logger(self, prefix: str = "") -> "WandbLogger":
        """A Lightning logger that writes into this run."""
        from pytorch_lightning.loggers import WandbLogger  # late: it takes seconds to load

        return WandbLogger(experiment=self.run, prefix=prefix)

    def tell_score(self, score: float) -> None:
        """Log the run's one number, that of a teacher or of a student: also as history, which W&B's sweeps look at."""
        self.run.log({SCORE: score})

    def tell_record(self, record: Record) -> None:
        """The record as the summary, its groups as a table."""
        self.run.summary.update(flat_record(record))
        if record.groups:
            self.run.log({"groups": self.table(GROUP_COLUMNS, group_rows(record))})
        if record.score is not None:
            self.tell_score(record.score)

    def tell_anatomy(self, anatomy: Anatomy) -> None:
        """The anatomy as a table and as a picture."""
        from lobert.report.heatplot import MAPS, draw_anatomy  # late: few runs need matplotlib

        drawn = {DAMAGE[heat.name]: draw_anatomy(anatomy, heat) for heat in MAPS}
        rows = [[getattr(cell, name, None) for name in DAMAGE_COLUMNS] for cell in anatomy.cells]
        for row, cell in zip(rows, anatomy.cells, strict=True):
            row[DAMAGE_COLUMNS.index("drop")] = drop(anatomy, cell)
        pictures = {name: self.wandb.Image(figure) for name, figure in drawn.items() if figure is not None}
        self.run.log({"anatomy": self.table(DAMAGE_COLUMNS, rows), **pictures})
        self.run.summary.update({"teacher_score": anatomy.teacher_score, "examples": anatomy.examples})

    def table(self, columns: tuple[str, ...], rows: list[list[Any]]) -> Any:
        """A table of W&B, whose columns may hold gaps."""
        return self.wandb.Table(columns=list(columns), data=rows, allow_mixed_types=True)

    def finish(self, failed: bool) -> None:
        """Close the run."""
        self.run.finish(exit_code=int(failed))


@contextmanager
def tracked(settings: WandbSettings, identity: Identity, folder: Path, config: Mapping[str, Any]) -> Iterator[WandbRun]:
    """A run that is finished whatever happens, as failed where something was raised."""
    run = WandbRun(settings, identity, folder, config)
    try:
        yield run
    except BaseException:
        run.finish(failed=True)
        raise
    run.finish(failed=False)
