"""A plan as a file that people read and edit: one YAML entry for each group."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedModel

from lobert.compression.plan import GroupPlan, check_shapes, refuse_overlaps
from lobert.errors import LobertError, first_line
from lobert.storage.artefacts import write_atomic

HEADING = "# A LoBERT plan: `python train.py decomp.plan=THIS_FILE` compresses exactly so.\n"


def write_plan(path: Path, plans: Sequence[GroupPlan]) -> None:
    """Write the groups as YAML."""
    groups = [{**plan.to_dict(), **plain(plan)} for plan in plans]
    write_atomic(path, HEADING + yaml.safe_dump({"groups": groups}, sort_keys=False, default_flow_style=None))


def plain(plan: GroupPlan) -> dict[str, Any]:
    """The entries of a plan that YAML has no tuples for."""
    slices = [[str(block), list(index)] for block, index in plan.slices]
    full = {"full_shape": list(plan.full_shape)} if plan.full_shape else {}
    return {"shape": list(plan.shape), "rank": list(plan.rank), "slices": slices, **full}


def read_plan(path: Path, model: PreTrainedModel) -> list[GroupPlan]:
    """The groups in a plan file, each checked against the model's weights.

    Raises LobertError where the file cannot be read, an entry is damaged, or a weight is not there or of another shape.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        groups = content["groups"]
        plans = [GroupPlan.from_dict(group) for group in groups]
    except OSError as error:
        raise LobertError(f"decomp.plan={path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise LobertError(f"decomp.plan={path} is no plan as stage=plan writes it: {first_line(error)}") from None
    except LobertError as error:
        raise LobertError(f"decomp.plan={path}: {error}") from None
    try:
        for plan in plans:
            check_shapes(model, plan, full=True)
    except LobertError as error:
        raise LobertError(f"decomp.plan={path}: {error}") from None
    refuse_overlaps(plans)
    return plans
