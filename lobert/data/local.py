"""Tab-separated files in the layout GLUE is downloaded in: quotes are text, nothing is a missing value."""

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lobert.data.tasks import LocalLayout, Task
from lobert.errors import LobertError, suggest

log = logging.getLogger(__name__)
Columns = dict[str, list[Any]]
NumberedRows = Iterator[tuple[int, list[str]]]


def read_splits(task: Task, data_dir: Path) -> dict[str, Columns]:
    """Columns of every split of the task.

    Raises:
        LobertError: a folder, file or column that is missing, or a row that cannot be read.
    """
    if task.local is None:
        raise LobertError(f"task {task.name} describes no local files: leave task.data_dir and LOBERT_DATA_DIR out")
    folder = _find_folder(task.local, data_dir)
    return {split: _read_split(task, task.local, folder, split) for split in task.local.files}


def _find_folder(layout: LocalLayout, data_dir: Path) -> Path:
    for folder in (data_dir / layout.folder, data_dir):
        if (folder / layout.files["train"]).is_file():
            return folder
    expected = ", ".join(f"{layout.folder}/{file}" for file in layout.files.values())
    raise LobertError(f"no file {data_dir / layout.folder / layout.files['train']}: {data_dir} must hold {expected}")


def _lines(path: Path) -> list[list[str]]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # GLUE's MRPC starts with a byte-order mark
    except FileNotFoundError:
        raise LobertError(f"no file {path}: it belongs beside the training file") from None
    except UnicodeDecodeError as error:
        raise LobertError(f"{path} is not UTF-8 at byte {error.start}: convert it, or download it again") from None
    return [line.split("\t") for line in text.removesuffix("\n").split("\n")] if text else []


def _rows(layout: LocalLayout, path: Path, split: str) -> tuple[list[str], NumberedRows]:
    """Column names, and the rows with their line numbers (from 1)."""
    lines = _lines(path)
    headless = split in layout.columns
    names = list(layout.columns[split]) if headless else (lines or [[]])[0]
    first = 0 if headless else 1
    if len(lines) <= first:
        raise LobertError(f"{path} has no rows: download it again")
    return names, enumerate(lines[first:], start=first + 1)


def _parser(task: Task, layout: LocalLayout) -> Callable[[str], float | int]:
    """Reads one label; raises ValueError or KeyError where it cannot."""
    if not task.is_regression:
        return {value: i for i, value in enumerate(layout.values or task.labels)}.__getitem__

    def score(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(text)
        return value

    return score


def _places(task: Task, layout: LocalLayout, path: Path, split: str, names: list[str]) -> dict[str, int]:
    """Index in a row of each of our columns."""
    wanted = dict(zip(("text_a", "text_b"), layout.text, strict=False))
    if task.is_labelled(split):
        wanted["label"] = layout.label
    elif layout.index is not None:
        wanted["id"] = layout.index
    for name in wanted.values():
        if name not in names:
            raise LobertError(f"{path} has no column '{name}': {suggest(name, names)}")
    return {column: names.index(name) for column, name in wanted.items()}


def _complete(skip: bool, path: Path, width: int, rows: NumberedRows) -> NumberedRows:
    """The rows that have all fields; the others are an error, or left out with `skip`."""
    skipped = 0
    for number, row in rows:
        if len(row) >= width:
            yield number, row
        elif skip:
            skipped += 1
        else:
            raise LobertError(f"{path}, line {number}: {len(row)} fields where {width} are expected")
    if skipped:
        log.warning("%s: left out %d incomplete rows, as the hub's copy does", path, skipped)


def _read_split(task: Task, layout: LocalLayout, folder: Path, split: str) -> Columns:
    path = folder / layout.files[split]
    names, rows = _rows(layout, path, split)
    places = _places(task, layout, path, split, names)
    skip = layout.skip_incomplete and task.is_labelled(split)  # a submission needs every test row
    complete = list(_complete(skip, path, len(names), rows))
    columns: Columns = {column: [row[place] for _, row in complete] for column, place in places.items()}
    if "label" in columns:
        parse = _parser(task, layout)
        columns["label"] = [_label(task, parse, row[places["label"]], f"{path}, line {n}") for n, row in complete]
    return columns


def _label(task: Task, parse: Callable[[str], float | int], value: str, where: str) -> float | int:
    try:
        return parse(value)
    except (KeyError, ValueError):
        assert task.local is not None
        expected = f"one of {', '.join(task.local.values or task.labels)}" if task.labels else "a number"
        raise LobertError(f"{where}: label '{value}' is not {expected}") from None
