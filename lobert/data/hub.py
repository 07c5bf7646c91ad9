"""Splits of a data set of the Hugging Face hub, or of a folder that `datasets.load_dataset` reads."""

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import datasets
from datasets import Dataset
from huggingface_hub import constants as hub_constants

from lobert.data.layouts import HubLayout
from lobert.data.tables import Columns, Table, id_parser, require, to_examples, wanted_columns
from lobert.data.tasks import Task
from lobert.errors import LobertError, first_line, suggest


def read_hub(task: Task, layout: HubLayout, splits: Sequence[str]) -> dict[str, Columns]:
    """Columns of the named splits.

    Raises:
        LobertError: a split or column that is missing, a label that cannot be, or no network.
    """
    for split in splits:
        if split not in layout.splits:
            raise LobertError(f"task {task.name} has no split '{split}' on the hub: {suggest(split, layout.splits)}")
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    is_folder = Path(layout.path).expanduser().is_dir()
    # Without a network the hub's client retries for 20 seconds; offline it goes to its cache, or fails, at once.
    with nullcontext() if is_folder or reachable() else offline():
        return {split: read_split(task, layout, split) for split in splits}


@contextmanager
def offline() -> Iterator[None]:
    before = hub_constants.HF_HUB_OFFLINE
    hub_constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub_constants.HF_HUB_OFFLINE = before


def reachable() -> bool:
    """Whether the hub answers."""
    if hub_constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(hub_constants.ENDPOINT, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return True  # an answer, be it a refusal
    except OSError:
        return False
    return True


def read_split(task: Task, layout: HubLayout, split: str) -> Columns:
    """Columns of one split; rows are counted from 0, as on the hub."""
    data = download(task, layout, split)
    source = f"{layout.path}, split {split}"
    wanted = wanted_columns(task, layout, layout.text, split)
    require(source, [*wanted, *([layout.sort] if layout.sort else [])], data.column_names)
    if layout.sort:
        data = data.select(sorted(range(len(data)), key=data[layout.sort][:].__getitem__))
    table = Table(source, {name: data[name][:] for name in wanted}, lambda i: f"{source}, row {i}")
    return to_examples(task, layout, layout.text, split, table, id_parser(task))


def download(task: Task, layout: HubLayout, split: str) -> Dataset:
    """The hub's table, from its cache where it is there."""
    config, name = layout.place(split)
    try:
        return datasets.load_dataset(layout.path, config, split=name)
    except Exception as error:  # of whichever HTTP client, parser or cache this version of the hub's libraries has
        files = f"to a folder with {task.local.folder}" if task.local else "to a folder with the files"
        raise LobertError(
            f"{task.name}: cannot load {layout.path} ({config}), split {name}, from the hub ({first_line(error)}): "
            f"set task.data_dir=FOLDER or LOBERT_DATA_DIR {files}"
        ) from None
