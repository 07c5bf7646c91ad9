"""What the page tells of a group of runs: a title, its settings, scores, sizes and costs, in words and rounded."""

from collections.abc import Callable, Iterator
from functools import partial

from lobert.report.axes import condition
from lobert.report.points import Point
from lobert.results.groups import RunGroup, Statistic
from lobert.results.record import Number, Record


def title(series: str, record: Record) -> str:
    """What tells a group from its neighbours: its series, and how much of what it keeps."""
    if record.decomp == "none":
        return f"{series} · {count(record.student_layers, 'layer')}"
    if record.keep is not None:
        return f"{series} · keep {record.keep:g}"
    return f"{series} · {100 * (record.keep_targets or 0):.1f} % of the targets"


def facts(point: Point) -> list[tuple[str, str]]:
    """Names and values of all that matters about the group, in the order in which people ask."""
    return [*_scores(point.group), *_sizes(point.group), *_settings(point.record)]


def count(number: int, noun: str) -> str:
    """A number of things, as in `1 run` and `2 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def plus_minus(found: Statistic | None, digits: int, unit: str = "") -> str:
    """Mean and deviation as text; a dash where there is no number."""
    if found is None:
        return "–"
    deviation = "" if found.deviation is None else f" ± {found.deviation:.{digits}f}"
    return f"{found.mean:,.{digits}f}{deviation}{unit}"


def _scores(group: RunGroup) -> Iterator[tuple[str, str]]:
    first = group.first
    for name in first.metrics:
        yield f"{name} of the student", _points(group, partial(_metric, name))
    yield f"{first.metric} of the teacher", _share(group.first.teacher_score)
    yield "before training", _points(group, lambda record: record.zero_shot_score)
    yield "agrees with the teacher", _points(group, lambda record: record.agreement, " %")
    yield "divergence from the teacher", plus_minus(group.statistic(lambda record: record.divergence), 3)


def _share(value: Number, unit: str = "") -> str:
    """A number that all seeds have."""
    return "–" if value is None else f"{100 * value:.1f}{unit}"


def _metric(name: str, record: Record) -> Number:
    return record.metrics.get(name)


def _points(group: RunGroup, value: Callable[[Record], Number], unit: str = "") -> str:
    def hundredfold(record: Record) -> Number:
        number = value(record)
        return None if number is None else 100 * number

    return plus_minus(group.statistic(hundredfold), 1, unit)


def _sizes(group: RunGroup) -> Iterator[tuple[str, str]]:
    first = group.first
    if first.groups:
        yield "kept of the targets", _share(first.keep_targets, " %")
    yield "kept of the encoder", _share(first.keep_encoder, " %")
    yield "kept of the model", _share(first.keep_model, " %")
    yield "parameters", f"{first.parameters:,} of {first.teacher_parameters:,}"
    yield "multiply-adds / token", f"{first.macs_per_token:,} of {first.teacher_macs_per_token:,}"
    yield "error of the weights", plus_minus(group.statistic(lambda record: record.error), 3)
    if first.latency is not None:
        both = f"{first.latency['student_ms']:.1f} ms, teacher {first.latency['teacher_ms']:.1f} ms"
        yield "latency (first seed)", f"{both}; {condition(first)}"


def _settings(record: Record) -> Iterator[tuple[str, str]]:
    names = (
        "objective", "allocate", "order", "budget", "scope", "init", "student_layers", "kd", "alpha", "temperature",
        "beta", "epochs", "batch_size", "learning_rate", "train_examples", "max_length", "precision",
    )  # fmt: skip
    for name in names:
        value = getattr(record, name)
        if value is not None:
            yield (
                name.replace("_", " ").removeprefix("student "),
                f"{value:g}" if isinstance(value, float) else str(value),
            )
    if record.refit_head:
        yield "last layer", "refitted"
    yield "made", record.created.replace("T", " ").removesuffix("+00:00")
