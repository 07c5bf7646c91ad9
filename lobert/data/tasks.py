"""A task: its texts, labels and metrics, and where its files and columns are in the two public layouts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from lobert.data.metrics import check_metrics
from lobert.errors import LobertError, suggest

SOURCES = ("files", "demo")
Layout = TypeVar("Layout", "HubLayout", "LocalLayout")


def _tuple(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


@dataclass(frozen=True)
class HubLayout:
    """A data set of the Hugging Face hub, or a local folder that `datasets.load_dataset` reads.

    `index` is the column by which a submission names the test examples; None numbers them from 0.
    """

    path: str
    splits: tuple[str, ...]
    text: tuple[str, ...]
    label: str = "label"
    config: str | None = None
    index: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "splits", _tuple(self.splits))
        object.__setattr__(self, "text", _tuple(self.text))


@dataclass(frozen=True)
class LocalLayout:
    """A folder of tab-separated files, as GLUE is downloaded.

    `values` are the strings that stand for the classes, in id order; `columns` names, by split, the columns of the
    files that have no header; `skip_incomplete` leaves out labelled rows with too few fields, as the hub's copy
    of the data does; `index` is as in `HubLayout`.
    """

    folder: str
    files: Mapping[str, str]
    text: tuple[str, ...]
    label: str
    values: tuple[str, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    skip_incomplete: bool = False
    index: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", _tuple(self.text))
        object.__setattr__(self, "values", tuple(str(value) for value in self.values))
        object.__setattr__(self, "columns", {split: _tuple(names) for split, names in self.columns.items()})


def _layout(kind: type[Layout], node: Mapping[str, Any] | Layout | None, where: str) -> Layout | None:
    if node is None or isinstance(node, kind):
        return node
    assert isinstance(node, Mapping)
    known = {f.name for f in fields(kind)}
    for key in node:
        if key not in known:
            raise LobertError(f"{where}.{key} is not a known key: {suggest(key, known)}")
    return kind(**node)


@dataclass(frozen=True)
class Task:
    """All that is particular to one task; built as `Task(**mapping)` from a file of `conf/task`.

    Attributes:
        name: as GLUE writes it.
        text: one or two names of text columns (of the hub layout, for people to read).
        labels: class names in id order; empty for regression.
        metrics: keys of `lobert.data.metrics.METRICS`; the first is the main one.
        eval: labelled dev splits, each with the suffix its metrics carry ("" for the first).
        test: splits to predict for a submission, each with the name of its file (without ".tsv").
        score_range: least and largest score of a regression; None where there is no limit.
        max_length: tokens kept of a text or a pair.
        train_examples: use only so many training examples, the same for every seed; None for all.
        data_dir: folder with the task's own folder in it, or that folder; None for `LOBERT_DATA_DIR`, else the hub.
        source: `files` (local or hub) or `demo` (generated).
        hub, local: the two layouts; None where the task has no such copy.
    """

    name: str
    text: tuple[str, ...]
    metrics: tuple[str, ...]
    labels: tuple[str, ...] = ()
    eval: Mapping[str, str] = field(default_factory=lambda: {"validation": ""})
    test: Mapping[str, str] = field(default_factory=dict)
    score_range: tuple[float, float] | None = None
    max_length: int = 128
    train_examples: int | None = None
    data_dir: str | None = None
    source: str = "files"
    hub: HubLayout | None = None
    local: LocalLayout | None = None

    def __post_init__(self) -> None:
        for name in ("text", "metrics", "labels"):
            object.__setattr__(self, name, _tuple(getattr(self, name)))
        if self.score_range is not None:
            object.__setattr__(self, "score_range", tuple(self.score_range))
        object.__setattr__(self, "hub", _layout(HubLayout, self.hub, "task.hub"))
        object.__setattr__(self, "local", _layout(LocalLayout, self.local, "task.local"))
        self._check()

    def _check(self) -> None:
        check_metrics(self.metrics)
        if self.source not in SOURCES:
            raise LobertError(f"task.source={self.source} is not known: {suggest(self.source, SOURCES)}")
        for name, wrong, want in (
            ("metrics", not self.metrics, "at least one metric"),
            ("text", len(self.text) not in (1, 2), "one or two columns"),
            ("labels", len(self.labels) == 1, "two or more classes, or none for regression"),
            ("eval", not self.eval, "at least one labelled split"),
            ("test", len(set(self.test.values())) < len(self.test), "a file of its own for each split"),
            ("score_range", not self._range_fits(), "least and largest score, for a regression only, or null"),
            ("max_length", self.max_length < 8, "8 or more tokens"),
            ("train_examples", self.train_examples is not None and self.train_examples < 1, "1 or more, or null"),
        ):
            if wrong:
                raise LobertError(f"task {self.name}: {name}={getattr(self, name)!r} will not do, give {want}")

    def _range_fits(self) -> bool:
        """Whether the score range is none, or two numbers in order, of a regression."""
        limits = self.score_range
        return limits is None or (not self.labels and len(limits) == 2 and limits[0] < limits[1])

    @property
    def is_regression(self) -> bool:
        """Whether the label is a score."""
        return not self.labels

    @property
    def num_outputs(self) -> int:
        """Width of the classifier: classes, or 1 for a score."""
        return len(self.labels) or 1

    @property
    def answers(self) -> tuple[str, ...]:
        """How a submission spells the classes, in id order: as the task's own files do."""
        return self.local.values if self.local is not None and self.local.values else self.labels

    @property
    def main_metric(self) -> str:
        """The metric that ranks models."""
        return self.metrics[0]

    @property
    def pair(self) -> bool:
        """Whether an example is two texts."""
        return len(self.text) == 2

    @property
    def eval_splits(self) -> tuple[str, ...]:
        """The labelled dev splits, the main one first."""
        return tuple(self.eval)

    def is_labelled(self, split: str) -> bool:
        """Whether the labels of a split may be used: GLUE hides those of its test splits, so nobody reads any."""
        return split == "train" or split in self.eval
