"""The columns of the tables: what each shows of a record, and in which form."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from lobert.errors import LobertError, suggest
from lobert.results.record import Record, ratio

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Form:
    """A number times `scale`, with so many digits after the point and a unit."""

    scale: float = 1.0
    digits: int = 0
    unit: str = ""

    def __call__(self, value: float | None) -> str:
        return "–" if value is None else f"{value * self.scale:,.{self.digits}f}{self.unit}"

    def rounded(self, value: float) -> float:
        """The number that a reader sees."""
        return round(value * self.scale, self.digits)


percent, points = Form(100, 1, " %"), Form(100, 1)
three, two, whole = Form(1, 3), Form(1, 2), Form()


@dataclass(frozen=True)
class Column:
    """A column: its key in CSV (raw values), its title elsewhere (broken at `\\n`), and the form of its numbers.

    Without a form it holds words, the same for all runs of a group. `identity` columns say which run it is: they are
    shown where they differ, and `told` above the table where they do not. The others are shown by default where they
    have a `place`, and go first, the highest place first, where the table is too wide. `better` is which end is best.
    """

    key: str
    title: str
    value: Callable[[Record], Value]
    form: Form | None = None
    identity: bool = False
    told: bool = False
    place: int = 0
    better: Literal["higher", "lower"] | None = None
    spread: bool = False  # differs from seed to seed, so that it has a deviation


def _field(name: str) -> Callable[[Record], Value]:
    def value(record: Record) -> Value:
        found: Value = getattr(record, name)
        return found

    return value


def _identity(name: str, told: bool = True, title: str = "") -> Column:
    return Column(name, title or name, _field(name), identity=True, told=told)


def _measured(
    name: str, title: str, form: Form = points, place: int = 0, better: Literal["higher", "lower"] | None = None
) -> Column:
    return Column(name, title, _field(name), form, place=place, better=better, spread=True)


def _share(name: str, title: str, place: int = 0) -> Column:
    return Column(name, title, _field(name), points, place=place)


def _number(name: str, title: str) -> Column:
    return Column(name, title, _field(name), Form(1, 6))


def _latency(name: Literal["student_ms", "teacher_ms", "ratio"]) -> Callable[[Record], Value]:
    return lambda record: None if record.latency is None else record.latency[name]


COLUMNS = (
    *(_identity(name) for name in ("task", "encoder", "decomp", "objective", "allocate", "order", "budget", "kd")),
    _identity("seed"),
    _identity("metric"),
    *(_identity(name, told=False) for name in ("scope", "init")),
    _identity("refit_head", told=False, title="refit"),
    _identity("student_layers", told=False, title="layers"),
    Column("keep", "keep", _field("keep"), points),
    _share("keep_targets", "kept %\ntargets", place=-1),
    _share("keep_encoder", "kept %\nencoder"),
    _share("keep_model", "kept %\nmodel", place=4),
    Column("teacher_score", "teacher", _field("teacher_score"), points, place=1),
    _measured("zero_shot_score", "zero-\nshot", place=3, better="higher"),
    Column("score", "student", _field("score"), points, better="higher", spread=True, place=-1),
    _measured("retention", "retained\n%", place=6, better="higher"),
    _measured("agreement", "agree\n%", place=8, better="higher"),
    _measured("divergence", "KL", three, place=9, better="lower"),
    Column("parameters", "params\nM", _field("parameters"), Form(1e-6, 2)),
    Column("macs_ratio", "MACs\nratio", lambda r: ratio(r.macs_per_token, r.teacher_macs_per_token), two, place=2),
    Column("student_ms", "ms", _latency("student_ms"), Form(1, 1), spread=True, place=7),
    Column("teacher_ms", "teacher\nms", _latency("teacher_ms"), Form(1, 1), spread=True),
    Column("latency_ratio", "time\nratio", _latency("ratio"), two, spread=True, place=5),
    _measured("error", "error", three, place=10),
    Column("student_seconds", "student\ns", lambda r: r.seconds.get("student"), whole, spread=True),
    *(_number(name, name) for name in ("epochs", "batch_size", "learning_rate", "alpha", "temperature", "beta")),
    *(_number(name, name) for name in ("max_length", "train_examples")),
    *(Column(name, name, _field(name)) for name in ("normalize", "precision", "teacher_fingerprint", "device")),
    *(Column(name, name, _field(name)) for name in ("commit", "created", "config_hash", "student_path")),
)
BY_KEY = {column.key: column for column in COLUMNS}


def chosen_columns(names: Sequence[str]) -> list[Column]:
    """The columns of these keys; LobertError for a key that no column has."""
    for name in names:
        if name not in BY_KEY:
            raise LobertError(f"there is no column '{name}': {suggest(name, BY_KEY)}")
    return [BY_KEY[name] for name in names]
