"""Weights that meet in the heads of an attention, compressed together: keys with queries, values with the output.

Of such a pair what is redundant between the two is not kept (see `headed`), so a rank costs less beside a small one.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lobert.compression.budget import Option, PairOption, convex_front
from lobert.compression.plan import GroupPlan
from lobert.encoders.attention import Meeting, meetings
from lobert.factorizations import Heads

METHOD = "pivoted_svd"


def joined(model: PreTrainedModel, plans: Sequence[GroupPlan]) -> list[GroupPlan]:
    """The plans, in which those of every pair say how they meet at their ranks. Looks at shapes only."""
    found = {plan.name: plan for plan in plans}
    for meeting, pivoting, partner in pairs_of(model, plans):
        size = pivoting.shape[0] // meeting.heads
        here = Heads(partner.name, True, "o", meeting.heads, size, 0)
        there = Heads(pivoting.name, False, meeting.mode, meeting.heads, size, 0)
        pair = met(replace(pivoting, heads=here), replace(partner, heads=there))
        found |= {plan.name: plan for plan in pair}
    return list(found.values())


def met(pivoting: GroupPlan, partner: GroupPlan) -> tuple[GroupPlan, GroupPlan]:
    """Two plans that meet in heads at the ranks they have now; apart where one of them is dense."""
    if pivoting.heads is None or partner.heads is None:
        here, there = apart([pivoting, partner])
        return here, there
    used = min(*pivoting.rank, pivoting.heads.size)
    return (
        replace(pivoting, heads=replace(pivoting.heads, used=used)),
        replace(partner, heads=replace(partner.heads, used=used)),
    )


def apart(plans: Sequence[GroupPlan]) -> list[GroupPlan]:
    """The plans at the same ranks, none of which meets another one."""
    return [replace(plan, heads=None) for plan in plans]


def pairs_among(plans: Sequence[GroupPlan]) -> list[tuple[GroupPlan, GroupPlan]]:
    """Those that say that they meet in heads: the one that pivots, and its partner."""
    named = {plan.name: plan for plan in plans}
    return [(plan, named[plan.heads.partner]) for plan in plans if plan.heads is not None and plan.heads.pivots]


@lru_cache(maxsize=256)  # the same for every number of neurons that is tried
def pair_options(
    pivoting: GroupPlan, partner: GroupPlan, one: tuple[Option, ...], other: tuple[Option, ...]
) -> tuple[Option, ...]:
    """The best of what two groups that meet in heads can be together, from what each can be by itself."""
    costs = joint_costs(pivoting, partner, one, other)
    errors = torch.tensor([option.error for option in one], dtype=torch.float64).unsqueeze(1)
    errors = (errors + torch.tensor([option.error for option in other], dtype=torch.float64)).flatten()
    order = costs.flatten().argsort(stable=True)
    least = errors[order].cummin(0).values
    better = torch.cat([torch.ones(1, dtype=torch.bool), least[1:] < least[:-1]])
    found = []
    for place, cost, error in zip(*(t[better].tolist() for t in (order, costs.flatten()[order], least)), strict=True):
        halves = one[place // len(other)], other[place % len(other)]
        ranks = [*(halves[0].rank or ()), *(halves[1].rank or ())]
        found.append(PairOption(tuple(ranks) or None, cost, error, halves))
    return tuple(convex_front(found))


def joint_costs(pivoting: GroupPlan, partner: GroupPlan, one: Sequence[Option], other: Sequence[Option]) -> Tensor:
    """How many numbers are kept of two groups, `[len(one), len(other)]`, where each is one of these sizes."""
    assert pivoting.heads is not None
    alone = torch.tensor([o.cost for o in one]).unsqueeze(1) + torch.tensor([o.cost for o in other])
    here, there = (torch.tensor([o.rank[0] if o.rank else 0 for o in options]) for options in (one, other))
    used = here.clamp(max=pivoting.heads.size)
    pivots = beside_heads(pivoting, here) + pivoting.heads.count * used * (here - used)
    meets = pivoting.heads.count * used.unsqueeze(1) * there
    factored = (here > 0).unsqueeze(1) & (there > 0)
    return torch.where(factored, pivots.unsqueeze(1) + beside_heads(partner, there) + meets, alone)


def beside_heads(plan: GroupPlan, ranks: Tensor) -> Tensor:
    """How many numbers are kept, at each rank, of the factor that has no dimensions of heads."""
    assert plan.heads is not None
    size = plan.shape[1 - plan.heads.position]
    return torch.where(ranks < size, ranks * (size - ranks), ranks * size)


def pairs_of(model: PreTrainedModel, plans: Sequence[GroupPlan]) -> list[tuple[Meeting, GroupPlan, GroupPlan]]:
    """The plans of single whole weights under pivoted SVD that meet in heads: the one that pivots, and its partner."""
    single = {
        plan.slices[0][0].path: plan
        for plan in plans
        if not plan.stack and plan.factorization == METHOD and plan.slices[0][0].is_whole
    }
    return [
        (meeting, single[meeting.one], single[meeting.other])
        for meeting in meetings(model)
        if meeting.one in single and meeting.other in single
    ]
