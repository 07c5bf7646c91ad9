"""The cheapest chain of products for a linear map that is one einsum equation, to be applied again and again.

All operands but the variable stay the same, so what the variable is to be multiplied by is formed once, and remembered
for other maps that share it; which products that should be is found by dynamic programming.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from lobert.factorizations.orders import Sizes
from lobert.factorizations.product import product

REPEATS = 4  # times that a chain is expected to be run
TRAFFIC = 16  # multiply-adds that take as long as reading or writing one number
MOST = 1 << 26  # numbers in an intermediate result

Tree = str | tuple["Tree", "Tree", str]  # the term of an operand, or what two trees give by an equation


@dataclass(frozen=True)
class Chain:
    """The steps of a variable: each an equation whose first operand it is, and the tree of the second one.

    `once` are the multiply-adds of all trees, `each` those of one run through the steps.
    """

    steps: tuple[tuple[str, Tree], ...]
    once: int
    each: int


@lru_cache(maxsize=1024)
def cheapest_chain(terms: tuple[str, ...], variable: str, output: str, sizes: Sizes) -> Chain | None:
    """The cheapest chain by which `variable` becomes `output`; None where every one has intermediates above MOST.

    Exact, by dynamic programming over the subsets of `terms`; a step costs its multiply-adds and its memory traffic.
    """
    return ChainSearch(terms, variable, output, dict(sizes)).chain()


def form(tree: Tree, operands: Mapping[str, Tensor], formed: dict[Tree, Tensor]) -> Tensor:
    """What a tree of these operands, by term, stands for; its parts are looked up in `formed`, and remembered there."""
    if isinstance(tree, str):
        return operands[tree]
    if tree not in formed:
        left, right, equation = tree
        formed[tree] = product(equation, form(left, operands, formed), form(right, operands, formed))
    return formed[tree]


def leaves(tree: Tree) -> set[str]:
    """The terms of the operands of a tree."""
    return {tree} if isinstance(tree, str) else leaves(tree[0]) | leaves(tree[1])


class ChainSearch:
    """Subsets of the operands and of the letters are bit masks; `kept` are the letters that a subset's product has."""

    def __init__(self, terms: tuple[str, ...], variable: str, output: str, sizes: dict[str, int]) -> None:
        self.terms, self.variable, self.output = terms, variable, output
        self.letters = sorted(sizes, key=lambda letter: (letter not in "sl", letter))  # what is a batch comes first
        self.sizes = [sizes[letter] for letter in self.letters]
        self.volumes: dict[int, int] = {}
        self.whole = (1 << len(terms)) - 1
        self.start, end = self.mask(variable), self.mask(output)
        inside = [0] * (self.whole + 1)
        for subset in range(1, self.whole + 1):
            last = subset & -subset
            inside[subset] = inside[subset ^ last] | self.mask(terms[last.bit_length() - 1])
        self.kept = [own & (inside[self.whole ^ s] | self.start | end) for s, own in enumerate(inside)]
        self.reached = [(own | self.start) & (inside[self.whole ^ s] | end) for s, own in enumerate(inside)]

    def chain(self) -> Chain | None:
        """The steps found by going back from the whole."""
        forming, halves = self.cheapest_trees()
        reaching, joined = self.cheapest_ways(forming)
        if math.isinf(reaching[self.whole]):
            return None
        steps, each, subset = [], 0, self.whole
        while subset:
            last, before = joined[subset], subset ^ joined[subset]
            first = self.word(self.reached[before]) if before else self.variable
            result = self.output if subset == self.whole else self.word(self.reached[subset])
            steps.append((f"{first},{self.term(last)}->{result}", self.tree(last, halves)))
            each += self.volume(self.reached[before] | self.kept[last])
            subset = before
        once = sum(multiply_adds(self, step[1]) for step in steps)
        return Chain(tuple(reversed(steps)), once, each)

    def cheapest_trees(self) -> tuple[list[float], list[int]]:
        """Of every subset: the cost of its product, and one half of the last step that forms it."""
        costs, halves = [0.0] * (self.whole + 1), [0] * (self.whole + 1)
        for subset in range(1, self.whole + 1):
            last = subset & -subset
            if subset == last:
                continue
            best, half = math.inf, (subset - 1) & subset
            while half:
                if half & last and (parts := costs[half] + costs[subset ^ half]) < best:
                    cost = parts + self.step(self.kept[half], self.kept[subset ^ half], self.kept[subset])
                    if cost < best:
                        best, halves[subset] = cost, half
                half = (half - 1) & subset
            costs[subset] = best
        return costs, halves

    def cheapest_ways(self, forming: list[float]) -> tuple[list[float], list[int]]:
        """Of every subset: the cost of multiplying the variable by all of it, and the part that comes last."""
        costs, joined = [math.inf] * (self.whole + 1), [0] * (self.whole + 1)
        costs[0] = 0.0
        for subset in range(1, self.whole + 1):
            part = subset
            while part:
                before = subset ^ part
                cost = costs[before] + forming[part]
                if cost < costs[subset]:
                    cost += REPEATS * self.step(self.reached[before], self.kept[part], self.reached[subset])
                    if cost < costs[subset]:
                        costs[subset], joined[subset] = cost, part
                part = (part - 1) & subset
        return costs, joined

    def step(self, left: int, right: int, result: int) -> float:
        """Cost of one product, by the letters of its operands and of its result."""
        if self.volume(result) > MOST:
            return math.inf
        return self.volume(left | right) + TRAFFIC * sum(map(self.volume, (left, right, result)))

    def volume(self, letters: int) -> int:
        """How many numbers a tensor with these letters has."""
        if letters not in self.volumes:
            chosen = (size for place, size in enumerate(self.sizes) if letters >> place & 1)
            self.volumes[letters] = math.prod(chosen)
        return self.volumes[letters]

    def tree(self, subset: int, halves: list[int]) -> Tree:
        half = halves[subset]
        if not half:
            return self.term(subset)
        equation = f"{self.term(half)},{self.term(subset ^ half)}->{self.term(subset)}"
        return self.tree(half, halves), self.tree(subset ^ half, halves), equation

    def term(self, subset: int) -> str:
        """The letters of a subset's product in the order in which it has them."""
        return self.word(self.kept[subset]) if subset & (subset - 1) else self.terms[subset.bit_length() - 1]

    def mask(self, term: str) -> int:
        return sum(1 << self.letters.index(letter) for letter in set(term))

    def word(self, letters: int) -> str:
        return "".join(letter for place, letter in enumerate(self.letters) if letters >> place & 1)


def multiply_adds(search: ChainSearch, tree: Tree) -> int:
    """Of forming a tree."""
    if isinstance(tree, str):
        return 0
    left, right, equation = tree
    step = search.volume(search.mask(equation.split("->")[0].replace(",", "")))
    return step + multiply_adds(search, left) + multiply_adds(search, right)
