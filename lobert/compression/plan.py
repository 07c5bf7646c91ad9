"""The plan of a compression: which weights form which tensor, by which factorization, at which rank.

A plan is plain data: it is made from a model's shapes alone, stands in the student's `config.json`, and is all that is
needed to rebuild the compressed skeleton.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, get_args

from torch import nn
from transformers import PreTrainedModel

from lobert.compression.costs import Budget, Cost, check_budget, macs_cost, rank_within_macs
from lobert.compression.grouping import Index, Part, group_slices, stacked_shape
from lobert.encoders.roles import matrix_at
from lobert.errors import LobertError, suggest
from lobert.factorizations import Factorization, Headed, Heads, Rank, Shape, factorization
from lobert.factorizations.dial import Dial
from lobert.layers.blocks import Block
from lobert.layers.ways import Evaluation


@dataclass(frozen=True)
class GroupPlan:
    """One tensor `[*stack, out, in]`: how it is factorized, and which slice of it each weight or block of one is.

    `full_shape` is the shape that it has in a model from which no neurons went, where that is another one; `heads` say
    how a single matrix meets another one in the heads of an attention, where it does (see `joint`).
    """

    name: str
    factorization: str
    stack: str
    shape: Shape
    rank: Rank
    slices: tuple[tuple[Block, Index], ...]
    evaluation: Evaluation = "auto"
    full_shape: Shape | None = None
    heads: Heads | None = None

    @property
    def method(self) -> Factorization:
        """The factorization, which spares what is redundant with the partner in the heads."""
        plain = factorization(self.factorization)
        return plain if self.heads is None else Headed(plain, self.heads)

    @property
    def dial(self) -> Dial:
        """All sizes that the group can be."""
        return Dial(self.method, self.shape, self.rank)

    @property
    def dense_parameters(self) -> int:
        """Of the dense weights, and as many multiply-adds per token: each weight takes part in one."""
        return math.prod(self.shape)

    @property
    def full_parameters(self) -> int:
        """Of the dense weights with all of their neurons."""
        return math.prod(self.full_shape or self.shape)

    @property
    def parameters(self) -> int:
        return self.method.parameters(self.stack, self.shape, self.rank)

    def narrowed(self, shape: Shape) -> "GroupPlan":
        """The same group in a model with fewer neurons, at the same rank as far as it has that."""
        most = factorization(self.factorization).full_rank(shape)
        return replace(self, shape=shape, rank=tuple(map(min, self.rank, most)), full_shape=self.shape)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, with the address of each slice as text."""
        plain = {**asdict(self), "slices": tuple((str(block), index) for block, index in self.slices)}
        return {name: value for name, value in plain.items() if value is not None}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "GroupPlan":
        """Inverse of `to_dict`, also after a trip through JSON. Raises LobertError for a foreign or damaged plan."""
        try:
            entries = {entry.name: entry.default is MISSING for entry in fields(cls)}
            if unknown := sorted(str(name) for name in data if name not in entries):
                raise ValueError(f"no entry '{unknown[0]}' is known: {suggest(unknown[0], entries)}")
            if lacking := [name for name, needed in entries.items() if needed and name not in data]:
                raise ValueError(f"it lacks '{lacking[0]}'")
            slices = tuple((Block.parse(address), tuple(index)) for address, index in data["slices"])
            changed: dict[str, Any] = {"shape": tuple(data["shape"]), "rank": tuple(data["rank"]), "slices": slices}
            if data.get("full_shape") is not None:
                changed["full_shape"] = tuple(data["full_shape"])
            if data.get("heads") is not None:
                changed["heads"] = Heads(**data["heads"])
            plan = cls(**{**data, **changed})
            plan.check()
        except (ValueError, LobertError) as error:
            raise LobertError(f"the compression plan is damaged in group '{data.get('name')}': {error}") from None
        except (KeyError, TypeError, AttributeError) as error:
            raise LobertError(f"the compression plan is damaged: {type(error).__name__} {error}") from None
        return plan

    def check(self) -> None:
        """Raise where the values do not fit together: a plan from a file is no more than data."""
        if not isinstance(self.name, str) or not self.name or "." in self.name or hasattr(nn.ModuleDict(), self.name):
            raise ValueError(f"no group can be called {self.name!r}: take letters, digits and _")
        method = factorization(self.factorization)
        if len(self.shape) != len(self.stack) + 2 or self.stack not in ("", "s", "l", "sl"):
            raise ValueError(f"stack '{self.stack}' does not fit shape {list(self.shape)}")
        method.equation(self.stack)
        if not all(isinstance(size, int) and size > 0 for size in self.shape):
            raise ValueError(f"shape {list(self.shape)}")
        if self.full_shape is not None and not self.fits_full_shape():
            raise ValueError(f"shape {list(self.shape)} of a full_shape {list(self.full_shape)}")
        if method.resolve_rank(self.shape, list(self.rank)) != self.rank:
            raise ValueError(f"rank {list(self.rank)}")
        if self.heads is not None:
            Headed(method, self.heads).check(self.shape, self.rank)
        if self.evaluation not in get_args(Evaluation):
            raise ValueError(f"evaluation '{self.evaluation}'")
        for _, index in self.slices:
            if len(index) != len(self.stack) or any(not 0 <= i < n for i, n in zip(index, self.shape, strict=False)):
                raise ValueError(f"slice {list(index)} of {list(self.shape)}")
        filled, places = {index for _, index in self.slices}, math.prod(self.shape[:-2])
        if not len(filled) == len(self.slices) == places:
            raise ValueError(
                f"{len(self.slices)} slices fill {len(filled)} of the {places} places of {list(self.shape)}, and each "
                "has to be filled once"
            )

    def fits_full_shape(self) -> bool:
        """Whether it is one side of a single matrix that has become shorter."""
        full = self.full_shape or self.shape
        whole = len(full) == 2 and all(isinstance(size, int) for size in full) and not self.stack
        return whole and sorted(now < before for now, before in zip(self.shape, full, strict=True)) == [False, True]


