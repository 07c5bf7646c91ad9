"""The compressed linear layer: one slice of a FactorGroup."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lobert.factorizations.contraction import contract
from lobert.layers.group import FactorGroup
from lobert.layers.sharing import SharedInput, states


class FactoredLinear(nn.Module):
    """Stands where an nn.Linear stood: one slice of a FactorGroup, with the bias it had.

    Maps `[..., in]` to `[..., out]`.
    """

    group: FactorGroup

    def __init__(
        self, group: FactorGroup, index: tuple[int, ...], bias: Tensor | None, shared: SharedInput | None = None
    ) -> None:
        super().__init__()
        object.__setattr__(self, "group", group)  # not registered: the bank owns it
        self.index, self.shared = index, shared or SharedInput()
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.out_features, self.in_features = group.shape[-2:]
        self._merged: tuple[tuple[object, ...], Tensor] | None = None

    @property
    def weight(self) -> Tensor:
        """The dense weight `[out, in]` this layer stands for, formed anew at each access."""
        return self.group.weight(self.index)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.bias)

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """`x Wᵀ` and this bias, `[..., out]`."""
        tokens = x.numel() // self.in_features
        forming = torch.is_grad_enabled()
        way = self.group.way(tokens, forming, self.shared.size)
        if way.merges and not forming:
            return nn.functional.linear(x, self._kept_weight(), bias)
        if self._merged is not None:
            self._merged = None  # the optimizer's step may follow, and a fused one raises no version that would tell
        factors = self.group.slice_factors(self.index)
        results = self.shared.results(x, self.index, self.group.tensors(), way.path)
        if way.merges:
            return nn.functional.linear(x, contract(way.path, factors, results), bias)
        y = contract(way.path, [*factors, x.reshape(tokens, self.in_features)], results, bias)
        return y.view(*x.shape[:-1], self.out_features)

    def _kept_weight(self) -> Tensor:
        """The merged weight, formed again after a factor has changed or moved (see `states` for what is seen), and
        after every pass that a training step could follow.
        """
        state = states(self.group.tensors())
        if self._merged is None or self._merged[0] != state:
            with torch.autocast(self.group.factors[0].device.type, enabled=False):  # kept in the factors' own precision
                self._merged = (state, self.weight)
        return self._merged[1]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_merged": None}  # copies form their own

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, index={self.index}"
