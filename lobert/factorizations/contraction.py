"""Cheapest pairwise order of an einsum, found by exhaustive search over its few operands and remembered.

Terms and outputs are einsum strings; the letter `n` counts tokens, so a path that runs an input through the factors
and a path that merges the factors first are points of the same search.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from lobert.factorizations.product import product

Sizes = tuple[tuple[str, int], ...]  # sorted (letter, size) pairs: hashable


@dataclass(frozen=True)
class Path:
    """Pairwise steps `(left, right, equation)`: both operands leave the list and the result goes to its end.

    `common` are the numbers of the steps whose results are the same for all slices of a joint product.
    """

    steps: tuple[tuple[int, int, str], ...]
    multiply_adds: int
    common: frozenset[int] = frozenset()

    def sliced(self, letter: str) -> "Path":
        """The same steps for one index of `letter`; those it does not occur in are common to all indices."""
        common = frozenset(number for number, (*_, equation) in enumerate(self.steps) if letter not in equation)
        steps = tuple((left, right, equation.replace(letter, "")) for left, right, equation in self.steps)
        return Path(steps, self.multiply_adds, common)


def contract(
    path: Path, operands: Sequence[Tensor], results: dict[int, Tensor] | None = None, bias: Tensor | None = None
) -> Tensor:
    """Run the operands through the path; `bias` is added to the last mode of the outcome.

    `results` holds what common steps gave before, by number: those are not computed again, and missing ones are added.
    """
    pool = list(operands)
    for number, (left, right, equation) in enumerate(path.steps):
        second, first = pool.pop(right), pool.pop(left)
        result = None if results is None else results.get(number)
        if result is None:
            result = product(equation, first, second, None if pool else bias)
            if results is not None and number in path.common:
                results[number] = result
        pool.append(result)
    return pool[0]


def dense_path(equation: str, shapes: tuple[tuple[int, ...], ...]) -> Path:
    """Cheapest order for a whole equation whose operands have these shapes."""
    inputs, output = equation.split("->")
    terms = tuple(inputs.split(","))
    sizes = {
        letter: size
        for term, shape in zip(terms, shapes, strict=True)
        for letter, size in zip(term, shape, strict=True)
    }
    return cheapest_path(terms, output, tuple(sorted(sizes.items())))


@lru_cache(maxsize=4096)
def cheapest_path(terms: tuple[str, ...], output: str, sizes: Sizes, may_merge: bool = True) -> Path:
    """The order with the fewest multiply-adds; without `may_merge`, no step forms `[o, i]` from factors alone."""
    if len(terms) == 1:
        return Path((), 0)
    candidates = [
        extended
        for left in range(len(terms))
        for right in range(left + 1, len(terms))
        if (extended := first_step(terms, (left, right), output, sizes, may_merge)) is not None
    ]
    return min(candidates, key=lambda path: path.multiply_adds)


def first_step(
    terms: tuple[str, ...], pair: tuple[int, int], output: str, sizes: Sizes, may_merge: bool
) -> Path | None:
    """The cheapest path that begins with this pair, or None where that step merges and may not."""
    left, right = terms[pair[0]], terms[pair[1]]
    rest = tuple(term for index, term in enumerate(terms) if index not in pair)
    needed = set(output).union(*rest)
    tokens_first = sorted(dict.fromkeys(left + right), key=lambda letter: letter != "n")  # rows stay rows in memory
    union = "".join(tokens_first)
    result = output if not rest else "".join(letter for letter in union if letter in needed)
    if not may_merge and {"o", "i"} <= set(result) and "n" not in union:
        return None
    size = dict(sizes)
    cost = math.prod(size[letter] for letter in union)
    tail = cheapest_path((*rest, result), output, sizes, may_merge)
    return Path(((*pair, f"{left},{right}->{result}"), *tail.steps), cost + tail.multiply_adds)
