"""Tucker decomposition: a small core times one orthonormal factor per mode."""

import math

import torch
from torch import Tensor

from lobert.factorizations.base import MODES, Factorization, Rank, Shape
from lobert.factorizations.numerics import leading_eigenvectors, mode_gram, mode_product

SWEEPS = 3
LONG_MODE = 1024
TOLERANCE = 1e-5  # relative gain of the core's norm below which HOOI stops


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
        factors = hooi(tensor, sequential_hosvd(tensor, rank))
        core = project(tensor, factors)
        return [core, *(factor.T.contiguous() for factor in factors)]


def sequential_hosvd(tensor: Tensor, rank: Rank) -> list[Tensor]:
    """Orthonormal factors `[size, rank]` per mode; each mode is truncated before the next one, short modes first."""
    factors = [tensor.new_empty(0)] * tensor.dim()
    for mode in sorted(range(tensor.dim()), key=lambda m: tensor.shape[m]):
        factors[mode] = leading_eigenvectors(mode_gram(tensor, mode), rank[mode])
        tensor = mode_product(tensor, factors[mode].T, mode)
    return factors


def hooi(tensor: Tensor, factors: list[Tensor]) -> list[Tensor]:
    """Improve the factors in turn, from a warm start, until the norm of the core stops growing."""
    norm = project(tensor, factors).norm()
    for _ in range(SWEEPS):
        for mode in range(tensor.dim()):
            if factors[mode].shape[0] == factors[mode].shape[1]:
                continue  # a square orthonormal factor spans its whole mode already
            gram = mode_gram(project(tensor, factors, skip=mode), mode)
            factors[mode] = better_factor(gram, factors[mode])
        previous, norm = norm, project(tensor, factors).norm()
        if norm - previous <= TOLERANCE * norm:
            break
    return factors


def better_factor(gram: Tensor, factor: Tensor) -> Tensor:
    """The leading eigenvectors of `gram [n, n]`; on a long mode, one step of orthogonal iteration from `factor`.

    The step costs a fifth of the eigenvectors there, and never lowers the norm of the core either.
    """
    if gram.shape[0] <= LONG_MODE:
        return leading_eigenvectors(gram, factor.shape[1])
    return torch.linalg.qr(gram @ factor)[0]


def project(tensor: Tensor, factors: list[Tensor], skip: int | None = None) -> Tensor:
    """Multiply every mode but `skip` by its transposed factor, the strongest reduction first."""
    modes = [mode for mode in range(tensor.dim()) if mode != skip]
    for mode in sorted(modes, key=lambda m: factors[m].shape[1] / factors[m].shape[0]):
        tensor = mode_product(tensor, factors[mode].T, mode)
    return tensor
