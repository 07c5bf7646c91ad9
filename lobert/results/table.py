"""Tables of runs as text, Markdown and CSV, and the short summary a run ends with."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from lobert.results.record import Number, Record, ratio

Cell = str | int | float | None


def _text(value: Cell) -> str:
    return "–" if value is None else str(value)


def _form(scale: float, digits: int, unit: str = "") -> Callable[[Cell], str]:
    def form(value: Cell) -> str:
        return "–" if value is None else f"{float(value) * scale:,.{digits}f}{unit}"

    return form


percent, points = _form(100, 1, " %"), _form(100, 1)


@dataclass(frozen=True)
class Column:
    """A column: its key in CSV (raw values), its title elsewhere (broken at `\\n`), and the form of a value."""

    key: str
    title: str
    value: Callable[[Record], Cell]
    form: Callable[[Cell], str] = _text
    identity: bool = False  # says which run it is


COLUMNS = (
    Column("task", "task", lambda r: r.task, identity=True),
    Column("encoder", "encoder", lambda r: r.encoder, identity=True),
    Column("decomp", "decomp", lambda r: r.decomp, identity=True),
    Column("objective", "objective", lambda r: r.objective, identity=True),
    Column("allocate", "allocate", lambda r: r.allocate, identity=True),
    Column("order", "order", lambda r: r.order, identity=True),
    Column("budget", "budget", lambda r: r.budget, identity=True),
    Column("kd", "kd", lambda r: r.kd, identity=True),
    Column("seed", "seed", lambda r: r.seed, identity=True),
    Column("metric", "metric", lambda r: r.metric, identity=True),
    Column("teacher_score", "teacher", lambda r: r.teacher_score, points),
    Column("zero_shot_score", "zero-\nshot", lambda r: r.zero_shot_score, points),
    Column("score", "student", lambda r: r.score, points),
    Column("retention", "retained\n%", lambda r: r.retention, points),
    Column("agreement", "agree\n%", lambda r: r.agreement, points),
    Column("divergence", "KL", lambda r: r.divergence, _form(1, 3)),
    Column("keep_targets", "kept %\ntargets", lambda r: r.keep_targets, points),
    Column("keep_encoder", "kept %\nencoder", lambda r: r.keep_encoder, points),
    Column("keep_model", "kept %\nmodel", lambda r: r.keep_model, points),
    Column("parameters", "params\nM", lambda r: r.parameters, _form(1e-6, 2)),
    Column("macs_ratio", "MACs\nratio", lambda r: ratio(r.macs_per_token, r.teacher_macs_per_token), _form(1, 2)),
    Column("error", "error", lambda r: r.error, _form(1, 3)),
    Column("student_seconds", "student\ns", lambda r: r.seconds.get("student"), _form(1, 0)),
)


def in_order(records: Sequence[Record]) -> list[Record]:
    """By task, compression, and the share kept (largest first), then encoder, distillation and seed."""
    return sorted(records, key=lambda r: (r.task, r.decomp, -(r.keep_targets or 0), r.encoder, r.kd, r.seed))


def as_text(records: Sequence[Record]) -> str:
    """A table of fixed width; what all runs share stands above it instead of in columns."""
    shared = [c for c in COLUMNS if c.identity and c.key != "decomp" and len({c.value(r) for r in records}) == 1]
    caption = " · ".join(f"{c.key} {c.value(records[0])}" for c in shared)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    columns = [column for column in COLUMNS if column not in shared]
    for column in columns:
        table.add_column(column.title, justify="left" if column.identity else "right", no_wrap=True)
    for record in in_order(records):
        table.add_row(*(column.form(column.value(record)) for column in columns))
    return f"{caption}\n{render(table)}".lstrip("\n")


def as_markdown(records: Sequence[Record]) -> str:
    """A GitHub-flavoured table with every column."""
    titles = [column.title.replace("-\n", "-").replace("\n", " ") for column in COLUMNS]
    rules = [":--" if column.identity else "--:" for column in COLUMNS]
    rows = [[c.form(c.value(record)).replace("|", "\\|") for c in COLUMNS] for record in in_order(records)]
    return "".join(f"| {' | '.join(row)} |\n" for row in [titles, rules, *rows])


def as_csv(records: Sequence[Record]) -> str:
    """Every column, unrounded, under its key; scores and shares are fractions."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([column.key for column in COLUMNS])
    writer.writerows([column.value(record) for column in COLUMNS] for record in in_order(records))
    return buffer.getvalue()


def print_summary(record: Record, path: Path, console: Console) -> None:
    """Print what a run came to: scores, sizes, cost, time, and where `path` (its record) and the student are."""
    norm = "" if record.objective == "weights" else f" · {record.objective} norm, {record.allocate}, {record.order}"
    title = f"{record.task} · {record.encoder} · {record.decomp}{norm} · kd {record.kd} · seed {record.seed}"
    console.print(f"\n[bold]{title}[/bold]", highlight=False)
    console.print(_scores(record))
    console.print(_sizes(record))
    lines = {
        "reconstruction error": _form(1, 4)(record.error),
        "seconds": ", ".join(_stage(record, stage) for stage in record.seconds),
        "record": str(path),
        "student": record.student_path,
    }
    for name, value in lines.items():
        console.print(f"{name:<21} {value}", highlight=False, markup=False, soft_wrap=True)


def _scores(record: Record) -> Table:
    table = _summary_table("score", "teacher", "zero-shot", "student", "retained")
    for name, score in record.metrics.items():
        teacher = record.teacher_metrics.get(name)
        row = (points(teacher), points(record.zero_shot_metrics.get(name)), points(score))
        table.add_row(name, *row, percent(ratio(score, teacher)), style="bold" if name == record.metric else "")
    for name, before, after in (
        ("agreement", record.zero_shot_agreement, record.agreement),
        ("divergence", record.zero_shot_divergence, record.divergence),
    ):
        form = points if name == "agreement" else _form(1, 3)
        if after is not None:
            table.add_row(f"{name} with teacher", "", form(before), form(after), "")
    return table


def _sizes(record: Record) -> Table:
    def row(name: str, before: Number, after: Number, kept: Number) -> None:
        table.add_row(
            name, _form(1, 0)(before), _form(1, 0)(after), percent(kept), _form(1, 2, "×")(ratio(before, after))
        )

    table = _summary_table("size", "teacher", "student", "kept", "smaller")
    targets = sum(group["dense_parameters"] for group in record.groups)
    factors = sum(group["parameters"] for group in record.groups)
    row("parameters: targets", targets, factors, record.keep_targets)
    row("parameters: encoder", record.teacher_encoder_parameters, record.encoder_parameters, record.keep_encoder)
    row("parameters: model", record.teacher_parameters, record.parameters, record.keep_model)
    before, after = record.teacher_macs_per_token, record.macs_per_token
    row("multiply-adds / token", before, after, ratio(after, before))
    return table


def _summary_table(first: str, *titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, min_width=21, no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right", min_width=9, no_wrap=True)
    return table


def _stage(record: Record, stage: str) -> str:
    return f"{stage} {'found' if stage in record.found else f'{record.seconds[stage]:.1f}'}"


def render(table: Table) -> str:
    """Plain text as wide as the table is: a number cut short would be another number."""
    console = Console(file=io.StringIO(), width=1000, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "".join(f"{line.rstrip()}\n" for line in capture.get().splitlines() if line.strip())
