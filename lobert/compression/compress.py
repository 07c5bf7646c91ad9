"""From a dense model to a compressed one: stack the weights of each group, factorize, replace, report."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lobert.compression.costs import inputs_read
from lobert.compression.objective import Goal, Norm, Objective, group_norm
from lobert.compression.plan import GroupPlan, check_pairs, check_shapes, refuse_overlaps
from lobert.compression.statistics import Statistics
from lobert.compression.whitening import decompose_in_norm
from lobert.encoders.roles import (
    encoder_layers,
    is_inside,
    is_table,
    layer_uses,
    linear_at,
    matrix_at,
    module_at,
    own_config,
    replace_module,
)
from lobert.errors import LobertError
from lobert.factorizations import reconstruct
from lobert.layers.blocklinear import assembled
from lobert.layers.blocks import Block
from lobert.layers.chunks import take_chunks
from lobert.layers.factored import FactoredLinear
from lobert.layers.group import FactorGroup
from lobert.layers.lookup import FactoredEmbedding
from lobert.layers.sharing import SharedInput
from lobert.layers.ways import LARGE_BATCH

BANK = "factors"  # attribute of the model under which the groups live
WEIGHTS = Objective()
Track = Callable[[Sequence[Any]], Iterable[Any]]  # a progress bar, or nothing


@dataclass(frozen=True)
class GroupReport:
    """What compression did to one group; multiply-adds are per token, of all its slices together.

    What is dense has all of its neurons. `shape` and the errors are those of the weights that were factorized, from
    which some may have gone.
    """

    name: str
    factorization: str
    rank: list[int]
    shape: list[int]
    parameters: int
    dense_parameters: int
    macs: int
    dense_macs: int
    error: float  # relative Frobenius error
    objective_error: float  # relative error in the objective's norm
    norm: float  # Frobenius norm of the dense tensor
    evaluation: str  # "contract" or "merge": the cheaper one, unless overridden


@dataclass(frozen=True)
class CompressionReport:
    """The groups and their totals."""

    groups: list[GroupReport]

    @property
    def error(self) -> float:
        """Relative Frobenius error of all groups together (0 where nothing was compressed)."""
        total = sum(group.norm**2 for group in self.groups)
        return math.sqrt(sum((group.error * group.norm) ** 2 for group in self.groups) / total) if total else 0.0

    @property
    def keep(self) -> float:
        """Share of the compressed weights that stays (1 where nothing was compressed)."""
        dense = sum(group.dense_parameters for group in self.groups)
        return sum(group.parameters for group in self.groups) / dense if dense else 1.0


def compress_model(
    model: PreTrainedModel,
    plans: Sequence[GroupPlan],
    track: Track = iter,
    objective: Objective = WEIGHTS,
    statistics: Statistics | None = None,
    fitted: Mapping[str, Sequence[Tensor]] = MappingProxyType({}),
) -> CompressionReport:
    """Factorize the planned groups of `model` in place, by the smallest error in the norm of `objective`.

    With `statistics` the biases make up for the change of each layer's mean output; without, they and everything
    outside the plan stay as they are. Groups that meet in heads are left whole, for `fold`. Factors in `fitted`, by the
    name of the group, are taken as they are, and so are the biases then. Raises LobertError for weights that are not
    finite.
    """
    tensors = {plan.name: stack_weights(model, plan) for plan in plans}
    bank = install_skeleton(model, plans)
    reports = []
    for plan in track(plans):
        tensor = tensors.pop(plan.name)
        norm = norm_of(model, plan, objective, statistics)
        factors = fitted.get(plan.name) or decompose_in_norm(plan.method, plan.stack, tensor, plan.rank, norm)
        group = bank[plan.name]
        assert isinstance(group, FactorGroup)
        group.set_factors(factors)
        lost = tensor - reconstruct(group.equation, factors)
        if norm is not None and statistics is not None and plan.name not in fitted:
            correct_biases(model, plan, lost, objective.view(statistics))
        reports.append(report_group(plan, model, tensor, lost, norm))
    return CompressionReport(reports)


def norm_of(
    model: PreTrainedModel, plan: GroupPlan, objective: Objective, statistics: Statistics | None
) -> Norm | None:
    """The norm of one group. A table keeps that of its weights: calibration sees a fraction of all tokens."""
    return None if reads_tokens(model, plan) else group_norm(objective, plan, statistics)


def reads_tokens(model: PreTrainedModel, plan: GroupPlan) -> bool:
    """Whether the group is a table of embeddings."""
    return any(is_table(model, block.path) for block, _ in plan.slices)


@torch.no_grad()
def correct_biases(model: PreTrainedModel, plan: GroupPlan, lost: Tensor, statistics: Statistics) -> None:
    """Add to each bias what the lost part of the weight, `lost [*stack, out, in]`, gives for the mean input."""
    for block, index in plan.slices:
        bias = model.get_submodule(block.path).bias
        if bias is not None:
            bias[block.rows(len(bias))] += (lost[index] @ statistics.input_mean(block)).to(bias)


def stack_weights(model: PreTrainedModel, plan: GroupPlan) -> Tensor:
    """The tensor `[*stack, out, in]` of a group in float64, from the weights of its modules."""
    tensor = torch.empty(plan.shape, dtype=torch.float64)
    for block, index in plan.slices:
        weight = matrix_at(model, block).detach()
        if not torch.isfinite(weight).all():
            raise LobertError(
                f"'{block.path}.weight' holds values that are not finite: the teacher is broken, train it again"
            )
        tensor[index] = weight
    return tensor


def install_skeleton(model: PreTrainedModel, plans: Sequence[GroupPlan]) -> nn.ModuleDict:
    """Put empty groups and their layers into the model, in place; the plan goes into its config. Returns the bank."""
    if hasattr(model, BANK):
        raise LobertError("the model is compressed already: start from a dense one, or lobert.merge it first")
    refuse_overlaps(plans)
    check_pairs(plans)
    for plan in plans:
        check_shapes(model, plan)
    bank, layers = nn.ModuleDict(), dict[str, dict[Block, FactoredLinear]]()
    for plan in plans:
        group = FactorGroup(plan.method, plan.stack, plan.shape, plan.rank, plan.evaluation)
        bank[plan.name] = group
        inputs = shared_inputs(model, plan)
        for block, index in plan.slices:
            dense = module_at(model, block.path)
            group.to(dense.weight.device, dense.weight.dtype)
            if isinstance(dense, nn.Embedding):
                replace_module(model, block.path, FactoredEmbedding(group, dense.padding_idx))
            else:
                layer = FactoredLinear(group, index, dense.bias if block.is_whole else None, inputs[block])
                layers.setdefault(block.path, {})[block] = layer
    for path, factored in layers.items():
        replace_module(model, path, assembled(linear_at(model, path), factored))
    take_chunks(model)
    setattr(model, BANK, bank)
    own_config(model).lobert = {"version": 1, "groups": [plan.to_dict() for plan in plans]}
    return bank


def shared_inputs(model: PreTrainedModel, plan: GroupPlan) -> dict[Block, SharedInput]:
    """What each slice of a group reads: slices that read one input and differ in role alone share it."""
    read = inputs_read(model, plan.stack, plan.slices)
    inputs = {key: SharedInput(size) for key, size in Counter(read.values()).items()}
    return {block: inputs[key] for block, key in read.items()}


def report_group(
    plan: GroupPlan, model: PreTrainedModel, tensor: Tensor, lost: Tensor, norm: Norm | None
) -> GroupReport:
    """Sizes, costs and errors of one factorized group of a compressed model; `lost` is what the factors lack."""
    layers = [model.get_submodule(block.layer) for block, _ in plan.slices]
    full = plan.full_shape or plan.shape
    uses = layer_uses(model) if is_inside(model, plan.slices[0][0].path) else 1
    error = ratio(torch.linalg.vector_norm(lost).item(), torch.linalg.vector_norm(tensor).item())
    return GroupReport(
        name=plan.name,
        factorization=plan.factorization,
        rank=list(plan.rank),
        shape=list(plan.shape),
        parameters=plan.parameters,
        dense_parameters=plan.full_parameters,
        macs=uses * linear_macs(nn.ModuleList(layers)),
        dense_macs=0 if reads_tokens(model, plan) else uses * math.prod(full[-2:]) * len(plan.slices),
        error=error,
        objective_error=error if norm is None else relative_error(Goal(tensor, norm), lost),
        norm=torch.linalg.vector_norm(tensor).item(),
        evaluation="merge" if merges(layers[0]) else "contract",
    )


def relative_error(goal: Goal, lost: Tensor) -> float:
    """The norm of what factors lack over that of the whole tensor."""
    return math.sqrt(ratio(max(0.0, goal.squared(lost)), goal.total))


def merges(layer: nn.Module) -> bool:
    """Whether a large batch is multiplied by a merged weight."""
    return isinstance(layer, FactoredLinear) and layer.group.ways.merges(LARGE_BATCH, False, layer.shared.size)


def ratio(part: float, whole: float) -> float:
    """`part / whole`, and 0 for a tensor of zeros."""
    return part / whole if whole else 0.0


def encoder_macs(model: PreTrainedModel) -> int:
    """Multiply-adds per token in the layers of one pass, which runs those that share their weights several times."""
    return layer_uses(model) * linear_macs(encoder_layers(model))


def linear_macs(module: nn.Module) -> int:
    """Multiply-adds per token of all linears below `module`, dense and factored (attention products not counted).

    Factored layers that share an input are counted together, once.
    """
    total, counted = 0, set[int]()
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            total += layer.in_features * layer.out_features
        elif isinstance(layer, FactoredLinear) and id(layer.shared) not in counted:
            counted.add(id(layer.shared))
            total += layer.group.ways.macs_per_token(layer.shared.size)
        elif isinstance(layer, FactoredEmbedding):
            total += layer.macs_per_token()
    return total
