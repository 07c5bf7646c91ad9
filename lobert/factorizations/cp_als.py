"""Alternating least squares for the terms of a CP decomposition.

A sweep improves every factor once. Its cost is in two products of all slabs, with the rows and with the columns of the
terms; what else depends on the rank alone goes through the Gram matrices of the factors, each formed once per step.
"""

from collections.abc import Callable

import torch
from torch import Tensor

RELAXATION = 1.8  # steps go so much farther than the least-squares solution: below 2 the error still cannot grow
TOLERANCE = 1e-3  # relative gain of the squared error below which only one more sweep is made
STEPS = 6  # of conjugate gradients, for the short modes
RIDGE = {torch.float32: 1e-7, torch.float64: 1e-9}  # share of the diagonal that holds a step back

Solver = Callable[[Tensor, Tensor, Tensor], Tensor]


class Terms:
    """The factors `[r, size]` of r terms, one per mode, and their Gram matrices `[r, r]`, kept in step."""

    def __init__(self, factors: list[Tensor]) -> None:
        self.factors = list(factors)
        self.grams = [factor @ factor.T for factor in factors]

    def others(self, mode: int) -> Tensor:
        """Gram matrix `[r, r]` of the terms without their vectors of one mode."""
        first, *rest = (gram for other, gram in enumerate(self.grams) if other != mode)
        product = first.clone()
        for gram in rest:
            product *= gram
        return product

    def improve(self, mode: int, product: Tensor, relaxation: float, solve: Solver) -> Tensor:
        """Step towards the factor with the least error, from the `product [r, size]` of the tensor with all others.

        Returns the Gram matrix of the others.
        """
        gram, old = self.others(mode), self.factors[mode]
        new = torch.lerp(old, solve(gram, product, old), relaxation)
        self.factors[mode], self.grams[mode] = new, new @ new.T
        return gram


def alternating_least_squares(
    tensor: Tensor, factors: list[Tensor], error: float, sweeps: int, first: int = 1, enough: float = 0.0
) -> tuple[list[Tensor], float]:
    """Fit factors `[r, size]` to `tensor [*short, m, n]`; errors are squared, those returned and `enough` too.

    After the `first` of the sweeps it ends where the error is small enough.

    Over-relaxed steps need a third of the sweeps of plain ones, which are slow to leave the start; the last sweep is a
    plain one, for a long step ends beside the minimum it passed. Two tensors of r times the size of `tensor` over m,
    and over n, are formed on the way. Sources: Carroll and Chang 1970, Harshman 1970; Young 1954 (over-relaxation).
    """
    slabs, total = tensor.flatten(0, -3), dot(tensor, tensor).item()
    by_rows, by_columns = slabs.movedim(1, 0).contiguous(), slabs.movedim(2, 0).contiguous()  # [m, k, n], [n, k, m]
    terms, best, last = Terms(factors), factors, False
    for number in range(1, sweeps + 1):
        last = last or number == sweeps or (number == first and error <= enough)
        left = total + sweep(terms, tensor.shape[:-2], by_rows, by_columns, 1.0 if last else RELAXATION)
        gain = error - left
        if gain > 0:
            best, error = list(terms.factors), left
        if last or (number >= first and error <= enough):
            break
        last = gain <= TOLERANCE * error
    return best, error


def sweep(terms: Terms, sizes: tuple[int, ...], by_rows: Tensor, by_columns: Tensor, relaxation: float) -> float:
    """One step per factor, the stack modes of these sizes first; returns the error² less the tensor's own norm²."""
    short, rows, columns = range(len(sizes)), len(sizes), len(sizes) + 1
    products = slab_products(terms.factors[rows], by_rows)  # [r, k, n]
    overlaps = torch.bmm(products, terms.factors[columns].unsqueeze(2)).reshape(-1, *sizes)
    for mode in short:
        terms.improve(mode, contracted(overlaps, terms.factors, mode), relaxation, conjugate_gradients)
    terms.improve(columns, pooled(terms, products), relaxation, cholesky)
    del products  # before the next ones, which are as large
    products = slab_products(terms.factors[columns], by_columns)  # [r, k, m]
    product = pooled(terms, products)
    gram = terms.improve(rows, product, relaxation, cholesky)
    return (dot(gram, terms.grams[rows]) - 2 * dot(product, terms.factors[rows])).item()


