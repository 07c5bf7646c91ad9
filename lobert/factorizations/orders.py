"""Cheapest pairwise order of an einsum, found among all of them, which are not many, and remembered.

Terms and outputs are einsum strings; a path that runs an input through the factors and a path that merges the factors
first are points of the same search.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from lobert.factorizations.contraction import TOKENS, Path, Step, leading

Sizes = tuple[tuple[str, int], ...]  # sorted (letter, size) pairs: hashable


class Counts(NamedTuple):
    """What steps cost.

    Attributes:
        forming: multiply-adds of those that no token takes part in.
        running: those of the others.
        reading: numbers that these read of operands without tokens.
    """

    forming: int = 0
    running: int = 0
    reading: int = 0

    def plus(self, other: "Counts") -> "Counts":
        return Counts(self.forming + other.forming, self.running + other.running, self.reading + other.reading)


Cost = Callable[[Counts], int]


def once(counts: Counts) -> int:
    """The cost of a path that is gone through once, all of it."""
    return counts.forming + counts.running


def again(counts: Counts) -> int:
    """The cost of a path to go through again: what takes no tokens is kept, and read."""
    return counts.running + counts.reading


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
    return PathSearch(terms, output, dict(sizes), may_merge, cost).path()


@lru_cache
def halves_of(subset: int) -> tuple[int, ...]:
    """Of every way to part a subset in two the half with its lowest bit, the larger ones first."""
    lowest = subset & -subset
    halves = [half for half in range(1, subset) if half & subset == half and half & lowest]
    return tuple(sorted(halves, key=lambda half: (-half.bit_count(), half)))


class PathSearch:
    """Dynamic programming over the subsets of the operands, which are bit masks: costs of steps add up.

    Attributes:
        kept: the letters of every subset's product: those that the output has or another operand needs.
    """

    def __init__(self, terms: tuple[str, ...], output: str, sizes: dict[str, int], may_merge: bool, cost: Cost) -> None:
        self.terms, self.output, self.sizes, self.may_merge, self.cost = terms, output, sizes, may_merge, cost
        self.whole = (1 << len(terms)) - 1
        inside = [frozenset[str]()] * (self.whole + 1)
        for subset in range(1, self.whole + 1):
            last = subset & -subset
            inside[subset] = inside[subset ^ last].union(terms[last.bit_length() - 1])
        self.kept = [own & inside[self.whole ^ subset].union(output) for subset, own in enumerate(inside)]
        for place, term in enumerate(terms):
            self.kept[1 << place] = frozenset(term)
        self.volumes: dict[frozenset[str], int] = {}

    def path(self) -> Path:
        """The steps that end in the whole."""
        counts, halves = self.cheapest()
        pool, words, steps = [1 << place for place in range(len(self.terms))], list(self.terms), list[Step]()

        def form(subset: int) -> None:
            if subset not in pool:
                parts = halves[subset], subset ^ halves[subset]
                for part in parts:
                    form(part)
                left, right = sorted(map(pool.index, parts))
                result = self.word(words[left] + words[right], subset)
                steps.append((left, right, f"{words[left]},{words[right]}->{result}"))
                pool[:] = [*pool[:left], *pool[left + 1 : right], *pool[right + 1 :], subset]
                words[:] = [*words[:left], *words[left + 1 : right], *words[right + 1 :], result]

        form(self.whole)
        return Path(tuple(steps), counts.forming, counts.running)

    def cheapest(self) -> tuple[Counts, list[int]]:
        """The least cost of the whole, and of every subset one half of the last step that forms it."""
        best: list[Counts | None] = [None] * (self.whole + 1)
        halves = [0] * (self.whole + 1)
        for subset in range(1, self.whole + 1):
            if subset.bit_count() == 1:
                best[subset] = Counts()
            for half in halves_of(subset):
                if (found := self.joined(best, half, subset)) is not None:
                    known = best[subset]
                    if known is None or self.cost(found) < self.cost(known):
                        best[subset], halves[subset] = found, half
        counts = best[self.whole]
        assert counts is not None, "every order merges"
        return counts, halves

    def joined(self, best: Sequence[Counts | None], half: int, subset: int) -> Counts | None:
        """The cost of forming a subset from two halves; None where that cannot or may not be."""
        first, second = best[half], best[subset ^ half]
        if first is None or second is None:
            return None
        terms = self.kept[half], self.kept[subset ^ half]
        letters = terms[0] | terms[1]
        if TOKENS in letters:
            reading = sum(self.volume(term) for term in terms if TOKENS not in term)
            return first.plus(second).plus(Counts(0, self.volume(letters), reading))
        if not self.may_merge and self.kept[subset] >= {"o", "i"}:
            return None
        return first.plus(second).plus(Counts(self.volume(letters)))

    def volume(self, letters: frozenset[str]) -> int:
        """How many numbers a tensor with these letters has."""
        if letters not in self.volumes:
            self.volumes[letters] = math.prod(self.sizes[letter] for letter in letters)
        return self.volumes[letters]

    def word(self, letters: str, subset: int) -> str:
        """The letters of a subset's product in order; rows stay rows in memory."""
        if subset == self.whole:
            return self.output
        ordered = leading("".join(dict.fromkeys(letters)), TOKENS)
        return "".join(letter for letter in ordered if letter in self.kept[subset])
