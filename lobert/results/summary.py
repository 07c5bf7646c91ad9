"""The short summary a run ends with."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from lobert.results.columns import Form, percent, points, three, whole
from lobert.results.record import Number, Record, ratio


def print_summary(record: Record, path: Path, console: Console) -> None:
    """Print what a run came to: scores, sizes, cost, time, and where `path` (its record) and the student are."""
    norm = "" if record.objective == "weights" else f" · {record.objective} norm, {record.allocate}, {record.order}"
    title = f"{record.task} · {record.encoder} · {record.decomp}{norm} · kd {record.kd} · seed {record.seed}"
    console.print(f"\n[bold]{title}[/bold]", highlight=False)
    console.print(_scores(record))
    console.print(_sizes(record))
    lines = {
        "reconstruction error": Form(1, 4)(record.error),
        **_latency(record),
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
        form = points if name == "agreement" else three
        if after is not None:
            table.add_row(f"{name} with teacher", "", form(before), form(after), "")
    return table


def _sizes(record: Record) -> Table:
    def row(name: str, before: Number, after: Number, kept: Number) -> None:
        table.add_row(name, whole(before), whole(after), percent(kept), Form(1, 2, "×")(ratio(before, after)))

    table = _summary_table("size", "teacher", "student", "kept", "smaller")
    targets = sum(group["dense_parameters"] for group in record.groups)
    factors = sum(group["parameters"] for group in record.groups)
    row("parameters: targets", targets, factors, record.keep_targets)
    row("parameters: encoder", record.teacher_encoder_parameters, record.encoder_parameters, record.keep_encoder)
    row("parameters: model", record.teacher_parameters, record.parameters, record.keep_model)
    before, after = record.teacher_macs_per_token, record.macs_per_token
    row("multiply-adds / token", before, after, ratio(after, before))
    return table


def _latency(record: Record) -> dict[str, str]:
    """What one pass of teacher and student takes; nothing where they were not timed."""
    if (timed := record.latency) is None:
        return {}
    times = f"teacher {timed['teacher_ms']:.1f} ms, student {timed['student_ms']:.1f} ms"
    faster = Form(1, 2, "× as fast")(ratio(1.0, timed["ratio"]))
    return {"latency": f"{times}, {faster}; batch {timed['batch']}, length {timed['length']}"}


def _summary_table(first: str, *titles: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, min_width=21, no_wrap=True)
    for title in titles:
        table.add_column(title, justify="right", min_width=9, no_wrap=True)
    return table


def _stage(record: Record, stage: str) -> str:
    return f"{stage} {'found' if stage in record.found else f'{record.seconds[stage]:.1f}'}"
