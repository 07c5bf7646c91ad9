"""The product of two tensors by an einsum equation, as the plain matrix or elementwise product it mostly is.

torch.einsum knows only batched matrix products: it turns FALCON's row-wise scaling into thousands of tiny ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

FEW = 4  # so many terms are added one by one sooner than rearranged into a matrix product
Order = tuple[int, ...] | None  # a permutation of modes; None leaves them


@dataclass(frozen=True)
class Pair:
    """What an equation of two operands, `a,b->output`, says of their letters."""

    a: str
    b: str
    output: str

    @property
    def summed(self) -> str:
        """The letters of both operands that are not in the output."""
        return "".join(letter for letter in self.a if letter in self.b and letter not in self.output)

    @property
    def batched(self) -> bool:
        """Whether some letter of both operands is in the output too."""
        return any(letter in self.b and letter in self.output for letter in self.a)

    @property
    def alone(self) -> bool:
        """Whether some letter of one operand is nowhere else."""
        return any(letter not in self.output and letter not in self.summed for letter in self.a + self.b)

    @property
    def within(self) -> bool:
        """Whether all letters of one operand are letters of the other."""
        return set(self.a) <= set(self.b) or set(self.b) <= set(self.a)


def product(equation: str, first: Tensor, second: Tensor, bias: Tensor | None = None) -> Tensor:
    """`einsum(equation, first, second) + bias`; the bias runs along the last letter of the output."""
    weighted_sum, otherwise = ways_of(equation)
    if weighted_sum is not None and (otherwise is None or weighted_sum.terms(first) <= FEW):
        return weighted_sum(first, second, bias)
    if otherwise is not None:
        return otherwise(first, second, bias)
    return added(torch.einsum(equation, first, second), bias)


@lru_cache(maxsize=4096)
def ways_of(equation: str) -> tuple["WeightedSum | None", "MatrixProduct | Overlap | Spread | None"]:
    """The ways to compute this equation other than by torch.einsum: with few summed terms, and with many."""
    inputs, output = equation.split("->")
    a, b = inputs.split(",")
    pair = Pair(a, b, output)
    if pair.alone:
        return None, None
    weighted_sum = WeightedSum(pair) if pair.within else None
    if not pair.batched:
        return weighted_sum, MatrixProduct(pair)
    if set(a) == set(b):
        return weighted_sum, Overlap(pair)
    return weighted_sum, None if pair.summed else Spread(pair)


def is_matrix_product(equation: str) -> bool:
    """Whether this equation is one product of two matrices."""
    return isinstance(ways_of(equation)[1], MatrixProduct)


def added(result: Tensor, bias: Tensor | None) -> Tensor:
    return result if bias is None else result + bias


def order(letters: str, wanted: str) -> Order:
    """The permutation that brings modes with these letters into the wanted order."""
    return None if letters == wanted else tuple(letters.index(letter) for letter in wanted)


def ordered(tensor: Tensor, permutation: Order) -> Tensor:
    return tensor if permutation is None else tensor.permute(permutation)


class WeightedSum:
    """Elementwise multiples of the larger operand, added up over the summed letters without copies of it."""

    def __init__(self, pair: Pair) -> None:
        self.swapped = len(pair.a) < len(pair.b)
        large, small = (pair.b, pair.a) if self.swapped else (pair.a, pair.b)
        kept = "".join(letter for letter in pair.output if letter in small)
        self.summed = len(pair.summed)
        self.dims = [pair.a.index(letter) for letter in pair.summed]
        self.large_order, self.small_order = order(large, pair.summed + pair.output), order(small, pair.summed + kept)
        spread = tuple(slice(None) if letter in kept else None for letter in pair.output)
        self.spread = None if pair.output.endswith(kept) else spread  # leading modes are spread by themselves

    def terms(self, first: Tensor) -> int:
        """How many multiples there are to add."""
        return math.prod(first.shape[dim] for dim in self.dims)

    def __call__(self, first: Tensor, second: Tensor, bias: Tensor | None) -> Tensor:
        large, small = (second, first) if self.swapped else (first, second)
        if large.dtype != small.dtype or (bias is not None and bias.dtype != large.dtype):  # under autocast alone
            large, small, bias = lowered(large, small, bias)
        terms = slabs(ordered(large, self.large_order), self.summed)
        weights = slabs(ordered(small, self.small_order), self.summed)
        if self.spread is not None:
            weights = [weight[self.spread] for weight in weights]
        result = terms[0] * weights[0] if bias is None else torch.addcmul(bias, terms[0], weights[0])
        for term, weight in zip(terms[1:], weights[1:], strict=True):
            result.addcmul_(term, weight)
        return result


def slabs(tensor: Tensor, summed: int) -> Sequence[Tensor]:
    """The parts of a tensor for each index of its first `summed` modes."""
    if summed == 0:
        return [tensor]
    flat = tensor.flatten(0, summed - 1) if summed > 1 else tensor
    return [flat.squeeze(0)] if flat.shape[0] == 1 else flat.unbind(0)  # the gradient of unbind is a copy


def lowered(large: Tensor, small: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """All in the lower of the operands' precisions, as autocast would have matrix products."""
    dtype = min(large.dtype, small.dtype, key=lambda dtype: dtype.itemsize)
    return large.to(dtype), small.to(dtype), None if bias is None else bias.to(dtype)


