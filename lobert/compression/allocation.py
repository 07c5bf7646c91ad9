"""From one budget to the rank of every group of a plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, get_args

from transformers import PreTrainedModel

from lobert.compression.budget import Allocation, Option, PairOption, aligned, allocate, gain
from lobert.compression.compress import Track, linear_macs, reads_tokens, stack_weights
from lobert.compression.costs import Budget, Cost, check_budget, macs_cost, parameters_cost
from lobert.compression.grouping import Part, check_keep
from lobert.compression.joint import met, pair_options, pairs_among
from lobert.compression.objective import Objective, group_norm
from lobert.compression.plan import GroupPlan, make_plan
from lobert.compression.statistics import Statistics
from lobert.compression.whitening import errors_in_norm
from lobert.encoders.roles import encoder_layers, layers_path
from lobert.errors import LobertError, TooSmall, suggest
from lobert.factorizations import factorization

AllocationName = Literal["uniform", "greedy"]
AskedAllocation = Literal["auto", "uniform", "greedy"]
Scope = Literal["targets", "encoder", "model"]
ALLOCATION_VERSION = 2  # raised when other sizes come to be chosen
STEPS = 32  # between two sizes whose errors are measured
Offers = dict[str, list[Option]]  # the sizes that a group can have, by its name


@dataclass(frozen=True)
class Sizing:
    """How the share that stays is meant.

    Attributes:
        keep: the share, 0 < keep <= 1; None leaves each part its own.
        scope: of what: the touched weights (`targets`), the transformer layers (`encoder`) or the whole `model`.
        allocate: `uniform`, the same share for every group, or `greedy`, wherever it lowers the error most.
        budget: what is counted: `parameters`, or `macs`, multiply-adds per token in the transformer layers.
    """

    keep: float | None = None
    scope: Scope = "targets"
    allocate: AllocationName = "uniform"
    budget: Budget = "parameters"

    def __post_init__(self) -> None:
        check_keep(self.keep)
        for name, value, kind in (("scope", self.scope, Scope), ("allocate", self.allocate, AllocationName)):
            if value not in get_args(kind):
                raise LobertError(f"decomp.{name}={value} is not known: {suggest(str(value), get_args(kind))}")
        check_budget(self.budget)
        if self.scope != "targets" and self.keep is None:
            raise LobertError(f"decomp.scope={self.scope} says of what, but not how much: give decomp.keep, too")
        if self.budget == "macs" and self.keep is None:
            raise LobertError("decomp.budget=macs says what is counted, but not how much of it: give decomp.keep, too")
        if self.budget == "macs" and self.scope == "model":
            raise LobertError(
                "decomp.scope=model has no multiply-adds per token, which are counted in the encoder's layers: "
                "type decomp.scope=encoder with decomp.budget=macs"
            )


def chosen_allocation(asked: AskedAllocation, objective: Objective, parts: Sequence[Part]) -> AllocationName:
    """`auto` is greedy where groups can be compared in one unit, that of the loss, their errors at all ranks are cheap
    to know, and no exact rank was asked for.
    """
    if asked not in get_args(AskedAllocation):
        raise LobertError(f"decomp.allocate={asked} is not known: {suggest(str(asked), get_args(AskedAllocation))}")
    if asked != "auto":
        return asked
    free = all(part.rank is None and factorization(part.factorization).GRID is None for part in parts)
    return "greedy" if objective.name == "loss" and parts and free else "uniform"


def size_parts(model: PreTrainedModel, parts: Sequence[Part], sizing: Sizing) -> list[Part]:
    """The parts with the share of their own weights that keeps `sizing.keep` of its scope.

    Raises LobertError where what the parts do not touch is more than that already.
    """
    if sizing.keep is None or sizing.scope == "targets":
        return list(parts)
    scope = model if sizing.scope == "model" else encoder_layers(model)
    whole = linear_macs(scope) if sizing.budget == "macs" else sum(p.numel() for p in scope.parameters())
    plans = make_plan(model, [without_size(part) for part in parts])
    if sizing.scope == "encoder":
        refuse_outsiders(model, plans)
    touched = sum(plan.dense_parameters for plan in plans)
    rest = 1 - touched / whole
    if sizing.keep <= rest:
        of = "multiply-adds of the " if sizing.budget == "macs" else ""
        raise LobertError(
            f"keep={sizing.keep:g} of the {of}{sizing.scope} is impossible: {rest:.1%} of it is not compressed by this "
            "decomp, so ask for more than that, or compress more of it"
        )
    keep = (sizing.keep - rest) / (1 - rest)
    sized = [replace(without_size(part), keep=keep) for part in parts]
    try:
        make_plan(model, sized, budget=sizing.budget)
    except TooSmall as error:
        raise TooSmall(
            f"keep={sizing.keep:g} of the {sizing.scope} is {keep:.4f} of what is compressed, whose smallest rank "
            f"keeps {error.least:.4f}",
            rest + error.least * (1 - rest),
        ) from None
    return sized


def refuse_outsiders(model: PreTrainedModel, plans: Sequence[GroupPlan]) -> None:
    """Raise LobertError for what a share of the encoder's layers cannot hold."""
    inside = f"{layers_path(model)}."
    for block in (block for plan in plans for block, _ in plan.slices):
        if not block.path.startswith(inside):
            raise LobertError(
                f"decomp.scope=encoder is about the layers, and '{block}' is outside them: use scope=model or targets"
            )


