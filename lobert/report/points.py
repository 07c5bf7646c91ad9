"""The points of the charts: one per group of runs that differ by their seed alone, and one per teacher."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from lobert.report.axes import AXES, condition
from lobert.report.series import is_baseline, series_names
from lobert.results.groups import RunGroup, Statistic, differences, group_records, protocol
from lobert.results.record import Number, Record

Where = tuple[str, ...]  # task and encoder, or these and the distillation

# What a line through a chart holds fixed; what else differs along it is how much is kept.
FIXED = (
    "encoder", "decomp", "objective", "allocate", "order", "budget", "scope", "refit_head", "init", "kd",
    "student_layers",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A group of runs in a chart. `score` is in points; `x` is by the key of the axis, None where there is none.

    Points of one `chain` differ in how much they keep, and in nothing else. `condition` is what the latency was
    measured under; `note` says in what the protocol differs from that of most runs of task and encoder.
    """

    group: RunGroup
    series: str
    chain: str
    score: Statistic
    x: Mapping[str, Number]
    condition: str | None
    note: str | None

    @property
    def record(self) -> Record:
        """A run that stands for the group."""
        return self.group.first


@dataclass(frozen=True)
class Teacher:
    """A teacher in the charts of its task; `milliseconds` by the condition of the measurement."""

    task: str
    encoder: str
    score: float
    x: Mapping[str, Number]
    milliseconds: Mapping[str, float]


def make_points(records: Sequence[Record]) -> list[Point]:
    """The points of all groups that have a score, in order of task, series and size."""
    groups = [group for group in group_records(records) if _score(group) is not None]
    usual = _usual_protocols(groups)
    names = series_names([group.first for group in groups])
    times = _teacher_times(records)
    points = [_point(group, name, usual, times) for group, name in zip(groups, names, strict=True)]
    return sorted(points, key=lambda p: (p.record.task, is_baseline(p.record), p.series, -(p.x["encoder"] or 0)))


def make_teachers(records: Sequence[Record]) -> list[Teacher]:
    """The teachers that have a score, each once, the best of a task first."""
    runs: dict[tuple, list[Record]] = {}
    for record in records:
        if record.teacher_score is not None:
            runs.setdefault(_taught_by(record), []).append(record)
    teachers = [_teacher(taught) for taught in runs.values()]
    return sorted(teachers, key=lambda teacher: (teacher.task, -teacher.score))


def conditions(points: Sequence[Point]) -> list[str]:
    """What latencies were measured under, that of the most points first."""
    counted = Counter(point.condition for point in points if point.condition is not None)
    return sorted(counted, key=lambda text: (-counted[text], text))


def _score(group: RunGroup) -> Statistic | None:
    return group.statistic(lambda record: None if record.score is None else 100 * record.score)


def _point(group: RunGroup, series: str, usual: Mapping[Where, Record], times: Mapping[tuple, float]) -> Point:
    first, score = group.first, _score(group)
    assert score is not None  # those without are left out before
    differing = _unusual(first, usual)
    measured = {condition(record) for record in group.records} - {None}
    mixed = len(measured) > 1  # a mean of milliseconds of two machines is no number
    return Point(
        group=group,
        series=series,
        chain=repr([first.task, *(getattr(first, name) for name in _fixed(first)), protocol(first)]),
        score=score,
        x=_places_across(group) | {"latency": None if mixed else _milliseconds(group, times)},
        condition=None if mixed or not measured else measured.pop(),
        note=f"Not the protocol of most runs here, which have the first of: {differing}" if differing else None,
    )


def _places_across(group: RunGroup) -> dict[str, Number]:
    found = {key: group.statistic(axis.value) for key, axis in AXES.items()}
    return {key: statistic.mean if statistic else None for key, statistic in found.items()}


def _milliseconds(group: RunGroup, times: Mapping[tuple, float]) -> Number:
    """The mean share of the teacher's time, times the teacher's median time under the same condition."""
    share = group.statistic(AXES["latency"].value)
    return share.mean * times[_timed_with(group.first)] if share else None


def _teacher_times(records: Sequence[Record]) -> dict[tuple, float]:
    """Median milliseconds of each teacher under each condition."""
    timed: dict[tuple, list[float]] = {}
    for record in records:
        if record.latency is not None:
            timed.setdefault(_timed_with(record), []).append(record.latency["teacher_ms"])
    return {key: median(values) for key, values in timed.items()}


def _timed_with(record: Record) -> tuple:
    return (*_taught_by(record), condition(record))


def _taught_by(record: Record) -> tuple:
    return (record.task, record.encoder, record.teacher_fingerprint, record.teacher_score)


def _fixed(record: Record) -> tuple[str, ...]:
    return FIXED[:-1] if is_baseline(record) else FIXED


def _usual_protocols(groups: Sequence[RunGroup]) -> dict[Where, Record]:
    """For each task and encoder, and within these for each distillation, a run of the protocol that most runs have."""
    counted: dict[Where, Counter[str]] = {}
    examples: dict[str, Record] = {}
    for group in groups:
        name = repr(protocol(group.first))
        examples.setdefault(name, group.first)
        for where in _places(group.first):
            counted.setdefault(where, Counter())[name] += len(group.records)
    return {where: examples[names.most_common(1)[0][0]] for where, names in counted.items()}


def _places(record: Record) -> list[Where]:
    return [(record.task, record.encoder), (record.task, record.encoder, record.kd)]


def _unusual(record: Record, usual: Mapping[Where, Record]) -> str:
    """In what the protocol of a run is not the usual one; empty where it is."""
    told = "; ".join(filter(None, (differences(usual[where], record) for where in _places(record))))
    return "; ".join(dict.fromkeys(told.split("; ")))


def _teacher(records: Sequence[Record]) -> Teacher:
    first = records[0]
    return Teacher(
        task=first.task,
        encoder=first.encoder,
        score=100 * (first.teacher_score or 0.0),
        x={key: axis.teacher(first) for key, axis in AXES.items() if key != "latency"},
        milliseconds={str(key[-1]): time for key, time in _teacher_times(records).items()},
    )
