"""`python -m lobert.submission outputs/ decomp=svd seed=0`: the predictions of runs as one zip for GLUE's server."""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lobert.cli import USER_ERROR
from lobert.errors import LobertError, suggest
from lobert.results.glue import GLUE_FILES, check_answers, filled, read_answers, write_zip
from lobert.results.record import Record, find_runs

CHOOSE_BY = (  # settings that a run is chosen by, and told apart by in a message
    *("task", "encoder", "decomp", "kd", "seed", "keep", "scope", "objective", "allocate", "order", "budget", "init"),
    *("student_layers", "refit_head", "epochs", "learning_rate", "batch_size", "alpha", "temperature", "beta"),
    *("max_length", "teacher_fingerprint", "config_hash"),
)
Runs = Mapping[Path, Record]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the zip and say what is in it; 2 where that cannot be."""
    options = _parser().parse_intermixed_args(arguments)
    try:
        told = gather(options.what, options.output, "teacher" if options.teacher else "student", options.fill)
    except LobertError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    print("\n".join(told))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lobert.submission", description=__doc__)
    parser.add_argument("what", nargs="+", help="folders of runs, and settings that choose among them: seed=0")
    parser.add_argument("-o", "--output", type=Path, default=Path("submission.zip"), metavar="FILE")
    parser.add_argument("--teacher", action="store_true", help="the predictions of the teachers, not of the students")
    parser.add_argument("--fill", action="store_true", help="answer missing tasks with one class, as GLUE wants all")
    return parser


def gather(what: Sequence[str], output: Path, who: str, fill: bool) -> list[str]:
    """Zip the files of the chosen runs, and return a line about each.

    Raises LobertError where a file is missing and not to be filled, is in several runs, or is not what GLUE takes.
    """
    folders = [Path(word) for word in what if "=" not in word or Path(word).is_dir()] or [Path("outputs")]
    settings = dict(word.split("=", 1) for word in what if Path(word) not in folders)
    runs = chosen(all_runs(folders), settings)
    sources = {name: found for name in GLUE_FILES if (found := source(name, runs, who)) is not None}
    missing = [name for name in GLUE_FILES if name not in sources]
    if not sources:
        raise LobertError(f"none of the {len(runs)} runs has predictions for GLUE: make them with stage=predict")
    if missing and not fill:
        raise LobertError(
            f"GLUE takes all 11 files, and there is none for {', '.join(missing)}: run these tasks with stage=predict, "
            "or type --fill to answer them with one class throughout"
        )
    files = {name: read_answers(sources[name]) if name in sources else filled(name) for name in GLUE_FILES}
    for name, path in sources.items():
        check_answers(name, files[name], path)
    write_zip(output, files)
    told = [f"{name}.tsv: {told_source(name, sources)}" for name in GLUE_FILES]
    return [*told, f"{output}: {len(sources)} files of the {who}s, {len(missing)} filled"]


def told_source(name: str, sources: Mapping[str, Path]) -> str:
    """Where the answers of a file come from."""
    return str(sources[name]) if name in sources else f"filled, '{GLUE_FILES[name].filler}' throughout"


def all_runs(folders: Iterable[Path]) -> Runs:
    """Every finished run under the folders; what cannot be read is named."""
    runs: dict[Path, Record] = {}
    for folder in folders:
        found, broken = find_runs(folder)
        runs |= found
        for sentence in broken:
            print(f"skipped: {sentence}", file=sys.stderr)
    if not runs:
        raise LobertError(f"no finished run under {', '.join(map(str, folders))}: make one with stage=predict")
    return runs


def chosen(runs: Runs, settings: Mapping[str, str]) -> Runs:
    """The runs whose records have these settings."""
    for key in settings:
        if key not in CHOOSE_BY:
            raise LobertError(f"runs are not chosen by '{key}': {suggest(key, CHOOSE_BY)}")
    for key, wanted in settings.items():
        there = {as_text(asdict(record)[key]) for record in runs.values()}
        runs = {folder: record for folder, record in runs.items() if same(asdict(record)[key], wanted)}
        if not runs:
            raise LobertError(f"no run has {key}={wanted}: {suggest(wanted, there)}")
    return runs


def same(value: Any, wanted: str) -> bool:
    """Whether a setting is what was typed: numbers by value, words in any case."""
    if isinstance(value, float):
        try:
            return value == float(wanted)
        except ValueError:
            return False
    return as_text(value).lower() == wanted.lower()


def as_text(value: Any) -> str:
    return "null" if value is None else str(value)


def source(name: str, runs: Runs, who: str) -> Path | None:
    """The one file of this name in the runs, or None; several are the same where their contents are."""
    paths = [path for folder in runs if (path := folder / "predictions" / who / f"{name}.tsv").is_file()]
    contents = {path.read_bytes(): path for path in reversed(paths)}
    if len(contents) > 1:
        several = {path.parents[2]: runs[path.parents[2]] for path in contents.values()}
        raise LobertError(f"{name}.tsv is in {len(several)} runs: {told_apart(several)}")
    return next(iter(contents.values()), None)


def told_apart(runs: Runs) -> str:
    """How to choose one of several runs: the settings in which they differ, and their folders."""
    rows = [asdict(record) for record in runs.values()]
    differing = {key: sorted({as_text(row[key]) for row in rows}) for key in CHOOSE_BY}
    ways = [f"{key}={' or '.join(values)}" for key, values in differing.items() if len(values) > 1]
    shorter = [way for way in ways if not way.startswith("config_hash")] or ways
    choose = f"choose by {', '.join(shorter)}, or " if shorter else ""
    return f"{choose}give the folder of one of {', '.join(map(str, sorted(runs)))}"


if __name__ == "__main__":
    sys.exit(main())
