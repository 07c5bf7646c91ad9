"""`python -m lobert.results outputs/`: one table of the runs under a folder."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lobert.artefacts import write_atomic
from lobert.errors import LobertError, suggest
from lobert.results.record import Record, find_records
from lobert.results.table import as_csv, as_markdown, as_text

RENDERERS = {"text": as_text, "markdown": as_markdown, "csv": as_csv}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, or write it to a file; 1 where there is nothing to show."""
    options = _parser().parse_args(arguments)
    try:
        text = RENDERERS[options.format](_selected(options.folder, options.task))
    except LobertError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.output is None:
        print(text, end="")
    else:
        write_atomic(options.output, text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lobert.results", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the runs are: their output_dir")
    parser.add_argument("--format", choices=RENDERERS, default="text")
    parser.add_argument("--task", help="only the runs of this task")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table to this file")
    return parser


def _selected(folder: Path, task: str | None) -> list[Record]:
    records, broken = find_records(folder)
    for sentence in broken:
        print(f"skipped: {sentence}", file=sys.stderr)
    if not records:
        raise LobertError(f"no finished run under '{folder}': make one with python train.py output_dir={folder}")
    chosen = [record for record in records if task is None or _fold(record.task) == _fold(task)]
    if not chosen:
        raise LobertError(f"no run of task '{task}' under '{folder}': {suggest(task or '', {r.task for r in records})}")
    return chosen


def _fold(task: str) -> str:
    return task.lower().replace("-", "")


if __name__ == "__main__":
    sys.exit(main())
