"""Laws of the sweeps that fit CP terms: no step adds to the error, and what rounding does stays small."""

import pytest
import torch
from cases import GROUPS, random_factors, random_tensor, rank_ladder
from torch import Tensor

from lobert.factorizations import FACTORIZATIONS, Shape, relative_error
from lobert.factorizations.cp import SWEEPS, WORK, affordable_sweeps, orthogonal_terms
from lobert.factorizations.cp_als import RELAXATION, Terms, alternating_least_squares, cholesky, conjugate_gradients

CP = [group[1:] for group in GROUPS if group[0] == "cp"]
MODES = "wxyz"


def dense(factors: list[Tensor]) -> Tensor:
    letters = MODES[: len(factors)]
    return torch.einsum(",".join("r" + mode for mode in letters) + "->" + letters, *factors)


def left_over(tensor: Tensor, factors: list[Tensor]) -> float:
    return (tensor - dense(factors)).double().square().sum().item()


def product_without(tensor: Tensor, factors: list[Tensor], mode: int) -> Tensor:
    """The tensor times all factors but one, `[r, size]`."""
    letters = MODES[: tensor.dim()]
    terms = [f"r{letter}" for letter in letters]
    own = terms.pop(mode)
    others = [factor for other, factor in enumerate(factors) if other != mode]
    return torch.einsum(f"{letters},{','.join(terms)}->{own}", tensor, *others)


@pytest.mark.parametrize("content", ["random", "parallel", "with zeros"])
@pytest.mark.parametrize("solve", [cholesky, conjugate_gradients])
@pytest.mark.parametrize("relaxation", [1.0, RELAXATION])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_step_adds_to_the_error(content: str, solve: object, relaxation: float, dtype: torch.dtype) -> None:
    shape, rank = (3, 4, 9, 8), 12
    tensor = random_tensor(shape).to(dtype)
    factors = [factor.to(dtype) for factor in random_factors("cp", "sl", shape, (rank,))]
    if content != "random":
        for factor in factors:
            factor[1] = factor[0] if content == "parallel" else 0
    terms, error = Terms(factors), left_over(tensor, factors)
    slack = 1e-5 if dtype == torch.float32 else 1e-12
    for mode in [0, 1, 3, 2] * 3:
        terms.improve(mode, product_without(tensor, terms.factors, mode), relaxation, solve)  # type: ignore[arg-type]
        after = left_over(tensor, terms.factors)
        assert after <= error + slack * (error + tensor.square().sum().item())
        error = after


@pytest.mark.parametrize("shape", [(3, 12, 18), (3, 4, 12, 18)])
def test_the_error_of_a_fit_is_that_of_its_factors(shape: Shape) -> None:
    tensor = random_tensor(shape)
    start, error = orthogonal_terms(tensor, 15)
    assert error == pytest.approx(left_over(tensor, start), rel=1e-9)
    found, left = alternating_least_squares(tensor, start, error, 4)
    assert left == pytest.approx(left_over(tensor, found), rel=1e-9)
    assert left < error


@pytest.mark.parametrize(("stack", "shape"), CP)
def test_cp_in_single_precision_is_as_good_as_in_double(stack: str, shape: Shape) -> None:
    tensor, method = random_tensor(shape, seed=1), FACTORIZATIONS["cp"]
    order = sorted(range(len(shape)), key=lambda mode: shape[mode])
    ordered = tensor.permute(order)
    for (rank,) in rank_ladder("cp", shape, steps=4)[:-1]:
        start, error = orthogonal_terms(ordered, rank)
        _, left = alternating_least_squares(ordered, start, error, affordable_sweeps(shape, WORK, SWEEPS))
        mine = relative_error(tensor, method.equation(stack), method.decompose(tensor, (rank,))) ** 2
        total = tensor.square().sum().item()
        assert mine * total <= 1.01 * left + 2e-5 * total


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_weights_of_any_scale_are_fitted_alike(scale: float) -> None:
    tensor, method = random_tensor((3, 12, 18)), FACTORIZATIONS["cp"]
    plain, scaled = (method.decompose(x, (9,)) for x in (tensor, tensor * scale))
    torch.testing.assert_close(dense(scaled) / scale, dense(plain), rtol=1e-4, atol=1e-4 * tensor.abs().max().item())
