"""Laws of the sweeps that fit CP terms: no step adds to the error, and what rounding does stays small."""

from functools import partial

import pytest
import torch
from cases import GROUPS, random_factors, random_tensor, rank_ladder
from test_objective import error_in, random_norm
from torch import Tensor

from lobert.compression.whitening import decompose_in_norm
from lobert.factorizations import FACTORIZATIONS, Shape, relative_error
from lobert.factorizations.cp import all_sweeps, orthogonal_energy, orthogonal_terms
from lobert.factorizations.cp_als import (
    RELAXATION,
    Solver,
    Terms,
    alternating_least_squares,
    cholesky,
    conjugate_gradients,
)
from lobert.factorizations.dial import Dial

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
@pytest.mark.parametrize("solver", [cholesky, conjugate_gradients])
@pytest.mark.parametrize("relaxation", [1.0, RELAXATION])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_step_adds_to_the_error(content: str, solver: Solver, relaxation: float, dtype: torch.dtype) -> None:
    shape, rank = (3, 4, 9, 8), 12
    tensor = random_tensor(shape).to(dtype)
    factors = [factor.to(dtype) for factor in random_factors("cp", "sl", shape, (rank,))]
    if content != "random":
        for factor in factors:
            factor[1] = factor[0] if content == "parallel" else 0
    terms, error = Terms(factors), left_over(tensor, factors)
    solve = partial(cholesky, room=terms.root) if solver is cholesky else solver
    slack = 1e-5 if dtype == torch.float32 else 1e-12
    for mode in [0, 1, 3, 2] * 3:
        terms.improve(mode, product_without(tensor, terms.factors, mode), relaxation, solve)
        after = left_over(tensor, terms.factors)
        assert after <= error + slack * (error + tensor.square().sum().item())
        error = after


@pytest.mark.parametrize("shape", [(3, 12, 18), (3, 4, 12, 18)])
def test_the_error_of_a_fit_is_that_of_its_factors(shape: Shape) -> None:
    tensor = random_tensor(shape)
    start = orthogonal_terms(tensor, 15)
    error = left_over(tensor, start)
    assert tensor.square().sum().item() - orthogonal_energy(start) == pytest.approx(error, rel=1e-9)
    found, left = alternating_least_squares(tensor, start, error, 4)
    assert left == pytest.approx(left_over(tensor, found), rel=1e-9)
    assert left < error


@pytest.mark.parametrize(("stack", "shape"), CP)
def test_cp_in_single_precision_is_as_good_as_in_double(stack: str, shape: Shape) -> None:
    tensor, method = random_tensor(shape, seed=1), FACTORIZATIONS["cp"]
    order = sorted(range(len(shape)), key=lambda mode: shape[mode])
    ordered = tensor.permute(order)
    for (rank,) in rank_ladder("cp", shape, steps=4)[:-1]:
        start = orthogonal_terms(ordered, rank)
        error = left_over(ordered, start)
        _, left = alternating_least_squares(ordered, start, error, all_sweeps(shape))
        mine = relative_error(tensor, method.equation(stack), method.decompose(tensor, (rank,))) ** 2
        total = tensor.square().sum().item()
        assert mine * total <= 1.01 * left + 2e-5 * total


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_weights_of_any_scale_are_fitted_alike(scale: float) -> None:
    tensor, method = random_tensor((3, 12, 18)), FACTORIZATIONS["cp"]
    plain, scaled = (method.decompose(x, (9,)) for x in (tensor, tensor * scale))
    torch.testing.assert_close(dense(scaled) / scale, dense(plain), rtol=1e-4, atol=1e-4 * tensor.abs().max().item())


@pytest.mark.parametrize("shape", [(3, 12, 18), (3, 4, 12, 18)])
def test_sweeps_end_where_the_error_is_small_enough(shape: Shape) -> None:
    """Not before the first ones are done; without a limit they go on."""
    tensor = random_tensor(shape)
    start = orthogonal_terms(tensor, 15)
    closed = left_over(tensor, start)

    def left(sweeps: int, first: int, enough: float) -> float:
        return alternating_least_squares(tensor, start, closed, sweeps, first, enough)[1]

    after = [left(sweeps, sweeps, 0.0) for sweeps in (1, 2, 20)]
    assert closed > after[0] > after[1] > after[2]
    assert left(20, 1, closed) == after[0]
    assert left(20, 2, closed) == after[1]
    between = (after[0] + after[2]) / 2
    assert after[2] < left(20, 1, between) <= between


@pytest.mark.parametrize("first", [0, 1, 3])
@pytest.mark.parametrize(("stack", "shape"), [("s", (3, 48, 72)), ("l", (6, 48, 48)), ("sl", (3, 4, 40, 48))])
def test_where_sweeps_take_long_the_norm_is_served_as_well(
    stack: str, shape: Shape, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on large tensors, whose plain decomposition is left unfinished where its closed form is far behind."""
    monkeypatch.setattr("lobert.factorizations.cp.first_sweeps", lambda _: first)
    torch.manual_seed(0)
    tensor = torch.randn(shape, dtype=torch.float64) + torch.randn(shape[-2:], dtype=torch.float64)
    tensor *= torch.arange(1.0, shape[-1] + 1) ** -0.5
    method, norm = FACTORIZATIONS["cp"], random_norm(shape)
    assert method.gain(shape) < 2
    for keep in (0.25, 0.5):
        rank = Dial(method, shape, method.full_rank(shape)).keeping(stack, keep)
        plain, found = method.decompose(tensor, rank), decompose_in_norm(method, stack, tensor, rank, norm)
        assert error_in(norm, "cp", stack, tensor, found) <= error_in(norm, "cp", stack, tensor, plain)
