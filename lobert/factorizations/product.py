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


@dataclass(frozen=True)
class Pair:
    """What an equation of two operands says of their letters."""

    left: str
    right: str
    output: str
    summed: str  # in both operands and not in the output
    within: bool  # all letters of one operand are letters of the other
    batched: bool  # some letter is in both operands and in the output
    alone: bool  # some letter of one operand is nowhere else


@lru_cache(maxsize=4096)
def read(equation: str) -> Pair:
    """Parse an equation such as `roi,ni->nro`."""
    inputs, output = equation.split("->")
    left, right = inputs.split(",")
    both = [letter for letter in left if letter in right]
    return Pair(
        left,
        right,
        output,
        summed="".join(letter for letter in both if letter not in output),
        within=len(both) == min(len(left), len(right)),
        batched=any(letter in output for letter in both),
        alone=any(letter not in both and letter not in output for letter in left + right),
    )


def product(equation: str, first: Tensor, second: Tensor, bias: Tensor | None = None) -> Tensor:
    """`einsum(equation, first, second) + bias`; the bias runs along the last letter of the output."""
    pair = read(equation)
    if pair.alone:
        return added(torch.einsum(equation, first, second), bias)
    if pair.within and (pair.batched or summed_size(pair, first) <= FEW):
        return combination(pair, first, second, bias)
    if pair.batched:
        return added(torch.einsum(equation, first, second), bias)
    return matrix_product(pair, first, second, bias)


def summed_size(pair: Pair, first: Tensor) -> int:
    """Over how many indices the product sums."""
    return math.prod(first.shape[pair.left.index(letter)] for letter in pair.summed)


def added(result: Tensor, bias: Tensor | None) -> Tensor:
    return result if bias is None else result + bias


def combination(pair: Pair, first: Tensor, second: Tensor, bias: Tensor | None) -> Tensor:
    """One operand times the other one elementwise, summed over a few indices without copies of the larger one."""
    (large, letters), (small, fewer) = (first, pair.left), (second, pair.right)
    if len(letters) < len(fewer):
        large, letters, small, fewer = small, fewer, large, letters
    if large.dtype != small.dtype or (bias is not None and bias.dtype != large.dtype):  # under autocast alone
        large, small, bias = lowered(large, small, bias)
    kept = "".join(letter for letter in pair.output if letter in fewer)
    terms = slabs(ordered(large, letters, pair.summed + pair.output), len(pair.summed))
    weights = slabs(ordered(small, fewer, pair.summed + kept), len(pair.summed))
    spread = tuple(slice(None) if letter in kept else None for letter in pair.output)
    (term, weight), *others = zip(terms, (weight[spread] for weight in weights), strict=True)
    result = term * weight if bias is None else torch.addcmul(bias, term, weight)
    for term, weight in others:
        result.addcmul_(term, weight)
    return result


def slabs(tensor: Tensor, summed: int) -> Sequence[Tensor]:
    """The parts of a tensor for each index of its first `summed` modes."""
    if summed == 0:
        return [tensor]
    flat = tensor.flatten(0, summed - 1)
    return [flat.squeeze(0)] if flat.shape[0] == 1 else flat.unbind(0)  # the gradient of unbind is a copy


def lowered(large: Tensor, small: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """All in the lower of the operands' precisions, as autocast would have matrix products."""
    dtype = min(large.dtype, small.dtype, key=lambda dtype: dtype.itemsize)
    return large.to(dtype), small.to(dtype), None if bias is None else bias.to(dtype)


def matrix_product(pair: Pair, first: Tensor, second: Tensor, bias: Tensor | None) -> Tensor:
    """`[rows, summed] @ [summed, columns]`, the operand whose letters lead the output giving the rows."""
    rows, columns = ("".join(c for c in term if c not in pair.summed) for term in (pair.left, pair.right))
    above, before, beside, after = first, pair.left, second, pair.right
    if columns and pair.output.startswith(columns):
        above, before, beside, after, rows, columns = second, pair.right, first, pair.left, columns, rows
    above, beside = ordered(above, before, rows + pair.summed), ordered(beside, after, pair.summed + columns)
    shape = (*above.shape[: len(rows)], *beside.shape[len(pair.summed) :])
    depth = math.prod(above.shape[len(rows) :])
    above = above.reshape(math.prod(shape[: len(rows)]), depth)
    beside = beside.reshape(depth, math.prod(shape[len(rows) :]))
    if bias is not None and len(columns) == 1 and pair.output == rows + columns:
        return torch.addmm(bias, above, beside).reshape(shape)
    return added(ordered(torch.mm(above, beside).reshape(shape), rows + columns, pair.output), bias)


def ordered(tensor: Tensor, letters: str, wanted: str) -> Tensor:
    """The modes of `tensor` in the wanted order."""
    return tensor if letters == wanted else tensor.permute([letters.index(letter) for letter in wanted])
