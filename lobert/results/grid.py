"""A table that is made and not yet written: cells with their words, numbers and marks."""

import csv
import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

MARKDOWN = re.compile(r"([\\|*`<>\[\]])")
LATEX = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"},
    **{">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "×": r"$\times$", "·": r"$\cdot$"},
    **{"[": "{[}", "]": "{]}", "†": r"\textdagger{}", "–": "--"},
}


@dataclass(frozen=True)
class Cell:
    """`text` for readers; `raw` for CSV, from the ending of a column's key to the number; marks refer to notes."""

    text: str
    raw: Mapping[str, Any] = field(default_factory=dict)
    best: bool = False
    marks: str = ""


@dataclass(frozen=True)
class Head:
    """Head of a column; the highest `place` goes first where the table is too wide, and those below 1 never."""

    key: str
    title: str
    left: bool = False
    place: int = 0


@dataclass(frozen=True)
class Grid:
    """Rows of cells under their heads; the rows in `sections` begin a new part."""

    heads: Sequence[Head]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    notes: Sequence[str] = ()
    best: str = ""  # among what the marked cells are the best; empty where none is
    sections: frozenset[int] = frozenset()


def printable(value: Any) -> str:
    """The words of a value on one line: a record may come from anywhere, and a terminal obeys control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in str(value))


def text_of(grid: Grid, width: int | None = None) -> str:
    """Plain text, as wide as it is or, where `width` is given, without the columns there is no room for.

    The best is starred; a number is never cut short.
    """
    left_out: list[str] = []
    written = _written(grid)
    while width and _width(written) > width and (place := max(head.place for head in grid.heads)) > 0:
        index = next(i for i, head in enumerate(grid.heads) if head.place == place)
        left_out.append(grid.heads[index].key)
        grid = _without(grid, index)
        written = _written(grid)
    notes = ["* " + grid.best] * bool(grid.best) + [*grid.notes]
    if left_out:
        notes.append(f"no room in {width} characters for {', '.join(left_out)}: choose columns by --columns")
    caption, *below = (_wrapped(words, width) if width else words for words in [grid.caption, *notes])
    return "".join(f"{part}\n" for part in [caption, written, *below] if part)


def markdown_of(grid: Grid) -> str:
    """A GitHub-flavoured table, the best in bold, the notes below."""
    titles = [_markdown(_flat(head.title)) for head in grid.heads]
    rules = [":--" if head.left else "--:" for head in grid.heads]
    rows = [[_markdown_cell(cell) for cell in row] for row in grid.rows]
    table = "".join(f"| {' | '.join(row)} |\n" for row in [titles, rules, *rows])
    caption = f"{_markdown(grid.caption)}\n\n" if grid.caption else ""
    notes = "".join(f"- {_markdown(note)}\n" for note in _with_best(grid))
    return caption + table + (f"\n{notes}" if notes else "")


def csv_of(grid: Grid) -> str:
    """Every number unrounded, under its key; the notes are left out."""
    endings = [list(dict.fromkeys(e for row in grid.rows for e in row[i].raw)) for i in range(len(grid.heads))]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(f"{head.key}{end}" for head, ends in zip(grid.heads, endings, strict=True) for end in ends)
    for row in grid.rows:
        writer.writerow(cell.raw.get(end) for cell, ends in zip(row, endings, strict=True) for end in ends)
    return buffer.getvalue()


def latex_of(grid: Grid) -> str:
    """A `table` for a document that uses booktabs, the best in bold, the notes below in small print."""
    heads = " & ".join(_latex_head(head) for head in grid.heads)
    lines = [r"\begin{table}", r"\centering"]
    lines += [rf"\caption{{{latex(grid.caption)}}}"] if grid.caption else []
    lines += [rf"\begin{{tabular}}{{{''.join('l' if h.left else 'r' for h in grid.heads)}}}", r"\toprule"]
    lines += [rf"{heads} \\", r"\midrule"]
    for number, row in enumerate(grid.rows):
        lines += [r"\midrule"] if number and number in grid.sections else []
        lines += [" & ".join(_latex_cell(cell) for cell in row) + r" \\"]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\smallskip{{\footnotesize {latex(note)}\par}}" for note in _with_best(grid)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def render(table: Table) -> str:
    """Plain text as wide as the table is: a number cut short would be another number."""
    return "".join(f"{line.rstrip()}\n" for line in _printed(table) if line.strip())


def _printed(table: Table) -> list[str]:
    console = Console(file=io.StringIO(), width=10_000, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get().splitlines()


def latex(text: str) -> str:
    """Text with every letter that LaTeX takes for a command written so that it shows."""
    return "".join(LATEX.get(letter, letter) for letter in text)


def _wrapped(words: str, width: int) -> str:
    return textwrap.fill(words, width, break_long_words=False, break_on_hyphens=False)


def _written(grid: Grid) -> str:
    """The table alone, with an empty line between its parts."""
    lines = [line[1:].rstrip() for line in _printed(_rich(grid))]  # the box begins with an empty edge
    return "\n".join(lines).strip("\n")


def _rich(grid: Grid) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for head in grid.heads:
        table.add_column(Text(head.title), justify="left" if head.left else "right", no_wrap=True)
    room = [max((len(_marks(row[i])) for row in grid.rows), default=0) for i in range(len(grid.heads))]
    for number, row in enumerate(grid.rows):
        if number and number in grid.sections:
            table.add_section()
        table.add_row(
            *(Text(_padded(cell, width, head)) for cell, width, head in zip(row, room, grid.heads, strict=True))
        )
    return table


def _padded(cell: Cell, width: int, head: Head) -> str:
    """The text and its marks; numbers stay below one another whatever their marks."""
    return cell.text + (_marks(cell) if head.left else _marks(cell).ljust(width))


def _marks(cell: Cell) -> str:
    return ("*" if cell.best else "") + cell.marks


def _width(text: str) -> int:
    return max(map(len, text.splitlines()), default=0)


def _with_best(grid: Grid) -> list[str]:
    return [f"bold: {grid.best}"] * bool(grid.best) + [*grid.notes]


def _without(grid: Grid, index: int) -> Grid:
    heads = [head for place, head in enumerate(grid.heads) if place != index]
    rows = [[cell for place, cell in enumerate(row) if place != index] for row in grid.rows]
    return replace(grid, heads=heads, rows=rows)


def _flat(title: str) -> str:
    return title.replace("-\n", "-").replace("\n", " ")


def _markdown(text: str) -> str:
    return MARKDOWN.sub(r"\\\1", text)


def _markdown_cell(cell: Cell) -> str:
    text = f"**{_markdown(cell.text)}**" if cell.best else _markdown(cell.text)
    return text + (f"<sup>{cell.marks}</sup>" if cell.marks else "")


def _latex_head(head: Head) -> str:
    return latex(_flat(head.title))


def _latex_cell(cell: Cell) -> str:
    text = rf"\textbf{{{latex(cell.text)}}}" if cell.best else latex(cell.text)
    return text + (rf"\textsuperscript{{{latex(cell.marks)}}}" if cell.marks else "")
