"""The compressed linear layer: one slice of a FactorGroup."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lobert.factorizations.contraction import contract
from lobert.layers.group import FactorGroup
from lobert.layers.sharing import SharedInput
from lobert.layers.tracing import is_traced


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
        group.ways.traced(self.shared.size)  # torch.compile should not have to look for it

    @property
    def weight(self) -> Tensor:
        """The dense weight `[out, in]` this layer stands for, formed anew at each access."""
        return self.group.weight(self.index)

    def forward(self, x: Tensor) -> Tensor:
        return self.product(x, self.bias)

    def product(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """`x Wᵀ` and this bias, `[..., out]`."""
        if is_traced():
            way = self.group.ways.traced(self.shared.size)
            operands, origin = self.group.own_operands(way, self.index)
        else:
            tokens = x.numel() // self.in_features
            way = self.group.ways.way(tokens, torch.is_grad_enabled(), self.shared.size)
            operands, origin = self.group.operands(way, self.index)
        path = way.halves.each
        if not path.steps:
            return nn.functional.linear(x, operands[0], bias)
        results = self.shared.results(x, self.index, origin, path)
        if way.merges:
            return nn.functional.linear(x, contract(path, operands, results), bias)
        if path.rowwise:
            return contract(path, [*operands, x], results, bias)
        y = contract(path, [*operands, x.reshape(-1, self.in_features)], results, bias)
        return y.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, index={self.index}"
