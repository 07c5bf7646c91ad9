"""From one budget to the rank of every group of a plan."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from transformers import PreTrainedModel

from lobert.compression.budget import Allocation, Option, allocate
from lobert.compression.compress import Track, reads_tokens, stack_weights
from lobert.compression.objective import Objective, group_norm
from lobert.compression.plan import GroupPlan, Part, check_keep, make_plan
from lobert.compression.statistics import Statistics
from lobert.compression.whitening import errors_in_norm
from lobert.errors import LobertError, suggest
from lobert.factorizations import factorization
from lobert.roles import encoder_layers, layers_path

AllocationName = Literal["uniform", "greedy"]
Scope = Literal["targets", "encoder", "model"]


@dataclass(frozen=True)
class Sizing:
    """How the share that stays is meant.

    Attributes:
        keep: the share, 0 < keep <= 1; None leaves each part its own.
        scope: of what: the touched weights (`targets`), the transformer layers (`encoder`) or the whole `model`.
        allocate: `uniform`, the same share for every group, or `greedy`, wherever it lowers the error most.
    """

    keep: float | None = None
    scope: Scope = "targets"
    allocate: AllocationName = "uniform"

    def __post_init__(self) -> None:
        check_keep(self.keep)
        for name, value, kind in (("scope", self.scope, Scope), ("allocate", self.allocate, AllocationName)):
            if value not in get_args(kind):
                raise LobertError(f"decomp.{name}={value} is not known: {suggest(str(value), get_args(kind))}")
        if self.scope != "targets" and self.keep is None:
            raise LobertError(f"decomp.scope={self.scope} says of what, but not how much: give decomp.keep, too")


def size_parts(model: PreTrainedModel, parts: Sequence[Part], sizing: Sizing) -> list[Part]:
    """The parts with the share of their own weights that keeps `sizing.keep` of its scope.

    Raises LobertError where what the parts do not touch is more than that already.
    """
    if sizing.keep is None or sizing.scope == "targets":
        return list(parts)
    whole = sum(p.numel() for p in (model if sizing.scope == "model" else encoder_layers(model)).parameters())
    plans = make_plan(model, [without_size(part) for part in parts])
    if sizing.scope == "encoder":
        refuse_outsiders(model, plans)
    touched = sum(plan.dense_parameters for plan in plans)
    rest = 1 - touched / whole
    keep = (sizing.keep - rest) / (1 - rest)
    if keep <= 0:
        raise LobertError(
            f"keep={sizing.keep:g} of the {sizing.scope} is impossible: {rest:.1%} of it is not compressed by this "
            "decomp, so ask for more than that, or compress more of it"
        )
    return [replace(without_size(part), keep=keep) for part in parts]


def refuse_outsiders(model: PreTrainedModel, plans: Sequence[GroupPlan]) -> None:
    """Raise LobertError for what a share of the encoder's layers cannot hold."""
    inside = f"{layers_path(model)}."
    for path in (path for plan in plans for path, _ in plan.slices):
        if not path.startswith(inside):
            raise LobertError(
                f"decomp.scope=encoder is about the layers, and '{path}' is outside them: use scope=model or targets"
            )


def parameter_budget(model: PreTrainedModel, parts: Sequence[Part]) -> float:
    """How many numbers the parts may hold: the asked share of their weights, or those of their default ranks."""
    budget = 0.0
    for part in parts:
        plans = make_plan(model, [part])
        dense, planned = sum(plan.dense_parameters for plan in plans), sum(plan.parameters for plan in plans)
        budget += planned if part.keep is None else part.keep * dense
    return budget


def without_size(part: Part) -> Part:
    return replace(part, keep=None, rank=None)


def spend_budget(
    model: PreTrainedModel,
    plans: Sequence[GroupPlan],
    budget: float,
    objective: Objective,
    statistics: Statistics | None,
    track: Track = iter,
) -> tuple[list[GroupPlan], Allocation]:
    """The plan with ranks that leave the smallest error in the objective's norm, `budget` parameters in all at most.

    A group stays dense where that is the best use; a table of embeddings keeps the size it has in the plan, unless all
    is measured in the norm of the weights. Raises LobertError where the smallest ranks exceed the budget.
    """
    tables = [plan for plan in plans if objective.name != "weights" and reads_tokens(model, plan)]  # in another unit
    others = [plan for plan in plans if plan not in tables]
    groups = [group_options(model, plan, objective, statistics) for plan in track(others)]
    allocation = allocate(groups, budget - sum(plan.parameters for plan in tables))
    chosen = {plan.name: resized(plan, option) for plan, option in zip(others, allocation.options, strict=True)}
    return [chosen.get(plan.name, plan) for plan in plans], allocation


def group_options(
    model: PreTrainedModel, plan: GroupPlan, objective: Objective, statistics: Statistics | None
) -> list[Option]:
    """What one group can be: its factorization at each useful rank, or dense."""
    method, tensor = factorization(plan.factorization), stack_weights(model, plan)
    sizes = {rank: method.parameters(plan.stack, plan.shape, rank) for rank in method.candidates(plan.shape, plan.rank)}
    ranks = [rank for rank, size in sizes.items() if size < plan.dense_parameters]
    errors = errors_in_norm(method, plan.stack, tensor, ranks, group_norm(objective, plan, statistics))
    options = [Option(rank, sizes[rank], error) for rank, error in zip(ranks, errors, strict=True)]
    return [*options, Option(None, plan.dense_parameters, 0.0)]


def resized(plan: GroupPlan, option: Option) -> GroupPlan:
    if option.rank is None:
        return replace(plan, factorization="dense", rank=())
    return replace(plan, rank=option.rank)
