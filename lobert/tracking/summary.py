"""A record as W&B shows it: one flat line of numbers and words, and its groups as a table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lobert.results.record import Record

Scalar = str | int | float | bool
SCORE = "score"  # the key that every run logs in the end, whatever its task, and that a search over runs maximizes
BY_WHOM = {"metrics": "student", "teacher_metrics": "teacher", "zero_shot_metrics": "zero_shot"}
ELSEWHERE = ("groups", "teacher_search", "overrides", "found", "versions", "data", "teacher", "schema")

GROUP_COLUMNS: tuple[str, ...] = (
    *("name", "factorization", "shape", "rank", "parameters", "dense_parameters", "macs", "dense_macs"),
    *("error", "objective_error", "evaluation"),
)
RUN_COLUMNS: tuple[str, ...] = (
    *("task", "encoder", "decomp", "objective", "allocate", "kd", "seed", "metric", "score", "teacher_score"),
    *("zero_shot_score", "retention", "agreement", "divergence", "keep_targets", "keep_encoder", "keep_model"),
    *("parameters", "macs_per_token", "error", "learning_rate", "temperature", "beta"),
)


def flat_record(record: Record) -> dict[str, Scalar]:
    """The record's numbers and words by key, `student/accuracy` and `latency/ratio` where it has several of a kind.

    What has no number is left out, and so is what is a list, or is in the configuration.
    """
    content = {BY_WHOM.get(name, name): v for name, v in asdict(record).items() if name not in ELSEWHERE}
    command = {"command": " ".join(["python train.py", *record.overrides])} if record.overrides else {}
    return {**dict(leaves(content)), **command}


def leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    """Every scalar below a mapping with its path."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{name}/")
        elif isinstance(value, str | int | float):
            yield f"{prefix}{name}", value


def group_rows(record: Record) -> list[list[Any]]:
    """A row of GROUP_COLUMNS for each group; shapes and ranks as text."""
    return [[cell(group[column]) for column in GROUP_COLUMNS] for group in record.groups]  # type: ignore[literal-required]


def run_rows(records: Sequence[Record]) -> list[list[Any]]:
    """A row of RUN_COLUMNS for each record."""
    return [[getattr(record, column) for column in RUN_COLUMNS] for record in records]


def cell(value: Any) -> Any:
    """A value in a table: a list as "8×96×96"."""
    return "×".join(map(str, value)) if isinstance(value, list | tuple) else value


def curves_by_compression(records: Sequence[Record]) -> dict[str, list[tuple[float, float]]]:
    """Share of the encoder that stays and score, of each compression, by share; over seeds the mean.

    A compression goes by its name, with that of the task or encoder where there are several.
    """
    several = [name for name in ("task", "encoder") if len({getattr(record, name) for record in records}) > 1]
    scores: dict[str, dict[float, list[float]]] = {}
    for record in records:
        if record.score is not None and record.keep_encoder is not None:
            key = " ".join([*(getattr(record, name) for name in several), record.decomp])
            scores.setdefault(key, {}).setdefault(round(record.keep_encoder, 6), []).append(record.score)
    return {
        key: [(keep, sum(values) / len(values)) for keep, values in sorted(points.items())]
        for key, points in sorted(scores.items())
    }
