"""What a group of runs has in a column, and which of several groups is the best."""

from collections.abc import Hashable, Sequence

from lobert.results.columns import Column, Value
from lobert.results.grid import Cell, printable
from lobert.results.groups import RunGroup, Statistic
from lobert.results.notes import latency_setting
from lobert.results.record import Record

TIMED = ("student_ms", "teacher_ms", "latency_ratio")
BEST = "the best of its task, encoder and size"


def best_groups(groups: Sequence[RunGroup], column: Column, notes: Sequence[str]) -> set[int]:
    """Places of the best groups among those of one task, encoder, size and protocol; none where all look alike."""
    rivals: dict[Hashable, dict[int, float]] = {}
    for number, (group, note) in enumerate(zip(groups, notes, strict=True)):
        if column.better and column.form and (statistic := statistic_of(group, column)) is not None:
            sign = 1 if column.better == "higher" else -1
            r = group.first
            rivals.setdefault((r.task, r.encoder, r.metric, size_of(r), note), {})[number] = sign * column.form.rounded(
                statistic.mean
            )
    contests = [some for some in rivals.values() if len(set(some.values())) > 1]
    return {number for some in contests for number, value in some.items() if value == max(some.values())}


def size_of(record: Record) -> float | None:
    """The share that was asked for; where ranks were given, the one that stays, to a hundredth."""
    if record.keep is not None or record.keep_targets is None:
        return record.keep
    return round(record.keep_targets, 2)


def statistic_of(group: RunGroup, column: Column) -> Statistic | None:
    """Over the seeds of a group; none of times that were taken in different ways."""
    if column.key in TIMED and len({latency_setting(record) for record in group.records} - {None}) > 1:
        return None
    return group.statistic(lambda record: _as_number(column.value(record)))


def cell_of(group: RunGroup, column: Column, spread: bool, best: bool = False, marks: str = "") -> Cell:
    """What a group has in a column: a mean, with its deviation where `spread` asks for it, or words."""
    values = [column.value(record) for record in group.records]
    same = len(set(values)) == 1
    if column.form is None:
        return words(values[0] if same else None)
    statistic = statistic_of(group, column)
    if statistic is None:
        return Cell("–", {"": None})
    text, raw = column.form(statistic.mean), {"": values[0] if same else statistic.mean}
    if statistic.deviation is not None and column.spread:
        raw["_deviation"] = statistic.deviation
        text += f" ± {column.form(statistic.deviation)}" if spread else ""
    return Cell(text, raw, best, marks)


def _as_number(value: Value) -> float | None:
    return None if value is None or isinstance(value, str) else float(value)


def words(value: Value) -> Cell:
    """A word or a number that is not measured."""
    return Cell("–" if value is None else printable(value), {"": value})
