"""Factors without redundant numbers: r² fewer for every rank r that joins a matrix to one other factor.

In `W = A B` any invertible M may stand between the factors, `(A M) (M⁻¹ B)`. With the M that turns r columns of B into
the identity, B is `[I | T]` up to the order of its columns, and T is all of it that has to be kept: r (out + in - r)
numbers hold what r (out + in) did. As the r columns those are chosen that make T small (Goreinov et al. 2010). For
pairs of matrices this is the interpolative form (Cheng et al. 2005; Zhao et al. 2025); a Tucker decomposition has two
such factors.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lobert.factorizations.base import Bond, Factorization, Rank, RankSetting, Shape, rank_letters

GROWTH = 2.0  # entries of T up to this are small enough; the best columns would have 1


class Pivoted(Factorization):
    """A factorization whose matrices are kept as `[I | T]`; its factors as such are the same."""

    def __init__(self, method: Factorization) -> None:
        self.method = method
        self.name, self.GRID = f"pivoted_{method.name}", method.GRID

    def equation(self, stack: str) -> str:
        return self.method.equation(stack)

    def full_rank(self, shape: Shape) -> Rank:
        return self.method.full_rank(shape)

    def decompose(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        return self.method.decompose(tensor, rank)

    def closed_form(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        return self.method.closed_form(tensor, rank)

    def start(self, tensor: Tensor, rank: Rank, closed_form: list[Tensor], enough: float) -> list[Tensor]:
        return self.method.start(tensor, rank, closed_form, enough)

    def finish(self, tensor: Tensor, rank: Rank, closed_form: list[Tensor]) -> list[Tensor]:
        return self.method.finish(tensor, rank, closed_form)

    def gain(self, shape: Shape) -> float:
        return self.method.gain(shape)

    def scaled_rank(self, shape: Shape, size: int, default: Rank) -> Rank:
        return self.method.scaled_rank(shape, size, default)

    def useful(self, shape: Shape, rank: Rank) -> Rank:
        return self.method.useful(shape, rank)

    def dial_length(self, shape: Shape, default: Rank) -> int:
        return self.method.dial_length(shape, default)

    def squared_errors(self, stack: str, tensor: Tensor, ranks: Sequence[Rank]) -> list[float]:
        return self.method.squared_errors(stack, tensor, ranks)

    def resolve_rank(self, shape: Shape, setting: RankSetting) -> Rank:
        return self.method.resolve_rank(shape, setting)

    def bonds(self, stack: str, shape: Shape, rank: Rank) -> list[Bond]:
        return find_bonds(self.equation(stack), self.factor_shapes(stack, shape, rank))


def find_bonds(equation: str, shapes: Sequence[Shape]) -> list[Bond]:
    """The ranks between a matrix `[r, n]`, n > r rows or columns of the weights, and one other factor.

    Of two such matrices the shorter one counts: less has to be put together when it is used.
    """
    terms = equation.split("->")[0].split(",")
    bonds = []
    for letter in rank_letters(equation):
        holders = [position for position, term in enumerate(terms) if letter in term]
        matrices = [p for p in holders if terms[p] in (f"{letter}o", f"{letter}i") and shapes[p][1] > shapes[p][0]]
        if len(holders) == 2 and matrices:
            factor = min(matrices, key=lambda p: shapes[p][1])
            partner = holders[1 - holders.index(factor)]
            if not set(terms[factor]) & set(terms[partner]) - {letter}:
                bonds.append(Bond(letter, factor, partner, terms[partner].index(letter)))
    return bonds


def pivot(matrix: Tensor, partner: Tensor, mode: int) -> tuple[Tensor, Tensor, Tensor]:
    """`matrix [r, n]` as `[I | T]`, its partner to match, whose `mode` meets it, and where the identity stands.

    Returns `T [r, n - r]`, the partner, and `[n]` booleans, True for the columns of the identity, in their order.
    """
    basis, mixing = torch.linalg.qr(matrix.mT)  # [n, r], [r, r]: spans even what a matrix of lower rank leaves open
    chosen = dominant_rows(basis)
    places = torch.zeros(len(basis), dtype=torch.bool).index_fill(0, chosen, True)
    square = basis[places]
    rest = torch.linalg.solve(square.mT, basis[~places].mT)
    turned = torch.movedim(torch.movedim(partner, mode, -1) @ (square @ mixing).mT, -1, mode)
    return rest, turned.contiguous(), places


def balanced(matrix: Tensor, partner: Tensor, mode: int) -> tuple[Tensor, Tensor]:
    """The pair of `matrix [r, n]` and its partner, whose `mode` meets it, with terms of one strength on both sides.

    What a truncated SVD of their product gives, `A √Σ` and `√Σ B`.
    """
    rows = torch.movedim(partner.cpu().double(), mode, -1)
    outer, first = torch.linalg.qr(rows.flatten(0, -2))
    inner, second = torch.linalg.qr(matrix.cpu().double().mT)
    if first.shape[0] < first.shape[1]:  # fewer terms than the rank; the others may have something to learn
        return matrix, partner
    left, strength, right = torch.linalg.svd(first @ second.mT)
    root = strength.sqrt()
    turned = ((outer @ left) * root).reshape(rows.shape)
    found = torch.movedim(turned, -1, mode).contiguous()
    return (root.unsqueeze(1) * right @ inner.mT).to(matrix), found.to(partner)


def dominant_rows(basis: Tensor) -> Tensor:
    """Which r rows of `basis [n, r]` span the others by coefficients of at most GROWTH.

    Those of an LU decomposition with pivoting, and then the row that would be the largest multiple for the one it is a
    multiple of, which adds at least as much to their volume, until none is (Goreinov et al. 2010, maxvol).
    """
    order = torch.arange(len(basis))
    for row, other in enumerate(torch.linalg.lu_factor(basis)[1].tolist()):
        order[[row, other - 1]] = order[[other - 1, row]]
    chosen = order[: basis.shape[1]].clone()
    spanned = torch.linalg.solve(basis[chosen].mT, basis.mT).mT.contiguous()  # [n, r]
    while True:
        largest = int(spanned.abs().argmax())
        row, place = divmod(largest, basis.shape[1])
        if spanned[row, place].abs() <= GROWTH:
            return chosen
        change = spanned[row].clone()
        change[place] -= 1
        spanned.addr_(spanned[:, place] / spanned[row, place], change, alpha=-1)
        chosen[place] = row
