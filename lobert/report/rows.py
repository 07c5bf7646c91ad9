"""The table of the page: the columns and forms of `lobert.results`, a row per group of seeds."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from lobert.results.groups import RunGroup, group_records
from lobert.results.record import Number, Record
from lobert.results.table import COLUMNS, Column, in_order

Json = dict[str, Any]
SEED = "seed"
ALWAYS = ("task", "decomp", SEED)


def table(records: Sequence[Record]) -> Json:
    """Titles, cells as text, and keys to sort by; what all runs share is told in the notes, not in columns."""
    groups = {id(group.first): group for group in group_records(records)}
    ordered = [groups[id(record)] for record in in_order([group.first for group in groups.values()])]
    shared = [column for column in COLUMNS if column.identity and _is_shared(column, ordered)]
    columns = [column for column in COLUMNS if column not in shared]
    return {
        "columns": [_head(column) for column in columns],
        "rows": [_row(group, columns, _is_best(group, ordered)) for group in ordered],
        "notes": _notes(shared, ordered),
    }


def _is_shared(column: Column, groups: Sequence[RunGroup]) -> bool:
    return column.key not in ALWAYS and len({column.value(group.first) for group in groups}) == 1


def _notes(shared: Sequence[Column], groups: Sequence[RunGroup]) -> list[str]:
    if not groups:
        return ["No finished run."]
    single = sum(group.single for group in groups)
    alike = ", ".join(f"{column.key} {column.form(column.value(groups[0].first))}" for column in shared)
    return [
        *([f"All rows: {alike}."] if alike else []),
        f"Rows of one seed: {single} of {len(groups)}; they have no deviation, which stands after ± elsewhere.",
        "The best student of a task is bold. Scores are in points, shares in per cent.",
    ]


def _is_best(group: RunGroup, groups: Sequence[RunGroup]) -> bool:
    rivals = [_score(other) for other in groups if other.first.task == group.first.task]
    return _score(group) is not None and _score(group) == max(score for score in rivals if score is not None)


def _head(column: Column) -> Json:
    return {"title": "seeds" if column.key == SEED else column.title, "name": column.identity}


def _row(group: RunGroup, columns: Sequence[Column], best: bool) -> Json:
    pairs = [_cell(group, column) for column in columns]
    marked = [i for i, column in enumerate(columns) if column.key == "score" and best]
    return {"cells": [text for text, _ in pairs], "keys": [key for _, key in pairs], "best": marked}


def _score(group: RunGroup) -> Number:
    found = group.statistic(lambda record: record.score)
    return found.mean if found else None


def _cell(group: RunGroup, column: Column) -> tuple[str, str | float | None]:
    """What stands in a cell, and what it is sorted by."""
    if column.key == SEED:
        return ", ".join(map(str, group.seeds)), len(group.seeds)
    if column.identity:
        value = column.value(group.first)
        return column.form(value), value
    found = group.statistic(partial(_number, column))
    if found is None:
        return "–", None
    deviation = "" if not found.deviation else f" ± {column.form(found.deviation).removesuffix(' %')}"
    return column.form(found.mean) + deviation, found.mean


def _number(column: Column, record: Record) -> Number:
    value = column.value(record)
    return None if isinstance(value, str) else value
