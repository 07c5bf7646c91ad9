"""Data of the user's own: files or folders saved by `datasets`, whose labels may be taken from the data."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict

from lobert.data.formats import Request, read_table
from lobert.data.layouts import OwnFiles
from lobert.data.tables import (
    Columns,
    Table,
    is_missing,
    label_parser,
    labelled_rows,
    require,
    spelled,
    to_examples,
    wanted_columns,
)
from lobert.data.tasks import Task
from lobert.errors import LobertError, first_line, suggest

log = logging.getLogger(__name__)

MOST_LABELS = 200  # more different labels are taken for scores, or for the wrong column, unless they are named
SAVED_NAMES = {"train": ("train",), "validation": ("validation", "dev"), "test": ("test",)}
MARKS = ("dataset_dict.json", "state.json")  # a folder saved by `datasets` has one of them


def read_own(task: Task, own: OwnFiles, splits: Sequence[str]) -> tuple[Task, dict[str, Columns]]:
    """Columns of the named splits, and the task with its labels, which are the training data's unless it names them.

    Raises:
        LobertError: a file or column that is missing, a row that cannot be read, labels that cannot be classes.
    """
    if own.train is None:
        raise LobertError(f"task={task.name} needs files: type task.own.train=FILE (.csv, .tsv, .jsonl, .parquet)")
    train = Path(own.train).expanduser()
    carves = own.dev is None and not holds_dev(train)
    tables: dict[str, Table] = {}
    if "train" in splits or not (task.labels or task.is_regression) or (carves and "validation" in splits):
        tables["train"] = read_split(task, own, train, "train")
        task = with_labels(task, own, tables["train"])
    found = {split: examples(task, own, split, tables["train"]) for split in tables}
    if carves and "train" in found:
        found |= carve(found["train"], own, train)
    for split in (split for split in splits if split not in found):
        table = read_split(task, own, path_of(own, split), split)
        found[split] = examples(task, own, split, table)
    return task, {split: found[split] for split in splits}


def path_of(own: OwnFiles, split: str) -> Path:
    """The file or folder of a split; the training folder's own dev split where there is no other."""
    path = {"train": own.train, "validation": own.dev or own.train, "test": own.test}.get(split)
    if path is None:
        raise LobertError(f"there is no data for split '{split}': type task.own.{split}=FILE")
    return Path(path).expanduser()


def read_split(task: Task, own: OwnFiles, path: Path, split: str) -> Table:
    """The table of a split."""
    wanted = wanted_columns(task, own, task.text, split)
    return read_saved(path, split, wanted) if path.is_dir() else read_table(path, Request(wanted))


def examples(task: Task, own: OwnFiles, split: str, table: Table) -> Columns:
    return to_examples(task, own, task.text, split, table, label_parser(task, own.values))


def with_labels(task: Task, own: OwnFiles, table: Table) -> Task:
    """The task with the names of its classes."""
    if task.is_regression or task.labels:
        return task
    found = tuple(own.values or table.names.get(own.label) or distinct_labels(own, table))
    if not 2 <= len(found) <= MOST_LABELS:
        raise LobertError(
            f"{table.source}: '{own.label}' has {len(found)} different labels: is it the right column? Type "
            "task.own.label=COLUMN, task.labels=[...] to name the classes, or task.metrics=[pearson] for scores"
        )
    log.info("task %s: labels %s (from the data)", task.name, ", ".join(found))
    return replace(task, labels=found)


def distinct_labels(own: OwnFiles, table: Table) -> list[str]:
    """The labels of the training examples, numbers in their order and words in theirs."""
    labels = table.columns[own.label]
    found: dict[str, None] = {}
    for i in labelled_rows(own, table):
        if is_missing(labels[i]):
            raise LobertError(f"{table.where(i)}: the label is missing")
        found[spelled(labels[i])] = None
    return sorted(found, key=by_number if all(map(is_number, found)) else str)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def by_number(text: str) -> tuple[float, str]:
    return float(text), text


def carve(train: Columns, own: OwnFiles, path: Path) -> dict[str, Columns]:
    """Train and dev out of the training examples, by one fixed seed whatever that of the run."""
    total = len(train["label"])
    count = max(1, round(own.dev_share * total))
    if count >= total:
        raise LobertError(f"{path}: {total} examples are too few to set some apart for dev: give more, or task.own.dev")
    log.info("%s: %d of %d training examples are dev, chosen by a fixed seed", path, count, total)
    order = np.random.default_rng(0).permutation(total)
    parts = {"train": np.sort(order[count:]), "validation": np.sort(order[:count])}
    return {split: {name: [column[i] for i in rows] for name, column in train.items()} for split, rows in parts.items()}


# ---- folders saved by `datasets` ----


def holds_dev(folder: Path) -> bool:
    """Whether it is a folder of several splits, a dev split among them."""
    if not (folder / MARKS[0]).exists():
        return False
    saved = open_saved(folder)
    return isinstance(saved, DatasetDict) and any(name in saved for name in SAVED_NAMES["validation"])


def open_saved(folder: Path) -> Dataset | DatasetDict:
    """What `save_to_disk` wrote."""
    if not any((folder / mark).exists() for mark in MARKS):
        raise LobertError(f"{folder} is a folder, but none saved by datasets (save_to_disk): give a file, or such one")
    try:
        return datasets.load_from_disk(str(folder))
    except Exception as error:  # of whichever part of the libraries meets the damage first
        raise LobertError(f"{folder} cannot be read as a saved data set: {first_line(error)}") from None


def read_saved(folder: Path, split: str, wanted: Sequence[str]) -> Table:
    """The wanted columns of a split, classes by their names; rows are counted from 1."""
    saved = open_saved(folder)
    if isinstance(saved, DatasetDict):
        names = [name for name in SAVED_NAMES[split] if name in saved]
        if not names:
            raise LobertError(f"{folder} has no split '{split}': {suggest(split, map(str, saved))}")
        saved, folder = saved[names[0]], folder / names[0]
    require(str(folder), wanted, saved.column_names)
    if not len(saved):
        raise LobertError(f"{folder} has no rows")
    try:
        columns = {name: saved[name][:] for name in wanted}
    except Exception as error:
        raise LobertError(f"{folder} cannot be read: {first_line(error)}") from None
    classes = {name: saved.features[name].names for name in wanted if isinstance(saved.features[name], ClassLabel)}
    for name, spellings in classes.items():
        columns[name] = [spellings[i] if i is not None and 0 <= i < len(spellings) else i for i in columns[name]]
    return Table(str(folder), columns, lambda i: f"{folder}, row {i + 1}", classes)
