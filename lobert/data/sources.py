"""Examples of a task from local files, the hub or the generator, in one form: text_a, (text_b), (options), label."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value
from datasets import List as ListFeature

from lobert.data import demo
from lobert.data.hub import read_hub
from lobert.data.local import read_splits
from lobert.data.own import read_own
from lobert.data.tables import Columns
from lobert.data.tasks import Task
from lobert.errors import LobertError, suggest
from lobert.storage.artefacts import fingerprint

DATA_DIR_VARIABLE = "LOBERT_DATA_DIR"


def load_examples(task: Task, splits: Sequence[str] | None = None) -> dict[str, Dataset]:
    """The examples of the named splits, or of train and dev; the others are loaded on demand. See `load_task`."""
    return load_task(task, splits)[1]


def load_task(task: Task, splits: Sequence[str] | None = None) -> tuple[Task, dict[str, Dataset]]:
    """The examples of the named splits, or of train and dev; and the task, its labels taken from the data if need be.

    Columns: `text_a`, `text_b` for pairs, `options` for multiple choice, `label` (class id, or score) in the labelled
    splits only, and `id`, the index of a submission, in those others whose layout has one.

    Raises:
        LobertError: files, columns, labels or the network are not there, or not as the task's layout says.
    """
    wanted = tuple(splits) if splits is not None else ("train", *task.eval_splits)
    task, columns = read_columns(task, wanted)
    for split in wanted:
        if split not in columns:
            raise LobertError(f"task {task.name} has no split '{split}': {suggest(split, columns)}")
    found = {split: to_dataset(task, columns[split]) for split in wanted}
    return task, {split: subset(task, split, examples) for split, examples in found.items()}


def read_columns(task: Task, splits: Sequence[str]) -> tuple[Task, dict[str, Columns]]:
    """The columns of the splits from wherever the task has them."""
    folder = task.data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if task.source == "demo":
        made: dict[str, Columns] = {split: dict(columns) for split, columns in demo.generate().items()}
        return task, made
    if task.own is not None:
        return read_own(task, task.own, splits)
    if folder:
        return task, read_splits(task, Path(folder).expanduser(), splits)
    if task.hub is None:
        raise LobertError(f"task {task.name} is not on the hub: set task.data_dir=FOLDER or {DATA_DIR_VARIABLE}")
    return task, read_hub(task, task.hub, splits)


def fingerprint_examples(dataset: Dataset) -> str:
    """Digest of column names and contents, the same in every process."""
    return fingerprint(dataset[:], length=16)


def to_dataset(task: Task, columns: Columns) -> Dataset:
    """The columns with the types they have for every source."""
    types: dict[str, Any] = {
        "label": Value("float32" if task.is_regression else "int64"),
        "options": ListFeature(Value("string"), length=len(task.labels)),
    }
    return Dataset.from_dict(columns, features=Features({name: types.get(name, Value("string")) for name in columns}))


def subset(task: Task, split: str, examples: Dataset) -> Dataset:
    """As many examples as are asked for, the first of one fixed shuffle: larger subsets contain the smaller ones,
    whatever the seed.
    """
    if split == "train":
        setting, count = "train_examples", task.train_examples
    elif split in task.eval_splits:
        setting, count = "dev_examples", task.dev_examples
    else:
        return examples
    if count is None:
        return examples
    if count > len(examples):
        raise LobertError(
            f"task.{setting}={count} is more than the {len(examples)} examples of {task.name}'s {split} split: give "
            "fewer, or null for all"
        )
    chosen = np.random.default_rng(0).permutation(len(examples))[:count]
    return examples.select(np.sort(chosen))
