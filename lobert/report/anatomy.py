"""The anatomy of the damage as `stage=anatomy` writes it: what each weight lost, and what that alone cost."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from lobert.errors import LobertError

ANATOMY_FILE = "anatomy.json"
SCHEMA = 1
LAYER_ROLES = ("query", "key", "value", "attention_output", "intermediate", "output")
OTHER_ROLES = ("word_embeddings", "pooler")
AGAIN = "remove it and run stage=anatomy again"

Number = float | None


@dataclass(frozen=True)
class DamagedWeight:
    """One weight. `error` and `output_error` are relative (1 is as much as the weight, or its output, itself).

    `score` and `agreement` are of the teacher with the weight's group alone compressed: all weights of a group share
    them. `layer` counts from 0; None where the role is not in a layer.
    """

    layer: int | None
    role: str
    group: str
    error: float
    output_error: Number
    score: Number
    agreement: Number


@dataclass(frozen=True)
class Anatomy:
    """One file: what was compressed, by how much, and every weight of it. `keep` is None where ranks were given."""

    task: str
    encoder: str
    decomp: str
    keep: Number
    metric: str
    teacher_score: float
    teacher_fingerprint: str
    cells: tuple[DamagedWeight, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)  # what else the file says

    def drop(self, cell: DamagedWeight) -> Number:
        """Points that the score changes by where only the weight's group is compressed; negative is a loss."""
        return None if cell.score is None else 100 * (cell.score - self.teacher_score)

    def grid(self) -> dict[tuple[str, str], DamagedWeight]:
        """Cells by row (the number of the layer, or the role that is in none) and column (the role)."""
        return {(cell.role if cell.layer is None else str(cell.layer), cell.role): cell for cell in self.cells}


def find_anatomies(folder: Path) -> tuple[list[Anatomy], list[str]]:
    """Every readable anatomy under `folder`, in order of task, encoder and compression; a sentence for each other."""
    found, broken = [], []
    for path in sorted(folder.rglob(ANATOMY_FILE)):
        if any(part.endswith(".partial") for part in path.parts):
            continue  # being made
        try:
            found.append(read_anatomy(path))
        except LobertError as error:
            broken.append(str(error))
    return sorted(found, key=lambda a: (a.task, a.encoder, a.decomp, -(a.keep or 0))), broken


def read_anatomy(path: Path) -> Anatomy:
    """Read and check one file.

    Raises:
        LobertError: it is unreadable, of another schema, or not of the form; the sentence names file and reason.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LobertError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise LobertError(f"{path} is not whole: {error}; {AGAIN}") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise LobertError(f"{path} is no anatomy of schema {SCHEMA}: {AGAIN}")
    try:
        return _anatomy(content)
    except (KeyError, TypeError, ValueError) as error:
        raise LobertError(f"{path} is no valid anatomy: {_reason(error)}; {AGAIN}") from error


def rows_of(anatomy: Anatomy) -> list[str]:
    """Rows from the input to the output: the embeddings, the numbers of the layers, the pooler."""
    layers = sorted({cell.layer for cell in anatomy.cells if cell.layer is not None})
    others = {cell.role for cell in anatomy.cells if cell.layer is None}
    first, last = ([role] if role in others else [] for role in ("word_embeddings", "pooler"))
    return [*first, *map(str, layers), *last]


def columns_of(anatomy: Anatomy) -> list[str]:
    """The roles in layers, in the order in which a layer uses them."""
    return [role for role in LAYER_ROLES if any(cell.role == role for cell in anatomy.cells)]


def _reason(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)


def _anatomy(content: dict[str, Any]) -> Anatomy:
    cells = content["cells"]
    if not isinstance(cells, list) or not cells:
        raise ValueError("it has no cells")
    known = {part.name for part in fields(Anatomy)} | {"schema"}
    anatomy = Anatomy(
        **{name: _text(content, name) for name in ("task", "encoder", "decomp", "metric", "teacher_fingerprint")},
        keep=_number(content, "keep", optional=True),
        teacher_score=_number(content, "teacher_score") or 0.0,
        cells=tuple(_cell(cell) for cell in cells),
        extra={name: value for name, value in content.items() if name not in known},
    )
    if len(anatomy.grid()) < len(anatomy.cells):
        raise ValueError("two cells are of the same weight")
    return anatomy


def _cell(cell: Any) -> DamagedWeight:
    if not isinstance(cell, dict):
        raise ValueError(f"a cell is {cell!r}")
    layer, role = cell["layer"], _text(cell, "role")
    if role not in LAYER_ROLES + OTHER_ROLES:
        raise ValueError(f"no role '{role}'")
    if layer is not None and (type(layer) is not int or layer < 0):
        raise ValueError(f"a layer is {layer!r}")
    if (layer is None) != (role in OTHER_ROLES):
        raise ValueError(f"role '{role}' with layer {layer}")
    return DamagedWeight(
        layer=layer,
        role=role,
        group=_text(cell, "group"),
        error=_number(cell, "error") or 0.0,
        **{name: _number(cell, name, optional=True) for name in ("output_error", "score", "agreement")},
    )


def _text(content: Mapping[str, Any], name: str) -> str:
    if not isinstance(content[name], str):
        raise ValueError(f"'{name}' is {content[name]!r}")
    return content[name]


def _number(content: Mapping[str, Any], name: str, optional: bool = False) -> Number:
    value = content[name]
    if value is None and optional:
        return None
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"'{name}' is {value!r}")
    return float(value)
