"""Runs that differ by their seed alone, and what makes two scores incomparable."""

import statistics
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lobert.results.record import Number, Record

COMPRESSION = ("decomp", "objective", "allocate", "order", "budget", "scope", "refit_head", "init", "student_layers")
METHOD = ("task", "encoder", *COMPRESSION, "kd")
DATA = ("metric", "train_examples", "max_length")
TRAINING = ("epochs", "batch_size", "learning_rate", "precision")
DISTILLATION = ("alpha", "temperature", "beta", "normalize")

# What the command line may set and a field of the record shows, or that changes no number; `a.` and `a/`: all below a.
SHOWN = (
    *(
        "task",
        "task.",
        "encoder",
        "encoder.path",
        "encoder.teacher.",
        "encoder.student.",
        "seed",
        "experiment",
        "sweep",
    ),
    *(
        "decomp",
        "decomp.keep",
        "decomp.rank",
        "decomp.attention.rank",
        "decomp.ffn.rank",
        "decomp.init",
        "decomp.scope",
    ),
    *("decomp.allocate", "decomp.order", "decomp.budget", "decomp.objective", "decomp.refit_head", "decomp/"),
    *("kd", "kd.alpha", "kd.temperature", "kd.beta", "kd.normalize", "student.layers", "student.epochs"),
    *("student.learning_rate", "student.batch_size", "teacher.", "trainer", "trainer.", "logger", "logger."),
    *("stage", "output_dir", "resume", "latency_batch_size", "eval_batch_size", "jobs_at_once", "optimize", "hydra"),
    *("hydra.", "hydra/"),
)


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation of `count` numbers; of one number there is no deviation."""

    mean: float
    deviation: Number
    count: int


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ by their seed alone, one for each seed, in the order of their seeds.

    `repeats` are the earlier runs of a seed that was run more than once: they count nowhere.
    """

    records: tuple[Record, ...]
    repeats: tuple[Record, ...] = ()

    @property
    def first(self) -> Record:
        """The one that stands for all in what they share."""
        return self.records[0]

    @property
    def seeds(self) -> list[int]:
        return [record.seed for record in self.records]

    @property
    def single(self) -> bool:
        """Whether there is one seed only."""
        return len(self.records) == 1

    def statistic(self, value: Callable[[Record], Number]) -> Statistic | None:
        """Over the runs that have the number; None where none has it."""
        numbers = [float(number) for record in self.records if (number := value(record)) is not None]
        if not numbers:
            return None
        deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
        return Statistic(statistics.fmean(numbers), deviation, len(numbers))


def group_records(records: Iterable[Record]) -> list[RunGroup]:
    """The runs of the same task, encoder, compression, distillation and protocol together, in order of appearance."""
    groups: dict[Hashable, list[Record]] = {}
    for record in records:
        groups.setdefault(_frozen({**method(record), **protocol(record)}), []).append(record)
    return [_one_per_seed(members) for members in groups.values()]


def method(record: Record) -> dict[str, Any]:
    """What was run on what: task, encoder, compression with its size, distillation."""
    return {name: getattr(record, name) for name in METHOD} | {"keep": record.keep, "ranks": _ranks(record)}


def protocol(record: Record) -> dict[str, Any]:
    """What makes two scores incomparable though task, encoder and compression are the same: names to plain values.

    Data, teacher, training, distillation, and settings of the command line that the record shows nowhere else. What
    trains nothing has no settings of a training.
    """
    trained = (*TRAINING, *DISTILLATION) if record.epochs else ()
    return {
        **{name: getattr(record, name) for name in DATA},
        **{f"data {split}": digest for split, digest in record.data.items()},
        **{f"teacher {name}": value for name, value in record.teacher.items()},
        "teacher weights": record.teacher_fingerprint,
        **{name: getattr(record, name) for name in trained},
        **other_settings(record),
    }


def other_settings(record: Record) -> dict[str, str]:
    """What the command line set and no field of the record shows, as in `{"decomp.damping": "0.01"}`."""
    pairs = (word.lstrip("+~").partition("=") for word in record.overrides)
    return {key: value for key, _, value in pairs if not _is_shown(key)}


def differences(a: Record, b: Record, parts: Collection[str] = ("data", "training", "distillation")) -> str:
    """What is different in the protocols of two runs, as in `epochs 3 / 5; teacher learning_rate 2e-05 / 5e-05`.

    A difference that follows from another (the teacher's weights from its settings, the tokens from their number) is
    not told beside it. Settings of distillation are compared between runs of the same `kd`, those of a training where
    both trained. Empty where the two can be compared.
    """
    first, second = protocol(a), protocol(b)
    names = [name for name in {**first, **second} if _part(name) in parts and _comparable(name, a, b)]
    unlike = [name for name in names if first.get(name) != second.get(name)]
    told = [name for name in unlike if not _follows(name, unlike)]
    return "; ".join(f"{name} {in_words(first.get(name))} / {in_words(second.get(name))}" for name in told)


def in_words(value: Any) -> str:
    """A setting as a person reads it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _part(name: str) -> str:
    if name in DISTILLATION:
        return "distillation"
    return "training" if name in TRAINING else "data"


def _comparable(name: str, a: Record, b: Record) -> bool:
    """Whether a setting means the same in both runs."""
    if _part(name) == "data":
        return True
    return bool(a.epochs and b.epochs) and (name in TRAINING or a.kd == b.kd)


def _follows(name: str, unlike: Sequence[str]) -> bool:
    """Whether a difference in `name` is told by another one."""
    others = [other for other in unlike if other != name]
    if name == "teacher weights":
        return any(other.startswith(("teacher ", "data ")) or other in DATA for other in others)
    if name == "data train":
        return "train_examples" in others or "max_length" in others
    return name.startswith("data ") and "max_length" in others


def _is_shown(key: str) -> bool:
    return any(key == name or (name.endswith((".", "/")) and key.startswith(name)) for name in SHOWN)


def _ranks(record: Record) -> Any:
    """The ranks where they were given; not where a budget was spent, which depends on the examples a seed drew."""
    planned = any(word.lstrip("+").startswith("decomp.plan=") for word in record.overrides)
    if record.keep is not None or (record.allocate != "uniform" and not planned):
        return None
    return [[group["name"], group["factorization"], group["rank"]] for group in record.groups]


def _one_per_seed(records: Sequence[Record]) -> RunGroup:
    latest: dict[int, Record] = {}
    for record in sorted(records, key=lambda r: r.created):  # stable: of one second, the last that was given
        latest[record.seed] = record
    kept = tuple(latest[seed] for seed in sorted(latest))
    return RunGroup(kept, tuple(r for r in records if not any(r is one for one in kept)))


def _frozen(value: Any) -> Hashable:
    if isinstance(value, Mapping):
        return frozenset((key, _frozen(item)) for key, item in value.items())
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value
