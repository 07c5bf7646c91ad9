"""What a chart can have across: how much stays, what it costs, how long it takes; and the front over it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lobert.results.record import Number, Record


@dataclass(frozen=True)
class Axis:
    """A quantity of a run and of its teacher: `title` stands under a chart with its `unit`, `short` on a button.

    That of a latency is the student's share of its teacher's time: the two were timed in turn, so that a drift of the
    machine has cancelled. A chart shows it times the teacher's median time.
    """

    key: str
    short: str
    title: str
    unit: str
    value: Callable[[Record], Number]
    teacher: Callable[[Record], Number]


def _targets(record: Record) -> Number:
    """None where nothing was factorized: a share of no weights is no size."""
    return 100 * record.keep_targets if record.groups and record.keep_targets is not None else None


def _share(value: Number) -> Number:
    return None if value is None else 100 * value


def _whole(record: Record) -> Number:
    return 100.0


AXES = {
    axis.key: axis
    for axis in (
        Axis("encoder", "encoder", "kept parameters of the encoder", "%", lambda r: _share(r.keep_encoder), _whole),
        Axis("targets", "targets", "kept parameters of the targets", "%", _targets, _whole),
        Axis("model", "model", "kept parameters of the model", "%", lambda r: _share(r.keep_model), _whole),
        Axis(
            "macs", "multiply-adds", "multiply-adds per token", "M",
            lambda r: r.macs_per_token / 1e6, lambda r: r.teacher_macs_per_token / 1e6,
        ),
        Axis(
            "latency", "latency", "forward pass of a batch", "ms",
            lambda r: r.latency["ratio"] if r.latency else None,
            lambda r: r.latency["teacher_ms"] if r.latency else None,
        ),
    )
}  # fmt: skip


def condition(record: Record) -> str | None:
    """Under what the latency was measured; milliseconds of two conditions do not compare. None: not measured."""
    if record.latency is None:
        return None
    versions = record.versions.get("torch") or "?"
    return f"batch {record.latency['batch']} × {record.latency['length']} tokens, {record.device}, torch {versions}"


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points `(cost, score)` that no other point beats, by rising cost: less cost, or more score.

    >>> front([(1, 5), (2, 4), (3, 7)])
    [0, 2]
    """
    best, kept = float("-inf"), []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[index][1] > best:
            best = points[index][1]
            kept.append(index)
    return kept


def logarithmic(values: Sequence[float]) -> bool:
    """Whether a logarithmic scale serves: positive values over more than a factor of five."""
    return bool(values) and min(values) > 0 and max(values) > 5 * min(values)
