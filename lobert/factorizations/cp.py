"""CP decomposition: a sum of rank-one terms, each with one vector per mode."""

import math

import torch
from torch import Tensor

from lobert.errors import LobertError
from lobert.factorizations.base import MODES, Factorization, Rank, Shape
from lobert.factorizations.cp_als import alternating_least_squares
from lobert.factorizations.numerics import eigh, mode_gram, mode_product, truncated_svd

WORK = 1.3e12  # multiply-adds that the slab products of all sweeps may take, at half of the parameters
SWEEPS = (6, 20)  # the least and the most
START = (1, 20)  # of a start, which may take a tenth of the work
ROUNDING = 1e-4  # share of the squared norm below which terms are fitted in double precision
RESOLUTION = 1e-5  # share of the squared norm by which terms fitted in single precision must beat the start


class CP(Factorization):
    """`rs,rl,ro,ri->sloi` (drop the letters of missing modes), by alternating least squares.

    ALS starts from a closed form: the stack modes turned to their singular vectors, then the largest terms of the SVDs
    of all slabs. These terms are orthogonal, so their error² is the dropped σ²: it falls with every rank, is 0 at the
    full one, and no sweep adds to it. That ALS finds the best terms from there no method promises: they are NP-hard.
    """

    name = "cp"
    GAIN = 2.0

    def equation(self, stack: str) -> str:
        if not stack:
            raise LobertError("cp of a single matrix is its SVD: use svd, or stack roles or layers")
        modes = [letter for letter in MODES if letter in stack + "oi"]
        return f"{','.join('r' + mode for mode in modes)}->{''.join(modes)}"

    def full_rank(self, shape: Shape) -> Rank:
        return (math.prod(shape) // max(shape),)

    def decompose(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        return self._terms(tensor, rank, affordable_sweeps(tensor.shape, WORK, SWEEPS))

    def start(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        return self._terms(tensor, rank, affordable_sweeps(tensor.shape, WORK / 10, START))

    def _terms(self, tensor: Tensor, rank: Rank, sweeps: int) -> list[Tensor]:
        order = sorted(range(tensor.dim()), key=lambda mode: tensor.shape[mode])  # the two longest modes come last
        norm = tensor.norm().item() or 1.0
        ordered = tensor.permute(order) / norm
        factors, error = orthogonal_terms(ordered, rank[0])
        if rank < self.full_rank(tuple(tensor.shape)):
            factors = fitted(ordered, factors, error, sweeps)
        factors = balanced([*factors[:-1], factors[-1] * norm])
        return [factors[order.index(mode)] for mode in range(tensor.dim())]


def orthogonal_terms(tensor: Tensor, rank: int) -> tuple[list[Tensor], float]:
    """The `rank` largest of the orthogonal terms that make up `tensor [*short, m, n]`, as factors `[rank, size]`.

    Returns the squared error that they leave, too.
    """
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
    error = strength.flatten()[order[rank:]].pow(4).sum().item()
    return balanced([*stack, left[slab, :, term], right[slab, term]]), error


def fitted(tensor: Tensor, factors: list[Tensor], error: float, sweeps: int) -> list[Tensor]:
    """Better factors of `tensor [*short, m, n]` of norm 1, where there are any, than those that leave this `error`².

    Products in single precision, sums and errors in double serve until the error itself is near rounding.
    """
    dtype, least = (torch.float32, RESOLUTION) if error > ROUNDING else (torch.float64, 0.0)
    start = [factor.to(dtype) for factor in factors]
    found, left = alternating_least_squares(tensor.to(dtype), start, error, sweeps)
    return [factor.double() for factor in found] if error - left > least else factors


def affordable_sweeps(shape: Shape, work: float, limits: tuple[int, int]) -> int:
    """How many sweeps a tensor of this shape gets. At all ranks alike, or the error would not fall with the rank."""
    least, most = limits
    numbers = math.prod(shape)
    rank = numbers / sum(shape) / 2
    return max(least, min(most, round(work / (2 * rank * numbers))))


def balanced(factors: list[Tensor]) -> list[Tensor]:
    """The same terms, each with vectors of one norm: gradient steps then act alike on all modes."""
    norms = torch.stack([factor.norm(dim=1, keepdim=True) for factor in factors])
    mean = norms.log().mean(0).exp()  # geometric; 0 for a term that is zero
    return [factor * torch.where(norm > 0, mean / norm, 0.0) for factor, norm in zip(factors, norms, strict=True)]
