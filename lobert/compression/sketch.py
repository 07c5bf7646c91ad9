"""The error of factors of a large tensor in a norm, seen in a few random directions of one side: a part of the work.

With R Rᵀ the metric C of the inputs and Z of normal numbers for k directions, the squared error of D R Z, its columns
counting alike, is k tr(G D C Dᵀ) on average (Hutchinson, 1990). All factors are seen in the same directions: which of
them leave more is told better still.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lobert.compression.objective import Goal, Norm, narrowed
from lobert.factorizations import reconstruct
from lobert.factorizations.numerics import square_root
from lobert.factorizations.product import product

DIRECTIONS = 128  # the error of a stack of BERT-base is met within a few thousandths
SIDES = "oi"


class Sketch:
    """A goal `[*stack, out, in]` with the entries of its shorter side mixed to `DIRECTIONS` numbers."""

    def __init__(self, stack: str, goal: Goal) -> None:
        side = 0 if goal.tensor.shape[-2] <= goal.tensor.shape[-1] else 1
        metrics = [goal.norm.outputs, goal.norm.inputs]
        self.stack, self.letter = stack, SIDES[side]
        self.directions = random_directions(metrics[side])
        metrics[side] = torch.eye(DIRECTIONS, dtype=torch.float64).expand(*metrics[side].shape[:-2], -1, -1)
        outputs, inputs = metrics
        self.goal = Goal(self._mixed(f"{stack}oi", goal.tensor).double(), Norm(inputs, outputs))

    def error_of(self, equation: str, factors: Sequence[Tensor]) -> float:
        """About the squared distance of the tensor that these factors make; one of them has the mixed side."""
        terms = equation.split("->")[0].split(",")
        holder = next(position for position, term in enumerate(terms) if self.letter in term)
        mixed = [factor.float() for factor in factors]
        mixed[holder] = self._mixed(terms[holder], factors[holder])
        terms[holder] = self._every_slice(terms[holder])
        return self.goal.error(reconstruct(f"{','.join(terms)}->{self.stack}oi", mixed))

    def _mixed(self, modes: str, tensor: Tensor) -> Tensor:
        """A tensor with these modes, and those of the stack, in single precision."""
        found = self._every_slice(modes).replace(self.letter, "z")
        return product(f"{modes},{self.stack}{self.letter}z->{found}", tensor.float(), self.directions)

    def _every_slice(self, modes: str) -> str:
        """The modes, and those of the stack that are missing: each slice has directions of its own."""
        return modes + "".join(letter for letter in self.stack if letter not in modes)


def random_directions(metric: Tensor) -> Tensor:  # [*stack, n, n] -> [*stack, n, DIRECTIONS]
    """Random vectors with these metrics as their second moments together."""
    drawn = torch.randn(metric.shape[-1], DIRECTIONS, generator=torch.Generator().manual_seed(0)) / DIRECTIONS**0.5
    diagonal = narrowed(metric)
    if diagonal.dim() < metric.dim():
        return diagonal.sqrt().float().unsqueeze(-1) * drawn
    root, _ = square_root(metric)
    return root.float() @ drawn