def slab_products(factor: Tensor, slabs: Tensor) -> Tensor:
    """`factor [r, m]` times every slab, `[r, k, n]` of `slabs [m, k, n]`, in one matrix product."""
    return (factor @ slabs.flatten(1)).reshape(len(factor), *slabs.shape[1:])


def pooled(terms: Terms, products: Tensor) -> Tensor:
    """The products with slabs `[r, k, n]` weighed by each term's vectors of the stack modes: `[r, n]`."""
    return torch.bmm(khatri_rao(terms.factors[:-2]).unsqueeze(1), products).squeeze(1)


def contracted(overlaps: Tensor, factors: list[Tensor], mode: int) -> Tensor:
    """`overlaps [r, *short]` summed over all stack modes but one, weighed by the factors: `[r, size of mode]`."""
    for other in reversed(range(overlaps.dim() - 1)):
        if other != mode:
            shape = [len(overlaps), *(-1 if axis == other else 1 for axis in range(overlaps.dim() - 1))]
            overlaps = (overlaps * factors[other].reshape(shape)).sum(other + 1, keepdim=True)
    return overlaps.flatten(1)


def khatri_rao(factors: list[Tensor]) -> Tensor:
    """Products of the factors `[r, n]` term by term: `[r, n1 n2 ...]`."""
    product, *others = factors
    for factor in others:
        product = (product.unsqueeze(2) * factor.unsqueeze(1)).flatten(1)
    return product


def cholesky(gram: Tensor, product: Tensor, old: Tensor) -> Tensor:
    """The solution `x [r, n]` of `gram x = product`, pulled a little towards `old` (a proximal step).

    The ridge is relative to the diagonal and pulls towards the old factor, not to zero: terms that are nearly parallel
    stay tame, and the error still cannot grow. It is raised where rounding asks for more. Source: Li, Kindermann and
    Navasca 2013.
    """
    root = gram.diagonal().sqrt().clamp_min(torch.finfo(gram.dtype).tiny ** 0.5).unsqueeze(1)  # a zero term: tiny
    normal, ridge = (gram / root).div_(root.T), RIDGE[gram.dtype]
    normal.diagonal().add_(ridge)
    lower, failed = torch.linalg.cholesky_ex(normal)
    while failed and ridge < 1:
        normal.diagonal().add_(9 * ridge)
        ridge *= 10
        lower, failed = torch.linalg.cholesky_ex(normal)
    return torch.cholesky_solve(product / root + ridge * root * old, lower) / root


def conjugate_gradients(gram: Tensor, product: Tensor, old: Tensor) -> Tensor:
    """Steps from `old` towards the solution `x [r, n]` of `gram x = product`; no error grows on the way.

    For the few columns of a short mode they cost a fraction of a factorization of the Gram matrix, whose diagonal is
    the preconditioner.
    """
    scale = safe_ratio(torch.ones_like(old[:, :1]), gram.diagonal().unsqueeze(1))
    solution, residual = old, product - gram @ old
    direction = scale * residual
    energy = dot_columns(residual, direction)
    for _ in range(STEPS):
        turned = gram @ direction
        length = safe_ratio(energy, dot_columns(direction, turned))
        solution, residual = solution + length * direction, residual - length * turned
        before, energy = energy, dot_columns(residual, scale * residual)
        direction = scale * residual + safe_ratio(energy, before) * direction
    return solution


def safe_ratio(part: Tensor, whole: Tensor) -> Tensor:
    """`part / whole`, and 0 where there is nothing left to divide by."""
    return torch.where(whole > 0, part / whole, 0.0)


def dot_columns(first: Tensor, second: Tensor) -> Tensor:
    """Inner products of the columns of two matrices."""
    return (first * second).sum(0)


def dot(first: Tensor, second: Tensor) -> Tensor:
    """Inner product of two tensors, summed in double precision."""
    return (first * second).sum(dtype=torch.float64)