class Overlap:
    """The product entry by entry of two operands with the same letters, and sums over some of them.

    What is left of such operands is small: added up one by one, a million tiny terms take two hundred times as long.
    """

    def __init__(self, pair: Pair) -> None:
        self.order = order(pair.b, pair.a)
        self.dims = [pair.a.index(letter) for letter in pair.summed]
        self.output_order = order("".join(letter for letter in pair.a if letter in pair.output), pair.output)

    def __call__(self, first: Tensor, second: Tensor, bias: Tensor | None) -> Tensor:
        summed = (first * ordered(second, self.order)).sum(self.dims)
        return added(ordered(summed, self.output_order), bias)


class Spread:
    """The product entry by entry of two operands that both lack letters of the output, without sums."""

    def __init__(self, pair: Pair) -> None:
        self.orders = [order(term, "".join(c for c in pair.output if c in term)) for term in (pair.a, pair.b)]
        self.spreads = [tuple(slice(None) if c in term else None for c in pair.output) for term in (pair.a, pair.b)]

    def __call__(self, first: Tensor, second: Tensor, bias: Tensor | None) -> Tensor:
        first, second = (
            ordered(operand, permutation)[spread]
            for operand, permutation, spread in zip((first, second), self.orders, self.spreads, strict=True)
        )
        return added(first * second, bias)


class MatrixProduct:
    """`[rows, summed] @ [summed, columns]`; the operand whose letters lead the output gives the rows."""

    def __init__(self, pair: Pair) -> None:
        rows, columns = ("".join(c for c in term if c not in pair.summed) for term in (pair.a, pair.b))
        self.swapped = bool(columns) and pair.output.startswith(columns)
        if self.swapped:
            rows, columns = columns, rows
        above, beside = (pair.b, pair.a) if self.swapped else (pair.a, pair.b)
        self.above_order = order(above, rows + pair.summed)
        self.beside_order = order(beside, pair.summed + columns)
        self.output_order = order(rows + columns, pair.output)
        self.rows, self.summed = len(rows), len(pair.summed)
        self.plain = len(rows) == len(columns) == self.summed == 1
        self.takes_bias = len(columns) == 1 and self.output_order is None

    def __call__(self, first: Tensor, second: Tensor, bias: Tensor | None) -> Tensor:
        above, beside = (second, first) if self.swapped else (first, second)
        above, beside = ordered(above, self.above_order), ordered(beside, self.beside_order)
        if self.plain and self.takes_bias:
            return torch.mm(above, beside) if bias is None else torch.addmm(bias, above, beside)
        shape = (*above.shape[: self.rows], *beside.shape[self.summed :])
        depth = math.prod(beside.shape[: self.summed])
        above = above.reshape(math.prod(shape[: self.rows]), depth)
        beside = beside.reshape(depth, math.prod(shape[self.rows :]))
        if bias is not None and self.takes_bias:
            return torch.addmm(bias, above, beside).reshape(shape)
        return added(ordered(torch.mm(above, beside).reshape(shape), self.output_order), bias)
