"""Pairs of matrices that meet in the heads of an attention, without the numbers that are redundant between them.

A head h reads queries and keys through nothing but `Q_hᵀ K_h`, and values and its part of the output through nothing
but `O_h V_h`. So any invertible matrix may stand between the two in each head (DeepSeek-AI 2024 absorb one into the
other so): of one, the pivot, that makes as many columns an identity as there are dimensions. Where the pivot's rank is
no more than the size of a head nothing of it is left but the identity, the same in all heads, and the other one
reads only so many dimensions of each: that is attention with one head of keys or values for all (Shazeer 2019).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lobert.errors import LobertError
from lobert.factorizations.base import Bond, Factorization, Heads, Rank, Shape
from lobert.factorizations.pivoted import Pivoted, balanced, find_bonds, pivot

PAIR_EQUATION = "ro,ri->oi"


class Headed(Pivoted):
    """A pivoted SVD whose redundancy with its partner in the heads is not kept either."""

    heads: Heads

    def __init__(self, method: Factorization, heads: Heads) -> None:
        assert isinstance(method, Pivoted)
        super().__init__(method.method)
        self.heads = heads

    def check(self, shape: Shape, rank: Rank) -> None:
        """Raise LobertError where the heads do not fit the shape and rank."""
        heads = self.heads
        if self.method.equation("") != PAIR_EQUATION or len(shape) != 2:
            raise LobertError("heads are those of single matrices under pivoted_svd")
        if heads.count * heads.size != shape[heads.position]:
            raise LobertError(f"{heads.count} heads of {heads.size} in a side of {shape[heads.position]}")
        if not (heads.used == min(*rank, heads.size) if heads.pivots else 1 <= heads.used <= heads.size):
            raise LobertError(f"heads that meet in {heads.used} of {heads.size} dimensions at rank {rank[0]}")

    def bonds(self, stack: str, shape: Shape, rank: Rank) -> list[Bond]:
        """The rank, in the factor that the heads do not touch."""
        shapes = self.factor_shapes(stack, shape, rank)
        shapes[self.heads.position] = (rank[0], rank[0])  # never the one that has the identity
        return find_bonds(self.equation(stack), shapes)

    def kept_shapes(self, stack: str, shape: Shape, rank: Rank) -> list[Shape]:
        shapes = super().kept_shapes(stack, shape, rank)
        shapes[self.heads.position] = self.heads.kept_shape(rank[0])
        return shapes


def meeting(pivoting: Tensor, other: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What is kept of two factors `[r, heads, size]` that meet in every head, so that `pivoting · otherᵀ` stays.

    Returns what the pivoting one has beside its identities, `[heads, used, r - used]`; `[heads, r]` booleans, True for
    the columns of the identities, in their order; and the other one, `[r, heads, used]`; used = min(r, size).
    """
    rank, count, size = pivoting.shape
    if rank <= size:
        places = torch.ones(count, rank, dtype=torch.bool)
        return pivoting.new_empty(count, rank, 0), places, torch.einsum("rhs,qhs->qhr", pivoting, other)
    found = [pivot(pivoting[:, head].mT, other[:, head], 1) for head in range(count)]
    rests, others, places_of = zip(*found, strict=True)
    return torch.stack(rests), torch.stack(places_of), torch.stack(others, 1)


def even_heads(pair: Sequence[tuple[Tensor, Tensor]], count: int) -> list[Tensor]:
    """Two factors that meet in heads, as strong in every dimension of these on one side as on the other.

    Each is given as (`[r, heads * size]`, `[r, n]`), with what it makes the dimensions of; returned are the first two.
    """
    (one, inside), (other, beyond) = pair
    turned: tuple[list[Tensor], list[Tensor]] = ([], [])
    for here, there in zip(split_heads(one, count), split_heads(other, count), strict=True):
        for found, wanted, basis in zip(
            turned, balanced(here.mT @ inside, there.mT @ beyond, 0), (inside, beyond), strict=True
        ):
            found.append(torch.linalg.lstsq(basis.mT, wanted.mT).solution)
    return [torch.cat(found, 1) for found in turned]


def split_heads(factor: Tensor, count: int) -> Sequence[Tensor]:
    """The parts `[r, size]` of a factor `[r, heads * size]`."""
    return factor.unflatten(1, (count, -1)).unbind(1)
