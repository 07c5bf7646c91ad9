"""What a compression does, before anybody pays for training: every group printed, and the plan written as YAML."""

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from lobert.compression.compress import CompressionReport, GroupReport, stack_weights
from lobert.compression.plan import GroupPlan
from lobert.compression.planfile import write_plan
from lobert.encoder import build_classifier
from lobert.errors import LobertError
from lobert.factorizations.numerics import mode_gram
from lobert.results.table import render
from lobert.roles import keep_first_layers, own_config
from lobert.stages.student import compress_start, start_recipe, student_start
from lobert.stages.teacher import found_teacher, make_teacher
from lobert.stages.workspace import Workspace, planned

log = logging.getLogger(__name__)

UNRELATED = 1.3  # n slices have little in common where their leading direction holds less than this many times 1 / n


def show_plan(work: Workspace) -> None:
    """Compress without training, print what each group costs and loses, and write the plan; keeps nothing else."""
    model, recipe = plan_start(work)
    asked = planned(work.job, model)
    warnings = [f"{plan.name}: {complaint}" for plan in asked if (complaint := unrelated(model, plan))]
    report = compress_start(work, model, asked, recipe)
    plans = [GroupPlan.from_dict(group) for group in own_config(model).lobert["groups"]]
    path = work.job.runs.parent / "plans" / f"{work.job.name}.yaml"
    write_plan(path, plans)
    print_plan(report, [*warnings, *dearer(report.groups)], path, Console())


def plan_start(work: Workspace) -> tuple[PreTrainedModel, dict[str, object]]:
    """The model to look at, and what it is: the teacher where it is there already, otherwise the bare encoder."""
    job = work.job
    teacher = make_teacher(work) if job.brought else found_teacher(work)
    if teacher is not None:
        return student_start(work, teacher), start_recipe(work, teacher)
    if job.init == "teacher" and (job.objective.name != "weights" or job.refit_head):
        raise LobertError("this plan needs a fine-tuned teacher: run the same command with stage=teacher first")
    log.info("plan: of the pretrained encoder, as the teacher is not trained yet")
    model = build_classifier(work.encoder, job.task.labels, job.seed, job.encoder.dropout)
    if job.layers is not None:
        keep_first_layers(model, job.layers)
    return model, {"start": work.encoder_key, "layers": job.layers}


def unrelated(model: PreTrainedModel, plan: GroupPlan) -> str | None:
    """A warning where the slices of a stack are nearly orthogonal: sharing factors cannot gain much then."""
    if not plan.stack:
        return None
    slices = stack_weights(model, plan).flatten(0, len(plan.stack) - 1)
    share, count = leading_share(slices), len(slices)
    if count == 1 or share >= UNRELATED / count:
        return None
    return f"its {count} slices have little in common: one direction holds {share:.1%} of them, 1/{count} is the least"


def leading_share(slices: Tensor) -> float:
    """Largest share of the squared norm of `slices [n, out, in]` that lies along one combination of them."""
    gram = mode_gram(slices, 0)
    total = gram.trace()
    return (torch.linalg.eigvalsh(gram)[-1] / total).item() if total > 0 else 1.0


def dearer(groups: Sequence[GroupReport]) -> list[str]:
    """Warnings of groups that need more multiply-adds than before."""
    return [
        f"{group.name}: needs {group.macs / group.dense_macs:.2f} times the multiply-adds of the dense weights"
        if group.dense_macs
        else f"{group.name}: needs {group.macs:,} multiply-adds per token where a dense table is only looked up"
        for group in groups
        if group.macs > group.dense_macs
    ]


def print_plan(report: CompressionReport, warnings: Sequence[str], path: Path, console: Console) -> None:
    """The table of the groups, the totals, the warnings and where the plan is."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("group", "shape", "by", "rank"):
        table.add_column(title, no_wrap=True)
    for title in ("parameters", "kept", "MACs / token", "of dense", "error", "in the norm"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("evaluation", no_wrap=True)
    for group in report.groups:
        table.add_row(*cells(group))
    console.print(render(table), highlight=False, soft_wrap=True)
    console.print(totals(report.groups), highlight=False, soft_wrap=True)
    for warning in warnings:
        console.print(f"warning: {warning}", highlight=False, soft_wrap=True)
    console.print(f"plan: {path}", highlight=False, soft_wrap=True)


def cells(group: GroupReport) -> list[str]:
    """One line of the table."""
    return [
        group.name,
        "×".join(map(str, group.shape)),
        group.factorization,
        "×".join(map(str, group.rank)) or "–",
        f"{group.parameters:,}",
        f"{group.parameters / group.dense_parameters:.1%}",
        f"{group.macs:,}",
        f"{group.macs / group.dense_macs:.1%}" if group.dense_macs else "–",
        f"{group.error:.4f}",
        f"{group.objective_error:.4f}",
        group.evaluation,
    ]


def totals(groups: Sequence[GroupReport]) -> str:
    """One line for all groups together."""
    if not groups:
        return "nothing is compressed"
    before, after = sum(g.dense_parameters for g in groups), sum(g.parameters for g in groups)
    dense_macs, macs = sum(g.dense_macs for g in groups), sum(g.macs for g in groups)
    share = f" ({macs / dense_macs:.1%})" if dense_macs else ""
    return (
        f"all {len(groups)}: {before:,} parameters become {after:,} ({after / before:.1%}), "
        f"{dense_macs:,} multiply-adds per token {macs:,}{share}"
    )
