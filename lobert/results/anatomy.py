"""The anatomy of the damage: what each compressed weight loses, and what that alone does to the dev score."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

from rich import box
from rich.table import Table

from lobert.errors import LobertError, first_line
from lobert.results.checks import fits, no_number
from lobert.results.table import render
from lobert.storage.artefacts import write_atomic

ANATOMY_SCHEMA = 1
ANATOMY_FILE = "anatomy.json"
LAYER_ROLES = ("query", "key", "value", "attention_output", "intermediate", "output")
LAST = "pooler"


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
    keep: float | None  # as asked; None where ranks were given
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


def find_anatomies(folder: Path) -> tuple[list[Anatomy], list[str]]:
    """Every readable anatomy under `folder`, in order of task, encoder and compression; a sentence for each other."""
    found, broken = [], []
    for path in sorted(folder.rglob(ANATOMY_FILE)):
        if any(part.endswith(".partial") or ".broken-" in part for part in path.parts):
            continue  # being made, or set aside
        try:
            found.append(read_anatomy(path))
        except LobertError as error:
            broken.append(str(error))
    return sorted(found, key=lambda a: (a.task, a.encoder, a.decomp, -(a.keep or 0))), broken


def read_anatomy(path: Path) -> Anatomy:
    """The anatomy in a file.

    Raises:
        LobertError: it is unreadable, of another schema, or not of the form; the sentence names file and reason.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"), parse_constant=no_number)
        return checked(content)
    except (OSError, ValueError, RecursionError) as error:
        raise LobertError(
            f"{path} is no valid anatomy ({first_line(error)}): delete {path.parent} and run stage=anatomy again"
        ) from None


def checked(content: Any) -> Anatomy:
    """An anatomy from JSON; ValueError where it is none."""
    if not isinstance(content, dict) or content.get("schema") != ANATOMY_SCHEMA:
        raise ValueError(f"its schema is not {ANATOMY_SCHEMA}")
    cells = content.get("cells")
    if not isinstance(cells, list) or not cells:
        raise ValueError("it has no cells")
    read = [Cell(**fitting(Cell, cell, "a cell")) for cell in cells]
    if len({(cell.layer, cell.role) for cell in read}) < len(read):
        raise ValueError("two cells are of the same weight")
    return Anatomy(**{**fitting(Anatomy, {**content, "cells": []}, "it"), "cells": read})


def fitting(kind: type, content: Any, what: str) -> dict[str, Any]:
    """The fields of a dataclass, each of its type; ValueError for one that is missing or of another type."""
    if not isinstance(content, dict):
        raise ValueError(f"{what} is {content!r}")
    hints = get_type_hints(kind)
    if missing := [name for name in hints if name not in content]:
        raise ValueError(f"{what} lacks '{missing[0]}'")
    for name, wanted in hints.items():
        if name != "cells" and not fits(content[name], wanted):
            raise ValueError(f"'{name}' is {content[name]!r}")
    return {name: content[name] for name in hints}


def row_of(cell: Cell) -> str:
    """The number of the layer, or the role that is in none."""
    return cell.role if cell.layer is None else str(cell.layer)


def rows_of(anatomy: Anatomy) -> list[str]:
    """Rows from the input to the output: the embeddings, the numbers of the layers, the pooler."""
    layers = sorted({cell.layer for cell in anatomy.cells if cell.layer is not None})
    others = list(dict.fromkeys(cell.role for cell in anatomy.cells if cell.layer is None))
    return [*(r for r in others if r != LAST), *map(str, layers), *(r for r in others if r == LAST)]


def columns_of(anatomy: Anatomy) -> list[str]:
    """The roles in layers, in the order in which a layer uses them, and then those of other names."""
    roles = dict.fromkeys(cell.role for cell in anatomy.cells if cell.layer is not None)
    return [role for role in LAYER_ROLES if role in roles] + [role for role in roles if role not in LAYER_ROLES]


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
