"""The anatomy of the damage: what each compressed weight loses, and what that alone does to the dev score."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from lobert.artefacts import write_atomic
from lobert.errors import LobertError, first_line
from lobert.results.table import render

ANATOMY_SCHEMA = 1
ANATOMY_FILE = "anatomy.json"


@dataclass(frozen=True)
class Cell:
    """One weight: `layer` counts from 0 and is None outside the layers.

    Weights of one `group` share what the model scores when that group alone is compressed.

    Attributes:
        error: relative Frobenius error of the weight.
        output_error: relative error of its outputs about their means; None for a table of embeddings.
        score: main metric, a fraction, with the rest of the model dense.
        agreement: share of the examples on which the model says what the teacher does; None for a regression.
        divergence: mean KL(teacher || model) in nats; of scores the mean squared difference.
    """

    layer: int | None
    role: str
    group: str
    error: float
    output_error: float | None
    score: float | None
    agreement: float | None
    divergence: float | None


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """All weights of one compression; scores are on `examples` of the `dev_examples` of the main dev splits."""

    task: str
    encoder: str
    decomp: str
    keep: float | None  # as asked
    objective: str
    metric: str
    teacher_score: float
    teacher_fingerprint: str
    examples: int
    dev_examples: int
    cells: Sequence[Cell]


def write_anatomy(path: Path, anatomy: Anatomy) -> None:
    """Write the anatomy as JSON."""
    content = {"schema": ANATOMY_SCHEMA, **asdict(anatomy)}
    write_atomic(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_anatomy(path: Path) -> Anatomy:
    """The anatomy in a file; LobertError where it cannot be read or is of another form."""
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        schema = content.pop("schema")
        if schema != ANATOMY_SCHEMA:
            raise LobertError(
                f"{path} has schema {schema!r}, and this version reads schema {ANATOMY_SCHEMA}: remove its folder and "
                "run stage=anatomy again"
            )
        return Anatomy(**{**content, "cells": [Cell(**cell) for cell in content["cells"]]})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LobertError(
            f"{path} cannot be read ({first_line(error)}): delete {path.parent} and run again to make it anew"
        ) from None


def drop(anatomy: Anatomy, cell: Cell) -> float | None:
    """Points of the score that are lost where the cell's group alone is compressed."""
    return None if cell.score is None else 100 * (anatomy.teacher_score - cell.score)


def in_tenths(points: float) -> str:
    """Points as they are shown, without a sign before a zero."""
    return f"{round(points, 1) + 0.0:.1f}"


def drops_table(anatomy: Anatomy) -> str:
    """The drops as text: a row for each layer, first what is outside them, and a column for each role."""
    roles = list(dict.fromkeys(cell.role for cell in anatomy.cells))
    by_place = {(cell.layer, cell.role): cell for cell in anatomy.cells}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("layer", no_wrap=True)
    for role in roles:
        table.add_column(role.replace("_", " "), justify="right", no_wrap=True)
    for layer in sorted({cell.layer for cell in anatomy.cells}, key=lambda layer: -1 if layer is None else layer):
        row = [by_place.get((layer, role)) for role in roles]
        table.add_row("–" if layer is None else str(layer), *(shown(anatomy, cell) for cell in row))
    return f"{caption(anatomy)}\n{render(table)}"


def shown(anatomy: Anatomy, cell: Cell | None) -> str:
    """A drop in the table; nothing where there is no such weight."""
    points = None if cell is None else drop(anatomy, cell)
    return "" if points is None else in_tenths(points)


def caption(anatomy: Anatomy) -> str:
    """What the table is of."""
    kept = "" if anatomy.keep is None else f", keep {anatomy.keep:g}"
    count = len({cell.group for cell in anatomy.cells})
    groups = "the one group" if count == 1 else f"one of the {count} groups"
    return (
        f"{anatomy.task} · {anatomy.encoder} · {anatomy.decomp}{kept}, {anatomy.objective} norm: points of "
        f"{anatomy.metric} lost where {groups} is compressed and all else is the teacher, which has "
        f"{100 * anatomy.teacher_score:.1f}, on {anatomy.examples} of {anatomy.dev_examples} dev examples"
    )
