"""Where the examples of a task are: on the hub, in the folder its authors distribute, or in files of the user's own."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from lobert.errors import LobertError, suggest

Layout = TypeVar("Layout", "HubLayout", "LocalLayout", "OwnFiles")


def names(value: Any) -> tuple[str, ...]:
    """One name or several as a tuple; LobertError for what YAML has read as a truth value."""
    items = (value,) if isinstance(value, str | int | float) else tuple(value or ())
    if truths := [item for item in items if isinstance(item, bool)]:
        raise LobertError(f"{truths[0]} is a truth value, not a name: put names such as 'yes' and 'no' in quotes")
    return tuple(str(item) for item in items)


@dataclass(frozen=True)
class HubLayout:
    """A data set of the Hugging Face hub, or a local folder that `datasets.load_dataset` reads.

    Attributes:
        splits: ours, each with its name there, "configuration/split" where it is not in `config`; or one list of names.
        text: one or two text columns.
        options: column with the list of answers to choose from; multiple choice only.
        no_label: label of the rows that have none; they are left out.
        sort: column by whose values the rows are sorted, so that they come as from the local files.
        index: column by which a submission names the test examples; None numbers them from 0.
    """

    path: str
    splits: Mapping[str, str]
    text: tuple[str, ...]
    label: str = "label"
    config: str | None = None
    options: str | None = None
    no_label: str | int | None = None
    sort: str | None = None
    index: str | None = None

    def __post_init__(self) -> None:
        splits = self.splits if isinstance(self.splits, Mapping) else {name: name for name in names(self.splits)}
        object.__setattr__(self, "splits", dict(splits))
        object.__setattr__(self, "text", names(self.text))

    def place(self, split: str) -> tuple[str | None, str]:
        """Configuration and name of one of our splits."""
        config, _, name = self.splits[split].rpartition("/")
        return config or self.config, name


@dataclass(frozen=True)
class LocalLayout:
    """A folder of files, as GLUE, SNLI and RACE are downloaded.

    Attributes:
        files: the file of each split, or several of which one must be there; a folder where `format` reads folders.
        values: the strings that stand for the classes, in id order; the names of the classes where there are none.
        columns: names, by split, of the columns of the files that have no header.
        skip_incomplete: leave out labelled rows with too few fields, as the hub's copy of the data does.
        format: a key of `lobert.data.formats.FORMATS`; None goes by the ending of the file.
        text, label, options, no_label, index: as in `HubLayout`.
    """

    folder: str
    files: Mapping[str, str | tuple[str, ...]]
    text: tuple[str, ...]
    label: str
    values: tuple[str, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    skip_incomplete: bool = False
    format: str | None = None
    options: str | None = None
    no_label: str | None = None
    index: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", names(self.text))
        object.__setattr__(self, "values", names(self.values))
        object.__setattr__(self, "columns", {split: names(columns) for split, columns in self.columns.items()})

    def candidates(self, split: str) -> tuple[str, ...]:
        """The files that may hold a split, the preferred one first."""
        return names(self.files[split])


@dataclass(frozen=True)
class OwnFiles:
    """Data of the user's own: `.csv`, `.tsv`, `.jsonl`, `.parquet`, or a folder saved by `datasets`.

    The text columns are the task's `text`.

    Attributes:
        train, dev, test: a file or folder each. Without `dev`, the split "validation" of a folder of several splits is
            taken, or else a share `dev_share` of the training examples, chosen by a fixed seed. `test` needs no labels.
        label, values, options, no_label, index: as in `LocalLayout`.
    """

    train: str | None = None
    dev: str | None = None
    test: str | None = None
    label: str = "label"
    values: tuple[str, ...] = ()
    dev_share: float = 0.1
    options: str | None = None
    no_label: str | int | None = None
    index: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", names(self.values))
        share = self.dev_share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
            raise LobertError(f"task.own.dev_share={share} will not do: give a share above 0 and below 1")


def read_layout(kind: type[Layout], node: Mapping[str, Any] | Layout | None, where: str) -> Layout | None:
    """The layout described by a mapping of a task's file.

    Raises:
        LobertError: a key that no layout of this kind has, or one that is missing.
    """
    if node is None or isinstance(node, kind):
        return node
    if not isinstance(node, Mapping):
        raise LobertError(f"{where}={node} will not do: give the keys of a layout, or null")
    known = {f.name for f in fields(kind)}
    for key in node:
        if key not in known:
            raise LobertError(f"{where}.{key} is not a known key: {suggest(str(key), known)}")
    try:
        return kind(**node)
    except TypeError as error:
        raise LobertError(f"{where} is not whole: {error}") from None
