"""How far the jobs under an output folder are, sweep by sweep."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lobert.launch.ledger import Entry, Ledger, check_outputs
from lobert.launch.sweep import Sweep, find_sweeps

COUNTED = ("done", "running", "waiting", "failed", "interrupted")


@dataclass(frozen=True)
class Status:
    """The jobs of one sweep, or those that belong to none; `missing` has the settings of jobs that never started."""

    title: str
    entries: Sequence[Entry]
    missing: Sequence[list[str]]
    sweep: Sweep | None = None

    @property
    def unfinished(self) -> bool:
        """Whether some job has to be run again before all are done."""
        return bool(self.missing) or any(entry.state in ("failed", "interrupted") for entry in self.entries)

    def count(self, state: str) -> int:
        return sum(entry.state == state for entry in self.entries)

    def short(self, overrides: Sequence[str]) -> str:
        """The settings that tell a job from the others."""
        return self.sweep.short(overrides) if self.sweep else " ".join(overrides)


def find_status(outputs: Path) -> list[Status]:
    """The state of every sweep under an output folder, and of the single jobs.

    Raises LobertError where the folder is not there.
    """
    check_outputs(outputs)
    statuses, seen = [], set()
    for sweep in find_sweeps(outputs):
        entries = sweep.entries()
        seen |= {entry.key for entry in entries}
        statuses.append(Status(f"sweep {sweep.name}", entries, sweep.missing(entries), sweep))
    ledger = Ledger(outputs)
    single = [entry for key in ledger.all_keys() if key not in seen and (entry := ledger.read(key)) is not None]
    return [*statuses, Status("single jobs", single, [])] if single else statuses


def render_status(status: Status) -> str:
    """A line of counts, then each job that is not done; equal errors are told once."""
    counts = [f"{status.count(state)} {state}" for state in COUNTED if status.count(state)]
    counts += [f"{len(status.missing)} missing"] if status.missing else []
    total = len(status.entries) + len(status.missing)
    lines = [f"{status.title}: {total} job{'s' if total != 1 else ''}: {', '.join(counts) or 'none'}"]
    for state in ("running", "waiting"):
        lines += [
            f"  {state}: {status.short(entry.overrides)} (process {entry.pid} on {entry.host}, since {entry.started})"
            for entry in status.entries
            if entry.state == state
        ]
    lines += told_failures((status.short(e.overrides), e.error or "") for e in status.entries if e.state == "failed")
    lines += [f"  interrupted: {status.short(e.overrides)}" for e in status.entries if e.state == "interrupted"]
    lines += [f"  missing: {status.short(overrides)}" for overrides in status.missing]
    return "\n".join(lines) + "\n"


def told_failures(failures: Iterable[tuple[str, str]]) -> list[str]:
    """Settings of the failed jobs under each error, told once."""
    by_error: dict[str, list[str]] = {}
    for settings, error in failures:
        by_error.setdefault(error, []).append(settings)
    lines = []
    for error, jobs in by_error.items():
        lines += [f"  failed: {job}" for job in jobs] + [f"    {error}"]
    return lines
