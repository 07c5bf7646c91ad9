"""CP decomposition: a sum of rank-one terms, each with one vector per mode."""

import math

import torch
from torch import Tensor

from lobert.errors import LobertError
from lobert.factorizations.base import MODES, Factorization, Rank, Shape
from lobert.factorizations.numerics import eigh, mode_gram, mode_product, truncated_svd

SWEEPS = 30
TOLERANCE = 1e-3  # relative gain of the squared error below which ALS stops
RIDGE = 1e-9  # share of the diagonal of the normal equations that holds a step back


class CP(Factorization):
    """`rs,rl,ro,ri->sloi` (drop the letters of missing modes), by alternating least squares.

    ALS starts from a closed form: the stack modes turned to their singular vectors, then the largest terms of the SVDs
    of all slabs. These terms are orthogonal, so their error² is the dropped σ²: it falls with every rank, is 0 at the
    full one, and no sweep adds to it. That ALS finds the best terms from there no method promises: they are NP-hard.
    Sources: Carroll and Chang 1970, Harshman 1970 (ALS); Li, Kindermann and Navasca 2013 (the proximal step).
    """

    name = "cp"

    def equation(self, stack: str) -> str:
        if not stack:
            raise LobertError("cp of a single matrix is its SVD: use svd, or stack roles or layers")
        modes = [letter for letter in MODES if letter in stack + "oi"]
        return f"{','.join('r' + mode for mode in modes)}->{''.join(modes)}"

    def full_rank(self, shape: Shape) -> Rank:
        return (math.prod(shape) // max(shape),)

    def decompose(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        order = sorted(range(tensor.dim()), key=lambda mode: tensor.shape[mode])  # the two longest modes come last
        ordered = tensor.permute(order).contiguous()
        factors = orthogonal_terms(ordered, rank[0])
        if rank < self.full_rank(tuple(tensor.shape)):
            factors = alternating_least_squares(ordered, factors)
        return [factors[order.index(mode)] for mode in range(tensor.dim())]


def orthogonal_terms(tensor: Tensor, rank: int) -> list[Tensor]:
    """The `rank` largest of the orthogonal terms that make up `tensor [*short, m, n]`: factors `[rank, size]`."""
    *short, rows, columns = tensor.shape
    bases = [eigh(mode_gram(tensor, mode))[1].T for mode in range(len(short))]
    for mode, basis in enumerate(bases):
        tensor = mode_product(tensor, basis, mode)
    left, right = truncated_svd(tensor.reshape(-1, rows, columns), min(rows, columns))  # [slabs, m, k], [slabs, k, n]
    strength = right.norm(dim=-1)
    largest = strength.flatten().argsort(descending=True, stable=True)[:rank]
    slab, term = largest // strength.shape[1], largest % strength.shape[1]
    place = torch.unravel_index(slab, short)
    stack = [basis[index] for basis, index in zip(bases, place, strict=True)]
    return balanced([*stack, left[slab, :, term], right[slab, term]])


def alternating_least_squares(tensor: Tensor, factors: list[Tensor]) -> list[Tensor]:
    """Fit each factor in turn to `tensor [*short, m, n]`, until a sweep gains little."""
    slabs, shape = tensor.flatten(0, -3), tensor.shape
    total = tensor.square().sum().item()
    error = math.inf
    for _ in range(SWEEPS):
        swept, swept_error = sweep(slabs, shape[:-2], factors, total)
        if not swept_error < error:  # rounding has the last word
            break
        gain, error, factors = error - swept_error, swept_error, balanced(swept)
        if gain <= TOLERANCE * error:
            break
    return factors


def sweep(slabs: Tensor, sizes: tuple[int, ...], factors: list[Tensor], total: float) -> tuple[list[Tensor], float]:
    """One least-squares step per factor, on `slabs [stack, m, n]` with stack modes of these sizes; the new error².

    The Khatri-Rao products are contracted slab by slab: nothing larger than a factor is formed.
    """
    *short, rows, columns = factors
    overlaps = torch.stack([((rows @ slab) * columns).sum(1) for slab in slabs]).reshape(*sizes, -1)
    for mode in range(len(short)):
        others = short[:mode] + short[mode + 1 :]
        weighted = overlaps.movedim(mode, 0).reshape(sizes[mode], -1, len(rows)) * khatri_rao(others, len(rows)).T
        short[mode], _ = solve([*others, rows, columns], weighted.sum(1).T, short[mode])
    weights = khatri_rao(short, len(rows)).T.unsqueeze(-1)  # [stack, r, 1]
    rows, _ = solve([*short, columns], pooled(weights, columns, slabs.mT), rows)
    product = pooled(weights, rows, slabs)
    columns, gram = solve([*short, rows], product, columns)
    error = total - 2 * (product * columns).sum() + (gram * (columns @ columns.T)).sum()
    return [*short, rows, columns], error.item()


def pooled(weights: Tensor, factor: Tensor, slabs: Tensor) -> Tensor:
    """`sum_k weights[k] * (factor @ slabs[k])`: `[r, n]` of `weights [stack, r, 1]`, `factor [r, m]`."""
    total = factor.new_zeros(len(factor), slabs.shape[-1])
    for weight, slab in zip(weights, slabs, strict=True):
        total += weight * (factor @ slab)
    return total


def khatri_rao(factors: list[Tensor], rank: int) -> Tensor:
    """Products of the factors `[r, n]` term by term: `[r, n1 n2 ...]`, ones `[r, 1]` where there is none."""
    product = torch.ones(rank, 1, dtype=torch.float64)
    for factor in factors:
        product = (product.unsqueeze(2) * factor.unsqueeze(1)).flatten(1)
    return product


def solve(others: list[Tensor], product: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """The factor `[r, n]` with the least error beside `others`, and their Gram matrix `[r, r]`.

    The ridge, relative to the diagonal, pulls towards the old factor and not to zero (a proximal step): terms that are
    nearly parallel stay tame, and the error still cannot grow.
    """
    gram = torch.ones(len(factor), len(factor), dtype=torch.float64)
    for other in others:
        gram = gram * (other @ other.T)
    scale = gram.diagonal().sqrt().clamp_min(1e-150).reciprocal().unsqueeze(1)
    normal = gram * scale * scale.T
    normal.diagonal().add_(RIDGE)
    missing = scale * (product - gram @ factor)
    root, failed = torch.linalg.cholesky_ex(normal)
    step = torch.linalg.pinv(normal, hermitian=True) @ missing if failed else torch.cholesky_solve(missing, root)
    return factor + scale * step, gram


def balanced(factors: list[Tensor]) -> list[Tensor]:
    """The same terms, each with vectors of one norm: gradient steps then act alike on all modes."""
    norms = torch.stack([factor.norm(dim=1, keepdim=True) for factor in factors])
    mean = norms.log().mean(0).exp()  # geometric; 0 for a term that is zero
    return [factor * torch.where(norm > 0, mean / norm, 0.0) for factor, norm in zip(factors, norms, strict=True)]
