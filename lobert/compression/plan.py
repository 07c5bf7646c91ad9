"""The plan of a compression: which weights form which tensor, by which factorization, at which rank.

A plan is plain data: it is made from a model's shapes alone, stands in the student's `config.json`, and is all that is
needed to rebuild the compressed skeleton.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from transformers import PreTrainedModel

from lobert.compression.costs import Budget, Cost, check_budget, macs_cost, rank_within_macs
from lobert.errors import LobertError, suggest
from lobert.factorizations import Rank, RankSetting, Shape, factorization
from lobert.layers import Evaluation
from lobert.roles import find_weights, matrix_at

STACK_LETTERS = {"role": "s", "layer": "l"}


@dataclass(frozen=True)
class Part:
    """One compression of some roles, as a `conf/decomp` point writes it.

    `stack` names what is stacked into one tensor: nothing, "role", "layer" or both. Without `rank` or `keep` the
    `default_rank` holds, whose fractions are shares of the full rank; where there is a `default_keep`, that share of
    every tensor stays, and `default_rank` is no more than the rank of the stack that `keep` starts from.
    """

    name: str
    roles: Sequence[str]
    stack: Sequence[str]
    factorization: str
    default_rank: RankSetting
    rank: RankSetting | None = None
    keep: float | None = None
    default_keep: float | None = None

    def __post_init__(self) -> None:
        if self.keep is not None and self.rank is not None:
            raise LobertError(
                f"{self.name}: keep={self.keep} and rank={self.rank} are two answers to one question: give one of them"
            )
        check_keep(self.keep)
        check_keep(self.default_keep)
        if not self.roles:
            raise LobertError(
                f"{self.name}: roles is empty, so there is nothing to compress: name some, or use decomp=none"
            )
        for axis in self.stack:
            if axis not in STACK_LETTERS:
                raise LobertError(f"{self.name}: nothing to stack by '{axis}': {suggest(axis, STACK_LETTERS)}")

    @property
    def letters(self) -> str:
        """The stack as einsum letters, roles before layers."""
        return "".join(letter for axis, letter in STACK_LETTERS.items() if axis in self.stack)


def check_keep(keep: float | None) -> None:
    """Refuse a share that is none."""
    if keep is not None and not (isinstance(keep, int | float) and 0 < keep <= 1):
        raise LobertError(f"keep={keep} is impossible: it is the share that stays, above 0 and at most 1")


@dataclass(frozen=True)
class GroupPlan:
    """One tensor `[*stack, out, in]`: how it is factorized, and which slice of it each module is."""

    name: str
    factorization: str
    stack: str
    shape: Shape
    rank: Rank
    slices: tuple[tuple[str, tuple[int, ...]], ...]  # (module path, index into the stack)
    evaluation: Evaluation = "auto"

    @property
    def dense_parameters(self) -> int:
        """Of the dense weights, and as many multiply-adds per token: each weight takes part in one."""
        return math.prod(self.shape)

    @property
    def parameters(self) -> int:
        return factorization(self.factorization).parameters(self.stack, self.shape, self.rank)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "GroupPlan":
        """Inverse of `to_dict`, also after a trip through JSON. Raises LobertError for a foreign or damaged plan."""
        try:
            slices = tuple((path, tuple(index)) for path, index in data["slices"])
            changed = {"shape": tuple(data["shape"]), "rank": tuple(data["rank"]), "slices": slices}
            plan = cls(**{**data, **changed})
            plan.check()
        except (KeyError, TypeError, ValueError, AttributeError, LobertError) as error:
            raise LobertError(f"the compression plan is damaged: {type(error).__name__} {error}") from None
        return plan

    def check(self) -> None:
        """Raise where the values do not fit together: a plan from a file is no more than data."""
        method = factorization(self.factorization)
        if len(self.shape) != len(self.stack) + 2 or self.stack not in ("", "s", "l", "sl"):
            raise ValueError(f"stack '{self.stack}' does not fit shape {list(self.shape)}")
        method.equation(self.stack)
        if not all(isinstance(size, int) and size > 0 for size in self.shape):
            raise ValueError(f"shape {list(self.shape)}")
        if method.resolve_rank(self.shape, list(self.rank)) != self.rank:
            raise ValueError(f"rank {list(self.rank)}")
        if self.evaluation not in get_args(Evaluation):
            raise ValueError(f"evaluation '{self.evaluation}'")
        for _, index in self.slices:
            if len(index) != len(self.stack) or any(not 0 <= i < n for i, n in zip(index, self.shape, strict=False)):
                raise ValueError(f"slice {list(index)} of {list(self.shape)}")


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
    """Raise LobertError where two groups take the same weight."""
    taken: set[str] = set()
    for plan in plans:
        for path, _ in plan.slices:
            if path in taken:
                raise LobertError(f"two parts of decomp both compress '{path}': choose one for it")
            taken.add(path)


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


def group_slices(model: PreTrainedModel, part: Part) -> list[tuple[str, list[tuple[str, tuple[int, ...]]]]]:
    """Name and slices of every group: one per role and layer, less the axes that are stacked."""
    places = find_weights(model, list(part.roles))
    outside = [role for role, layer in places if layer is None]
    if outside and part.letters:
        raise LobertError(f"{part.name}: '{outside[0]}' is outside the layers and stacks with nothing: use stack=[]")
    layers = list(dict.fromkeys(layer for _, layer in places))
    role_sets = [list(part.roles)] if "s" in part.letters else [[role] for role in part.roles]
    layer_sets = [layers] if "l" in part.letters else [[layer] for layer in layers]
    groups = []
    for layer_set in layer_sets:
        for role_set in role_sets:
            members = [(role, layer) for role in role_set for layer in layer_set if (role, layer) in places]
            if not members:
                continue
            layer_name = "" if layer_set[0] is None or "l" in part.letters else f"_{layer_set[0]}"
            name = "_".join(role_set) + layer_name
            index = {"s": role_set.index, "l": layer_set.index}
            slices = [
                (places[member], tuple(index[letter](member["sl".index(letter)]) for letter in part.letters))  # type: ignore[operator]
                for member in members
            ]
            groups.append((name, slices))
    return groups


def stacked_shape(model: PreTrainedModel, part: str, slices: list[tuple[str, tuple[int, ...]]]) -> Shape:
    """Shape of the tensor that the slices' weights form; LobertError where they differ."""
    shapes = {tuple(matrix_at(model, path).shape) for path, _ in slices}
    if len(shapes) > 1:
        raise LobertError(
            f"{part}: weights of shapes {sorted(shapes)} do not stack into one tensor: do not stack these roles"
        )
    depth = [max(index[axis] for _, index in slices) + 1 for axis in range(len(slices[0][1]))]
    return (*depth, *shapes.pop())


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
        return method.rank_within(part.letters, shape, keep, default=rank)
    return rank_within_macs(part.factorization, shape, part.keep, rank, macs)
