"""Cheapest pairwise order of an einsum, found by exhaustive search over its few operands and remembered.

Terms and outputs are einsum strings; the letter `n` counts tokens, so a path that runs an input through the factors
and a path that merges the factors first are points of the same search.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache

from torch import Tensor

from lobert.factorizations.product import Way, is_rowwise, way_of

Sizes = tuple[tuple[str, int], ...]  # sorted (letter, size) pairs: hashable
Step = tuple[int, int, str]
TOKENS = "n"


@dataclass(frozen=True)
class Path:
    """Pairwise steps `(left, right, equation)`: both operands leave the list and the result goes to its end.

    Attributes:
        forming: multiply-adds of the steps that no token takes part in.
        running: those of the others.
        reading: numbers that these read of operands without tokens.
        common: numbers of the steps whose results are the same for all slices that read one input.
    """

    steps: tuple[Step, ...]
    forming: int = 0
    running: int = 0
    reading: int = 0
    common: frozenset[int] = frozenset()

    @property
    def multiply_adds(self) -> int:
        return self.forming + self.running

    @cached_property
    def calls(self) -> tuple[tuple[int, int, Way], ...]:
        """The steps with what computes them."""
        return tuple((left, right, way_of(equation)) for left, right, equation in self.steps)

    @cached_property
    def rowwise(self) -> bool:
        """Whether the input may have any number of leading modes in place of that of the tokens."""
        return all(is_rowwise(equation) for _, _, equation in self.steps if TOKENS in equation)

    def without(self, letters: str) -> "Path":
        """The same steps where operands lack these letters; it has no costs."""
        return Path(
            tuple(
                (left, right, equation.translate(dict.fromkeys(map(ord, letters))))
                for left, right, equation in self.steps
            )
        )

    def preceded(self, step: Step, sizes: dict[str, int]) -> "Path":
        """The same with one step before."""
        terms = step[2].split("->")[0].split(",")
        cost = math.prod(sizes[letter] for letter in set("".join(terms)))
        if TOKENS not in step[2]:
            return Path((step, *self.steps), self.forming + cost, self.running, self.reading)
        read = sum(math.prod(sizes[letter] for letter in term) for term in terms if TOKENS not in term)
        return Path((step, *self.steps), self.forming, self.running + cost, self.reading + read)


Cost = Callable[[Path], int]


def once(path: Path) -> int:
    """The cost of a path that is gone through once, all of it."""
    return path.multiply_adds


def again(path: Path) -> int:
    """The cost of a path to go through again: what takes no tokens is kept, and read."""
    return path.running + path.reading


def contract(
    path: Path, operands: Iterable[Tensor], results: dict[int, Tensor] | None = None, bias: Tensor | None = None
) -> Tensor:
    """Run the operands through the path; `bias` is added to the last mode of the outcome.

    `results` holds what common steps gave before, by number: those are not computed again, and missing ones are added.
    """
    return run(path, operands, results, bias)[0]


def run(
    path: Path, operands: Iterable[Tensor], results: dict[int, Tensor] | None = None, bias: Tensor | None = None
) -> list[Tensor]:
    """As `contract`, for a path that may leave several operands."""
    pool = list(operands)
    for number, (left, right, way) in enumerate(path.calls):
        second, first = pool.pop(right), pool.pop(left)
        result = None if results is None else results.get(number)
        if result is None:
            result = way(first, second, None if pool else bias)
            if results is not None and number in path.common:
                results[number] = result
        pool.append(result)
    return pool


def leading(term: str, letters: str) -> str:
    """The term with those of some letters that it has in front, in their order."""
    return "".join(sorted(term, key=lambda letter: letters.find(letter) % (len(letters) + 1)))


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
def cheapest_path(terms: tuple[str, ...], output: str, sizes: Sizes, may_merge: bool = True, cost: Cost = once) -> Path:
    """The order of the least cost; without `may_merge`, no step forms `[o, i]` from factors alone."""
    if len(terms) == 1:
        return Path(())
    pairs = [(left, right) for left in range(len(terms)) for right in range(left + 1, len(terms))]
    paths = [first_step(terms, pair, output, sizes, may_merge, cost) for pair in pairs]
    return min((path for path in paths if path is not None), key=cost)


def first_step(
    terms: tuple[str, ...], pair: tuple[int, int], output: str, sizes: Sizes, may_merge: bool, cost: Cost
) -> Path | None:
    """The cheapest path that begins with this pair, or None where that step merges and may not."""
    left, right = terms[pair[0]], terms[pair[1]]
    rest = tuple(term for index, term in enumerate(terms) if index not in pair)
    needed = set(output).union(*rest)
    union = leading("".join(dict.fromkeys(left + right)), TOKENS)  # rows stay rows in memory
    result = output if not rest else "".join(letter for letter in union if letter in needed)
    if not may_merge and {"o", "i"} <= set(result) and TOKENS not in union:
        return None
    tail = cheapest_path((*rest, result), output, sizes, may_merge, cost)
    return tail.preceded((*pair, f"{left},{right}->{result}"), dict(sizes))
