"""The contract of a factorization, and everything that follows from its einsum equation.

A group of weights is one tensor `[*stack, out, in]`. Its modes have letters: `s` projection (role), `l` layer, `o`
out, `i` in; every other letter of an equation is a rank.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lobert.errors import LobertError, TooSmall
from lobert.factorizations.bounds import squared_error_bound
from lobert.factorizations.contraction import contract, dense_path

Rank = tuple[int, ...]
Shape = tuple[int, ...]  # [*stack, out, in]
RankSetting = (
    int | float | str | Sequence[int | str]
)  # as written in a config: 64, full, [2, 384, 384], [2/3, 1/2, 1/2]

MODES = "sloi"
NEAR = 0.99  # of a budget, which a rank has to come to where one does


class Bond(NamedTuple):
    """A rank `letter` that joins the matrix at position `factor` to one `mode` of the factor at `partner` alone."""

    letter: str
    factor: int
    partner: int
    mode: int


@dataclass(frozen=True)
class Heads:
    """How a matrix meets its partner.

    Attributes:
        partner: name of the other matrix's group.
        pivots: whether the identities are in this one.
        mode: "o" where its outputs are the dimensions of the heads, "i" where its inputs are.
        count: how many heads there are.
        size: dimensions of a head, in the model.
        used: in how many of them, the first ones, the two meet; the others are zeros.
    """

    partner: str
    pivots: bool
    mode: Literal["o", "i"]
    count: int
    size: int
    used: int

    @property
    def position(self) -> int:
        """Which factor has the dimensions of the heads."""
        return 0 if self.mode == "o" else 1

    def kept_shape(self, rank: int) -> Shape:
        """Of what is kept of that factor."""
        return (self.count, self.used, rank - self.used) if self.pivots else (rank, self.count, self.used)


class Factorization(ABC):
    """T ~ einsum(equation, factors). A method defines the parts below; the rest of this file follows from them."""

    name: str
    GRID: int | None = 12  # sizes that an allocation chooses among; None: all, where their errors are cheap
    heads: Heads | None = None  # of an attention, where a matrix is to meet another one in them

    # ---- must be defined ----

    @abstractmethod
    def equation(self, stack: str) -> str:
        """Einsum equation for a tensor with these stack letters ("", "s", "l" or "sl").

        Raises LobertError where the factorization does not exist for such a stack.
        """

    @abstractmethod
    def full_rank(self, shape: Shape) -> Rank:
        """The largest useful rank for a tensor of this shape: with it every tensor is reproduced."""

    @abstractmethod
    def decompose(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        """Factors, in the order of the equation, with small `||T - einsum(factors)||`; `tensor` is float64, finite."""

    def closed_form(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        """Factors without iterations, from which those of `decompose` are found."""
        return self.decompose(tensor, rank)

    def start(self, tensor: Tensor, rank: Rank, closed_form: list[Tensor], enough: float) -> list[Tensor]:
        """What a fit in another norm goes on from: the closed form, or what some iterations make of it.

        Where these take long, they end when the squared error is `enough` of that of the closed form.
        """
        return closed_form

    def finish(self, tensor: Tensor, rank: Rank, closed_form: list[Tensor]) -> list[Tensor]:
        """What all iterations make of the closed form: factors as close as those of `decompose`."""
        return closed_form

    def gain(self, shape: Shape) -> float:
        """How many times larger than that of `finish` the squared error of the closed form is, at the most."""
        return 1.0

    def lead(self, shape: Shape) -> float:
        """A closed form whose squared error is so many times smaller than another's stays ahead in all iterations."""
        return math.inf

    def scaled_rank(self, shape: Shape, size: int, default: Rank) -> Rank:
        """The rank at position `size` (1, 2, ... up to `dial_length`) of this method's one dial, small to large."""
        return (size,)

    def dial_length(self, shape: Shape, default: Rank) -> int:
        """How many positions the dial has."""
        return max(self.full_rank(shape))

    def squared_errors(self, stack: str, tensor: Tensor, ranks: Sequence[Rank]) -> list[float]:
        """`||T - einsum(factors)||²` at each of some ranks; by decomposing at each, where there is no shorter way."""
        equation = self.equation(stack)
        norm = tensor.square().sum().item()
        return [relative_error(tensor, equation, self.decompose(tensor, rank)) ** 2 * norm for rank in ranks]

    def bonds(self, stack: str, shape: Shape, rank: Rank) -> Sequence[Bond]:
        """The ranks whose redundant numbers are not kept (see `pivoted`): none, but where a method says so."""
        return ()

    # ---- derived ----

    def factor_shapes(self, stack: str, shape: Shape, rank: Rank) -> list[Shape]:
        """Shape of every factor."""
        equation = self.equation(stack)
        sizes = dict(zip(stack + "oi", shape, strict=True)) | dict(zip(rank_letters(equation), rank, strict=True))
        return [tuple(sizes[letter] for letter in term) for term in equation.split("->")[0].split(",")]

    def kept_shapes(self, stack: str, shape: Shape, rank: Rank) -> list[Shape]:
        """Shape of what is kept of every factor: all of it, or the part of a matrix that is not the identity."""
        shapes = self.factor_shapes(stack, shape, rank)
        for bond in self.bonds(stack, shape, rank):
            rows, columns = shapes[bond.factor]
            shapes[bond.factor] = (rows, columns - rows)
        return shapes

    def parameters(self, stack: str, shape: Shape, rank: Rank) -> int:
        """How many numbers have to be kept of the factors."""
        return sum(math.prod(factor) for factor in self.kept_shapes(stack, shape, rank))

    def lower_bound(self, stack: str, tensor: Tensor, rank: Rank) -> float:
        """No factors of this rank have a smaller `||T - einsum(factors)||²`: from the ranks of T's unfoldings."""
        shapes = self.factor_shapes(stack, tuple(tensor.shape), rank)
        return squared_error_bound(self.equation(stack), shapes, tensor)

    def dial(self, shape: Shape, default: Rank, most: int | None = None) -> list[Rank]:
        """The ranks of this method's one dial, small to large: all, or `most` of them in even steps."""
        last = self.dial_length(shape, default)
        count = min(last, most or last)
        sizes = {max(1, round(last * (position + 1) / count)) for position in range(count)}
        return list(dict.fromkeys(self.scaled_rank(shape, size, default) for size in sorted(sizes)))

    def candidates(self, shape: Shape, default: Rank, cost: Callable[[Rank], int], most: int) -> list[Rank]:
        """Ranks of growing size that cost less than `most`, for an allocation to choose among.

        A grid has the smallest rank, and its steps grow with the cost: small ones are where the errors fall.
        """
        if self.GRID is None:
            return [rank for rank in self.dial(shape, default) if cost(rank) < most]
        budgets = [most * (position / self.GRID) ** 2 for position in range(1, self.GRID)]
        found = [self.largest_rank(shape, default, cost, budget) for budget in [*budgets, most - 1]]
        smallest = self.scaled_rank(shape, 1, default)
        return list(dict.fromkeys(rank for rank in (smallest, *found) if rank is not None and cost(rank) < most))

    def resolve_rank(self, shape: Shape, setting: RankSetting) -> Rank:
        """A rank as integers, from how it is written: `64`, `[2, 8, 576, 576]`, `full`, or shares of it, `[2/3, 1/2]`.

        Raises LobertError where it has the wrong number of entries, is below 1 or above the full rank.
        """
        full = self.full_rank(shape)
        if setting == "full":
            return full
        entries = [setting] if isinstance(setting, int | float | str) else list(setting)
        bounds = f"{self.name} on {list(shape)} takes {plural(len(full))}, each from 1 to {bracketed(full)}, or 'full'"
        if len(entries) != len(full):
            raise LobertError(f"rank={bracketed(entries)} has {plural(len(entries), 'entry', 'entries')}: {bounds}")
        rank = tuple(resolve_entry(entry, size, bounds) for entry, size in zip(entries, full, strict=True))
        if any(not 1 <= value <= size for value, size in zip(rank, full, strict=True)):
            raise LobertError(f"rank={bracketed(rank)} is impossible: {bounds}")
        return rank

    def rank_within(self, stack: str, shape: Shape, keep: float, default: Rank) -> Rank:
        """The largest rank whose factors hold at most `keep` times the numbers of the tensor.

        Raises LobertError where even the smallest rank holds more.
        """

        def cost(rank: Rank) -> int:
            return self.parameters(stack, shape, rank)

        rank = self.largest_rank(shape, default, cost, keep * math.prod(shape))
        if rank is None:
            least = cost(self.scaled_rank(shape, 1, default)) / math.prod(shape)
            raise TooSmall(
                f"keep={keep:g} is too small for {self.name} on {list(shape)}: its smallest rank keeps {least:.4f}",
                least,
            )
        return rank

    def largest_rank(self, shape: Shape, default: Rank, cost: Callable[[Rank], int], budget: float) -> Rank | None:
        """The last rank on the dial whose cost, which grows with it, is within the budget; None where none is.

        Where that leaves more than a hundredth of the budget, a costlier one between it and the next on the dial.
        """

        def at(size: int) -> Rank:
            return self.scaled_rank(shape, size, default)

        last = self.dial_length(shape, default)
        size = last_within(last, lambda size: cost(at(size)), budget)
        if not size or size == last:
            return at(size) if size else None
        return self.rank_between(shape, at(size), at(size + 1), cost, budget)

    def rank_between(self, shape: Shape, low: Rank, high: Rank, cost: Callable[[Rank], int], budget: float) -> Rank:
        """The costliest rank within the budget that has some entries of `low` and some of `high`, or `low`.

        Where that is not enough, one with some entries of `high` and the longest others as large as they can be beside
        them: a stack's entry is a large step.
        """
        grown = [place for place, (a, b) in enumerate(zip(low, high, strict=True)) if a < b]
        mixed = [
            self.useful(shape, tuple(high[place] if place in taken else entry for place, entry in enumerate(low)))
            for count in range(1, len(grown) + 1)
            for taken in itertools.combinations(grown, count)
        ]
        found = max((rank for rank in (low, *mixed) if cost(rank) <= budget), key=cost)
        if cost(found) >= NEAR * budget:
            return found
        shorter = [self.shortened(shape, low, rank, cost, budget) for rank in mixed]
        return max((found, *(rank for rank in shorter if rank is not None)), key=cost)

    def shortened(self, shape: Shape, low: Rank, high: Rank, cost: Callable[[Rank], int], budget: float) -> Rank | None:
        """`high` with its entries above the sizes of the stack, where they are those of `low`, as large as they can be.

        None where even the smallest are too large.
        """
        stack = max(shape[:-2], default=0)
        long = [place for place, (a, b) in enumerate(zip(low, high, strict=True)) if a == b > stack]
        most = max((high[place] for place in long), default=0)

        def at(size: int) -> Rank:
            return self.useful(shape, tuple(n * size // most if p in long else n for p, n in enumerate(high)))

        size = last_within(most, lambda size: cost(at(size)), budget)
        return at(size) if size and min(at(size)) > 0 else None

    def useful(self, shape: Shape, rank: Rank) -> Rank:
        """The largest rank, not above this one, of which nothing is spare."""
        return rank


def last_within(last: int, cost: Callable[[int], int], budget: float) -> int:
    """The last of 1, 2, ... `last` whose cost, which grows with it, is within the budget; 0 where none is."""
    low, high = 0, last
    while low < high:  # bisect
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(middle) <= budget else (low, middle - 1)
    return low


def rank_letters(equation: str) -> str:
    """The letters of an equation that are ranks, in order of appearance."""
    return "".join(dict.fromkeys(c for c in equation.split("->")[0] if c not in MODES + ","))


def reconstruct(equation: str, factors: Sequence[Tensor]) -> Tensor:
    """The dense tensor `[*stack, out, in]` that the factors stand for."""
    return contract(dense_path(equation, tuple(tuple(f.shape) for f in factors)), factors)


def relative_error(tensor: Tensor, equation: str, factors: Sequence[Tensor]) -> float:
    """`||T - einsum(factors)|| / ||T||` in the Frobenius norm (0 for a zero tensor)."""
    norm = torch.linalg.vector_norm(tensor)
    if norm == 0:
        return 0.0
    return (torch.linalg.vector_norm(tensor - reconstruct(equation, factors)) / norm).item()


def resolve_entry(entry: int | float | str, size: int, bounds: str) -> int:
    """One rank: an integer as it is; a fraction such as "2/3" as that share of `size`, rounded, and at least 1."""
    whole, slash, parts = str(entry).partition("/")
    if isinstance(entry, float) or not (whole.lstrip("-").isdigit() and (not slash or parts.isdigit())):
        raise LobertError(f"rank entry {entry!r} is not a whole number: {bounds}")
    if not slash:
        return int(whole)
    share = Fraction(int(whole), int(parts)) if int(parts) else Fraction(0)
    if not 0 < share <= 1:
        raise LobertError(f"rank entry {entry!r} is not a share above 0 and at most 1: {bounds}")
    return max(1, round(share * size))


def bracketed(values: Sequence[object]) -> str:
    """`(64,)` as `64`, longer ranks as `[2, 384, 384]`."""
    return str(values[0]) if len(values) == 1 else "[" + ", ".join(map(str, values)) + "]"


def plural(count: int, one: str = "rank", many: str = "ranks") -> str:
    return f"{count} {one if count == 1 else many}"
