"""No factorization at all: the tensor itself, for groups that are better left dense."""

from torch import Tensor

from lobert.factorizations.base import Factorization, Rank, Shape


class Dense(Factorization):
    """`soi->soi` (drop the letters of missing modes): one factor, the tensor; it has no rank."""

    name = "dense"

    def equation(self, stack: str) -> str:
        return f"{stack}oi->{stack}oi"

    def full_rank(self, shape: Shape) -> Rank:
        return ()

    def decompose(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        return [tensor.clone()]

    def dial_length(self, shape: Shape, default: Rank) -> int:
        return 1

    def scaled_rank(self, shape: Shape, size: int, default: Rank) -> Rank:
        return ()
