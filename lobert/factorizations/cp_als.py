"""Alternating least squares for the terms of a CP decomposition.

A sweep improves every factor at least once. Its cost is in two products of all slabs, with the rows and with the
columns of the terms; what else depends on the rank alone goes through the Gram matrices of the factors, each formed
once per step.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

RELAXATION = 1.9  # steps go so much farther than the least-squares solution: below 2 the error still cannot grow
TOLERANCE = 1e-3  # relative gain of the squared error below which only one more sweep is made
STEPS = 4  # of conjugate gradients, for the short modes
RIDGE = {torch.float32: 1e-7, torch.float64: 1e-9}  # share of the diagonal that holds a step back

Solver = Callable[[Tensor, Tensor, Tensor], Tensor]


class Terms:
    """The factors `[r, size]` of r terms, one per mode, and their Gram matrices `[r, r]`, kept in step.

    All matrices of this size are written over again and again: of fresh memory the first touch alone takes longer than
    a product entry by entry.
    """

    def __init__(self, factors: list[Tensor]) -> None:
        self.factors = list(factors)
        self.grams = [factor @ factor.T for factor in factors]
        self.room, self.root = torch.empty_like(self.grams[0]), torch.empty_like(self.grams[0])

    def others(self, mode: int) -> Tensor:
        """Gram matrix `[r, r]` of the terms without their vectors of one mode, until the next one is asked for."""
        first, second, *rest = (gram for other, gram in enumerate(self.grams) if other != mode)
        product = torch.mul(first, second, out=self.room)
        for gram in rest:
            product *= gram
        return product

    def improve(self, mode: int, product: Tensor, relaxation: float, solve: Solver) -> None:
        """Step towards the factor with the least error, from the `product [r, size]` of the tensor with all others."""
        old = self.factors[mode]
        new = torch.lerp(old, solve(self.others(mode), product, old), relaxation)
        self.factors[mode] = new
        torch.mm(new, new.T, out=self.grams[mode])

    def error(self, mode: int, product: Tensor) -> float:
        """The squared error less the tensor's own squared norm, from its `product [r, size]` with all other factors."""
        return (dot(self.others(mode), self.grams[mode]) - 2 * dot(product, self.factors[mode])).item()


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
    """Two steps per factor of a stack mode of these sizes and one per other; the error² less the tensor's norm².

    The stack modes go first with either product: their steps cost next to nothing, and the start is a saddle that
    they leave first.
    """
    rows, columns = len(sizes), len(sizes) + 1
    for mode, other, slabs in ((columns, rows, by_rows), (rows, columns, by_columns)):
        products = slab_products(terms.factors[other], slabs)  # [r, k, size of mode]
        overlaps = torch.bmm(products, terms.factors[mode].unsqueeze(2)).reshape(-1, *sizes)
        for short in range(len(sizes)):
            terms.improve(short, contracted(overlaps, terms.factors, short), relaxation, conjugate_gradients)
        product = pooled(terms, products)
        del products  # before the next ones, which are as large
        terms.improve(mode, product, relaxation, partial(cholesky, room=terms.root))
    return terms.error(rows, product)


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


def cholesky(gram: Tensor, product: Tensor, old: Tensor, room: Tensor) -> Tensor:
    """The solution `x [r, n]` of `gram x = product`, pulled a little towards `old` (a proximal step).

    The ridge is relative to the diagonal and pulls towards the old factor, not to zero: terms that are nearly parallel
    stay tame, and the error still cannot grow. It is raised where rounding asks for more. `gram` and `room [r, r]` are
    written over. Source: Li, Kindermann and Navasca 2013.
    """
    scale = gram.diagonal().sqrt().clamp_min(torch.finfo(gram.dtype).tiny ** 0.5).unsqueeze(1)  # a zero term: tiny
    normal, ridge = gram.div_(scale).div_(scale.T), RIDGE[gram.dtype]
    failed = torch.empty((), dtype=torch.int32, device=gram.device)
    normal.diagonal().add_(ridge)
    torch.linalg.cholesky_ex(normal, out=(room, failed))
    while failed and ridge < 1:
        normal.diagonal().add_(9 * ridge)
        ridge *= 10
        torch.linalg.cholesky_ex(normal, out=(room, failed))
    half = torch.linalg.solve_triangular(room, product / scale + ridge * scale * old, upper=False)
    return torch.linalg.solve_triangular(room.mT, half, upper=True) / scale


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
