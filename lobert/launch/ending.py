"""The end of a sweep: what failed and what is missing, the exit code, and what the sweep was for: table and plot."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lobert.errors import LobertError
from lobert.launch.ledger import Entry
from lobert.launch.status import Status, render_status
from lobert.launch.sweep import Sweep, wait_for_others
from lobert.results.record import RECORD_FILE, Record, read_record

DONE, BUG, USER_ERROR = 0, 1, 2
LEFT_BY_HYDRA = ("multirun.yaml", "optimization_results.yaml")
PLOT_FILE = "pareto.png"


def close_sweep(sweep: Sweep, lost: str | None = None, wandb: Mapping[str, Any] | None = None) -> int:
    """Show what the done jobs came to, tell what became of the others, and return the exit code.

    `lost` is the error with which the launcher itself ended, if it did; `wandb` has the settings of the logger.
    """
    if lost is not None:
        wait_for_others(sweep)
    gather(sweep)
    entries = sweep.entries()
    records = sweep_records(sweep, entries)
    if records:
        show_results(sweep, records, wandb)
    return tell_rest(sweep, entries, lost)


def gather(sweep: Sweep) -> None:
    """Put what Hydra's sweepers leave beside the sweeps where it belongs."""
    for name in LEFT_BY_HYDRA:
        if (path := sweep.folder.parent / name).exists():
            os.replace(path, sweep.folder / name)


def show_results(sweep: Sweep, records: Sequence[Record], wandb: Mapping[str, Any] | None) -> None:
    """Print the table, draw the Pareto front, and give both to W&B where the jobs logged there."""
    from lobert.report.plots import pareto_figure  # late: a typo on the command line is answered without matplotlib
    from lobert.report.style import save_figure
    from lobert.results.table import as_text

    print(as_text(records), end="")
    plot = sweep.folder / PLOT_FILE
    save_figure(pareto_figure(records), plot)
    print(f"Pareto plot: {plot}; for the page: python -m lobert.report {sweep.outputs} -o report", flush=True)
    if wandb is not None:
        log_to_wandb(sweep, records, wandb, plot)


def log_to_wandb(sweep: Sweep, records: Sequence[Record], settings: Mapping[str, Any], plot: Path) -> None:
    """The sweep as a W&B run of its own; a failure there is said, and is none of the sweep."""
    from lobert.tracking.settings import WandbSettings
    from lobert.tracking.sweep import log_sweep

    try:
        log_sweep(records, sweep.name, WandbSettings(**settings), sweep.outputs, plot)
    except LobertError as error:
        print(f"W&B: {error}", file=sys.stderr)


def tell_rest(sweep: Sweep, entries: Sequence[Entry], lost: str | None) -> int:
    """Say which jobs failed or are missing, and return the exit code: 2 where all of them are a user's mistakes."""
    failed = [entry for entry in entries if entry.state == "failed"]
    ended = [entry for entry in entries if entry.state == "interrupted"]
    missing = sweep.missing(entries)
    if not (failed or ended or missing or lost):
        return DONE
    if lost:
        print(f"error: {lost}", file=sys.stderr)
    print(render_status(Status(f"sweep {sweep.name}", entries, missing, sweep)), end="", file=sys.stderr)
    print("the same command runs those again that are not done", file=sys.stderr, flush=True)
    return USER_ERROR if failed and not (ended or missing or lost or any(e.bug for e in failed)) else BUG


def sweep_records(sweep: Sweep, entries: Sequence[Entry]) -> list[Record]:
    """The records of the jobs that are done, one for jobs that are the same; a broken one is named."""
    done = [entry for entry in entries if entry.state == "done" and entry.stage in ("evaluate", "predict")]
    records = []
    for folder in dict.fromkeys(entry.folder for entry in done if entry.folder is not None):
        try:
            records.append(read_record(sweep.outputs / folder / RECORD_FILE))
        except LobertError as error:
            print(f"skipped: {error}", file=sys.stderr)
    return records
