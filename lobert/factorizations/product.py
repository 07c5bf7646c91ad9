"""The product of two tensors by an einsum equation, as the plain matrix or elementwise product it mostly is.

torch.einsum knows only batched matrix products: it turns FALCON's row-wise scaling into thousands of tiny ones.
"""

import math
from collections.abc import Callable, Sequence
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


Product = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def product(equation: str, first: Tensor, second: Tensor, bias: Tensor | None = None) -> Tensor:
    """`einsum(equation, first, second) + bias`; the bias runs along the last letter of the output."""
    return product_by(equation)(first, second, bias)


@lru_cache(maxsize=4096)
def product_by(equation: str) -> Product:
    """How to compute this equation, remembered."""
    inputs, output = equation.split("->")
    a, b = inputs.split(",")
    pair = Pair(a, b, output)
    if pair.alone:
        return Einsum(equation)
    otherwise = product_of_many(pair, equation)
    if not pair.within:
        return otherwise
    weighted_sum = WeightedSum(pair)
    return weighted_sum if isinstance(otherwise, Einsum) or not pair.summed else FewOrMany(weighted_sum, otherwise)


def product_of_many(pair: Pair, equation: str) -> Product:
    """How, where there may be many terms to sum."""
    if not pair.batched:
        return MatrixProduct(pair)
    if set(pair.a) == set(pair.b):
        return Overlap(pair)
    return Einsum(equation) if pair.summed else Spread(pair)


def is_matrix_product(equation: str) -> bool:
    """Whether this equation is one product of two matrices."""
    found = product_by(equation)
    return isinstance(found.many if isinstance(found, FewOrMany) else found, MatrixProduct)


def is_rowwise(equation: str) -> bool:
    """Whether the first letter of the output may stand for any number of leading modes: each row goes by itself."""
    found = product_by(equation)
    return isinstance(found, MatrixProduct | WeightedSum) and found.rowwise


def added(result: Tensor, bias: Tensor | None) -> Tensor:
    return result if bias is None else result + bias


def order(letters: str, wanted: str) -> Order:
    """The permutation that brings modes with these letters into the wanted order."""
    return None if letters == wanted else tuple(letters.index(letter) for letter in wanted)


def ordered(tensor: Tensor, permutation: Order) -> Tensor:
    return tensor if permutation is None else tensor.permute(permutation)


class Einsum:
    """What torch makes of an equation."""

    def __init__(self, equation: str) -> None:
        self.equation = equation

    def __call__(self, first: Tensor, second: Tensor, bias: Tensor | None) -> Tensor:
        return added(torch.einsum(self.equation, first, second), bias)


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
        as_they_are = not self.summed and self.large_order is None and self.small_order is None
        self.rowwise = as_they_are and self.spread is None and len(kept) < len(pair.output)

    def terms(self, first: Tensor) -> int:
        """How many multiples there are to add."""
        return math.prod([first.shape[dim] for dim in self.dims])

    def __call__(self, first: Tensor, second: Tensor, bias: Tensor | None) -> Tensor:
        large, small = (second, first) if self.swapped else (first, second)
        if large.dtype != small.dtype or (bias is not None and bias.dtype != large.dtype):  # under autocast alone
            large, small, bias = lowered(large, small, bias)
        if self.rowwise:
            return large * small if bias is None else torch.addcmul(bias, large, small)
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


class FewOrMany:
    """A weighted sum of few terms, and another way for many."""

    def __init__(self, few: WeightedSum, many: Product) -> None:
        self.few, self.many = few, many

    def __call__(self, first: Tensor, second: Tensor, bias: Tensor | None) -> Tensor:
        multiply = self.few if self.few.terms(first) <= FEW else self.many
        return multiply(first, second, bias)


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
        self.takes_bias = len(columns) == 1 and self.output_order is None
        self.rowwise = self.takes_bias and len(rows) == self.summed == 1 and self.above_order is None

    def __call__(self, first: Tensor, second: Tensor, bias: Tensor | None) -> Tensor:
        above, beside = (second, first) if self.swapped else (first, second)
        if self.rowwise:
            return torch.nn.functional.linear(above, beside.t() if self.beside_order is None else beside, bias)
        above, beside = ordered(above, self.above_order), ordered(beside, self.beside_order)
        shape = (*above.shape[: self.rows], *beside.shape[self.summed :])
        depth = math.prod(beside.shape[: self.summed])
        above = above.reshape(math.prod(shape[: self.rows]), depth)
        beside = beside.reshape(depth, math.prod(shape[self.rows :]))
        if bias is not None and self.takes_bias:
            return torch.addmm(bias, above, beside).reshape(shape)
        return added(ordered(torch.mm(above, beside).reshape(shape), self.output_order), bias)
