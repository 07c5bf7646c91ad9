"""Laws of the factors kept as `[I | T]`: the same tensor from fewer numbers, none of them too many or too large."""

import pytest
import torch
from cases import GROUPS, one_sentence, random_factors, random_tensor, rank_ladder
from torch import Tensor

from lobert.errors import LobertError
from lobert.factorizations import FACTORIZATIONS, Pivoted, Shape
from lobert.factorizations.base import Bond
from lobert.factorizations.pivoted import GROWTH, dominant_rows, find_bonds
from lobert.layers.group import FactorGroup

PIVOTED = [group for group in GROUPS if isinstance(FACTORIZATIONS[group[0]], Pivoted)]
BONDS = [  # equation, its factors' shapes, the bonds
    ("ro,ri->oi", [(4, 12), (4, 18)], [Bond("r", 0, 1, 0)]),
    ("ro,ri->oi", [(4, 18), (4, 12)], [Bond("r", 1, 0, 0)]),
    (
        "ro,ri->oi",
        [(12, 12), (12, 18)],
        [Bond("r", 1, 0, 0)],
    ),  # the shorter one would be all identity
    ("ro,ri->oi", [(9, 9), (9, 9)], []),
    ("rso,ri->soi", [(4, 3, 12), (4, 18)], [Bond("r", 1, 0, 0)]),
    ("abc,as,bo,ci->soi", [(2, 4, 5), (2, 3), (4, 12), (5, 18)], [Bond("b", 2, 0, 1), Bond("c", 3, 0, 2)]),
    ("sa,aob,bi->soi", [(3, 3), (3, 12, 4), (4, 18)], [Bond("b", 2, 1, 2)]),
    ("rso,roi->soi", [(1, 3, 12), (1, 12, 18)], []),  # they share the rows, so no matrix goes between them
    ("rs,ro,ri->soi", [(4, 3), (4, 12), (4, 18)], []),  # three of them meet in r
]


def group_of(name: str, stack: str, shape: Shape, rank: tuple[int, ...]) -> FactorGroup:
    return FactorGroup(FACTORIZATIONS[name], stack, shape, rank).double()


def tensor_of(group: FactorGroup) -> Tensor:
    return torch.einsum(group.equation, *group.whole_factors())


@pytest.mark.parametrize(("equation", "shapes", "bonds"), BONDS)
def test_the_bonds_of_an_equation(equation: str, shapes: list[Shape], bonds: list[Bond]) -> None:
    assert find_bonds(equation, shapes) == bonds


@pytest.mark.parametrize("content", ["random", "zero", "lower rank", "ill-conditioned"])
@pytest.mark.parametrize(("name", "stack", "shape"), PIVOTED)
def test_the_tensor_is_that_of_the_factors(name: str, stack: str, shape: Shape, content: str) -> None:
    for rank in rank_ladder(name, shape):
        factors = random_factors(name, stack, shape, rank)
        for number, factor in enumerate(factors):
            if content == "zero":
                factor.zero_()
            elif content == "lower rank":
                factor[-1] = factor[0]
            elif content == "ill-conditioned":
                factor *= torch.logspace(0, -8, len(factor), dtype=torch.float64).reshape(-1, *[1] * (factor.dim() - 1))
                factor *= 1e4 if number else 1e-6
        group = group_of(name, stack, shape, rank)
        group.set_factors(factors)
        wanted = torch.einsum(group.equation, *factors)
        torch.testing.assert_close(tensor_of(group).detach(), wanted, rtol=0, atol=1e-9 * wanted.abs().max().item())


@pytest.mark.parametrize(("name", "stack", "shape"), PIVOTED)
def test_the_numbers_kept_are_the_parameters(name: str, stack: str, shape: Shape) -> None:
    """And as many fewer than those of the factors as the bonds' ranks have squares; never more than the tensor's."""
    method = FACTORIZATIONS[name]
    assert isinstance(method, Pivoted)
    for rank in rank_ladder(name, shape):
        group = group_of(name, stack, shape, rank)
        kept = sum(parameter.numel() for parameter in group.parameters())
        ranks = [len(group.whole_factors()[bond.factor]) for bond in group.bonds]
        assert kept == method.parameters(stack, shape, rank)
        assert kept == method.method.parameters(stack, shape, rank) - sum(r**2 for r in ranks)


@pytest.mark.parametrize("shape", [(12, 18), (18, 12), (9, 9), (1, 7)])
def test_pivoted_svd_never_holds_more_than_the_matrix(shape: Shape) -> None:
    method = FACTORIZATIONS["pivoted_svd"]
    below_full = range(1, min(shape) + (shape[0] != shape[1]))
    assert all(method.parameters("", shape, (rank,)) <= shape[0] * shape[1] for rank in below_full)