def allowance(model: PreTrainedModel, parts: Sequence[Part], budget: Budget = "parameters") -> float:
    """How much of the budget the parts may spend: the asked share of their weights, or what their default ranks do."""
    allowed = 0.0
    for part in parts:
        plans = make_plan(model, [part], budget=budget)
        dense, planned = sum(plan.dense_parameters for plan in plans), sum(plan.parameters for plan in plans)
        allowed += planned if part.keep is None else part.keep * dense
    return allowed


def without_size(part: Part) -> Part:
    return replace(part, keep=None, rank=None)


def offer_sizes(
    model: PreTrainedModel,
    plans: Sequence[GroupPlan],
    objective: Objective,
    statistics: Statistics | None,
    track: Track = iter,
    budget: Budget = "parameters",
) -> Offers:
    """What each group can be, with the error it then has in the objective's norm.

    A table of embeddings has no offer unless all is measured in the norm of the weights: its error is in another unit.
    """
    tables = [plan for plan in plans if objective.name != "weights" and reads_tokens(model, plan)]
    others = [plan for plan in plans if plan not in tables]
    return {plan.name: group_options(model, plan, objective, statistics, budget) for plan in track(others)}


def spend_budget(plans: Sequence[GroupPlan], offers: Offers, allowed: float) -> tuple[list[GroupPlan], Allocation]:
    """The plan with the offered ranks that leave the smallest error, `allowed` of the budget at most.

    A group stays dense where that is the best use, and keeps the size it has in the plan where it has no offer. Ranks
    are aligned ones as far as these spend the budget. Raises LobertError where the smallest ranks exceed it.
    """
    pairs = [pair for pair in pairs_among(plans) if all(plan.name in offers for plan in pair)]
    paired = {plan.name for pair in pairs for plan in pair}
    alone = [plan for plan in plans if plan.name in offers and plan.name not in paired]
    fixed = sum(plan.parameters for plan in plans if plan.name not in offers)
    preferred = {name: aligned(options) for name, options in offers.items()}
    every, some = (sizes_of(alone, pairs, found) for found in (offers, preferred))
    allocation = allocate(every, allowed - fixed, some)
    singles = allocation.options[: len(alone)]
    chosen = [resized(plan, option) for plan, option in zip(alone, singles, strict=True)]
    for pair, option in zip(pairs, allocation.options[len(alone) :], strict=True):
        assert isinstance(option, PairOption)
        chosen += met(*(resized(plan, half) for plan, half in zip(pair, option.halves, strict=True)))
    sized = {plan.name: plan for plan in chosen}
    return [sized.get(plan.name, plan) for plan in plans], allocation


def sizes_of(
    alone: Sequence[GroupPlan], pairs: Sequence[tuple[GroupPlan, GroupPlan]], offers: Mapping[str, Sequence[Option]]
) -> list[Sequence[Option]]:
    """What each group can be, and after them what each pair can be together."""
    together = [pair_options(*pair, *(tuple(offers[plan.name]) for plan in pair)) for pair in pairs]
    return [*(offers[plan.name] for plan in alone), *together]


def group_options(
    model: PreTrainedModel, plan: GroupPlan, objective: Objective, statistics: Statistics | None, budget: Budget
) -> list[Option]:
    """What one group can be: its factorization at each rank that saves something, or dense."""
    method, tensor = plan.method, stack_weights(model, plan)
    cost = group_cost(model, plan, budget)
    ranks = plan.dial.candidates(cost, plan.dense_parameters)
    errors = errors_in_norm(method, plan.stack, tensor, ranks, group_norm(objective, plan, statistics))
    options = [Option(rank, cost(rank), error) for rank, error in zip(ranks, errors, strict=True)]
    if method.GRID is not None:
        options = in_between(plan, options, cost)
    return [*options, Option(None, plan.dense_parameters, 0.0)]


def in_between(plan: GroupPlan, measured: Sequence[Option], cost: Cost) -> list[Option]:
    """The sizes whose errors were measured, and some between two neighbours, whose errors lie on the line from one to
    the other: a budget is spent whole, though to measure all sizes would take too long.
    """
    found = {option.rank: option for option in measured}
    for low, high in pairwise(measured):
        for step in range(1, STEPS):
            share = step / STEPS
            rank = plan.dial.largest(cost, low.cost + share * (high.cost - low.cost))
            if rank is not None and rank not in found and (spent := cost(rank)) > low.cost:
                error = low.error - gain(low, high) * (spent - low.cost)
                found[rank] = Option(rank, spent, error)
    return sorted(found.values(), key=lambda option: option.cost)


def group_cost(model: PreTrainedModel, plan: GroupPlan, budget: Budget) -> Cost:
    """What a group spends of the budget at each rank."""
    if budget == "parameters":
        return parameters_cost(plan.factorization, plan.stack, plan.shape)
    return macs_cost(model, plan.factorization, plan.stack, plan.shape, plan.slices, plan.evaluation)


def resized(plan: GroupPlan, option: Option) -> GroupPlan:
    if option.rank is None:
        return replace(plan, factorization="dense", rank=(), heads=None)
    return replace(plan, rank=option.rank)
