"""What a compression does, before anybody pays for training: every group printed, and the plan written as YAML."""

import copy
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import PreTrainedModel

from lobert.compression.compress import CompressionReport, GroupReport, ratio, reads_tokens, stack_weights
from lobert.compression.neurons import Narrowing
from lobert.compression.plan import GroupPlan
from lobert.compression.planfile import file_plan
from lobert.compression.statistics import Statistics
from lobert.encoders.patterns import across_layers
from lobert.encoders.roles import keep_first_layers, matrix_at, own_config
from lobert.errors import LobertError
from lobert.factorizations.numerics import mode_gram
from lobert.results.table import render
from lobert.stages.calibration import input_statistics
from lobert.stages.compress import compress_narrowed
from lobert.stages.student import start_recipe, student_start
from lobert.stages.teacher import found_teacher, make_teacher
from lobert.stages.workspace import Workspace, planned

log = logging.getLogger(__name__)

UNMEASURED = "errors in the outputs: not known without the teacher; type train.py ... stage=teacher, then plan again"
UNRELATED = 1.3  # n slices have little in common where their leading direction holds less than this many times 1 / n


def show_plan(work: Workspace) -> None:
    """Compress without training, print what each group costs and loses, and write the plan; keeps nothing else."""
    model, recipe = plan_start(work)
    asked = planned(work.job, model)
    warnings = [f"{plan.name}: {complaint}" for plan in asked if (complaint := unrelated(model, plan))]
    statistics = input_statistics(work, recipe, model) if is_start(work) else None
    dense = copy.deepcopy(model)
    report, narrowing = compress_narrowed(work, model, asked, recipe)
    if narrowing is not None:
        narrowing.narrow(dense)
        statistics = None if statistics is None else narrowing.statistics(statistics)
    plans = [GroupPlan.from_dict(group) for group in own_config(model).lobert["groups"]]
    errors = None if statistics is None else output_errors(dense, model, plans, statistics)
    path = file_plan(work.job.runs.parent / "plans", work.job.name, plans)
    told = [f"warning: {warning}" for warning in [*warnings, *dearer(report.groups)]]
    print_plan(report, errors, [*fewer(narrowing), *joint(plans), *touched(plans), *told], path, Console())


def is_start(work: Workspace) -> bool:
    """Whether the model that is looked at is the one that a student would start from, and no stand-in for a teacher."""
    return work.job.init == "pretrained" or found_teacher(work) is not None


def plan_start(work: Workspace) -> tuple[PreTrainedModel, dict[str, object]]:
    """The model to look at, and what it is: the teacher where it is there already, otherwise the bare encoder."""
    job = work.job
    teacher = make_teacher(work) if job.brought else found_teacher(work)
    if teacher is not None:
        return student_start(work, teacher), start_recipe(work, teacher)
    if job.init == "teacher" and (job.objective.name != "weights" or job.refit_head):
        raise LobertError("this plan needs a fine-tuned teacher: run the same command with stage=teacher first")
    log.info("plan: of the pretrained encoder, as the teacher is not trained yet")
    model = work.classifier(job.seed)
    if job.layers is not None:
        keep_first_layers(model, job.layers)
    return model, {"start": work.encoder_key, "layers": job.layers}


@torch.no_grad()
def output_errors(
    dense: PreTrainedModel, model: PreTrainedModel, plans: Sequence[GroupPlan], statistics: Statistics
) -> dict[str, float]:
    """Of every group, the relative error of its layers' outputs for the inputs of the dense model, about their means.

    The root of the sum of tr(D C Dᵀ) over slices, by that of tr(W C Wᵀ). Tables of embeddings have no inputs.
    """
    errors = {}
    for plan in (plan for plan in plans if not reads_tokens(dense, plan)):
        lost = whole = 0.0
        for block, index in plan.slices:
            weight, covariance = matrix_at(dense, block).double(), statistics.covariance(block)
            left = weight - model.get_submodule(block.layer).group.weight(index).double()
            lost += ((left @ covariance) * left).sum().item()
            whole += ((weight @ covariance) * weight).sum().item()
        errors[plan.name] = math.sqrt(max(0.0, ratio(lost, whole)))
    return errors


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


def fewer(narrowing: Narrowing | None) -> list[str]:
    """How many neurons stay, where some go."""
    if narrowing is None:
        return []
    stay = f"neurons: {narrowing.count:,} of {narrowing.full:,} stay in every feed-forward network"
    return [f"{stay}; the errors are those of the weights without the others"]


def joint(plans: Sequence[GroupPlan]) -> list[str]:
    """How many pairs of groups meet in the heads of an attention, where some do."""
    pairs = [plan.heads for plan in plans if plan.heads is not None and plan.heads.pivots]
    if not pairs:
        return []
    fewer = sum(heads.used < heads.size for heads in pairs)
    kept = f"heads: {len(pairs)} pairs of weights that meet in them are kept together"
    return [f"{kept}, {fewer} in fewer than the {pairs[0].size} dimensions of a head"]


def dearer(groups: Sequence[GroupReport]) -> list[str]:
    """Warnings of groups that need more multiply-adds than before."""
    return [
        f"{group.name}: needs {group.macs / group.dense_macs:.2f} times the multiply-adds of the dense weights"
        if group.dense_macs
        else f"{group.name}: needs {group.macs:,} multiply-adds per token where a dense table is only looked up"
        for group in groups
        if group.macs > group.dense_macs
    ]


def touched(plans: Sequence[GroupPlan]) -> list[str]:
    """The weights of a plan, those of different layers as one with their number: "touches: layer.*.query (12)"."""
    counts = Counter(across_layers(str(block)) for plan in plans for block, _ in plan.slices)
    return [f"touches: {name}" + ("" if count == 1 else f" ({count})") for name, count in counts.items()]


def print_plan(
    report: CompressionReport, errors: Mapping[str, float] | None, notes: Sequence[str], path: Path, console: Console
) -> None:
    """The table of the groups, the totals, the notes and where the plan is; `errors` are those of the outputs."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("group", "shape", "by", "rank"):
        table.add_column(title, no_wrap=True)
    outputs = [] if errors is None else ["in outputs"]
    for title in ("parameters", "kept", "MACs / token", "of dense", "error", *outputs, "in the norm"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("evaluation", no_wrap=True)
    for group in report.groups:
        table.add_row(*cells(group, errors))
    unmeasured = [UNMEASURED] if errors is None else []
    lines = [totals(report.groups), *notes, *unmeasured, f"plan: {path}"]
    console.print(render(table), highlight=False, soft_wrap=True)
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def cells(group: GroupReport, errors: Mapping[str, float] | None) -> list[str]:
    """One line of the table."""
    outputs = [] if errors is None else [f"{errors[group.name]:.4f}" if group.name in errors else "–"]
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
        *outputs,
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
