"""The compressed layers: a FactorGroup owns the factors of one tensor, a FactoredLinear is one slice of it.

The groups live in one bank at the top of the model and the layers hold unregistered references to them, so each factor
has one key in the state_dict and copying, moving and loading the model keep the sharing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lobert.factorizations import Factorization, Rank, Shape
from lobert.factorizations.contraction import Path, cheapest_path, contract
from lobert.layers.sharing import SharedInput, states

Evaluation = Literal["auto", "contract", "merge"]
EVALUATIONS: tuple[Evaluation, ...] = ("auto", "contract", "merge")
LARGE_BATCH = 1 << 20  # tokens, for which costs per token are told
MOST_WAYS = 4096


class Way(NamedTuple):
    """How one slice gets its product: through the factors, or by a merged weight that the path forms."""

    merges: bool
    path: Path


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
        self.layer_terms = tuple(term.replace("l", "") for term in self.terms)
        self.role = "s" if "s" in stack else ""
        self.sizes = {
            c: n for term, factor in zip(self.terms, shapes, strict=True) for c, n in zip(term, factor, strict=True)
        }
        self._picks: dict[tuple[int, ...], list[tuple[int | slice, ...] | None]] = {}
        self._views: dict[tuple[int, ...], tuple[list[int], list[Tensor]]] = {}  # of slices, and where factors were
        self._ways: dict[tuple[Evaluation, int, bool, int], Way] = {}

    def set_factors(self, factors: Sequence[Tensor]) -> None:
        """Take over the values of freshly computed factors, cast to the parameters' dtype."""
        with torch.no_grad():
            for parameter, value in zip(self.factors, factors, strict=True):
                parameter.copy_(value)

    def slice_factors(self, index: tuple[int, ...]) -> list[Tensor]:
        """The factors of the slice `T[index]`: stack letters indexed away."""
        if index not in self._picks:
            position = dict(zip(self.stack, index, strict=True))
            self._picks[index] = [
                tuple(position.get(letter, slice(None)) for letter in term) if set(term) & set(self.stack) else None
                for term in self.terms
            ]
        factors, picks = self.tensors(), self._picks[index]
        if torch.is_grad_enabled():
            return picked(factors, picks)
        places = [factor.data_ptr() for factor in factors]
        kept = self._views.get(index)
        if kept is None or kept[0] != places:
            kept = self._views[index] = places, picked(factors, picks)
        return kept[1]

    def tensors(self) -> list[nn.Parameter]:
        """The factors. Walking through the ParameterList itself takes as long as a small product."""
        return [*self._modules["factors"]._parameters.values()]  # type: ignore[union-attr]

    def weight(self, index: tuple[int, ...]) -> Tensor:
        """The dense weight `[out, in]` of one slice, differentiable."""
        return contract(self.merge_path().sliced("s"), self.slice_factors(index))

    def contract_path(self, tokens: int, sharers: int = 1) -> Path:
        """Cheapest order that runs `tokens` inputs through the factors of `sharers` slices that differ in role."""
        terms, output = (*self.layer_terms, "ni"), self.role + "no"
        return cheapest_path(terms, output, self._path_sizes(sharers, tokens), may_merge=False)

    def merge_path(self, sharers: int = 1) -> Path:
        """Cheapest order that forms the weights of `sharers` slices that differ in role."""
        return cheapest_path(self.layer_terms, self.role + "oi", self._path_sizes(sharers))

    def _path_sizes(self, sharers: int, tokens: int = 1) -> tuple[tuple[str, int], ...]:
        return tuple(sorted({**self.sizes, "s": sharers, "n": tokens}.items()))

    def merges(self, tokens: int, training: bool, sharers: int = 1) -> bool:
        """Whether merged weights cost fewer multiply-adds for this many tokens, read by `sharers` slices.

        In training the weights have to be formed in every step; in evaluation they are formed once and kept.
        """
        if self.evaluation != "auto":
            return self.evaluation == "merge"
        dense = sharers * tokens * self.sizes["o"] * self.sizes["i"]
        forming = self.merge_path(sharers).multiply_adds if training else 0
        return forming + dense < self.contract_path(tokens, sharers).multiply_adds

    def way(self, tokens: int, training: bool, sharers: int) -> Way:
        """How a slice gets its product, remembered for every size of batch."""
        asked = (self.evaluation, tokens, training, sharers)
        if asked not in self._ways:
            merges = self.merges(tokens, training, sharers)
            path = self.merge_path(sharers) if merges else self.contract_path(tokens, sharers)
            if len(self._ways) == MOST_WAYS:
                self._ways.clear()
            self._ways[asked] = Way(merges, path.sliced("s"))
        return self._ways[asked]

    def macs_per_token(self, sharers: int = 1) -> int:
        """Multiply-adds of `sharers` slices together per token in evaluation, in a large batch."""
        if self.merges(LARGE_BATCH, training=False, sharers=sharers):
            return sharers * self.sizes["o"] * self.sizes["i"]
        return round(self.contract_path(LARGE_BATCH, sharers).multiply_adds / LARGE_BATCH)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_ways": {}, "_views": {}}

    def extra_repr(self) -> str:
        return f"{self.equation}, shape={list(self.shape)}, rank={list(self.rank)}, evaluation={self.evaluation}"


def picked(factors: Sequence[Tensor], picks: Sequence[tuple[int | slice, ...] | None]) -> list[Tensor]:
    """The part of each factor that its pick names."""
    return [factor if pick is None else factor[pick] for factor, pick in zip(factors, picks, strict=True)]


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
