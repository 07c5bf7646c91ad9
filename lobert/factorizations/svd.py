"""Truncated SVD of a single matrix: W ~ A B."""

from collections.abc import Sequence

from torch import Tensor

from lobert.errors import LobertError
from lobert.factorizations.base import Factorization, Rank, Shape
from lobert.factorizations.numerics import dropped, squared_singular_values, truncated_svd


class SVD(Factorization):
    """`W [o, i] ~ sum_r A[r, o] B[r, i]`, optimal: error² = dropped σ² (Eckart and Young, 1936)."""

    name = "svd"
    GRID = None

    def equation(self, stack: str) -> str:
        if stack:
            raise LobertError(
                f"svd factorizes single matrices, not a stack over {' and '.join(STACK_WORDS[c] for c in stack)}: "
                "use a matrix grouping (stack=[]), or falcon, tucker, cp, tt or basis"
            )
        return "ro,ri->oi"

    def full_rank(self, shape: Shape) -> Rank:
        return (min(shape),)

    def decompose(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        left, right = truncated_svd(tensor, rank[0])
        return [left.mT.contiguous(), right]

    def squared_errors(self, stack: str, tensor: Tensor, ranks: Sequence[Rank]) -> list[float]:
        errors = dropped(squared_singular_values(tensor)).tolist()
        return [errors[rank[0]] for rank in ranks]


STACK_WORDS = {"s": "roles", "l": "layers"}
