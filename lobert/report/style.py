"""How figures look in a paper: one column wide, fonts embedded, and written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

COLUMN_WIDTH = 3.4  # inches
GREY, FAINT = "#565e68", "#d5d9de"
MARKS = {
    "circle": "o", "square": "s", "triangle": "^", "diamond": "D", "down": "v", "pentagon": "p", "hexagon": "h",
    "cross": "X",
}  # fmt: skip
STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "text.parse_math": False,  # names are text, dollars and all
    "pdf.fonttype": 42,  # TrueType: searchable, and accepted by publishers
    "savefig.dpi": 300,
}


@contextmanager
def paper_style() -> Iterator[None]:
    """Matplotlib as a paper wants it, and afterwards as it was before."""
    with mpl.rc_context(STYLE):
        yield


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the ending, .png or .pdf, so that there is the whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        with paper_style():
            figure.savefig(temporary, format=path.suffix.removeprefix("."), metadata=_metadata(path))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def in_legend(name: str) -> str:
    """A name as matplotlib's legends take it: they leave out what begins with an underscore."""
    return f"\u200a{name}" if name.startswith("_") else name


def _metadata(path: Path) -> dict[str, None]:
    """No date in a PDF: the same figure makes the same bytes."""
    return {"CreationDate": None} if path.suffix == ".pdf" else {}
