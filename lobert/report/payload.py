"""The data of the page: plain values for JSON, rounded to what a chart can show."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from lobert import __version__
from lobert.report.axes import AXES
from lobert.report.commands import commands
from lobert.report.data import Collection
from lobert.report.facts import count, facts, title
from lobert.report.heatplot import change
from lobert.report.points import Point, Teacher, conditions, make_points, make_teachers
from lobert.report.rows import table
from lobert.report.series import BASELINE, LIGHT, Series, draw_series, series_names
from lobert.report.thinning import MOST_POINTS, Curve
from lobert.results.anatomy import Anatomy, columns_of, rows_of
from lobert.results.groups import group_records
from lobert.results.record import Record

Json = dict[str, Any]


def payload(collection: Collection) -> Json:
    """Everything that the page shows."""
    points, teachers = make_points(collection.records), make_teachers(collection.records)
    series, measured = draw_series(point.series for point in points), conditions(points)
    order = list(series)
    chains = {chain: number for number, chain in enumerate(dict.fromkeys(point.chain for point in points))}
    return {
        "about": about(collection),
        "series": [_series(one) for one in series.values()],
        "axes": [{"key": a.key, "short": a.short, "title": a.title, "unit": a.unit} for a in AXES.values()],
        "conditions": measured,
        "tasks": _tasks(points, teachers, measured),
        "points": [
            _point(point, collection)
            | {
                "series": order.index(point.series),
                "chain": chains[point.chain],
                "condition": None if point.condition is None else measured.index(point.condition),
            }
            for point in points
        ],
        "curves": {"most": MOST_POINTS, "groups": _curves(collection)},
        "table": table(collection.records),
        "anatomies": [_anatomy(anatomy) for anatomy in collection.anatomies],
        "environments": _environments(collection.records),
        "skipped": collection.skipped,
    }


def about(collection: Collection) -> str:
    """From how much the report was made, when and by what."""
    runs, groups = len(collection.runs), len(group_records(collection.records))
    counted = f"{count(runs, 'run')} in {count(groups, 'group')} (runs of a group differ by their seed alone)"
    moment = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{counted} under {collection.folder}; made {moment} by LoBERT {__version__}."


def _series(series: Series) -> Json:
    colour = "baseline" if series.light == BASELINE[0] else LIGHT.index(series.light)
    return {"name": series.name, "colour": colour, "marker": series.marker}


def _tasks(points: Sequence[Point], teachers: Sequence[Teacher], measured: Sequence[str]) -> list[Json]:
    tasks = []
    for name in sorted({point.record.task for point in points}):
        own = [point for point in points if point.record.task == name]
        tasks.append(
            {
                "name": name,
                "metric": own[0].record.metric,
                "conditions": [i for i, text in enumerate(measured) if any(p.condition == text for p in own)],
                "teachers": [_teacher(teacher, measured) for teacher in teachers if teacher.task == name],
            }
        )
    return tasks


def _teacher(teacher: Teacher, measured: Sequence[str]) -> Json:
    times = {measured.index(where): round(ms, 3) for where, ms in teacher.milliseconds.items() if where in measured}
    return {"encoder": teacher.encoder, "score": round(teacher.score, 3), "x": teacher.x, "milliseconds": times}


def _point(point: Point, collection: Collection) -> Json:
    records = point.group.records
    folders = {id(record): collection.folder_of(record).relative_to(collection.folder) for record in records}
    unknown = [folders[id(record)] / "config.yaml" for record in records if not record.overrides]
    score = point.score
    return {
        "task": point.record.task,
        "title": title(point.series, point.record),
        "x": {key: None if value is None else float(f"{value:.5g}") for key, value in point.x.items()},
        "score": [round(score.mean, 3), None if score.deviation is None else round(score.deviation, 3), score.count],
        "note": point.note,
        "facts": facts(point),
        "runs": [
            {"seed": r.seed, "score": "–" if r.score is None else f"{100 * r.score:.1f}", "folder": str(folders[id(r)])}
            for r in records
        ],
        "commands": commands(records),
        "places": [f"No command line is on record; the settings stand in {path}" for path in unknown],
    }


def _curves(collection: Collection) -> list[Json]:
    groups = []
    known = group_records(collection.records)
    for group, name in zip(known, series_names([group.first for group in known]), strict=True):
        runs = [(r, collection.curves.get(collection.folder_of(r), {})) for r in group.records]
        drawn = [_run_curves(record, curves) for record, curves in runs if curves]
        if drawn:
            groups.append({"title": f"{group.first.task} · {title(name, group.first)}", "runs": drawn})
    return sorted(groups, key=lambda group: group["title"])


def _run_curves(record: Record, curves: Mapping[str, Curve]) -> Json:
    """The steps of a run stand once for all terms that share them."""
    steps = list(dict.fromkeys(curve.steps for curve in curves.values()))
    lines = [[name, steps.index(c.steps), [float(f"{v:.4g}") for v in c.values]] for name, c in curves.items()]
    return {"seed": record.seed, "steps": steps, "curves": lines}


def _anatomy(anatomy: Anatomy) -> Json:
    kept = "exact ranks" if anatomy.keep is None else f"keep {anatomy.keep:g}"
    return {
        "title": f"{anatomy.task} · {anatomy.encoder} · {anatomy.decomp} · {kept}",
        "metric": anatomy.metric,
        "teacher": 100 * anatomy.teacher_score,
        "examples": f"Measured on {anatomy.examples:,} of {anatomy.dev_examples:,} dev examples. ",
        "columns": columns_of(anatomy),
        "rows": rows_of(anatomy),
        "cells": [
            {
                "layer": cell.layer,
                "role": cell.role,
                "group": cell.group,
                "error": round(cell.error, 4),
                "output_error": None if cell.output_error is None else round(cell.output_error, 4),
                "drop": None if cell.score is None else round(change(anatomy, cell) or 0.0, 3),
                "agreement": cell.agreement,
            }
            for cell in anatomy.cells
        ],
    }


def _environments(records: Sequence[Record]) -> list[str]:
    counted = Counter((r.device, tuple(r.versions.items()), (r.commit or "no checkout")[:12]) for r in records)
    lines = []
    for (device, versions, commit), number in counted.most_common():
        libraries = ", ".join(f"{name} {version or '?'}" for name, version in versions)
        lines.append(f"{count(number, 'run')}: {device}; {libraries}; commit {commit}")
    return lines
