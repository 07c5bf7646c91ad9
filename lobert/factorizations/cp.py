"""CP decomposition: a sum of rank-one terms, each with one vector per mode."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lobert.errors import LobertError
from lobert.factorizations.base import MODES, Factorization, Rank, Shape
from lobert.factorizations.cp_als import alternating_least_squares
from lobert.factorizations.numerics import eigh, mode_gram, mode_product, rounded, truncated_svd

MOST_SWEEPS = 20
GAIN, GAINING = 1.11, 5  # a sweep makes the squared error so many times smaller at the most, as long as these
LARGE = 1_000_000  # entries of a tensor of which it is known what all sweeps gain at the most
LEAD = 1.1  # sweeps gained less than 4 % more of the farther one of two closed forms of a large tensor
ROUNDING = 1e-4  # share of the squared norm below which terms are found in double precision
RESOLUTION = 1e-5  # share of the squared norm by which terms fitted in single precision must beat the start


class CP(Factorization):
    """`rs,rl,ro,ri->sloi` (drop the letters of missing modes), by alternating least squares.

    ALS starts from a closed form: the stack modes turned to their singular vectors, then the largest terms of the SVDs
    of all slabs. These terms are orthogonal, so their error² is the dropped σ²: it falls with every rank, is 0 at the
    full one, and no sweep adds to it. That ALS finds the best terms from there no method promises: they are NP-hard.
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
        return self.finish(tensor, rank, self.closed_form(tensor, rank))

    def closed_form(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        order, norm = by_size(tensor), tensor.norm().item() or 1.0
        searched = rounded(tensor).permute(order) / norm
        terms = orthogonal_terms(searched, rank[0])
        if searched.dtype != tensor.dtype and 1 - orthogonal_energy(terms) < ROUNDING:
            terms = orthogonal_terms(tensor.permute(order) / norm, rank[0])
        terms = times([factor.to(tensor.dtype) for factor in terms], norm)
        return [terms[order.index(mode)] for mode in range(tensor.dim())]

    def start(self, tensor: Tensor, rank: Rank, closed_form: list[Tensor], enough: float) -> list[Tensor]:
        return self._swept(tensor, rank, closed_form, first_sweeps(tensor.shape), enough)

    def finish(self, tensor: Tensor, rank: Rank, closed_form: list[Tensor]) -> list[Tensor]:
        return self._swept(tensor, rank, closed_form, first=1, enough=0.0)

    def gain(self, shape: Shape) -> float:
        """Seen on large tensors; on small ones, whose sweeps take no time, there is no telling."""
        if takes_long(shape):
            return GAIN ** min(all_sweeps(shape), GAINING)
        return GAIN**MOST_SWEEPS if math.prod(shape) >= LARGE else math.inf

    def lead(self, shape: Shape) -> float:
        return LEAD if takes_long(shape) else math.inf

    def _swept(self, tensor: Tensor, rank: Rank, closed_form: list[Tensor], first: int, enough: float) -> list[Tensor]:
        if rank == self.full_rank(tuple(tensor.shape)) or (first == 0 and enough >= 1):
            return closed_form
        order, norm = by_size(tensor), tensor.norm().item() or 1.0
        terms = times([closed_form[mode] for mode in order], 1 / norm)
        terms = times(fitted(tensor.permute(order) / norm, terms, first, enough), norm)
        return [terms[order.index(mode)] for mode in range(tensor.dim())]


def by_size(tensor: Tensor) -> list[int]:
    """The modes with the two longest last."""
    return sorted(range(tensor.dim()), key=lambda mode: tensor.shape[mode])


def orthogonal_terms(tensor: Tensor, rank: int) -> list[Tensor]:
    """The `rank` largest of the orthogonal terms that make up `tensor [*short, m, n]`, as factors `[rank, size]`."""
    *short, rows, columns = tensor.shape
    bases = [eigh(mode_gram(tensor, mode))[1].T for mode in range(len(short))]
    for mode, basis in enumerate(bases):
        tensor = mode_product(tensor, basis, mode)
    left, right = truncated_svd(tensor.reshape(-1, rows, columns), min(rows, columns))  # [slabs, m, k], [slabs, k, n]
    strength = right.norm(dim=-1)  # root of the singular value
    order = strength.flatten().argsort(descending=True, stable=True)
    slab, term = order[:rank] // strength.shape[1], order[:rank] % strength.shape[1]
    place = torch.unravel_index(slab, short)
    stack = [basis[index] for basis, index in zip(bases, place, strict=True)]
    return [*stack, left[slab, :, term], right[slab, term]]


def orthogonal_energy(factors: Sequence[Tensor]) -> float:
    """The squared norm of all terms together, which are orthogonal to each other."""
    return torch.stack([factor.square().sum(1) for factor in factors]).prod(0).sum().item()


def fitted(tensor: Tensor, factors: list[Tensor], first: int, enough: float) -> list[Tensor]:
    """Better factors of `tensor [*short, m, n]` of norm 1, where there are any, than these of `orthogonal_terms`.

    After the `first` of the sweeps it ends where the squared error is `enough` of what it was. Products in single
    precision, sums and errors in double serve until the error itself is near rounding.
    """
    error = max(0.0, 1 - orthogonal_energy(factors))
    dtype, least = (torch.float32, RESOLUTION) if error > ROUNDING else (torch.float64, 0.0)
    start = [factor.to(dtype) for factor in factors]
    sweeps = all_sweeps(tensor.shape)
    found, left = alternating_least_squares(tensor.to(dtype), start, error, sweeps, first, enough * error)
    return [factor.double() for factor in found] if error - left > least else factors


def all_sweeps(shape: Shape) -> int:
    """How many sweeps a tensor of this shape gets."""
    return affordable_sweeps(shape, 4e11, least=3)


def first_sweeps(shape: Shape) -> int:
    """How many of them come before a fit in another norm at least, which finds by far more where it can be had."""
    return affordable_sweeps(shape, 1e11, least=0)


def takes_long(shape: Shape) -> bool:
    """Whether a fit in another norm may come before all sweeps are done."""
    return first_sweeps(shape) < all_sweeps(shape)


def affordable_sweeps(shape: Shape, work: float, least: int) -> int:
    """So many whose slab products take no more multiply-adds than `work`, at half of the tensor's parameters.

    At all ranks alike, or the error would not fall with the rank.
    """
    numbers = math.prod(shape)
    rank = numbers / sum(shape) / 2
    return max(least, min(MOST_SWEEPS, round(work / (2 * rank * numbers))))


def times(factors: Sequence[Tensor], number: float) -> list[Tensor]:
    """The terms multiplied by a number, each with vectors of one norm: gradient steps then act alike on all modes."""
    factors = [*factors[:-1], factors[-1] * number]
    norms = torch.stack([factor.norm(dim=1, keepdim=True) for factor in factors])
    mean = norms.log().mean(0).exp()  # geometric; 0 for a term that is zero
    return [factor * torch.where(norm > 0, mean / norm, 0.0) for factor, norm in zip(factors, norms, strict=True)]
