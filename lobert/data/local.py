"""A task's files in the layout they are distributed in: GLUE's folders, SNLI, RACE."""

from collections.abc import Sequence
from pathlib import Path

from lobert.data.formats import Request, read_table
from lobert.data.layouts import LocalLayout
from lobert.data.tables import Columns, label_parser, to_examples, wanted_columns
from lobert.data.tasks import Task
from lobert.errors import LobertError, suggest


def read_splits(task: Task, data_dir: Path, splits: Sequence[str]) -> dict[str, Columns]:
    """Columns of the named splits of the task.

    Raises:
        LobertError: a folder, file or column that is missing, or a row that cannot be read.
    """
    layout = task.local
    if layout is None:
        raise LobertError(f"task {task.name} describes no local files: leave task.data_dir and LOBERT_DATA_DIR out")
    for split in splits:
        if split not in layout.files:
            raise LobertError(f"task {task.name} has no file for split '{split}': {suggest(split, layout.files)}")
    folder = find_folder(layout, data_dir)
    return {split: read_split(task, layout, folder, split) for split in splits}


def find_folder(layout: LocalLayout, data_dir: Path) -> Path:
    """`data_dir`, or the task's own folder in it."""
    for folder in (data_dir / layout.folder, data_dir):
        if any((folder / file).exists() for file in layout.candidates("train")):
            return folder
    expected = ", ".join(f"{layout.folder}/{' or '.join(layout.candidates(split))}" for split in layout.files)
    train = data_dir / layout.folder / layout.candidates("train")[0]
    raise LobertError(f"no file {train}: {data_dir} must hold {expected}")


def read_split(task: Task, layout: LocalLayout, folder: Path, split: str) -> Columns:
    """Columns of one split."""
    path = find_file(task, layout, folder, split)
    wanted = wanted_columns(task, layout, layout.text, split)
    skip = layout.skip_incomplete and task.is_labelled(split)  # a submission needs every test row
    table = read_table(path, Request(wanted, layout.columns.get(split), skip, extra_fields=True), layout.format)
    return to_examples(task, layout, layout.text, split, table, label_parser(task, layout.values))


def find_file(task: Task, layout: LocalLayout, folder: Path, split: str) -> Path:
    """The first of a split's files that is there."""
    paths = [folder / file for file in layout.candidates(split)]
    for path in paths:
        if path.exists():
            return path
    spare = f", or do not predict it: '~task.test.{split}'" if split in task.test else ""
    raise LobertError(f"no file {' or '.join(map(str, paths))}: put it there{spare}")
