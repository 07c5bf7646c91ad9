"""The one dial of a factorization, from its smallest rank to its full one, and the largest rank within a budget."""

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lobert.errors import TooSmall
from lobert.factorizations.base import Factorization, Rank, Shape

NEAR = 0.99  # of a budget, which a rank has to come to where one does
Cost = Callable[[Rank], int]  # which grows along the dial


@dataclass(frozen=True)
class Dial:
    """The ranks that a method goes through for tensors of this shape; `default` is the rank it is given otherwise."""

    method: Factorization
    shape: Shape
    default: Rank

    @property
    def length(self) -> int:
        return self.method.dial_length(self.shape, self.default)

    def at(self, size: int) -> Rank:
        """The rank at position 1, 2, ... `length`."""
        return self.method.scaled_rank(self.shape, size, self.default)

    def ranks(self, most: int | None = None) -> list[Rank]:
        """Small to large: all, or `most` of them in even steps."""
        last = self.length
        count = min(last, most or last)
        sizes = {max(1, round(last * (position + 1) / count)) for position in range(count)}
        return list(dict.fromkeys(map(self.at, sorted(sizes))))

    def candidates(self, cost: Cost, most: int) -> list[Rank]:
        """Ranks of growing size that cost less than `most`, for an allocation to choose among.

        A grid has the smallest rank, and its steps grow with the cost: small ones are where the errors fall.
        """
        grid = self.method.GRID
        if grid is None:
            return [rank for rank in self.ranks() if cost(rank) < most]
        budgets = [most * (position / grid) ** 2 for position in range(1, grid)]
        found = [self.largest(cost, budget) for budget in [*budgets, most - 1]]
        return list(dict.fromkeys(rank for rank in (self.at(1), *found) if rank is not None and cost(rank) < most))

    def keeping(self, stack: str, keep: float) -> Rank:
        """The largest rank whose factors hold at most `keep` times the numbers of the tensor.

        Raises TooSmall where even the smallest rank holds more.
        """

        def cost(rank: Rank) -> int:
            return self.method.parameters(stack, self.shape, rank)

        rank = self.largest(cost, keep * math.prod(self.shape))
        if rank is None:
            least = cost(self.at(1)) / math.prod(self.shape)
            raise TooSmall(
                f"keep={keep:g} is too small for {self.method.name} on {list(self.shape)}: its smallest rank keeps "
                f"{least:.4f}",
                least,
            )
        return rank

    def largest(self, cost: Cost, budget: float) -> Rank | None:
        """The last rank on the dial whose cost is within the budget; None where none is.

        Where that leaves more than a hundredth of the budget, a costlier one between it and the next on the dial.
        """
        last = self.length
        size = last_within(last, lambda size: cost(self.at(size)), budget)
        if not size or size == last:
            return self.at(size) if size else None
        return self._between(self.at(size), self.at(size + 1), cost, budget)

    def _between(self, low: Rank, high: Rank, cost: Cost, budget: float) -> Rank:
        """The costliest rank within the budget that has some entries of `low` and some of `high`, or `low`.

        Where that is not enough, one with some entries of `high` and the longest others as large as they can be beside
        them: a stack's entry is a large step.
        """
        mixed = list(self._mixed(low, high))
        found = max((rank for rank in (low, *mixed) if cost(rank) <= budget), key=cost)
        if cost(found) >= NEAR * budget:
            return found
        shorter = [self._shortened(low, rank, cost, budget) for rank in mixed]
        return max((found, *(rank for rank in shorter if rank is not None)), key=cost)

    def _mixed(self, low: Rank, high: Rank) -> Iterable[Rank]:
        """All ranks with some of the entries that grow from `low` to `high` as in `high`."""
        grown = [place for place, (a, b) in enumerate(zip(low, high, strict=True)) if a < b]
        for count in range(1, len(grown) + 1):
            for taken in itertools.combinations(grown, count):
                mixed = tuple(high[place] if place in taken else entry for place, entry in enumerate(low))
                yield self.method.useful(self.shape, mixed)

    def _shortened(self, low: Rank, high: Rank, cost: Cost, budget: float) -> Rank | None:
        """`high` with its entries above the sizes of the stack, where they are those of `low`, as large as they can be.

        None where even the smallest are too large.
        """
        stack = max(self.shape[:-2], default=0)
        long = [place for place, (a, b) in enumerate(zip(low, high, strict=True)) if a == b > stack]
        most = max((high[place] for place in long), default=0)

        def at(size: int) -> Rank:
            entries = tuple(n * size // most if place in long else n for place, n in enumerate(high))
            return self.method.useful(self.shape, entries)

        size = last_within(most, lambda size: cost(at(size)), budget)
        return at(size) if size and min(at(size)) > 0 else None


def last_within(last: int, cost: Callable[[int], int], budget: float) -> int:
    """The last of 1, 2, ... `last` whose cost, which grows with it, is within the budget; 0 where none is."""
    low, high = 0, last
    while low < high:  # bisect
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(middle) <= budget else (low, middle - 1)
    return low