@pytest.mark.parametrize(
    ("name", "stack", "shape"), [group for group in PIVOTED if group[0] in ("pivoted_svd", "pivoted_basis")]
)
def test_no_number_is_redundant(name: str, stack: str, shape: Shape) -> None:
    """As many directions in which the tensor can move as there are numbers: the rank of the Jacobian."""
    for rank in rank_ladder(name, shape, steps=3)[:-1]:
        group = group_of(name, stack, shape, rank)
        if not group.bonds:  # of full rank
            continue
        group.set_factors(random_factors(name, stack, shape, rank))
        kept = list(group.parameters())

        def moved(*values: Tensor, group: FactorGroup = group) -> Tensor:
            names = [f"group.{name}" for name, _ in group.named_parameters()]
            return torch.func.functional_call(Whole(group), dict(zip(names, values, strict=True)), ())

        jacobian = torch.autograd.functional.jacobian(moved, tuple(kept), vectorize=True)
        matrix = torch.cat([part.reshape(moved(*kept).numel(), -1) for part in jacobian], 1)
        assert torch.linalg.matrix_rank(matrix, rtol=1e-9) == sum(value.numel() for value in kept)


class Whole(torch.nn.Module):
    def __init__(self, group: FactorGroup) -> None:
        super().__init__()
        self.group = group

    def forward(self) -> Tensor:
        return tensor_of(self.group)


@pytest.mark.parametrize(("name", "stack", "shape"), PIVOTED)
def test_no_entry_is_large_and_the_factors_of_a_bond_are_alike(name: str, stack: str, shape: Shape) -> None:
    for rank in rank_ladder(name, shape):
        group = group_of(name, stack, shape, rank)
        group.set_factors(FACTORIZATIONS[name].decompose(random_tensor(shape), rank))
        for bond in group.bonds:
            unit = group.pivots[str(bond.factor)].unit
            assert isinstance(unit, Tensor)
            assert group.factors[bond.factor].abs().max() <= GROWTH * unit * (1 + 1e-9)
        if len(group.bonds) == 1 and len(group.factors) == 2:
            first, second = (factor.norm().item() for factor in group.whole_factors())
            assert first == pytest.approx(second)


@pytest.mark.parametrize("scale", [1.0, 1e-6])
@pytest.mark.parametrize("shape", [(40, 7), (25, 24), (9, 1), (300, 64)])
def test_dominant_rows_span_the_others_by_small_coefficients(shape: Shape, scale: float) -> None:
    rows = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    rows[: len(rows) // 2] *= scale
    basis = torch.linalg.qr(rows)[0]
    chosen = dominant_rows(basis)
    assert len(set(chosen.tolist())) == shape[1]
    assert (basis @ torch.linalg.inv(basis[chosen])).abs().max() <= GROWTH * (1 + 1e-9)


@pytest.mark.parametrize(("name", "stack", "shape"), PIVOTED)
def test_what_is_loaded_into_another_group_is_the_same_tensor(name: str, stack: str, shape: Shape) -> None:
    """The columns of the identity come along."""
    rank = rank_ladder(name, shape)[2]
    first, second = (group_of(name, stack, shape, rank) for _ in range(2))
    first.set_factors(random_factors(name, stack, shape, rank))
    for assign in (False, True):
        second.load_state_dict(first.state_dict(), assign=assign)
        with torch.no_grad():
            assert torch.equal(tensor_of(first), tensor_of(second))


@pytest.mark.parametrize("columns", [0, 7])
def test_an_identity_of_another_size_is_refused_in_a_sentence(columns: int) -> None:
    group = group_of("pivoted_svd", "", (12, 18), (4,))
    damaged = {**group.state_dict(), "pivots.0.places": torch.arange(12) < columns}
    with pytest.raises(LobertError, match=f"rank 4 has {columns} columns") as caught:
        group.load_state_dict(damaged)
    one_sentence(caught.value)


@pytest.mark.parametrize("content", ["random", "lower rank"])
@pytest.mark.parametrize(("name", "stack", "shape"), PIVOTED)
def test_unfolded_and_folded_again_it_is_the_same_tensor(name: str, stack: str, shape: Shape, content: str) -> None:
    """Unfolded, it has all numbers of the factors as parameters, and both factors of a bond are alike term by term."""
    method = FACTORIZATIONS[name]
    assert isinstance(method, Pivoted)
    for rank in rank_ladder(name, shape):
        factors, group = random_factors(name, stack, shape, rank), group_of(name, stack, shape, rank)
        if content == "lower rank":
            for factor in factors:
                factor[-1] = factor[0]
        group.set_factors(factors)
        wanted, folded = tensor_of(group).detach(), [parameter.shape for parameter in group.parameters()]
        group.unfold()
        assert sum(p.numel() for p in group.parameters()) == method.method.parameters(stack, shape, rank)
        assert all(parameter.requires_grad for parameter in group.parameters())
        torch.testing.assert_close(tensor_of(group).detach(), wanted, rtol=1e-9, atol=1e-9)
        if method.method.name == "svd" and group.bonds:
            left, right = group.factors
            torch.testing.assert_close(left @ left.T, right @ right.T, rtol=1e-9, atol=1e-9)
        with torch.no_grad():  # as training would
            for parameter in group.parameters():
                parameter.mul_(1.25)
        trained = tensor_of(group).detach()
        group.fold()
        assert [parameter.shape for parameter in group.parameters()] == folded
        torch.testing.assert_close(tensor_of(group).detach(), trained, rtol=1e-9, atol=1e-9)
