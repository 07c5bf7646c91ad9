"""Examples of a task from local files, the hub or the generator, in one form: text_a, (text_b), label."""

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset, Features, Value
from huggingface_hub import constants as hub_constants

from lobert.artefacts import fingerprint
from lobert.data import demo, local
from lobert.data.tasks import HubLayout, Task
from lobert.errors import LobertError

DATA_DIR_VARIABLE = "LOBERT_DATA_DIR"
TEXT_COLUMNS = ("text_a", "text_b")


def load_examples(task: Task) -> dict[str, Dataset]:
    """All splits of a task, "train" first.

    Columns: `text_a`, `text_b` for pairs, `label` (class id, or score) in the labelled splits only, and `id`, the
    index of a submission, in those others whose layout has one.

    Raises:
        LobertError: files, columns, labels or the network are not there, or not as the task's layout says.
    """
    folder = task.data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if task.source == "demo":
        splits = _from_rows(task, demo.generate())
    elif folder:
        splits = _from_rows(task, local.read_splits(task, Path(folder).expanduser()))
    else:
        splits = _from_hub(task)
    return {**splits, "train": _subset(task, splits["train"])}


def fingerprint_examples(dataset: Dataset) -> str:
    """Digest of column names and contents, the same in every process."""
    return fingerprint(dataset[:], length=16)


def _features(task: Task, names: Iterable[str]) -> Features:
    label = Value("float32" if task.is_regression else "int64")
    return Features({name: label if name == "label" else Value("string") for name in names})


def _from_rows(task: Task, splits: dict[str, dict[str, list[Any]]]) -> dict[str, Dataset]:
    return {split: Dataset.from_dict(columns, features=_features(task, columns)) for split, columns in splits.items()}


def _subset(task: Task, train: Dataset) -> Dataset:
    """The first `train_examples` of one fixed shuffle: larger subsets contain the smaller, whatever the seed."""
    if task.train_examples is None:
        return train
    if task.train_examples > len(train):
        raise LobertError(
            f"task.train_examples={task.train_examples} is more than the {len(train)} training examples of "
            f"{task.name}: give fewer, or null for all"
        )
    chosen = np.random.default_rng(0).permutation(len(train))[: task.train_examples]
    return train.select(np.sort(chosen))


@contextmanager
def _hub_offline() -> Iterator[None]:
    before = hub_constants.HF_HUB_OFFLINE
    hub_constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub_constants.HF_HUB_OFFLINE = before


def _reachable() -> bool:
    if hub_constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(hub_constants.ENDPOINT, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return True  # an answer, be it a refusal
    except OSError:
        return False
    return True


def _from_hub(task: Task) -> dict[str, Dataset]:
    if task.hub is None:
        raise LobertError(f"task {task.name} is not on the hub: set task.data_dir=FOLDER or {DATA_DIR_VARIABLE}")
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    is_folder = Path(task.hub.path).expanduser().is_dir()
    # Without a network the hub's client retries for 20 seconds; offline it goes to its cache, or fails, at once.
    with nullcontext() if is_folder or _reachable() else _hub_offline():
        return {split: _hub_split(task, task.hub, split) for split in task.hub.splits}


def _hub_split(task: Task, layout: HubLayout, split: str) -> Dataset:
    try:
        table = datasets.load_dataset(layout.path, layout.config, split=split)
    except Exception as error:  # of whichever HTTP client, parser or cache this version of the hub's libraries has
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LobertError(
            f"{task.name}: cannot load {layout.path} ({layout.config}), split {split}, from the hub ({reason}): "
            f"set task.data_dir=FOLDER or {DATA_DIR_VARIABLE} to a folder with GLUE's files"
        ) from None
    labelled = task.is_labelled(split)
    index = None if labelled else layout.index
    wanted = (*layout.text, *([layout.label] if labelled else []), *([index] if index else []))
    if missing := [name for name in wanted if name not in table.column_names]:
        raise LobertError(
            f"{layout.path}, split {split}: no column {', '.join(missing)}; found {', '.join(table.column_names)}"
        )
    columns = {name: table[column][:] for name, column in zip(TEXT_COLUMNS, layout.text, strict=False)}
    if labelled:
        columns["label"] = _class_ids(task, f"{layout.path}, split {split}", table[layout.label][:])
    if index:
        columns["id"] = [str(value) for value in table[index][:]]
    return _from_rows(task, {split: columns})[split]


def _class_ids(task: Task, where: str, labels: Sequence[Any]) -> list[Any]:
    """Labels of the hub as ids: most data sets carry ids, some the names."""
    if task.is_regression:
        return list(labels)
    names = {name: i for i, name in enumerate(task.labels)}
    ids = [names.get(label, -1) if isinstance(label, str) else label for label in labels]
    for row, i in enumerate(ids):
        if i not in range(len(task.labels)):
            raise LobertError(
                f"{where}, row {row}: label {labels[row]!r} is none of {', '.join(task.labels)} (ids from 0)"
            )
    return ids
