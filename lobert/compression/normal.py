"""The normal equations of one factor beside the others, and conjugate gradients for them.

With the other factors fixed, the tensor L(F) of an einsum equation is linear in the factor F; the smallest error
tr(G D C Dᵀ) asks for N(F) = Lᵀ(G L(F) C) = Lᵀ(G T C). As one equation, N has the other factors twice and the metrics
between them: for `bo` beside `abc,al,ci` it is `bo,abc,al,ci,loO,liI,ABC,Al,CI->BO`, with capitals in the second copy.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lobert.compression.objective import trace
from lobert.factorizations.contraction import Path, contract
from lobert.factorizations.numerics import mode_product
from lobert.factorizations.orders import cheapest_path
from lobert.factorizations.product import product

SETTLED = 0.05  # share of the gain so far, below which a step of conjugate gradients is the last
MOST_STEPS = 8
RIDGE = {torch.float32: 1e-6, torch.float64: 1e-12}  # on the marginals, as a share of their mean eigenvalue
RIDGE_GROWTH = 100


class Problem:
    """N(F) = `wanted`, where N is a chain of products: F `term` becomes `second` by `steps` of constants.

    N is a matrix for every index of the letters that both terms have. It is preconditioned by the Kronecker product of
    its marginals, one for each other letter (the traces over the rest of them), for each index of the common letters as
    long as that takes no more than `memory` numbers. Where N is such a product itself, as with metrics that differ
    between slices on one side only, this is its inverse and one step is enough.
    """

    def __init__(
        self, term: str, second: str, steps: Sequence[tuple[str, Tensor]], wanted: Tensor, memory: int
    ) -> None:
        self.term, self.second, self.steps, self.wanted = term, second, steps, wanted
        self.sizes = dict(zip(term, wanted.shape, strict=True)) | dict(zip(second, wanted.shape, strict=True))
        for equation, constant in steps:
            self.sizes |= dict(zip(constant_term(equation), constant.shape, strict=True))
        self.pairs = [(a, b) for a, b in zip(term, second, strict=True) if a != b]
        self.batch = self.common_letters(memory)

    def apply(self, factor: Tensor) -> Tensor:
        """N(F)."""
        for equation, constant in self.steps:
            factor = product(equation, factor, constant)
        return factor

    def solve(self, factor: Tensor, patience: float) -> tuple[Tensor, float, float]:
        """A better factor, by how much it lowers the squared error, and the multiply-adds that it took."""
        each = sum(self.volume(equation.split("->")[0]) for equation, _ in self.steps)
        inverses = self.inverses()
        residual = self.wanted - self.apply(factor)
        direction = conditioned = self.precondition(residual, inverses)
        slope, gain, spent = inner(residual, conditioned), 0.0, each
        for _ in range(MOST_STEPS):
            moved = self.apply(direction)
            curvature = inner(direction, moved)
            spent += each
            if not (curvature > 0 and slope > 0):
                break
            length = slope / curvature
            factor, residual = torch.add(factor, direction, alpha=length), residual.sub_(moved, alpha=length)
            gained = length * slope
            gain += gained
            if gained <= SETTLED * gain or spent + each > patience:
                break
            conditioned = self.precondition(residual, inverses)
            before, slope = slope, inner(residual, conditioned)
            direction = torch.add(conditioned, direction, alpha=slope / before)
        return factor, gain, spent

    def precondition(self, residual: Tensor, inverses: Sequence[Tensor]) -> Tensor:
        """The residual times the inverse of every marginal, over the traces that come last in `inverses`."""
        batch = "".join(self.batch)
        for (letter, _), inverse in zip(self.pairs, inverses, strict=False):
            if batch:
                moved = self.term.replace(letter, "z")
                residual = torch.einsum(f"{self.term},{batch}{letter}z->{moved}", residual, inverse)
            else:  # the same without copies in another order; an inverse is symmetric
                residual = mode_product(residual, inverse, self.term.index(letter))
        return residual / inverses[-1].reshape([self.sizes[c] if c in self.batch else 1 for c in self.term])

    def inverses(self) -> list[Tensor]:
        """Of the marginals, in units of their traces; and the traces, 1 where they are 0."""
        if not self.pairs:
            weights = self.marginal("")
            return [torch.where(weights > 0, weights, 1.0)]
        found = []
        for letter, other in self.pairs:
            matrix = self.marginal(letter + other)
            weights = trace(matrix)
            weights = torch.where(weights > 0, weights, 1.0)
            found.append(regularized_inverse(matrix / weights[..., None, None]).to(matrix.dtype))
        return [*found, weights]

    def marginal(self, pair: str) -> Tensor:
        """N `[*batch, n, n]` for one pair of letters, or `[*batch]` for none, with all others set equal and summed."""
        terms = self._equal_terms(pair)
        wholes = [self._equal_letters(constant_term(equation), pair) for equation, _ in self.steps]
        constants = [
            constant if once == whole else torch.einsum(f"{whole}->{once}", constant)
            for once, whole, (_, constant) in zip(terms, wholes, self.steps, strict=True)
        ]
        if len(terms) == 1:
            return torch.einsum(f"{terms[0]}->{self._marginal_term(pair)}", constants[0])
        return contract(self._marginal_path(terms, pair), constants)

    @property
    def conditioning(self) -> int:
        """Multiply-adds that the marginals take."""
        pairs = [letter + other for letter, other in self.pairs] or [""]
        return sum(self._marginal_path(self._equal_terms(pair), pair).multiply_adds for pair in pairs)

    def _equal_terms(self, pair: str) -> list[str]:
        """The terms of the constants with the letters of all pairs but one set equal; none has a letter twice."""
        wholes = [self._equal_letters(constant_term(equation), pair) for equation, _ in self.steps]
        return ["".join(dict.fromkeys(whole)) for whole in wholes]

    def _equal_letters(self, term: str, pair: str) -> str:
        equal = {b: a for a, b in self.pairs if b not in pair}
        return "".join(equal.get(letter, letter) for letter in term)

    def _marginal_path(self, terms: Sequence[str], pair: str) -> Path:
        return cheapest_path(tuple(terms), self._marginal_term(pair), tuple(sorted(self.sizes.items())))

    def _marginal_term(self, pair: str) -> str:
        return "".join(self.batch) + pair

    def common_letters(self, memory: int) -> list[str]:
        """The letters of the batch: the longest are left out of it where the marginals would be too large."""
        used = set("".join(constant_term(equation) for equation, _ in self.steps))
        batch = [a for a, b in zip(self.term, self.second, strict=True) if a == b and a in used]
        longest = max((self.sizes[a] for a, _ in self.pairs), default=0)
        while batch and longest**2 * self.volume("".join(batch)) > memory:
            batch.remove(max(batch, key=lambda letter: self.sizes[letter]))
        return batch

    def volume(self, letters: str) -> int:
        return math.prod(self.sizes[letter] for letter in set(letters) - {","})


def inner(first: Tensor, second: Tensor) -> float:
    """The sum of all products of two tensors' entries."""
    return torch.dot(first.flatten(), second.flatten()).item()


def constant_term(equation: str) -> str:
    """The second operand of a step."""
    return equation.split("->")[0].split(",")[1]


def regularized_inverse(matrix: Tensor) -> Tensor:
    """Inverses of positive semidefinite matrices `[..., n, n]` of trace one, in their own precision where that will do.

    Rounding may have made them indefinite: then they are seen in double precision, and get more of the identity until
    they are definite.
    """
    size, ridge = matrix.shape[-1], RIDGE[matrix.dtype]
    dtype = matrix.dtype
    while ridge < 1:
        regular = matrix.to(dtype, copy=True)
        regular.diagonal(dim1=-2, dim2=-1).add_(ridge / size)
        root, failed = torch.linalg.cholesky_ex(regular)
        if not failed.any():
            return torch.cholesky_inverse(root).div_(size)
        if dtype == torch.float64:
            ridge *= RIDGE_GROWTH
        dtype = torch.float64
    return torch.eye(size, dtype=torch.float64).expand(matrix.shape)
