"""`python -m lobert.report outputs/ -o report/`: a page of all runs under a folder, and its plots as PNG and PDF."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lobert.errors import LobertError
from lobert.report.data import Collection, collect
from lobert.report.facts import count
from lobert.report.page import render_page
from lobert.report.payload import payload
from lobert.report.plots import write_plots
from lobert.storage.artefacts import write_atomic

PAGE = "index.html"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page and its plots; 1, and nothing written, where there is nothing to show."""
    options = _parser().parse_args(arguments)
    try:
        collection = collect(options.folder)
        write_report(collection, options.output, plots=not options.no_plots)
    except LobertError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for sentence in collection.skipped:
        print(f"skipped: {sentence}", file=sys.stderr)
    print(f"{count(len(collection.runs), 'run')}: open {options.output / PAGE}")
    return 0


def write_report(collection: Collection, folder: Path, plots: bool = True) -> None:
    """Write `index.html` into `folder` and, unless told otherwise, the plots beside it.

    Raises:
        LobertError: the folder cannot be written.
    """
    page = render_page(payload(collection))
    try:
        write_atomic(folder / PAGE, page)
        if plots:
            write_plots(collection.records, folder, collection.curves_by_record, collection.anatomies)
    except OSError as error:
        raise LobertError(f"cannot write into '{folder}': {error.strerror}; choose another folder with -o") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lobert.report", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the runs are: their output_dir")
    parser.add_argument("-o", "--output", type=Path, default=Path("report"), metavar="FOLDER", help="default: report")
    parser.add_argument("--no-plots", action="store_true", help="the page only")
    return parser


if __name__ == "__main__":
    sys.exit(main())
