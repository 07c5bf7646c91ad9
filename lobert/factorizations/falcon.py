"""FALCON: extended Hadamard product of a small factor and a shared one (Quan et al.), in closed form."""

import math
from collections.abc import Sequence

from torch import Tensor

from lobert.errors import LobertError
from lobert.factorizations.base import MODES, Factorization, Rank, Shape
from lobert.factorizations.numerics import dropped, squared_singular_values, truncated_svd


class Falcon(Factorization):
    """`T[j, m, ...] ~ sum_r A[r, j, m] B[r, m, ...]`: A spans the first two modes, B all but the first.

    For each index of the second mode this is a truncated SVD of the matrix `[first mode, all others]`, so the optimum
    is a closed form: error² = dropped σ². Only the order of the modes says what is shared: `[3, d, d]` gives
    `rso,roi->soi`, `[L, d, d]` gives `rlo,roi->loi`, `[3, L, d, d]` gives `rsl,rloi->sloi`.
    """

    name = "falcon"
    GRID = None

    def equation(self, stack: str) -> str:
        if not stack:
            raise LobertError(
                "falcon shares weights within a stack, and a single matrix has none: stack roles or layers"
            )
        modes = [letter for letter in MODES if letter in stack + "oi"]
        return f"r{modes[0]}{modes[1]},r{''.join(modes[1:])}->{''.join(modes)}"

    def full_rank(self, shape: Shape) -> Rank:
        return (min(shape[0], math.prod(shape[2:])),)

    def decompose(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        second_first = tensor.transpose(0, 1)  # [m, j, ...]
        left, right = truncated_svd(second_first.flatten(2), rank[0])  # [m, j, r], [m, r, ...]
        shared = right.transpose(0, 1).reshape(rank[0], *tensor.shape[1:])
        return [left.permute(2, 1, 0).contiguous(), shared.contiguous()]

    def squared_errors(self, stack: str, tensor: Tensor, ranks: Sequence[Rank]) -> list[float]:
        errors = dropped(squared_singular_values(tensor.transpose(0, 1).flatten(2)).sum(0)).tolist()
        return [errors[rank[0]] for rank in ranks]
