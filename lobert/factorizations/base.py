"""The contract of a factorization, and everything that follows from its einsum equation.

A group of weights is one tensor `[*stack, out, in]`. Its modes have letters: `s` projection (role), `l` layer, `o`
out, `i` in; every other letter of an equation is a rank.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from lobert.errors import LobertError
from lobert.factorizations.bounds import squared_error_bound
from lobert.factorizations.contraction import contract
from lobert.factorizations.orders import dense_path

Rank = tuple[int, ...]
Shape = tuple[int, ...]  # [*stack, out, in]
RankSetting = (
    int | float | str | Sequence[int | str]
)  # as written in a config: 64, full, [2, 384, 384], [2/3, 1/2, 1/2]

MODES = "sloi"


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

    def useful(self, shape: Shape, rank: Rank) -> Rank:
        """The largest rank, not above this one, of which nothing is spare."""
        return rank

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
