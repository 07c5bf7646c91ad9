"""Tucker decomposition: a small core times one orthonormal factor per mode."""

import math

import torch
from torch import Tensor

from lobert.factorizations.base import MODES, Factorization, Rank, Shape
from lobert.factorizations.numerics import leading_eigenvectors, mode_gram, mode_product

SWEEPS = 5
LONG_MODE = 1024
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
        factors, core = sequential_hosvd(tensor, rank)
        factors = hooi(tensor, factors, core.square().sum().item())
        core = project(tensor, factors)
        return [core, *(factor.T.contiguous() for factor in factors)]


def sequential_hosvd(tensor: Tensor, rank: Rank) -> tuple[list[Tensor], Tensor]:
    """Orthonormal factors `[size, rank]` per mode; each mode is truncated before the next one, short modes first.

    The second value is the core.
    """
    factors = [tensor.new_empty(0)] * tensor.dim()
    for mode in sorted(range(tensor.dim()), key=lambda m: tensor.shape[m]):
        factors[mode] = leading_eigenvectors(mode_gram(tensor, mode), rank[mode])
        tensor = mode_product(tensor, factors[mode].T, mode)
    return factors, tensor


def hooi(tensor: Tensor, factors: list[Tensor], energy: float) -> list[Tensor]:
    """Improve the factors in turn until the squared norm of the core, `energy` at the start, stops growing.

    The shortest mode comes last: the norm of the core is read off its Gram matrix.
    """
    modes = [mode for mode in range(tensor.dim()) if factors[mode].shape[0] > factors[mode].shape[1]]
    modes.sort(key=lambda m: -tensor.shape[m])  # a square factor spans its whole mode already
    for _ in range(SWEEPS if modes else 0):
        for mode in modes:
            gram = mode_gram(project(tensor, factors, skip=mode), mode)
            factors[mode] = better_factor(gram, factors[mode])
        previous, energy = energy, torch.einsum("ir,ij,jr->", factors[modes[-1]], gram, factors[modes[-1]]).item()
        if energy - previous <= 2 * TOLERANCE * energy:
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
