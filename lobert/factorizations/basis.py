"""One basis of the inputs for a whole stack: W_sl ~ A_sl B."""

import math

from torch import Tensor

from lobert.errors import LobertError
from lobert.factorizations.base import MODES, Factorization, Rank, Shape
from lobert.factorizations.numerics import truncated_svd


class Basis(Factorization):
    """`T[s, l, o, i] ~ sum_r A[r, s, l, o] B[r, i]`: B is shared, A is each matrix's own (Wang et al., 2025).

    A truncated SVD of the matrices on top of each other, `[stack * out, in]`, so optimal: error² = dropped σ².
    """

    name = "basis"

    def equation(self, stack: str) -> str:
        if not stack:
            raise LobertError("basis shares inputs within a stack, and a single matrix has none: use svd, or stack")
        modes = "".join(letter for letter in MODES if letter in stack + "oi")
        return f"r{modes[:-1]},ri->{modes}"

    def full_rank(self, shape: Shape) -> Rank:
        return (min(math.prod(shape[:-1]), shape[-1]),)

    def decompose(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        left, right = truncated_svd(tensor.flatten(0, -2), rank[0])
        return [left.T.reshape(rank[0], *tensor.shape[:-1]), right.contiguous()]
