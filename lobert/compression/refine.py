"""Factors that are closer in a norm than those at hand: alternating least squares for any einsum equation.

Beside the others, every factor is the solution of a linear least-squares problem (see `normal`). Each in turn is
improved by conjugate gradients from where it is: no step makes the error larger, and where none makes it smaller all
gradients are zero. Alternating least squares are those of Carroll and Chang (1970), with a norm for every slice.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lobert.compression.chain import Tree, cheapest_chain, form, leaves
from lobert.compression.normal import Problem
from lobert.compression.objective import Goal, Metrics
from lobert.factorizations.contraction import cheapest_path, contract


@dataclass(frozen=True)
class Patience:
    """When alternating least squares end, and how precise they are.

    Attributes:
        multiply_adds: so many are spent at the most, for each entry of the tensor.
        altogether: so many are spent at the most: what a large encoder's tensors get ends within a minute.
        gain: of a sweep over the factors, as a share of the error, below which it is the last one.
    """

    multiply_adds: float = 30_000
    altogether: float = 4.5e11
    gain: float = 2e-3


USUAL = Patience()


def refined(
    equation: str, stack: str, goal: Goal, factors: Sequence[Tensor], error: float, patience: Patience = USUAL
) -> tuple[list[Tensor], float]:
    """Factors that are closer to `goal` than `factors` with their squared `error`, or these; and the error then.

    The error is not convex in all factors together, so what is found depends on where they start.
    """
    fit = Fit(equation, stack, goal, factors, error, patience)
    gain = math.inf
    while fit.error > torch.finfo(fit.dtype).eps * fit.total and gain > patience.gain * fit.error:
        before = fit.error
        for position in range(len(factors)):
            fit.improve(position)
        gain = before - fit.error
    if not fit.improved:
        return list(factors), error
    found = [factor.to(goal.tensor.dtype) for factor in fit.factors]
    left = goal.error_of(equation, found)
    return (found, left) if left < error else (list(factors), error)


class Fit:
    """A goal and the factors as they are now; `error` is theirs in its norm, of `total` for the tensor.

    `improved` says whether they are others than at the start.
    """

    def __init__(
        self, equation: str, stack: str, goal: Goal, factors: Sequence[Tensor], error: float, patience: Patience
    ) -> None:
        rough = goal.is_rough(error)
        metrics, unit = (goal.rough, goal.unit) if rough else (goal.norm.metrics, 1.0)
        self.dtype = torch.float32 if rough else torch.float64
        self.total, self.error = goal.total.sum().item() / unit, error / unit
        self.terms, self.modes = equation.split("->")[0].split(","), stack + "oi"
        self.metrics = metric_terms(metrics, stack)
        self.common = set(self.modes) - {letter.lower() for term in self.metrics for letter in term if letter.isupper()}
        self.weighted = (goal.weighted / unit).to(self.dtype)
        self.factors = [factor.to(self.dtype) for factor in factors]
        self.left = min(patience.multiply_adds * goal.tensor.numel(), patience.altogether)
        self.formed: dict[Tree, Tensor] = {}
        self.improved = False

    def improve(self, position: int) -> None:
        """Bring one factor closer to its best beside the others; not where that takes more than is left of patience."""
        problem = self.problem(position)
        if problem is None:
            return
        self.factors[position], gain, spent = problem.solve(self.factors[position], self.left)
        self.error -= gain
        self.improved = self.improved or gain > 0
        self.left -= spent
        stale = {self.terms[position], self.second(self.terms[position])}
        self.formed = {tree: value for tree, value in self.formed.items() if not stale & leaves(tree)}

    def problem(self, position: int) -> Problem | None:
        """The normal equations of one factor, or None where not a single step could be afforded."""
        term, operands = self.terms[position], dict(self.metrics)
        others = {t: factor for t, factor in zip(self.terms, self.factors, strict=True) if t != term}
        operands |= others | {self.second(t): factor for t, factor in others.items()}
        sizes = self.sizes()
        chain = cheapest_chain(tuple(operands), term, self.second(term), sizes)
        path = cheapest_path((*others, self.modes), term, sizes)
        if chain is None or chain.once + path.multiply_adds + 2 * chain.each > self.left:
            return None
        self.left -= chain.once + path.multiply_adds
        steps = [(equation, form(tree, operands, self.formed)) for equation, tree in chain.steps]
        wanted = contract(path, [*others.values(), self.weighted])
        problem = Problem(term, self.second(term), steps, wanted, self.weighted.numel())
        return problem if problem.conditioning <= self.left else None

    def second(self, term: str) -> str:
        """The term of a factor's second copy: capitals, but where both copies are the same slice, row or column."""
        return "".join(letter if letter in self.common else letter.upper() for letter in term)

    def sizes(self) -> tuple[tuple[str, int], ...]:
        """Of all letters, those of the second copies among them."""
        sizes: dict[str, int] = {}
        for term, factor in zip(self.terms, self.factors, strict=True):
            sizes |= dict(zip(term, factor.shape, strict=True)) | dict(
                zip(self.second(term), factor.shape, strict=True)
            )
        return tuple(sorted(sizes.items()))


def metric_terms(metrics: Metrics, stack: str) -> dict[str, Tensor]:
    """The metrics by their einsum terms: matrices `loO`, diagonals `lo`, or for the outputs one number a slice, `l`."""
    inputs, outputs = metrics.inputs, metrics.outputs
    same = stack and outputs.dim() == len(stack) + 1 and bool((outputs == outputs[..., :1]).all())
    if same:
        return {stack: outputs[..., 0].contiguous(), **metric_term(stack, "i", inputs)}
    return {**metric_term(stack, "o", outputs), **metric_term(stack, "i", inputs)}


def metric_term(stack: str, letter: str, metric: Tensor) -> dict[str, Tensor]:
    return {stack + letter + (letter.upper() if metric.dim() > len(stack) + 1 else ""): metric}
