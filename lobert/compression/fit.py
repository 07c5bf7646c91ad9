"""What a weight is fitted to: the ridge regression of wanted outputs on the inputs it has in the compressed model.

With x the inputs and y the wanted outputs, both centred, the target of a weight W is
W* = (E[y xᵀ] + λW) (E[x xᵀ] + λI)⁻¹.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from lobert.compression.moments import Moments, add
from lobert.compression.statistics import centred

RIDGE = 1.0  # of the mean variance of the inputs, on the change of the weight


@dataclass
class Fit:
    """What one weight `[out, in]` is fitted to: moments of its input x, of the wanted output y, and of both."""

    inputs: Moments = field(default_factory=Moments)
    sums: dict[str, Tensor] = field(default_factory=dict)

    def add_wanted(self, y: Tensor, x: Tensor, weights: Tensor) -> None:  # [tokens, out], [tokens, in], [tokens]
        y = y * weights.unsqueeze(1)
        add(self.sums, "y", y.sum(0))
        add(self.sums, "yx", y.T @ x)

    def mean(self, key: str) -> Tensor:
        return self.sums[key] / self.inputs.weight

    def target(self, weight: Tensor) -> Tensor:
        """The weight `[out, in]` that comes closest to what is wanted; `weight` is the dense one.

        It is the dense one, too, where the inputs do not vary: the bias is all that can be fitted then.
        """
        x = self.inputs.mean
        covariance = centred(self.inputs.moment, x)
        if not covariance.any():
            return weight
        crossed = self.mean("yx") - torch.outer(self.mean("y"), x)
        ridge = max(RIDGE * covariance.diagonal().mean().item(), torch.finfo(x.dtype).tiny)
        covariance.diagonal().add_(ridge)
        return torch.linalg.solve(covariance, crossed + ridge * weight, left=False)

    def bias(self, weight: Tensor) -> Tensor:
        """The bias `[out]` with which the mean output is the wanted one."""
        return self.mean("y") - weight @ self.inputs.mean
