"""Factors that are closer in a norm than those at hand: alternating least squares for any einsum equation.

Beside the others, every factor is the solution of a linear least-squares problem (see `normal`). Each in turn is
improved by conjugate gradients from where it is: no step makes the error larger, and where none makes it smaller all
gradients are zero. Alternating least squares are those of Carroll and Chang (1970), with a norm for every slice.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lobert.compression.chain import Chain, Tree, cheapest_chain, form, leaves
from lobert.compression.normal import Problem
from lobert.compression.objective import Goal, Metrics
from lobert.factorizations.contraction import Path, contract
from lobert.factorizations.orders import cheapest_path

ErrorOf = Callable[[str, Sequence[Tensor]], float]  # of an equation and its factors, the squared distance to a goal


@dataclass(frozen=True)
class Patience:
    """When alternating least squares end, and how precise they are.

    Attributes:
        multiply_adds: so many are spent at the most, for each entry of the tensor.
        altogether: so many are spent at the most: what a large encoder's tensors get ends in about a minute.
        gain: of a sweep over the factors, as a share of the error, below which it is the last one.
    """

    multiply_adds: float = 30_000
    altogether: float = 7.5e11
    gain: float = 2e-3

    def of(self, entries: int) -> float:
        """Multiply-adds for a tensor with so many entries."""
        return min(self.multiply_adds * entries, self.altogether)


USUAL = Patience()


def refined(
    equation: str,
    stack: str,
    goal: Goal,
    factors: Sequence[Tensor],
    error: float,
    error_of: ErrorOf,
    patience: Patience = USUAL,
) -> tuple[list[Tensor], float]:
    """Factors that are closer to `goal` than these, or these; and their squared error then, for these `error`.

    `error_of` tells it. It is not convex in all factors together, so what is found depends on where they start.
    """
    fit = Fit(equation, stack, goal, factors, error, patience)
    # The largest first: those of a stack alone may cost as much, and make up for little.
    order = sorted(range(len(factors)), key=lambda position: -factors[position].numel())
    gain = math.inf
    while fit.error > torch.finfo(fit.dtype).eps * fit.total and gain > patience.gain * fit.error:
        before = fit.error
        for position in order:
            fit.improve(position)
        gain = before - fit.error
    if not fit.improved:
        return list(factors), error
    found = [factor.to(goal.tensor.dtype) for factor in fit.factors]
    left = error_of(equation, found)
    return (found, left) if left < error else (list(factors), error)


def affordable(equation: str, stack: str, goal: Goal, factors: Sequence[Tensor], patience: Patience = USUAL) -> bool:
    """Whether patience is enough for a step of any factor."""
    ways = Ways(equation, stack, metric_terms(goal.norm.metrics, stack), [tuple(factor.shape) for factor in factors])
    least = min(ways.least(position) for position in range(len(factors)))
    return least <= patience.of(goal.tensor.numel())


class Ways:
    """How the normal equations of each factor are best formed: a matter of shapes alone."""

    def __init__(self, equation: str, stack: str, metrics: Iterable[str], shapes: Sequence[Sequence[int]]) -> None:
        self.terms, self.modes, self.metrics = equation.split("->")[0].split(","), stack + "oi", list(metrics)
        self.common = set(self.modes) - {letter.lower() for term in self.metrics for letter in term if letter.isupper()}
        sizes: dict[str, int] = {}
        for term, shape in zip(self.terms, shapes, strict=True):
            sizes |= dict(zip(term, shape, strict=True)) | dict(zip(self.second(term), shape, strict=True))
        self.sizes = tuple(sorted(sizes.items()))

    def second(self, term: str) -> str:
        """The term of a factor's second copy: capitals, but where both copies are the same slice, row or column."""
        return "".join(letter if letter in self.common else letter.upper() for letter in term)

    def others(self, position: int) -> list[str]:
        """The terms beside one factor."""
        return [term for number, term in enumerate(self.terms) if number != position]

    def chain(self, position: int) -> Chain | None:
        """The products that the factor goes through; None where there are too many ways to look at."""
        others, term = self.others(position), self.terms[position]
        operands = (*self.metrics, *others, *(self.second(other) for other in others))
        return cheapest_chain(tuple(dict.fromkeys(operands)), term, self.second(term), self.sizes)

    def path(self, position: int) -> Path:
        """From the other factors and the weighted tensor to the right side."""
        return cheapest_path((*self.others(position), self.modes), self.terms[position], self.sizes)

    def least(self, position: int) -> float:
        """Multiply-adds without which there is not a single step."""
        chain = self.chain(position)
        return math.inf if chain is None else chain.once + self.path(position).multiply_adds + 2 * chain.each


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
        self.total, self.error = goal.total / unit, error / unit
        self.metrics = metric_terms(metrics, stack)
        self.ways = Ways(equation, stack, self.metrics, [tuple(factor.shape) for factor in factors])
        self.weighted = goal.weighted if rough else metrics.applied(goal.tensor)
        self.factors = [factor.to(self.dtype) for factor in factors]
        self.left = patience.of(goal.tensor.numel())
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
        stale = {self.ways.terms[position], self.ways.second(self.ways.terms[position])}
        self.formed = {tree: value for tree, value in self.formed.items() if not stale & leaves(tree)}

    def problem(self, position: int) -> Problem | None:
        """The normal equations of one factor, or None where not a single step could be afforded."""
        ways = self.ways
        chain, path = ways.chain(position), ways.path(position)
        if chain is None or ways.least(position) > self.left:
            return None
        self.left -= chain.once + path.multiply_adds
        term = ways.terms[position]
        others = {t: factor for t, factor in zip(ways.terms, self.factors, strict=True) if t != term}
        operands = self.metrics | others | {ways.second(t): factor for t, factor in others.items()}
        steps = [(equation, form(tree, operands, self.formed)) for equation, tree in chain.steps]
        wanted = contract(path, [*others.values(), self.weighted])
        problem = Problem(term, ways.second(term), steps, wanted, self.weighted.numel())
        return problem if problem.conditioning <= self.left else None


def metric_terms(metrics: Metrics, stack: str) -> dict[str, Tensor]:
    """The metrics by their einsum terms: matrices `loO`, diagonals `lo`, or for the outputs one number a slice, `l`."""
    inputs, outputs = metrics.inputs, metrics.outputs
    same = stack and outputs.dim() == len(stack) + 1 and bool((outputs == outputs[..., :1]).all())
    if same:
        return {stack: outputs[..., 0].contiguous(), **metric_term(stack, "i", inputs)}
    return {**metric_term(stack, "o", outputs), **metric_term(stack, "i", inputs)}


def metric_term(stack: str, letter: str, metric: Tensor) -> dict[str, Tensor]:
    return {stack + letter + (letter.upper() if metric.dim() > len(stack) + 1 else ""): metric}
