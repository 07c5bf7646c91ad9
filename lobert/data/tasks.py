"""A task: its texts, labels and metrics, and where its files and columns are in each layout."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from lobert.data.layouts import HubLayout, LocalLayout, OwnFiles, names, read_layout
from lobert.data.metrics import CORRELATIONS, check_metrics
from lobert.errors import LobertError, suggest

SOURCES = ("files", "demo")
NAME, NAME_SIGNS = r"[\w.-]*\w", "letters, digits, '.', '_' and '-'"  # fit for a file
Kind = Literal["classification", "regression", "multiple_choice"]


@dataclass(frozen=True)
class Task:
    """All that is particular to one task; built as `Task(**mapping)` from a file of `conf/task`.

    Attributes:
        name: as GLUE writes it.
        text: one or two names of text columns (of the hub layout, for people to read; those of the user's own files).
        metrics: keys of `lobert.data.metrics.METRICS`; the first is the main one.
        labels: class names in id order, or the names of the options of a multiple choice; empty for regression, and for
            files of the user's own whose labels are to be taken from the data.
        eval: labelled dev splits, each with the suffix its metrics carry. The main score is that of the split without a
            suffix; where all have one, that of all splits together.
        test: splits to predict for a submission, each with the name of its file (without ".tsv"). Loaded on demand.
        score_range: least and largest score of a regression; None where there is no limit.
        max_length: tokens kept of a text or a pair.
        train_examples: use only so many training examples, the same for every seed; None for all.
        dev_examples: likewise of every labelled dev split; for a quick look, as scores of few examples are rough.
        data_dir: folder with the task's own folder in it, or that folder; None for `LOBERT_DATA_DIR`, else the hub.
        source: `files` (local or hub) or `demo` (generated).
        hub, local: the two public layouts; None where the task has no such copy.
        own: files of the user's own, in place of both.
        kind: what an answer is; None goes by the metrics: scores for correlations, else classes.
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
    dev_examples: int | None = None
    data_dir: str | None = None
    source: str = "files"
    hub: HubLayout | None = None
    local: LocalLayout | None = None
    own: OwnFiles | None = None
    kind: Kind | None = None

    def __post_init__(self) -> None:
        for name in ("text", "metrics", "labels"):
            object.__setattr__(self, name, names(getattr(self, name)))
        if self.score_range is not None:
            object.__setattr__(self, "score_range", tuple(self.score_range))
        object.__setattr__(self, "hub", read_layout(HubLayout, self.hub, "task.hub"))
        object.__setattr__(self, "local", read_layout(LocalLayout, self.local, "task.local"))
        object.__setattr__(self, "own", read_layout(OwnFiles, self.own, "task.own"))
        check_metrics(self.metrics)
        if self.kind is None:
            scores = bool(self.metrics) and all(name in CORRELATIONS for name in self.metrics)
            object.__setattr__(self, "kind", "regression" if scores else "classification")
        self._check()

    def _check(self) -> None:
        for key, value, choices in (("source", self.source, SOURCES), ("kind", self.kind, get_args(Kind))):
            if value not in choices:
                raise LobertError(f"task.{key}={value} is not known: {suggest(str(value), choices)}")
        for name, wrong, want in (
            ("name", not re.fullmatch(NAME, self.name), NAME_SIGNS),
            ("metrics", not self.metrics, "at least one metric"),
            ("metrics", self._strange_metrics(), self._fitting_metrics()),
            ("text", len(self.text) not in (1, 2), "one or two columns"),
            ("labels", self.is_regression and self.labels, "no labels, as the metrics are those of scores"),
            ("labels", len(self.labels) == 1 or self._lacks_labels(), "two or more classes, or none for regression"),
            ("labels", len(set(self.labels)) < len(self.labels), "every class once"),
            ("eval", not self.eval, "at least one labelled split"),
            ("eval", len(set(self.eval.values())) < len(self.eval), "a suffix of its own for each split"),
            ("test", len(set(self.test.values())) < len(self.test), "a file of its own for each split"),
            ("test", not all(re.fullmatch(NAME, file) for file in self.test.values()), NAME_SIGNS),
            ("score_range", not self._range_fits(), "least and largest score, for a regression only, or null"),
            ("max_length", type(self.max_length) is not int or self.max_length < 8, "8 or more tokens"),
            ("train_examples", not _absent_or_positive(self.train_examples), "1 or more, or null"),
            ("dev_examples", not _absent_or_positive(self.dev_examples), "1 or more, or null"),
        ):
            if wrong:
                raise LobertError(f"task {self.name}: {name}={getattr(self, name)!r} will not do, give {want}")
        for layout in (self.hub, self.local, self.own):
            if layout is not None and self.is_choice != (layout.options is not None):
                raise LobertError(
                    f"task {self.name}: a column of options is there for kind=multiple_choice, and only it"
                )

    def _range_fits(self) -> bool:
        """Whether the score range is none, or two numbers in order, of a regression."""
        limits = self.score_range
        return limits is None or (self.is_regression and len(limits) == 2 and limits[0] < limits[1])

    def _lacks_labels(self) -> bool:
        return not self.is_regression and not self.labels and self.own is None

    def _strange_metrics(self) -> bool:
        """Whether a metric cannot be computed of such answers."""
        of_scores = any((name in CORRELATIONS) != self.is_regression for name in self.metrics)
        return of_scores or ("f1" in self.metrics and (self.is_choice or len(self.labels) > 2))

    def _fitting_metrics(self) -> str:
        if self.is_regression:
            return f"those of scores, {' and '.join(CORRELATIONS)}"
        return "accuracy or matthews, or f1 where there are two classes; correlations are of scores, and stand alone"

    @property
    def is_regression(self) -> bool:
        """Whether the label is a score."""
        return self.kind == "regression"

    @property
    def is_choice(self) -> bool:
        """Whether each example brings its own options, of which one is right."""
        return self.kind == "multiple_choice"

    @property
    def num_outputs(self) -> int:
        """Numbers the model gives for an example: one for each class or option, or 1 for a score."""
        return len(self.labels) or 1

    @property
    def answers(self) -> tuple[str, ...]:
        """How a submission spells the classes, in id order: as the task's own files do."""
        layout = self.own or self.local
        return layout.values if layout is not None and layout.values else self.labels

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
        """The labelled dev splits."""
        return tuple(self.eval)

    @property
    def main_splits(self) -> tuple[str, ...]:
        """The dev splits of the main score: the one without a suffix, or all of them together."""
        return tuple(split for split, suffix in self.eval.items() if not suffix) or self.eval_splits

    @property
    def pools(self) -> bool:
        """Whether the main score is that of all dev splits together."""
        return "" not in self.eval.values()

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits: train, dev, and those to predict."""
        return tuple(dict.fromkeys(("train", *self.eval, *self.test)))

    def is_labelled(self, split: str) -> bool:
        """Whether the labels of a split may be used: GLUE hides those of its test splits, so nobody reads any."""
        return split == "train" or split in self.eval


def _absent_or_positive(value: Any) -> bool:
    return value is None or (type(value) is int and value >= 1)
