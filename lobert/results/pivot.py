"""The pivot: methods at a size as rows, tasks as columns, one number in each cell."""

import json
import statistics
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from lobert.errors import LobertError
from lobert.results.cells import BEST, TIMED, best_groups, cell_of, size_of, statistic_of
from lobert.results.columns import BY_KEY, COLUMNS, Column, points
from lobert.results.grid import Cell, Grid, Head, printable
from lobert.results.groups import RunGroup, group_records, method
from lobert.results.notes import (
    SINGLE,
    Protocols,
    is_uncertain,
    read_protocols,
    told_latency,
    told_repeats,
    told_single,
)
from lobert.results.record import Record
from lobert.results.table import Stripe

IDENTITY = tuple(c for c in COLUMNS if c.identity and c.key not in ("task", "seed", "metric"))
SCORE, TEACHER = BY_KEY["score"], BY_KEY["teacher_score"]


@dataclass(frozen=True)
class Line:
    """A row: one method and size in one protocol, its groups by their tasks; or the teachers of an encoder."""

    groups: dict[str, RunGroup]
    note: str = ""
    is_teacher: bool = False

    @property
    def first(self) -> Record:
        return next(iter(self.groups.values())).first


@dataclass(frozen=True)
class Pivot:
    """What the cells are made from."""

    lines: list[Line]
    protocols: Protocols
    value: Column
    usual: int  # seeds of most groups

    def column(self, task: str) -> list[Cell]:
        """The cells of one task."""
        places = [n for n, line in enumerate(self.lines) if task in line.groups and not line.is_teacher]
        groups, notes = [self.lines[n].groups[task] for n in places], [self.lines[n].note for n in places]
        best = {places[n] for n in best_groups(groups, self.value, notes)}
        return [self.cell(line, task, n in best) for n, line in enumerate(self.lines)]

    def cell(self, line: Line, task: str, best: bool) -> Cell:
        """One number over seeds, with what a reader must know about it."""
        group = line.groups.get(task)
        letter = self.protocols.letters.get(line.note, "")
        if group is None:
            return Cell("–")
        if line.is_teacher:
            return cell_of(group, TEACHER, spread=False, marks=letter)
        cell = cell_of(group, self.value, True, best, (SINGLE if is_uncertain(group) else "") + letter)
        count = len(group.records)
        number = f" ({count})" if count != self.usual and cell.text != "–" else ""
        return Cell(cell.text + number, {**cell.raw, "_n": count}, cell.best, cell.marks)

    def average(self, tasks: Sequence[str]) -> Stripe:
        """The mean over all tasks, where a line has them all."""
        return Head("average", "average"), [self.mean(line, tasks) for line in self.lines]

    def mean(self, line: Line, tasks: Sequence[str]) -> Cell:
        shown = TEACHER if line.is_teacher else self.value
        found = [statistic_of(line.groups[task], shown) for task in tasks if task in line.groups]
        means = [statistic.mean for statistic in found if statistic is not None]
        if len(means) < len(tasks) or shown.form is None:
            return Cell("–", {"": None})
        return Cell(shown.form(statistics.fmean(means)), {"": statistics.fmean(means)})


def pivot_grid(records: Sequence[Record], value: Column = SCORE, complete: bool = False) -> Grid:
    """Means over seeds with their deviations; a row never mixes protocols of a task.

    The last column is the mean over the tasks, in rows that have all of them; the first rows are the teachers'.
    `complete` shows in words how a row's protocol differs, as CSV does.
    """
    groups = group_records(records)
    if not groups:
        raise LobertError("there is no run to make a table of")
    protocols = read_protocols(groups)
    tasks = sorted({group.first.task for group in groups})
    lines = [*(_teachers(groups, protocols) if value is SCORE else []), *_students(groups, protocols)]
    pivot = Pivot(lines, protocols, value, statistics.mode(len(group.records) for group in groups))
    shown = [c for c in IDENTITY if c.key == "decomp" or len({c.value(g.first) for g in groups}) > 1]
    stripes = [*(_labels(lines, column) for column in shown), _sizes(lines)]
    stripes += [(Head(task, printable(task)), pivot.column(task)) for task in tasks]
    stripes += [pivot.average(tasks)] if len(tasks) > 1 else []
    stripes += [_protocols(lines)] if complete else []
    heads, columns = zip(*stripes, strict=True)
    rows = list(zip(*columns, strict=True))
    timed = told_latency(groups) if value.key in TIMED else []
    notes = [*told_single(groups), *protocols.told(), *told_repeats(groups), *timed]
    best = BEST if any(cell.best for row in rows for cell in row) else ""
    return Grid(heads, rows, _caption(groups, shown, pivot), notes, best, _sections(lines))


