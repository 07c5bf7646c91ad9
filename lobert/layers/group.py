"""The owner of the factors of one tensor, and of how products with its slices are computed.

The groups live in one bank at the top of the model and the layers hold unregistered references to them, so each factor
has one key in the state_dict and copying, moving and loading the model keep the sharing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from lobert.factorizations import Bond, Factorization, Rank, Shape
from lobert.factorizations.base import rank_letters
from lobert.factorizations.contraction import TOKENS, Path, again, cheapest_path, contract, once, run
from lobert.factorizations.pivoted import balanced
from lobert.factorizations.product import is_matrix_product
from lobert.layers.formed import Formed, stands_alone
from lobert.layers.halves import Halves, halves
from lobert.layers.heads import HeadFrame
from lobert.layers.pivots import Pivots
from lobert.layers.sharing import Index, precision, states

Evaluation = Literal["auto", "contract", "merge"]
EVALUATIONS: tuple[Evaluation, ...] = ("auto", "contract", "merge")
LARGE_BATCH = 1 << 20  # tokens, for which costs per token are told
MOST_WAYS = 4096


class Way(NamedTuple):
    """How the slices get their products: through the factors, or by merged weights.

    Attributes:
        multiply_adds: of one pass of as many tokens through all slices; in evaluation without what is formed once.
        halves: what to form for all slices, and how each goes on with it, and with its input where it does not merge.
    """

    merges: bool
    multiply_adds: int
    halves: Halves


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
        kept = factorization.kept_shapes(stack, shape, rank)
        self.factors = nn.ParameterList(nn.Parameter(torch.empty(factor)) for factor in kept)
        self.bonds = factorization.bonds(stack, shape, rank)
        self.heads = factorization.heads
        self.frame = None if self.heads is None else HeadFrame(self.heads, *rank)
        self.folded = self.spares  # whether the numbers that bonds and heads spare are left out of the factors
        self.pivots = nn.ModuleDict({str(bond.factor): Pivots(*shapes[bond.factor]) for bond in self.bonds})
        self.terms = self.equation.split("->")[0].split(",")
        self.role, self.layer = ("s" if "s" in stack else ""), ("l" if "l" in stack else "")
        self.sizes = {
            c: n for term, factor in zip(self.terms, shapes, strict=True) for c, n in zip(term, factor, strict=True)
        }
        self.ones = spare_letters(self.terms, [c for c in rank_letters(self.equation) if self.sizes[c] == 1])
        self.needed_terms = tuple(without(term, self.ones) for term in self.terms)
        self.inputs = math.prod(shape[:-2]) // self.sizes.get("s", 1)  # of all slices, where roles share theirs
        self.formed = Formed(stack, math.prod(shape[:-2]))
        self._whole: tuple[tuple[object, ...], list[Tensor]] | None = None
        self._ways: dict[tuple[Evaluation, int, bool, int], Way] = {}

    @property
    def spares(self) -> bool:
        """Whether there are redundant numbers that need not be kept."""
        return bool(self.bonds) or self.heads is not None

    @torch.no_grad()
    def set_factors(self, factors: Sequence[Tensor]) -> None:
        """Take over the values of freshly computed factors, cast to the parameters' dtype.

        Those of a group that meets another in heads stay whole until both are folded (see `pairs`).
        """
        if self.heads is not None:
            return self.take_whole(factors)
        kept = self.spared(factors) if self.folded else factors
        for parameter, value in zip(self.factors, kept, strict=True):
            parameter.copy_(value)

    @torch.no_grad()
    def take_whole(self, factors: Sequence[Tensor]) -> None:
        """Make these factors, whole, the parameters.

        New parameters take the place of the old ones, so do it before an optimizer holds these.
        """
        like = self.tensors()[0]
        self.folded, self._whole = False, None
        self.factors = nn.ParameterList(nn.Parameter(factor.to(like)) for factor in factors)

    @torch.no_grad()
    def take_spared(self, kept: Sequence[Tensor]) -> None:
        """Make what bonds and heads leave of factors the parameters, new ones."""
        like = self.tensors()[0]
        self.folded = True
        self.factors = nn.ParameterList(nn.Parameter(value.to(like)) for value in kept)

    @torch.no_grad()
    def unfold(self) -> None:
        """Make whole factors the parameters, each bond's two alike in every term: they train better than folded ones.

        New parameters take the place of the old ones, so do it before an optimizer holds these.
        """
        if self.folded:
            self.take_whole(self.evened(self.whole_factors()))

    def evened(self, factors: Sequence[Tensor]) -> list[Tensor]:
        """Whole factors of the same tensor, each bond's two alike in every term."""
        found = list(factors)
        for bond in self.bonds:
            pair = balanced(found[bond.factor], found[bond.partner], bond.mode)
            found[bond.factor], found[bond.partner] = pair
        return found

    @torch.no_grad()
    def fold(self) -> None:
        """The inverse of `unfold`: the same tensor, from the numbers that it takes."""
        if not self.folded and self.bonds:
            self.take_spared(self.spared([factor.detach() for factor in self.tensors()]))

    def spared(self, factors: Sequence[Tensor]) -> list[Tensor]:
        """What is kept of whole factors, where the bonds spare the rest."""
        kept = list(factors)
        for bond in self.bonds:
            pair = self._pivots(bond).take(kept[bond.factor], kept[bond.partner], bond.mode)
            kept[bond.factor], kept[bond.partner] = pair
        return kept

    def _pivots(self, bond: Bond) -> Pivots:
        found = self.pivots[str(bond.factor)]
        assert isinstance(found, Pivots)
        return found

    def whole_factors(self) -> list[Tensor]:
        """The factors of the equation, differentiable; without gradients, those put together are kept."""
        kept: list[Tensor] = [*self.tensors()]
        if not self.folded:
            return kept
        if torch.is_grad_enabled():
            self._whole = None  # an optimizer's step may follow that no version tells of
            return self._assembled(kept)
        state = states(self.tensors())
        if self._whole is None or self._whole[0] != state:
            self._whole = (state, self._assembled(kept))
        return self._whole[1]

    def _assembled(self, factors: list[Tensor]) -> list[Tensor]:
        if self.frame is not None and self.heads is not None:
            factors[self.heads.position] = self.frame(factors[self.heads.position])
        for bond in self.bonds:
            factors[bond.factor] = self._pivots(bond)(factors[bond.factor])
        return factors

    def needed_factors(self) -> list[Tensor]:
        """The factors without ranks of 1 that are in no way needed."""
        factors = self.whole_factors()
        if not self.ones:
            return factors
        dims = [tuple(place for place, letter in enumerate(term) if letter in self.ones) for term in self.terms]
        return [factor.squeeze(dim) if dim else factor for factor, dim in zip(factors, dims, strict=True)]

    def slice_factors(self, index: Index) -> list[Tensor]:
        """The same of the slice `T[index]`: stack letters indexed away."""
        position = dict(zip(self.stack, index, strict=True))
        return [
            factor[tuple(position.get(letter, slice(None)) for letter in term)]
            if position.keys() & set(term)
            else factor
            for factor, term in zip(self.needed_factors(), self.needed_terms, strict=True)
        ]

    def operands(self, way: Way, index: Index) -> list[Tensor]:
        """What a slice has of the factors, formed as far as the way has it for all slices together."""
        joint, terms, _ = way.halves
        training = torch.is_grad_enabled()
        if training:
            self.formed.drop_kept()
        if not joint.steps and not self.stack:
            return self.needed_factors()
        if training and stands_alone():
            return run(joint.without(self.stack), self.slice_factors(index))
        state = states(self.tensors())
        if not training:
            return self.formed.in_evaluation(index, joint, state, terms, partial(self._form_to_keep, joint))
        key = joint, state, precision(self.tensors()[0].device.type)
        return self.formed.in_training(index, key, terms, lambda: run(joint, self.needed_factors()))

    def _form_to_keep(self, joint: Path) -> list[Tensor]:
        """In the factors' own precision."""
        with torch.autocast(self.tensors()[0].device.type, enabled=False):
            return run(joint, self.needed_factors())

    def tensors(self) -> list[nn.Parameter]:
        """What is kept of the factors. Walking through the ParameterList itself takes as long as a small product."""
        return [*self._modules["factors"]._parameters.values()]  # type: ignore[union-attr]

    def weight(self, index: Index) -> Tensor:
        """The dense weight `[out, in]` of one slice, differentiable."""
        return contract(self.merge_path().without(self.stack), self.slice_factors(index))

    def contract_path(self, tokens: int, training: bool, sharers: int = 1) -> Path:
        """Cheapest order that runs `tokens` inputs each through the factors of all slices.

        `sharers` of them, which differ in role, read one and the same input.
        """
        terms, output = (*self.needed_terms, TOKENS + self.layer + "i"), self.role + TOKENS + self.layer + "o"
        sizes, cost = self._path_sizes(sharers, tokens), once if training else again
        return cheapest_path(terms, output, sizes, may_merge=False, cost=cost)

    def merge_path(self, sharers: int = 1) -> Path:
        """Cheapest order that forms the weights of all slices."""
        return cheapest_path(self.needed_terms, self.stack + "oi", self._path_sizes(sharers))

    def _path_sizes(self, sharers: int, tokens: int = 1) -> tuple[tuple[str, int], ...]:
        return tuple(sorted({**self.sizes, "s": sharers, TOKENS: tokens}.items()))

    def merges(self, tokens: int, training: bool, sharers: int = 1) -> bool:
        """Whether merged weights cost fewer multiply-adds for this many tokens, read by `sharers` slices.

        In training the weights have to be formed in every pass; in evaluation what no token enters is kept.
        """
        if self.evaluation != "auto":
            return self.evaluation == "merge"
        return self._cost(tokens, training, sharers, True) < self._cost(tokens, training, sharers, False)

    def _cost(self, tokens: int, training: bool, sharers: int, merged: bool) -> int:
        """Multiply-adds of a pass through all slices."""
        path = self.merge_path(sharers) if merged else self.contract_path(tokens, training, sharers)
        products = self.inputs * sharers * tokens * self.sizes["o"] * self.sizes["i"] if merged else path.running
        return products + (path.forming if training else 0)

    def way(self, tokens: int, training: bool, sharers: int) -> Way:
        """How the slices get their products, remembered for every size of batch."""
        asked = (self.evaluation, tokens, training, sharers)
        if asked not in self._ways:
            merges = self.merges(tokens, training, sharers)
            path = self.merge_path(sharers) if merges else self.contract_path(tokens, training, sharers)
            terms = self.needed_terms if merges else (*self.needed_terms, TOKENS + self.layer + "i")
            parted = halves(path, terms, self.stack, self._joins_in_training if training else lambda _: True)
            if len(self._ways) == MOST_WAYS:
                self._ways.clear()
            self._ways[asked] = Way(merges, self._cost(tokens, training, sharers, merges), parted)
        return self._ways[asked]

    def _joins_in_training(self, equation: str) -> bool:
        """Whether a step is for all slices together: one product of matrices, or else the same for all layers.

        Others take no more time slice by slice, and then their results are in the cache where they are needed.
        """
        return is_matrix_product(equation) or (bool(self.layer) and self.layer not in equation)

    def macs_per_token(self, sharers: int = 1) -> int:
        """Multiply-adds of `sharers` slices together per token in evaluation, in a large batch."""
        merges = self.merges(LARGE_BATCH, False, sharers)
        return round(self._cost(LARGE_BATCH, False, sharers, merges) / (self.inputs * LARGE_BATCH))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_ways": {}, "_whole": None}

    def extra_repr(self) -> str:
        return f"{self.equation}, shape={list(self.shape)}, rank={list(self.rank)}, evaluation={self.evaluation}"


def spare_letters(terms: Sequence[str], letters: Iterable[str]) -> str:
    """Those of some letters of size 1 without which the equation says the same, and no term is empty."""
    spare = ""
    for letter in letters:
        if all(without(term, spare + letter) for term in terms):
            spare += letter
    return spare


def without(term: str, letters: str) -> str:
    return "".join(letter for letter in term if letter not in letters)