def make_plan(
    model: PreTrainedModel, parts: Sequence[Part], evaluation: Evaluation = "auto", budget: Budget = "parameters"
) -> list[GroupPlan]:
    """The groups that `parts` make of this model's weights. Looks at shapes only; changes nothing.

    The share that a part is asked to keep is one of what `budget` counts. Raises LobertError where a part names unknown
    roles, ranks that are impossible, or weights another part has taken.
    """
    if evaluation not in get_args(Evaluation):
        raise LobertError(f"no evaluation '{evaluation}': {suggest(evaluation, get_args(Evaluation))}")
    check_budget(budget)
    if budget == "macs" and evaluation == "merge":
        raise LobertError(
            "decomp.evaluation=merge costs the multiply-adds of the dense weights at any rank, so decomp.budget=macs "
            "has nothing to save: type decomp.evaluation=auto"
        )
    plans = [plan for part in parts for plan in plan_part(model, part, evaluation, budget)]
    refuse_overlaps(plans)
    return plans


def refuse_overlaps(plans: Sequence[GroupPlan]) -> None:
    """Raise LobertError where two groups take the same weight, or cut it in different ways, or have one name."""
    taken: dict[str, set[Block]] = {}
    for block in (block for plan in plans for block, _ in plan.slices):
        others = taken.setdefault(block.path, set())
        if block in others or any(other.cutting != block.cutting for other in others):
            raise LobertError(f"two parts of decomp both compress '{block}': choose one for it")
        others.add(block)
    doubled = [name for name, count in Counter(plan.name for plan in plans).items() if count > 1]
    if doubled:
        raise LobertError(f"two groups are called '{doubled[0]}': give each a name of its own")


def check_pairs(plans: Sequence[GroupPlan]) -> None:
    """Raise LobertError where a group says that it meets another one in heads, and that one says otherwise."""
    named = {plan.name: plan for plan in plans}
    for plan in plans:
        if plan.heads is not None:
            partner = named.get(plan.heads.partner)
            other = None if partner is None else partner.heads
            wanted = replace(plan.heads, partner=plan.name, pivots=not plan.heads.pivots)
            if other is None or replace(other, mode=wanted.mode) != wanted:
                raise LobertError(
                    f"group '{plan.name}' of the plan meets '{plan.heads.partner}' in the heads of an attention, and "
                    "the plan does not say the same of that one"
                )


def check_shapes(model: PreTrainedModel, plan: GroupPlan, full: bool = False) -> None:
    """Raise LobertError where a weight, or block of one, is not there or of another shape than in the plan.

    With `full` the model has all of its neurons still.
    """
    planned = ((plan.full_shape if full else None) or plan.shape)[-2:]
    for block, _ in plan.slices:
        shape = tuple(matrix_at(model, block).shape)
        if shape != planned:
            raise LobertError(f"the plan takes '{block}' as {list(planned)}, but this model's is {list(shape)}")


def plan_part(model: PreTrainedModel, part: Part, evaluation: Evaluation, budget: Budget) -> list[GroupPlan]:
    """All groups of one part."""
    method, letters = factorization(part.factorization), part.letters
    method.equation(letters)  # refuses a stack it cannot factorize
    plans: list[GroupPlan] = []
    for name, slices in group_slices(model, part):
        shape = stacked_shape(model, part.name, slices)
        reference = plans[0].shape if plans else shape
        macs = macs_cost(model, method.name, letters, shape, slices, evaluation) if budget == "macs" else None
        rank = choose_rank(part, shape, shape != reference, macs)
        plans.append(GroupPlan(name, part.factorization, letters, shape, rank, tuple(slices), evaluation))
    return plans


def choose_rank(part: Part, shape: Shape, transposed: bool, macs: Cost | None = None) -> Rank:
    """The rank of one group: written for the part's first group, its last two entries swapped for a transposed one.

    With `macs`, which counts a group's multiply-adds, a share that was asked for is one of these.
    """
    method = factorization(part.factorization)
    setting = part.default_rank if part.rank is None else part.rank
    if transposed and not isinstance(setting, int | float | str) and len(setting) == len(shape):
        setting = [*setting[:-2], setting[-1], setting[-2]]
    rank = method.resolve_rank(shape, setting)
    keep = part.default_keep if part.keep is None and part.rank is None else part.keep
    if keep is None:
        return rank
    if macs is None or part.keep is None:
        return Dial(method, shape, rank).keeping(part.letters, keep)
    return rank_within_macs(part.factorization, shape, part.keep, rank, macs)