def _students(groups: Sequence[RunGroup], protocols: Protocols) -> list[Line]:
    """One line for each method and note, the largest sizes first."""
    lines: dict[Hashable, Line] = {}
    for group, note in zip(groups, protocols.notes, strict=True):
        what = json.dumps({**method(group.first), "task": None}, sort_keys=True)
        number = 0
        while group.first.task in (line := lines.setdefault((what, note, number), Line({}, note))).groups:
            number += 1  # two protocols that are told in the same words
        line.groups[group.first.task] = group
    order = ["", *protocols.letters]
    return sorted(lines.values(), key=lambda line: (*_place(line.first), order.index(line.note)))


def _teachers(groups: Sequence[RunGroup], protocols: Protocols) -> list[Line]:
    """The teachers: one line for each encoder, and one more for each protocol that has other teachers."""
    lines: dict[tuple[str, str], Line] = {}
    for group, note in zip(groups, protocols.notes, strict=True):
        usual = protocols.baselines[(group.first.task, group.first.encoder)]
        same = usual.first.teacher_fingerprint == group.first.teacher_fingerprint
        told = "" if same else note
        line = lines.setdefault((group.first.encoder, told), Line({}, told, is_teacher=True))
        line.groups.setdefault(group.first.task, usual if same else group)
    return [lines[key] for key in sorted(lines)]


def _place(r: Record) -> tuple[Hashable, ...]:
    size = size_of(r)
    return -(1.0 if size is None else size), r.encoder, r.decomp, r.kd


def _labels(lines: Sequence[Line], column: Column) -> Stripe:
    """What tells the lines apart; of a teacher its encoder alone."""
    return Head(column.key, column.title, True), [_label(line, column) for line in lines]


def _label(line: Line, column: Column) -> Cell:
    if line.is_teacher and column.key not in ("encoder", "decomp"):
        return Cell("", {"": None})
    value = "teacher" if line.is_teacher and column.key == "decomp" else column.value(line.first)
    return Cell(printable(value), {"": value})


def _sizes(lines: Sequence[Line]) -> Stripe:
    return Head("keep", "keep %"), [_size(line) for line in lines]


def _size(line: Line) -> Cell:
    size = None if line.is_teacher else size_of(line.first)
    return Cell("" if line.is_teacher else points(size), {"": size})


def _protocols(lines: Sequence[Line]) -> Stripe:
    return Head("protocol", "protocol", True), [Cell(line.note, {"": line.note or None}) for line in lines]


def _sections(lines: Sequence[Line]) -> frozenset[int]:
    """Where the teachers end, and where a size does."""
    parts = [(line.is_teacher, None if line.is_teacher else size_of(line.first)) for line in lines]
    return frozenset(n for n in range(1, len(parts)) if parts[n] != parts[n - 1])


def _caption(groups: Sequence[RunGroup], shown: Sequence[Column], pivot: Pivot) -> str:
    """What the numbers are, over how many seeds, and what all rows share."""
    metrics = dict.fromkeys((g.first.task, g.first.metric) for g in groups)
    what = "student's score" if pivot.value is SCORE else pivot.value.title.replace("-\n", "-").replace("\n", " ")
    named = ", ".join(f"{task} {metric}" for task, metric in metrics) if pivot.value is SCORE else ""
    over = f"mean ± deviation over {pivot.usual} seeds" if pivot.usual > 1 else "one seed"
    shared = [c for c in IDENTITY if c.told and c not in shown]
    same = " · ".join(f"{c.key} {c.value(groups[0].first)}" for c in shared)
    return printable(f"{what}{f' ({named})' if named else ''}, {over}{f' · {same}' if same else ''}")
