"""Tucker decomposition: a small core times one orthonormal factor per mode."""

import math

import torch
from torch import Tensor

from lobert.factorizations.base import MODES, Factorization, Rank, Shape
from lobert.factorizations.numerics import leading_eigenvectors, mode_gram, mode_product, rounded

SWEEPS = 5
SHORT_MODE = 128  # longer modes are improved by orthogonal iteration instead of new eigenvectors
STEPS = 2
RELAXATION = 0.5
GAIN = 1.2  # HOOI makes the squared error of ST-HOSVD so many times smaller at the most
ROUNDING = 1e-4  # share of the squared norm below which an error is found in double precision throughout
TOLERANCE = 1e-4  # relative gain of the norm of the core below which HOOI stops


class Tucker(Factorization):
    """`abcd,as,bl,co,di->sloi` (drop the letters of missing modes), by ST-HOSVD and then HOOI.

    Sources: Vannieuwenhoven et al. 2012 (sequentially truncated HOSVD), De Lathauwer et al. 2000 (HOOI).
    """

    name = "tucker"

    def equation(self, stack: str) -> str:
        modes = [letter for letter in MODES if letter in stack + "oi"]
        ranks = "abcd"[: len(modes)]
        factors = ",".join(rank + mode for rank, mode in zip(ranks, modes, strict=True))
        return f"{ranks},{factors}->{''.join(modes)}"

    def full_rank(self, shape: Shape) -> Rank:
        return tuple(min(size, math.prod(shape) // size) for size in shape)

    def scaled_rank(self, shape: Shape, size: int, default: Rank) -> Rank:
        """Rows and columns grow in equal proportion at the default stack rank; once they are full, the stack grows."""
        full, longest = self.full_rank(shape), max(self.full_rank(shape))
        rows, columns = (max(1, min(math.floor(size * most / longest), most)) for most in full[-2:])
        stack, more = list(default[:-2]), max(0, size - longest)
        for mode in reversed(range(len(stack))):
            grown = min(full[mode], stack[mode] + more)
            stack[mode], more = grown, more - (grown - stack[mode])
        product = math.prod(stack)
        return (*stack, min(rows, columns * product), min(columns, rows * product))

    def dial_length(self, shape: Shape, default: Rank) -> int:
        full = self.full_rank(shape)
        return max(full) + sum(full[:-2]) - sum(default[:-2])

    def decompose(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        searched, useful = rounded(tensor), useful_rank(rank)
        found = best_tucker(tensor, searched, sequential_hosvd(searched, useful))
        if (1 - found[0].square().sum() / tensor.square().sum()) < ROUNDING:
            found = best_tucker(tensor, tensor, sequential_hosvd(tensor, useful))
        return padded(found, rank)

    def closed_form(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        factors = [factor.double() for factor in sequential_hosvd(rounded(tensor), useful_rank(rank))]
        return padded(with_core(tensor, factors), rank)

    def finish(self, tensor: Tensor, rank: Rank, closed_form: list[Tensor]) -> list[Tensor]:
        searched, useful = rounded(tensor), zip(closed_form[1:], useful_rank(rank), strict=True)
        start = [factor[:most].T.to(searched.dtype) for factor, most in useful]
        return padded(best_tucker(tensor, searched, start), rank)

    def gain(self, shape: Shape) -> float:
        return GAIN


def useful_rank(rank: Rank) -> Rank:
    """The rank without what is above the product of the others: of that, no core makes anything."""
    return tuple(min(most, math.prod(rank) // most) for most in rank)


def padded(found: list[Tensor], rank: Rank) -> list[Tensor]:
    """Core and factors of this rank that stand for the same tensor: zeros in the core, more orthonormal rows."""
    core, *factors = found
    if core.shape == rank:
        return found
    whole = core.new_zeros(rank)
    whole[tuple(slice(size) for size in core.shape)] = core
    bases = [torch.linalg.qr(factor.T, mode="complete")[0].T for factor in factors]
    more = [basis[len(factor) : most] for basis, factor, most in zip(bases, factors, rank, strict=True)]
    return [whole, *(torch.cat(rows) for rows in zip(factors, more, strict=True))]


def best_tucker(tensor: Tensor, searched: Tensor, start: list[Tensor]) -> list[Tensor]:
    """Core and factors from orthonormal ones `[size, rank]`.

    The search is as precise as `searched`, what is kept of it exact. It starts from one layout in memory, by which
    products are rounded, so that it ends in the same place wherever the same start comes from.
    """
    found = hooi(searched, [factor.T.contiguous().T for factor in start])
    return with_core(tensor, [torch.linalg.qr(factor.to(tensor.dtype))[0] for factor in found])


def with_core(tensor: Tensor, factors: list[Tensor]) -> list[Tensor]:
    """The core of orthonormal factors `[size, rank]`, and these as `[rank, size]`."""
    return [project(tensor, factors), *(factor.T.contiguous() for factor in factors)]


def sequential_hosvd(tensor: Tensor, rank: Rank) -> list[Tensor]:
    """Orthonormal factors `[size, rank]` per mode; each mode is truncated before the next one, short modes first."""
    factors = [tensor.new_empty(0)] * tensor.dim()
    for mode in sorted(range(tensor.dim()), key=lambda m: tensor.shape[m]):
        factors[mode] = leading_eigenvectors(mode_gram(tensor, mode), rank[mode])
        tensor = mode_product(tensor, factors[mode].T, mode)
    return factors


def hooi(tensor: Tensor, factors: list[Tensor]) -> list[Tensor]:
    """Improve the factors in turn until a sweep no longer adds to the squared norm of the core.

    Short modes come first, as in the start, where each was chosen before the longer ones were known; the norm of the
    core is read off the Gram matrix of the shortest.
    """
    shortest, *others = sorted(range(tensor.dim()), key=lambda m: tensor.shape[m])
    best, energy = factors, 0.0
    for sweep in range(SWEEPS + 1):
        gram = mode_gram(project(tensor, factors, skip=shortest), shortest)
        factors[shortest] = better_factor(gram, factors[shortest])
        gain = captured(gram, factors[shortest]) - energy
        if gain > 0:
            best, energy = list(factors), energy + gain
        if sweep == SWEEPS or gain <= 2 * TOLERANCE * energy:
            break
        for mode in others:
            if factors[mode].shape[0] > factors[mode].shape[1]:  # a square one spans its whole mode already
                gram = mode_gram(project(tensor, factors, skip=mode), mode)
                factors[mode] = better_factor(gram, factors[mode])
    return best


def captured(gram: Tensor, factor: Tensor) -> float:
    """The part of the trace of `gram [n, n]` that lies in the span of `factor [n, r]`."""
    return torch.einsum("ir,ij,jr->", factor, gram, factor).item()


def better_factor(gram: Tensor, factor: Tensor) -> Tensor:
    """The leading eigenvectors of `gram [n, n]`; on a long mode, steps of orthogonal iteration from `factor [n, r]`.

    The steps cost a third of the eigenvectors. Going half as far again in their direction makes up for the sweeps
    that alternating between the modes would need (successive over-relaxation).
    """
    if gram.shape[0] <= SHORT_MODE:
        return leading_eigenvectors(gram, factor.shape[1])
    moved = factor
    for _ in range(STEPS):
        moved = gram @ moved
    moved = moved + RELAXATION * (moved - factor @ (factor.T @ moved))
    return torch.linalg.qr(moved)[0]


def project(tensor: Tensor, factors: list[Tensor], skip: int | None = None) -> Tensor:
    """Multiply every mode but `skip` by its transposed factor, in the order that costs least.

    A product over a mode of size n and rank r costs r per entry and leaves r / n of them: by exchanging neighbours, the
    order by r / (1 - r / n) is the cheapest.
    """
    modes = [mode for mode in range(tensor.dim()) if mode != skip]
    for mode in sorted(modes, key=lambda m: product_priority(*factors[m].shape)):
        tensor = mode_product(tensor, factors[mode].T, mode)
    return tensor


def product_priority(size: int, rank: int) -> float:
    return rank / (1 - rank / size) if rank < size else math.inf
