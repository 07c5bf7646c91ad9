"""A sweep as one W&B run of its own: the table of all runs, and score against size."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lobert.results.record import Record
from lobert.tracking.identity import Identity
from lobert.tracking.run import WandbRun, tracked
from lobert.tracking.settings import WandbSettings
from lobert.tracking.summary import RUN_COLUMNS, curves_by_compression, run_rows

TABLE, CURVES, PICTURE = "runs", "pareto", "pareto_picture"


def log_sweep(
    records: Sequence[Record],
    name: str,
    settings: WandbSettings,
    folder: Path,
    picture: Figure | Path | None = None,
) -> None:
    """Log a sweep's records as one run of job type "sweep", in the group that its jobs are in.

    Args:
        name: of the sweep: what its jobs found in LOBERT_SWEEP.
        folder: where W&B keeps its files: the output folder of the sweep.
        picture: the Pareto front, a figure or a PNG file, to be logged beside W&B's own plot.

    Raises LobertError where W&B does not start. Does nothing where there is no record.
    """
    if not records:
        return
    tags = (*sorted({record.task for record in records}), *sorted({record.decomp for record in records}))
    identity = Identity(name, "sweep", settings.group or name, (*tags, *settings.tags))
    with tracked(settings, identity, folder, {"sweep": name, "runs": len(records)}) as run:
        run.run.log({TABLE: run.table(RUN_COLUMNS, run_rows(records)), **pictures(run, records, picture)})
        run.run.summary.update(best(records))


def pictures(run: WandbRun, records: Sequence[Record], picture: Figure | Path | None) -> dict[str, Any]:
    """W&B's plot of score against the share of the encoder that stays, a line for each compression; and the picture."""
    curves = curves_by_compression(records)
    logged: dict[str, Any] = {} if picture is None else {PICTURE: run.wandb.Image(drawn(picture))}
    if curves:
        logged[CURVES] = run.wandb.plot.line_series(
            xs=[[keep for keep, _ in points] for points in curves.values()],
            ys=[[score for _, score in points] for points in curves.values()],
            keys=list(curves),
            title="score against the share of the encoder that stays",
            xname="keep_encoder",
        )
    return logged


def drawn(picture: Figure | Path) -> Figure | str:
    """What W&B takes for a picture."""
    return str(picture) if isinstance(picture, Path) else picture


def best(records: Sequence[Record]) -> Mapping[str, float]:
    """The best score of each task."""
    scored = [record for record in records if record.score is not None]
    tasks = sorted({record.task for record in scored})
    return {f"best/{task}": max(r.score for r in scored if r.task == task and r.score is not None) for task in tasks}
