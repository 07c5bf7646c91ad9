"""The compressed layers: a FactorGroup owns the factors of one tensor, a FactoredLinear is one slice of it.

The groups live in one bank at the top of the model and the layers hold unregistered references to them, so each factor
has one key in the state_dict and copying, moving and loading the model keep the sharing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from lobert.factorizations import Factorization, Rank, Shape
from lobert.factorizations.contraction import Path, cheapest_path, contract

Evaluation = Literal["auto", "contract", "merge"]
EVALUATIONS: tuple[Evaluation, ...] = ("auto", "contract", "merge")


class FactorGroup(nn.Module):
    """The factors of one tensor `[*stack, out, in]`, and its slices' products computed from them."""

    def __init__(
        self,
        factorization: Factorization,
        stack: str,
        shape: Shape,
        rank: Rank,
        evaluation: Evaluation = "auto",
    ) -> None:
        super().__init__()
        self.factorization, self.stack, self.shape, self.rank = factorization, stack, shape, rank
        self.evaluation = evaluation
        self.equation = factorization.equation(stack)
        shapes = factorization.factor_shapes(stack, shape, rank)
        self.factors = nn.ParameterList(nn.Parameter(torch.empty(factor)) for factor in shapes)
        self.terms = self.equation.split("->")[0].split(",")
        sliced = ["".join(c for c in term if c not in stack) for term in self.terms]
        self.sliced_terms = tuple(sliced)
        self.sizes = {
            c: n for term, factor in zip(self.terms, shapes, strict=True) for c, n in zip(term, factor, strict=True)
        }

    def set_factors(self, factors: Sequence[Tensor]) -> None:
        """Take over the values of freshly computed factors, cast to the parameters' dtype."""
        with torch.no_grad():
            for parameter, value in zip(self.factors, factors, strict=True):
                parameter.copy_(value)

    def slice_factors(self, index: tuple[int, ...]) -> list[Tensor]:
        """The factors of the slice `T[index]`: stack letters indexed away."""
        position = dict(zip(self.stack, index, strict=True))
        return [
            factor[tuple(position.get(letter, slice(None)) for letter in term)]
            for term, factor in zip(self.terms, self.factors, strict=True)
        ]

    def weight(self, index: tuple[int, ...]) -> Tensor:
        """The dense weight `[out, in]` of one slice, differentiable."""
        return contract(self.merge_path(), self.slice_factors(index))

    def apply_slice(self, x: Tensor, index: tuple[int, ...]) -> Tensor:  # [n, in] -> [n, out]
        """`x @ T[index].T`, through the factors, without forming `T[index]`."""
        return contract(self.contract_path(x.shape[0]), [*self.slice_factors(index), x])

    def contract_path(self, tokens: int) -> Path:
        """Cheapest order that runs `tokens` inputs through the factors of a slice."""
        return cheapest_path((*self.sliced_terms, "ni"), "no", self._path_sizes(tokens), may_merge=False)

    def merge_path(self) -> Path:
        """Cheapest order that forms a slice's weight."""
        return cheapest_path(self.sliced_terms, "oi", self._path_sizes(1))

    def _path_sizes(self, tokens: int) -> tuple[tuple[str, int], ...]:
        return tuple(sorted({**self.sizes, "n": tokens}.items()))

    def merges(self, tokens: int, training: bool) -> bool:
        """Whether a merged weight costs fewer multiply-adds for this many tokens.

        In training the weight has to be formed in every step; in evaluation it is formed once and kept.
        """
        if self.evaluation != "auto":
            return self.evaluation == "merge"
        dense = tokens * self.sizes["o"] * self.sizes["i"]
        forming = self.merge_path().multiply_adds if training else 0
        return forming + dense < self.contract_path(tokens).multiply_adds

    def macs_per_token(self) -> int:
        """Multiply-adds of one slice per token in evaluation, in a large batch."""
        tokens = 1 << 20
        if self.merges(tokens, training=False):
            return self.sizes["o"] * self.sizes["i"]
        return round(self.contract_path(tokens).multiply_adds / tokens)

    def extra_repr(self) -> str:
        return f"{self.equation}, shape={list(self.shape)}, rank={list(self.rank)}, evaluation={self.evaluation}"


class FactoredLinear(nn.Module):
    """Stands where an nn.Linear stood: one slice of a FactorGroup, with the bias it had.

    Maps `[..., in]` to `[..., out]`.
    """

    group: FactorGroup

    def __init__(self, group: FactorGroup, index: tuple[int, ...], bias: Tensor | None) -> None:
        super().__init__()
        object.__setattr__(self, "group", group)  # not registered: the bank owns it
        self.index = index
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.out_features, self.in_features = group.shape[-2:]
        self._merged: tuple[tuple[object, ...], Tensor] | None = None

    @property
    def weight(self) -> Tensor:
        """The dense weight `[out, in]` this layer stands for, formed anew at each access."""
        return self.group.weight(self.index)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.numel() // self.in_features
        forming = torch.is_grad_enabled()
        if self.group.merges(tokens, training=forming):
            return nn.functional.linear(x, self.weight if forming else self._kept_weight(), self.bias)
        y = self.group.apply_slice(x.reshape(tokens, self.in_features), self.index)
        y = y.reshape(*x.shape[:-1], self.out_features)
        return y if self.bias is None else y + self.bias

    def _kept_weight(self) -> Tensor:
        """The merged weight, formed again only after a factor has changed or moved."""
        state = tuple((factor.data_ptr(), factor._version, factor.dtype) for factor in self.group.factors)
        if self._merged is None or self._merged[0] != state:
            with torch.autocast(self.group.factors[0].device.type, enabled=False):  # kept in the factors' own precision
                self._merged = (state, self.weight)
        return self._merged[1]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_merged": None}  # copies form their own

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, index={self.index}"
