"""The owner of the factors of one tensor, who hands its slices what they need of them.

The groups live in one bank at the top of the model and the layers hold unregistered references to them, so each factor
has one key in the state_dict and copying, moving and loading the model keep the sharing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lobert.factorizations import Bond, Factorization, Rank, Shape
from lobert.factorizations.contraction import Path, contract, run
from lobert.factorizations.pivoted import balanced
from lobert.layers.formed import Formed, Operands, stands_alone
from lobert.layers.heads import HeadFrame
from lobert.layers.pivots import Pivots
from lobert.layers.sharing import Index, precision, states
from lobert.layers.tracing import is_traced
from lobert.layers.ways import Evaluation, Way, Ways


class FactorGroup(nn.Module):
    """The factors of one tensor `[*stack, out, in]`, and the `ways` in which its slices get their products."""

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
        self.equation = factorization.equation(stack)
        shapes = factorization.factor_shapes(stack, shape, rank)
        kept = factorization.kept_shapes(stack, shape, rank)
        self.factors = nn.ParameterList(nn.Parameter(torch.empty(factor)) for factor in kept)
        self.bonds = factorization.bonds(stack, shape, rank)
        self.heads = factorization.heads
        self.frame = None if self.heads is None else HeadFrame(self.heads, *rank)
        self.folded = self.spares  # whether the numbers that bonds and heads spare are left out of the factors
        self.pivots = nn.ModuleDict({str(bond.factor): Pivots(*shapes[bond.factor]) for bond in self.bonds})
        self.ways = Ways(self.equation, stack, shapes, evaluation)
        self.formed = Formed(stack, math.prod(shape[:-2]))
        self._whole: tuple[tuple[object, ...], list[Tensor]] | None = None

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
        if torch.is_grad_enabled() or is_traced():
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
        if not self.ways.ones:
            return factors
        ones = [[place for place, letter in enumerate(term) if letter in self.ways.ones] for term in self.ways.terms]
        return [factor.squeeze(dims) if dims else factor for factor, dims in zip(factors, ones, strict=True)]

    def slice_factors(self, index: Index) -> list[Tensor]:
        """The same of the slice `T[index]`: stack letters indexed away."""
        position = dict(zip(self.stack, index, strict=True))
        return [
            factor[tuple(position.get(letter, slice(None)) for letter in term)]
            if position.keys() & set(term)
            else factor
            for factor, term in zip(self.needed_factors(), self.ways.needed, strict=True)
        ]

    def operands(self, way: Way, index: Index) -> Operands:
        """What a slice has of the factors, formed as far as the way has it for all slices together."""
        joint, terms = way.halves.joint, way.halves.terms
        training = torch.is_grad_enabled()
        if training:
            self.formed.drop_kept()
        if not joint.steps and not self.stack:
            return Operands(self.needed_factors(), None)
        if training and stands_alone():
            return self.own_operands(way, index)._replace(origin=states(self.tensors()))
        state = states(self.tensors())
        if not training:
            return self.formed.in_evaluation(index, joint, state, terms, self._form_to_keep)
        key = joint, state, precision(self.tensors()[0].device.type)
        return self.formed.in_training(index, key, terms, lambda: run(joint, self.needed_factors()))

    def own_operands(self, way: Way, index: Index) -> Operands:
        """The same, formed for this slice alone, of no origin."""
        return Operands(run(way.halves.alone, self.slice_factors(index)), None)

    def _form_to_keep(self, joint: Path) -> list[Tensor]:
        """In the factors' own precision."""
        with torch.autocast(self.tensors()[0].device.type, enabled=False):
            return run(joint, self.needed_factors())

    def tensors(self) -> list[nn.Parameter]:
        """What is kept of the factors. Walking through the ParameterList itself takes as long as a small product."""
        return [*self._modules["factors"]._parameters.values()]  # type: ignore[union-attr]

    def weight(self, index: Index) -> Tensor:
        """The dense weight `[out, in]` of one slice, differentiable."""
        return contract(self.ways.merge_path().without(self.stack), self.slice_factors(index))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_whole": None}

    def extra_repr(self) -> str:
        return f"{self.equation}, shape={list(self.shape)}, rank={list(self.rank)}, evaluation={self.ways.evaluation}"
