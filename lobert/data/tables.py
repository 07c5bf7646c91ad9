"""A table: named columns of one split as a file or the hub has them, and what our columns are made of."""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lobert.data.tasks import Task
from lobert.errors import LobertError, suggest

log = logging.getLogger(__name__)
Columns = dict[str, list[Any]]
TEXT_COLUMNS = ("text_a", "text_b")
SHOWN = 10  # labels in an error sentence
LARGEST_SCORE = 1e30  # a score is kept in single precision


class Layout(Protocol):
    """What the layouts have in common."""

    @property
    def label(self) -> str: ...
    @property
    def options(self) -> str | None: ...
    @property
    def no_label(self) -> str | int | None: ...
    @property
    def index(self) -> str | None: ...


@dataclass(frozen=True)
class Table:
    """Columns of equal length.

    Attributes:
        source: file or data set, as an error names it.
        where: the place of row i in words, as "train.tsv, line 3".
        names: of the classes of a column, where the data set itself knows them.
    """

    source: str
    columns: Mapping[str, Sequence[Any]]
    where: Callable[[int], str]
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def require(source: str, wanted: Iterable[str], found: Iterable[Any]) -> None:
    """LobertError for the first wanted column that is not there, or is there twice."""
    there = [str(name) for name in found]
    for name in wanted:
        if name not in there:
            raise LobertError(f"{source} has no column '{name}': {suggest(name, there)}")
        if there.count(name) > 1:
            raise LobertError(f"{source} has {there.count(name)} columns '{name}': rename one")


def wanted_columns(task: Task, layout: Layout, text: Sequence[str], split: str) -> list[str]:
    """The columns to read of a split: texts, and what else there is to it."""
    labelled = task.is_labelled(split)
    extra = [layout.options] if layout.options else []
    extra += [layout.label] if labelled or layout.no_label is not None else []
    extra += [layout.index] if layout.index and not labelled else []
    return [*text, *extra]


def to_examples(
    task: Task, layout: Layout, text: Sequence[str], split: str, table: Table, parse: Callable[[Any], float]
) -> Columns:
    """Columns text_a, (text_b), (options), (label) and, in splits without labels, (id).

    Args:
        parse: reads one label; raises UnknownLabel where it cannot.

    Raises:
        LobertError: a text, an option or a label is not there or is none; no row is left.
    """
    rows = labelled_rows(layout, table)
    columns: Columns = {ours: read_texts(table, theirs, rows) for ours, theirs in zip(TEXT_COLUMNS, text, strict=False)}
    if layout.options:
        columns["options"] = read_options(task, table, layout.options, rows)
    if task.is_labelled(split):
        labels = table.columns[layout.label]
        columns["label"] = [read_label(labels[i], parse, table.where(i)) for i in rows]
    elif layout.index:
        columns["id"] = [spelled(table.columns[layout.index][i]) for i in rows]
    return columns


def labelled_rows(layout: Layout, table: Table) -> Sequence[int]:
    """The rows to keep: all but those whose label says that they have none, which are counted aloud."""
    if layout.no_label is None:
        return range(len(table))
    none = spelled(layout.no_label)
    rows = [i for i, label in enumerate(table.columns[layout.label]) if spelled(label) != none]
    if not rows:
        raise LobertError(f"{table.source} has no labelled rows: every label is '{none}'")
    if left := len(table) - len(rows):
        log.info("%s: left out %d of %d rows, which have no label ('%s')", table.source, left, len(table), none)
    return rows


def read_texts(table: Table, name: str, rows: Sequence[int]) -> list[str]:
    """One column of texts; an empty text is one, a missing one is not."""
    column = table.columns[name]
    for i in rows:
        if complaint := strange_text(column[i]):
            raise LobertError(f"{table.where(i)}: '{name}' {complaint}")
    return [column[i] for i in rows]


def strange_text(value: Any) -> str | None:
    """What is wrong with a text, if anything is."""
    if value is None:
        return "is missing"
    if not isinstance(value, str):
        return f"is {value!r:.40}, not text"
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return "holds half of a surrogate pair, which is no character"
    return None


def read_options(task: Task, table: Table, name: str, rows: Sequence[int]) -> list[list[str]]:
    """The options of each row, as many as the task has labels."""
    column, count = table.columns[name], len(task.labels)
    for i in rows:
        options = column[i]
        if not isinstance(options, Sequence) or isinstance(options, str) or len(options) != count:
            found = f"{len(options)} options" if isinstance(options, list | tuple) else repr(options)[:40]
            raise LobertError(f"{table.where(i)}: '{name}' is {found} where {count} options are expected")
        if complaint := next(filter(None, map(strange_text, options)), None):
            raise LobertError(f"{table.where(i)}: one of '{name}' {complaint}")
    return [list(column[i]) for i in rows]


# ---- labels ----


class UnknownLabel(ValueError):
    """A label that cannot be; the message says what is expected."""


def read_label(value: Any, parse: Callable[[Any], float], where: str) -> float:
    try:
        return parse(value)
    except UnknownLabel as error:
        if is_missing(value):
            raise LobertError(f"{where}: the label is missing") from None
        raise LobertError(f"{where}: label '{spelled(value):.40}' is not {error}") from None


def label_parser(task: Task, values: Sequence[str] = ()) -> Callable[[Any], float]:
    """Reads a label as it is spelled in a file: one of `values`, or a number; raises UnknownLabel."""
    return read_score if task.is_regression else class_parser(values or task.labels)


def class_parser(values: Sequence[str]) -> Callable[[Any], int]:
    """Reads the spelling of a class."""
    ids = {value: i for i, value in enumerate(values)}

    def parse(value: Any) -> int:
        try:
            return ids[spelled(value)]
        except KeyError:
            raise UnknownLabel(f"one of {shown(values)}") from None

    return parse


def id_parser(task: Task) -> Callable[[Any], float]:
    """Reads a label of the hub: most data sets carry ids from 0, some the names; raises UnknownLabel."""
    if task.is_regression:
        return read_score
    by_name = class_parser(task.labels)

    def parse(value: Any) -> int:
        if isinstance(value, str):
            return by_name(value)
        if isinstance(value, int) and 0 <= value < len(task.labels):
            return value
        raise UnknownLabel(f"one of {shown(task.labels)} (ids from 0)")

    return parse


def read_score(value: Any) -> float:
    """A finite number; raises UnknownLabel."""
    try:
        score = float("" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        raise UnknownLabel("a number") from None
    if not math.isfinite(score) or abs(score) > LARGEST_SCORE:
        raise UnknownLabel("a number")
    return score


def spelled(value: Any) -> str:
    """A label as a file would spell it: 1 for 1.0, true for True."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def is_missing(value: Any) -> bool:
    """Whether a cell that is no known label says that there is none."""
    return value is None or spelled(value).lower() in ("", "nan", "none", "null")


def shown(values: Sequence[str]) -> str:
    """The labels of a sentence, the first few of many."""
    more = f", … ({len(values)} in all)" if len(values) > SHOWN else ""
    return ", ".join(values[:SHOWN]) + more
