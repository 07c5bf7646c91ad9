"""How close the factors of an equation can come to a tensor at best: a bound from the ranks of its unfoldings.

Divide the modes of a tensor into two sides: the unfolding that has one side as rows and the other as columns can have
no higher rank than the letters that tie the factors of the two sides together allow, whatever the factors hold. So no
factors leave less than the singular values that this rank drops (Eckart and Young, 1936). For SVD, FALCON and a basis
this is their error; for Tucker, with one mode against all others, the bound of HOSVD (De Lathauwer et al., 2000); for
CP and tensor trains the same argument.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product

import torch
from torch import Tensor

from lobert.factorizations.numerics import squared_singular_values


def squared_error_bound(equation: str, shapes: Sequence[tuple[int, ...]], tensor: Tensor) -> float:
    """No factors of these shapes have a smaller `||T - einsum(equation, factors)||²`; 0 where no unfolding says more.

    A mode that several factors share ties them entry by entry: for each of its indices the rest is a tensor of its
    own, and their bounds add up.
    """
    inputs, modes = equation.split("->")
    terms = inputs.split(",")
    sizes = {c: n for term, shape in zip(terms, shapes, strict=True) for c, n in zip(term, shape, strict=True)}
    shared = "".join(c for c in modes if sum(c in term for term in terms) > 1)
    free = "".join(c for c in modes if c not in shared)
    terms = ["".join(c for c in term if c not in shared) for term in terms]
    bounds = [0.0]
    for rows in sides(free):
        columns = "".join(c for c in free if c not in rows)
        rank = unfolding_rank(terms, rows, columns, sizes)
        if rank < min(total(rows, sizes), total(columns, sizes)):
            unfolding = torch.einsum(f"{modes}->{shared}{rows}{columns}", tensor)
            lengths = [total(side, sizes) for side in (shared, rows, columns)]
            bounds.append(squared_singular_values(unfolding.reshape(lengths))[:, rank:].sum().item())
    return max(bounds)


def sides(modes: str) -> Iterator[str]:
    """One side of every division of the modes into two: the smaller, or the one with the first mode."""
    for count in range(1, len(modes) // 2 + 1):
        for chosen in combinations(modes, count):
            if 2 * count < len(modes) or modes[0] in chosen:
                yield "".join(chosen)


def unfolding_rank(terms: Sequence[str], rows: str, columns: str, sizes: Mapping[str, int]) -> int:
    """The highest rank of the unfolding `[rows, columns]` of anything these factors can be.

    With every factor put on one of the sides, the unfolding is a product of two matrices that meet in the letters of
    both; the division of the factors that meets in the fewest numbers counts.
    """
    best = min(total(rows, sizes), total(columns, sizes))
    for above in product((True, False), repeat=len(terms)):
        first = set(rows).union(*(term for term, up in zip(terms, above, strict=True) if up))
        second = set(columns).union(*(term for term, up in zip(terms, above, strict=True) if not up))
        best = min(best, total("".join(first & second), sizes))
    return best


def total(letters: str, sizes: Mapping[str, int]) -> int:
    """How many numbers these letters span."""
    return math.prod(sizes[c] for c in letters)
