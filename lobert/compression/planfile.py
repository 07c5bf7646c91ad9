"""A plan as a file that people read and edit: one YAML entry for each group."""

import itertools
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedModel

from lobert.compression.joint import joined
from lobert.compression.plan import GroupPlan, check_shapes, refuse_overlaps
from lobert.errors import LobertError, first_line
from lobert.storage.artefacts import write_atomic

JOINT, APART = "joint", "apart"
HEADING = "# A LoBERT plan: `python train.py decomp.plan=THIS_FILE` compresses exactly so.\n"


def write_plan(path: Path, plans: Sequence[GroupPlan]) -> None:
    """Write the groups as YAML."""
    write_atomic(path, as_text(plans))


def file_plan(folder: Path, name: str, plans: Sequence[GroupPlan]) -> Path:
    """Write the groups into a folder, under this name or, where another plan or an edited one has it, with a number."""
    text = as_text(plans).encode()
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    paths = (folder / f"{name}.yaml" for name in names)
    path = next(path for path in paths if not path.exists() or path.read_bytes() == text)
    write_plan(path, plans)
    return path


def as_text(plans: Sequence[GroupPlan]) -> str:
    """The groups as YAML."""
    groups = [{**plan.to_dict(), **plain(plan)} for plan in plans]
    return HEADING + yaml.safe_dump({"groups": groups}, sort_keys=False, default_flow_style=None)


def plain(plan: GroupPlan) -> dict[str, Any]:
    """The entries of a plan that YAML has no tuples for."""
    slices = [[str(block), list(index)] for block, index in plan.slices]
    more: dict[str, Any] = {"full_shape": list(plan.full_shape)} if plan.full_shape else {}
    if plan.heads is not None:
        more["heads"] = JOINT  # all else about them follows from the ranks
    return {"shape": list(plan.shape), "rank": list(plan.rank), "slices": slices, **more}


def read_plan(path: Path, model: PreTrainedModel) -> list[GroupPlan]:
    """The groups in a plan file, each checked against the model's weights.

    Raises LobertError where the file cannot be read, an entry is damaged, or a weight is not there or of another shape.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        groups = content["groups"]
        if groups == []:
            raise LobertError("it has no groups, so nothing to compress: type decomp=none for that")
        plans = [GroupPlan.from_dict({**group, "heads": None}) for group in groups]
        joint = {group["name"] for group in groups if group.get("heads", APART) != APART}
        if unknown := [group for group in groups if group.get("heads", APART) not in (APART, JOINT)]:
            raise LobertError(
                f"group '{unknown[0]['name']}' has heads: {unknown[0]['heads']}, and not {JOINT} or {APART}"
            )
    except OSError as error:
        raise LobertError(f"decomp.plan={path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise LobertError(f"decomp.plan={path} is no plan as stage=plan writes it: {first_line(error)}") from None
    except LobertError as error:
        raise LobertError(f"decomp.plan={path}: {error}") from None
    try:
        for plan in plans:
            check_shapes(model, plan, full=True)
        refuse_overlaps(plans)
    except LobertError as error:
        raise LobertError(f"decomp.plan={path}: {error}") from None
    return with_pairs(path, model, plans, joint)


def with_pairs(
    path: Path, model: PreTrainedModel, plans: Sequence[GroupPlan], names: Collection[str]
) -> list[GroupPlan]:
    """The plans, those of these names joint; LobertError where one has no partner among them."""
    possible = {plan.name: plan for plan in joined(model, [plan for plan in plans if plan.name in names])}
    for name in names:
        if possible[name].heads is None:
            raise LobertError(
                f"decomp.plan={path}: group '{name}' meets no other joint group in the heads of an attention: leave "
                "out its 'heads', or give its partner the same; both by pivoted_svd, each weight by itself"
            )
    return [possible.get(plan.name, plan) for plan in plans]
