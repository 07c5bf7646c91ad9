"""Running sums over vectors, in double precision on the CPU, whatever they are computed in and on."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lobert.factorizations.numerics import lower_gram, mirrored


@dataclass
class Moments:
    """Sums over vectors x `[in]` that count by weights: of the weights, and of w x and w x xᵀ, its lower triangle."""

    weight: float = 0.0
    first: Tensor | None = None
    second: Tensor | None = None

    def add(self, x: Tensor, weights: Tensor) -> None:  # [vectors, in], [vectors]
        root = weights.sqrt()
        rows = x * root.unsqueeze(1)
        self.weight += weights.sum().item()
        self.first = total(self.first, rows.T @ root)
        self.second = total(self.second, lower_gram(rows, 1))

    @property
    def mean(self) -> Tensor:
        """E[x], `[in]`; zeros where nothing counts."""
        assert self.first is not None
        return self.first / (self.weight or 1.0)

    @property
    def moment(self) -> Tensor:
        """E[x xᵀ], `[in, in]`."""
        assert self.second is not None
        return mirrored(self.second) / (self.weight or 1.0)


def add(sums: dict[str, Tensor], path: str, value: Tensor) -> None:
    """Add to the sum of one path."""
    sums[path] = total(sums.get(path), value)


def total(before: Tensor | None, value: Tensor) -> Tensor:
    """A running sum in double precision, on the CPU; `before` becomes it."""
    if before is None:
        return value.to("cpu", torch.float64, copy=True)
    return before.add_(value.cpu())
