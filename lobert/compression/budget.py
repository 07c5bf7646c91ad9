"""How much rank each group gets: one budget, spent where it buys the most.

Every group offers some sizes, each with its cost and its error; the choice with the smallest total error within a
budget is found by a multiplier on the costs (Everett, 1963), which gives a certified lower bound on that error, too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lobert.errors import LobertError
from lobert.factorizations import Rank
from lobert.factorizations.dial import NEAR

ALIGNMENT = 8  # products of matrices are fastest at multiples of it, in wide vectors as in tensor cores
ENOUGH = 24  # aligned sizes of a group: fewer are too large steps


@dataclass(frozen=True)
class Option:
    """One size of a group: its rank (None: left dense), what it costs and the squared error it leaves."""

    rank: Rank | None
    cost: int
    error: float


@dataclass(frozen=True)
class PairOption(Option):
    """One size of two groups together, whose costs depend on each other; its rank is None where both are dense."""

    halves: tuple[Option, Option]


@dataclass(frozen=True)
class Allocation:
    """One option for each group, and a lower bound on the total error of any choice within the budget."""

    options: list[Option]
    bound: float

    @property
    def error(self) -> float:
        return sum(option.error for option in self.options)

    def story(self, unit: str) -> str:
        """One line: what was spent, in which unit, what error is left, and how much of it no choice could avoid."""
        dense = sum(option.rank is None for option in self.options)
        above = f"at most {self.error / self.bound - 1:.1%} above" if self.bound else "not proven to be near"
        return (
            f"{self.cost:,} {unit} in {len(self.options)} groups, {dense} of them dense; "
            f"the error left is {above} the smallest possible"
        )

    @property
    def cost(self) -> int:
        return sum(option.cost for option in self.options)


def allocate(
    groups: Sequence[Sequence[Option]], budget: float, preferred: Sequence[Sequence[Option]] | None = None
) -> Allocation:
    """The options, one for each group, with the smallest total error whose costs add up to `budget` at most.

    Optimal for the cost that the multiplier reaches; what it leaves over is spent greedily. With `preferred`, some of
    each group's options, it is one of these, but for the last of a budget of which they leave more than a hundredth.
    The bound is over all. Raises LobertError where even the cheapest options cost more.
    """
    chosen, bound = best_buys(groups, budget)
    if preferred is not None:
        chosen = spend_rest(preferred, best_buys(preferred, budget)[0], budget)
    if preferred is None or sum(option.cost for option in chosen) < NEAR * budget:
        chosen = spend_rest(groups, chosen, budget)
    return Allocation(chosen, bound)


def best_buys(groups: Sequence[Sequence[Option]], budget: float) -> tuple[list[Option], float]:
    """The best choice at the smallest price at which it is within the budget, and a bound: no choice has less error."""
    fronts = [convex_front(options) for options in groups]
    least = sum(front[0].cost for front in fronts)
    if least > budget:
        raise LobertError(f"the budget allows {math.floor(budget):,}, and even the smallest ranks cost {least:,}")
    price = price_within(fronts, budget)
    chosen = [cheapest(front, price) for front in fronts]
    bound = sum(option.error + price * option.cost for option in chosen) - price * budget
    return chosen, max(0.0, bound)


def aligned(options: Sequence[Option]) -> Sequence[Option]:
    """Those of a group's options whose rank, one number, is a multiple of ALIGNMENT or below it; all, where few are."""
    found = [option for option in options if option.rank is None or is_aligned(option.rank)]
    return found if len(found) >= ENOUGH else options


def is_aligned(rank: Rank) -> bool:
    """Whether it is; of several numbers some are sizes of a stack, and no sides of matrices."""
    return len(rank) == 1 and (rank[0] < ALIGNMENT or rank[0] % ALIGNMENT == 0)


def convex_front(options: Sequence[Option]) -> list[Option]:
    """The options on the lower convex hull of error over cost, by rising cost: no others are ever the best buy."""
    front: list[Option] = []
    for option in sorted(options, key=lambda o: (o.cost, o.error)):
        if front and option.error >= front[-1].error:
            continue
        while len(front) > 1 and gain(front[-1], option) >= gain(front[-2], front[-1]):
            front.pop()
        front.append(option)
    return front


def gain(smaller: Option, larger: Option) -> float:
    """Error that the larger option saves, per unit of cost."""
    return (smaller.error - larger.error) / (larger.cost - smaller.cost)


def price_within(fronts: Sequence[Sequence[Option]], budget: float) -> float:
    """The smallest price of a unit of cost at which the best buys stay within the budget."""
    prices = sorted({gain(*pair) for front in fronts for pair in pairwise(front)})
    low, high = 0, len(prices)  # at prices[k] only gains above it are bought; with none of them, the cheapest options
    steps = [0.0, *prices]
    while low < high:
        middle = (low + high) // 2
        fits = sum(cheapest(front, steps[middle]).cost for front in fronts) <= budget
        low, high = (low, middle) if fits else (middle + 1, high)
    return steps[low]


def cheapest(front: Sequence[Option], price: float) -> Option:
    """The option with the smallest error plus price times cost; of equals the one that costs less."""
    best = front[0]
    for option in front[1:]:
        if gain(best, option) <= price:
            break
        best = option
    return best


def spend_rest(groups: Sequence[Sequence[Option]], chosen: Sequence[Option], budget: float) -> list[Option]:
    """Buy the best gain that still fits, until nothing does."""
    options = list(chosen)
    while True:
        left = budget - sum(option.cost for option in options)
        offers = [
            (gain(now, offer), number, offer)
            for number, (now, group) in enumerate(zip(options, groups, strict=True))
            for offer in group
            if now.cost < offer.cost <= now.cost + left and offer.error < now.error
        ]
        if not offers:
            return options
        _, number, offer = max(offers, key=lambda o: o[0])
        options[number] = offer
