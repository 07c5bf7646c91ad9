"""The law of products of two tensors: whatever way they are computed, they are those of torch.einsum."""

import pytest
import torch

from lobert.factorizations.product import FewOrMany, Overlap, product, product_by

SIZES = {"a": 7, "b": 5, "c": 6, "d": 2}
EQUATIONS = [
    *("abc,acb->a", "abc,acb->ca", "abc,abc->b", "ab,ba->a", "dabc,cdba->bd", "dabc,abcd->d"),  # entry by entry
    *("abc,abc->", "ab,bc->ac", "ab,bc->ca", "abc,bd->acd", "abc,abd->acd", "abc,a->abc", "abc,c->ab", "dab,db->a"),
]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("equation", EQUATIONS)
def test_a_product_is_that_of_einsum(equation: str, transposed: bool) -> None:
    torch.manual_seed(0)
    terms = equation.split("->")[0].split(",")
    operands = [torch.randn([SIZES[c] for c in term], dtype=torch.float64) for term in terms]
    if transposed:  # in memory alone
        operands = [
            x.permute(*reversed(range(x.dim()))).contiguous().permute(*reversed(range(x.dim()))) for x in operands
        ]
    torch.testing.assert_close(product(equation, *operands), torch.einsum(equation, *operands))


@pytest.mark.parametrize("equation", EQUATIONS)
def test_entry_by_entry_are_those_of_the_same_letters(equation: str) -> None:
    left, right = equation.split("->")[0].split(",")
    batched = bool(set(left) & set(right) & set(equation.split("->")[1]))
    found = product_by(equation)
    many = found.many if isinstance(found, FewOrMany) else found
    assert isinstance(many, Overlap) == (set(left) == set(right) and batched)
