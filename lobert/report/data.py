"""What lies under a folder of runs: records, curves, anatomies, and a sentence for all that cannot be used."""

from dataclasses import dataclass
from pathlib import Path

from lobert.errors import LobertError
from lobert.report.thinning import Curve, run_curves
from lobert.results.anatomy import Anatomy, find_anatomies
from lobert.results.record import Record, find_runs


@dataclass(frozen=True)
class Collection:
    """Everything a report is made from; `runs` and `curves` are by the folder of the run."""

    folder: Path
    runs: dict[Path, Record]
    curves: dict[Path, dict[str, Curve]]
    anatomies: list[Anatomy]
    skipped: list[str]

    @property
    def records(self) -> list[Record]:
        return list(self.runs.values())

    @property
    def curves_by_record(self) -> dict[int, dict[str, Curve]]:
        """The curves by the `id` of the record of their run."""
        return {id(self.runs[path]): curves for path, curves in self.curves.items()}

    def folder_of(self, record: Record) -> Path:
        """The folder of a run, by its very record."""
        return next(path for path, known in self.runs.items() if known is record)


def collect(folder: Path) -> Collection:
    """Read all that is under `folder`.

    Raises:
        LobertError: there is no such folder, or neither a finished run nor an anatomy in it.
    """
    runs, skipped = find_runs(folder)
    anatomies, broken = find_anatomies(folder)
    if not runs and not anatomies:
        raise LobertError(_nothing(folder, [*skipped, *broken]))
    curves, unread = _all_curves(runs)
    return Collection(folder, runs, curves, anatomies, [*skipped, *broken, *unread])


def _nothing(folder: Path, unusable: list[str]) -> str:
    rest = f" ({len(unusable)} could not be read; the first: {unusable[0]})" if unusable else ""
    return f"no finished run under '{folder}'{rest}: make one with python train.py output_dir={folder}"


def _all_curves(runs: dict[Path, Record]) -> tuple[dict[Path, dict[str, Curve]], list[str]]:
    curves, broken = {}, []
    for path in runs:
        try:
            if found := run_curves(path):
                curves[path] = found
        except LobertError as error:
            broken.append(str(error))
    return curves, broken
