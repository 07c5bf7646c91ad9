"""The table of the page: that of `lobert.results`, with keys to sort it by."""

from collections.abc import Sequence
from typing import Any

from lobert.results.grid import Cell, Grid
from lobert.results.record import Record
from lobert.results.table import run_grid

Json = dict[str, Any]


def table(records: Sequence[Record]) -> Json:
    """Titles, cells as text, and keys to sort by; a row per group of seeds."""
    if not records:
        return {"columns": [], "rows": [], "notes": ["No finished run."]}
    grid = run_grid(records)
    return {
        "columns": [{"title": head.title, "name": head.left} for head in grid.heads],
        "rows": [_row(cells) for cells in grid.rows],
        "notes": _notes(grid),
    }


def _row(cells: Sequence[Cell]) -> Json:
    return {
        "cells": [cell.text for cell in cells],
        "marks": [cell.marks for cell in cells],
        "keys": [_key(cell) for cell in cells],
        "best": [index for index, cell in enumerate(cells) if cell.best],
    }


def _key(cell: Cell) -> str | float | None:
    """The number behind a cell; its words where it has none."""
    value = cell.raw.get("", cell.text)
    return value if value is None or isinstance(value, int | float) else str(value)


def _notes(grid: Grid) -> list[str]:
    bold = f"Bold: {grid.best}." if grid.best else ""
    return [note for note in (grid.caption, bold, *grid.notes) if note]
