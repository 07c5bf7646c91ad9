"""`python -m lobert.results outputs/`: one table of the runs under some folders.

Words with an equals sign choose among the runs: task=MRPC keep=0.5,0.25 kd=lobert. Runs that differ by their seed alone
are one row, with mean and deviation.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from lobert.errors import LobertError
from lobert.results.columns import BY_KEY, Column, chosen_columns
from lobert.results.grid import Grid, csv_of, latex_of, markdown_of, text_of
from lobert.results.pivot import pivot_grid
from lobert.results.record import Record
from lobert.results.select import read_filters, read_folders, select
from lobert.results.table import WIDTH, run_grid
from lobert.storage.artefacts import write_atomic

FORMATS = ("text", "markdown", "csv", "latex")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or write it to a file; 1 where there is nothing to show."""
    options = _parser().parse_intermixed_args(arguments)
    try:
        grid = _grid(options, _records(options))
        text = _written(grid, options.format, options.output)
        _put(text, options.output)
    except LobertError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.format == "csv":
        print("".join(f"{note}\n" for note in grid.notes), end="", file=sys.stderr)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lobert.results", description=__doc__)
    parser.add_argument("what", nargs="*", help="folders of runs (outputs), and key=value: only runs that have it")
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument("--task", help="only the runs of this task: the same as task=…")
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help="the same as the word alone")
    parser.add_argument("--each", action="store_true", help="one row for each run, also where seeds are many")
    parser.add_argument("--pivot", action="store_true", help="methods and sizes as rows, tasks as columns")
    parser.add_argument("--value", default="score", metavar="COLUMN", help="what the cells of --pivot hold")
    parser.add_argument("--columns", metavar="A,B", help=f"these columns, of {', '.join(BY_KEY)}")
    parser.add_argument("--output", "-o", type=Path, metavar="FILE", help="write the table to this file")
    return parser


def _records(options: argparse.Namespace) -> list[Record]:
    """The chosen records; what is broken is named."""
    filters = [word for word in options.what if "=" in word and not Path(word).is_dir()]
    folders = [Path(word) for word in options.what if word not in filters] or [Path("outputs")]
    wanted = read_filters([*filters, *options.where, *([f"task={options.task}"] if options.task else [])])
    records, broken = read_folders(folders)
    for sentence in broken:
        print(f"skipped: {sentence}", file=sys.stderr)
    if not records:
        named = "', '".join(map(str, folders))
        raise LobertError(f"no finished run under '{named}': make one with python train.py output_dir={folders[0]}")
    return select(records, wanted)


def _grid(options: argparse.Namespace, records: Sequence[Record]) -> Grid:
    names = None if options.columns is None else [name.strip() for name in options.columns.split(",")]
    complete = options.format == "csv" and names is None
    if not options.pivot:
        return run_grid(records, options.each, names, complete)
    if options.each or names is not None:
        raise LobertError(
            "--pivot has tasks as columns and means over seeds in its cells: leave out --each and --columns"
        )
    return pivot_grid(records, _value(options.value), complete)


def _value(name: str) -> Column:
    """The column whose numbers a pivot shows."""
    (column,) = chosen_columns([name])
    if column.form is None:
        raise LobertError(f"--value {name} holds words, and a pivot numbers: as in --value retention")
    return column


def _put(text: str, output: Path | None) -> None:
    if output is None:
        print(text, end="")
        return
    try:
        write_atomic(output, text)
    except OSError as error:
        raise LobertError(f"cannot write {output}: {error.strerror}") from None


def _written(grid: Grid, form: str, output: Path | None) -> str:
    if form == "text":
        on_screen = output is None and sys.stdout.isatty()
        return text_of(grid, shutil.get_terminal_size((WIDTH, 24)).columns if on_screen else WIDTH)
    return {"markdown": markdown_of, "csv": csv_of, "latex": latex_of}[form](grid)


if __name__ == "__main__":
    sys.exit(main())
