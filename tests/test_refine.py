"""Laws of alternating least squares in a norm: never worse, at rest where no gradient is, as good as other searches."""

import itertools
import math

import pytest
import torch
from cases import exists, random_factors, random_tensor, rank_ladder
from test_objective import error_in, random_norm, shared_norm
from torch import Tensor

from lobert.compression.chain import cheapest_chain, form
from lobert.compression.objective import Goal, Norm
from lobert.compression.refine import Patience, refined
from lobert.compression.whitening import decompose_in_norm
from lobert.factorizations import FACTORIZATIONS, Shape, reconstruct
from lobert.factorizations.product import product

LONG = Patience(multiply_adds=math.inf, gain=1e-4)
SHAPES: dict[str, Shape] = {"s": (3, 6, 7), "l": (4, 7, 5), "sl": (2, 3, 5, 6)}
SMALL = [
    (name, stack, shape)
    for name, method in FACTORIZATIONS.items()
    for stack, shape in SHAPES.items()
    if name not in ("svd", "dense") and exists(method, stack)
]


def kinds(shape: Shape) -> dict[str, Norm]:
    """Matrices on both sides, one number for the outputs of each slice, and numbers for each input."""
    both, weights = random_norm(shape, condition=100), torch.logspace(0, -2, math.prod(shape[:-2]), dtype=torch.float64)
    numbers = torch.eye(shape[-2], dtype=torch.float64) * weights.reshape(*shape[:-2], 1, 1)
    diagonals = torch.diag_embed(both.inputs.diagonal(dim1=-2, dim2=-1))
    return {"both": both, "inputs": Norm(both.inputs, numbers), "outputs": Norm(diagonals, both.outputs)}


def in_double(tensor: Tensor, norm: Norm) -> Goal:
    return Goal(tensor, norm, single=math.inf)


def improved(equation: str, stack: str, goal: Goal, factors: list[Tensor], patience: Patience) -> list[Tensor]:
    start = goal.error_of(equation, factors)
    found, error = refined(equation, stack, goal, factors, start, goal.error_of, patience)
    assert error == goal.error_of(equation, found)
    return found


def gradients(equation: str, tensor: Tensor, factors: list[Tensor], norm: Norm) -> list[Tensor]:
    leaves = [factor.detach().clone().requires_grad_() for factor in factors]
    lost = tensor - torch.einsum(equation, *leaves)
    return list(torch.autograd.grad((norm.outputs @ lost @ norm.inputs * lost).sum(), leaves))


@pytest.mark.parametrize("kind", ["both", "inputs", "outputs"])
@pytest.mark.parametrize(("name", "stack", "shape"), SMALL)
def test_more_sweeps_are_never_worse(name: str, stack: str, shape: Shape, kind: str) -> None:
    """From the weights' own factors, with patience for ever more steps."""
    method, tensor, norm = FACTORIZATIONS[name], random_tensor(shape), kinds(shape)[kind]
    equation, rank = method.equation(stack), rank_ladder(name, shape, steps=3)[0]
    start, whole = method.decompose(tensor, rank), norm.squared(tensor)
    errors = [error_in(norm, name, stack, tensor, start)]
    for spent in (1e3, 1e4):
        factors = improved(equation, stack, Goal(tensor, norm), start, Patience(multiply_adds=spent))
        errors.append(error_in(norm, name, stack, tensor, factors))
    assert all(after <= before + 1e-6 * whole for before, after in itertools.pairwise(errors))
    assert errors[-1] < errors[0] or errors[0] <= 1e-12 * whole


@pytest.mark.parametrize("kind", ["both", "inputs"])
@pytest.mark.parametrize(("name", "stack", "shape"), SMALL)
def test_at_rest_all_gradients_are_small(name: str, stack: str, shape: Shape, kind: str) -> None:
    """Next to those of the start, along each factor: the step that a gradient asks for would change nothing."""
    method, tensor, norm = FACTORIZATIONS[name], random_tensor(shape), kinds(shape)[kind]
    equation, rank = method.equation(stack), rank_ladder(name, shape, steps=6)[0]
    start = method.decompose(tensor, rank)
    found = improved(equation, stack, in_double(tensor, norm), start, LONG)
    before, after = (gradients(equation, tensor, factors, norm) for factors in (start, found))
    assert sum(g.square().sum() for g in after) < 1e-3 * sum(g.square().sum() for g in before)


@pytest.mark.parametrize(("name", "stack", "shape"), [case for case in SMALL if case[1] == "s"])
def test_no_other_search_finds_better_factors(name: str, stack: str, shape: Shape) -> None:
    """L-BFGS from four random starts, and from the factors themselves."""
    method, tensor, norm = FACTORIZATIONS[name], random_tensor(shape), random_norm(shape, condition=30)
    equation, rank = method.equation(stack), rank_ladder(name, shape, steps=6)[0]
    mine = decompose_in_norm(method, stack, tensor, rank, norm)
    found = improved(equation, stack, in_double(tensor, norm), mine, LONG)
    torch.manual_seed(0)
    starts = [[torch.randn_like(f) * tensor.std().sqrt() for f in found] for _ in range(4)]
    best = min(searched(equation, tensor, norm, start) for start in [*starts, found])
    error = error_in(norm, name, stack, tensor, found)
    assert error <= 1.05 * best
    assert error_in(norm, name, stack, tensor, mine) <= 1.1 * best


def searched(equation: str, tensor: Tensor, norm: Norm, start: list[Tensor]) -> float:
    """The error where L-BFGS ends."""
    factors = [factor.clone().requires_grad_() for factor in start]
    search = torch.optim.LBFGS(factors, max_iter=200, line_search_fn="strong_wolfe", tolerance_change=1e-12)

    def closure() -> Tensor:
        search.zero_grad()
        lost = tensor - torch.einsum(equation, *factors)
        error = (norm.outputs @ lost @ norm.inputs * lost).sum()
        error.backward()
        return error

    search.step(closure)  # type: ignore[arg-type]
    return closure().item()


@pytest.mark.parametrize("outputs", [False, True])
@pytest.mark.parametrize(("name", "stack", "shape"), [case for case in SMALL if case[0] in ("tucker", "basis", "tt")])
def test_metrics_that_are_equal_leave_nothing_to_gain(name: str, stack: str, shape: Shape, outputs: bool) -> None:
    """What whitening finds by one metric for all slices is the answer already; TT is best for its own order only."""
    method, tensor, norm = FACTORIZATIONS[name], random_tensor(shape), shared_norm(shape, outputs)
    equation, rank = method.equation(stack), rank_ladder(name, shape, steps=6)[2]
    factors = decompose_in_norm(method, stack, tensor, rank, norm)
    error = error_in(norm, name, stack, tensor, factors)
    more = error_in(norm, name, stack, tensor, improved(equation, stack, in_double(tensor, norm), factors, LONG))
    assert more >= (1 - (0.1 if name == "tt" else 1e-2)) * error
    assert more <= error * (1 + 1e-9)


@pytest.mark.parametrize(("name", "stack", "shape"), SMALL)
def test_different_metrics_are_made_up_for(name: str, stack: str, shape: Shape) -> None:
    """A decomposition in the norm is below the best of the two that it starts from."""
    method, tensor, norm = FACTORIZATIONS[name], random_tensor(shape), random_norm(shape)
    rank = rank_ladder(name, shape, steps=6)[1]
    plain = error_in(norm, name, stack, tensor, method.decompose(tensor, rank))
    assert error_in(norm, name, stack, tensor, decompose_in_norm(method, stack, tensor, rank, norm)) < 0.9 * plain


@pytest.mark.parametrize("kind", ["ill-conditioned", "singular", "single precision has no such numbers"])
@pytest.mark.parametrize(("name", "stack", "shape"), [case for case in SMALL if case[1] != "sl"])
def test_any_metrics_give_finite_factors_that_serve_them(name: str, stack: str, shape: Shape, kind: str) -> None:
    method, tensor, norm = FACTORIZATIONS[name], random_tensor(shape), random_norm(shape, condition=1e8)
    if kind == "singular":  # as of one token
        norm = Norm(*(metric[..., :1] * metric[..., :1, :] for metric in (norm.inputs, norm.outputs)))
    elif kind != "ill-conditioned":
        norm = Norm(norm.inputs * 1e-30, norm.outputs * 1e-30)
    rank = rank_ladder(name, shape, steps=6)[1]
    factors = decompose_in_norm(method, stack, tensor, rank, norm)
    assert all(factor.isfinite().all() for factor in factors)
    plain = error_in(norm, name, stack, tensor, method.decompose(tensor, rank))
    assert error_in(norm, name, stack, tensor, factors) <= plain


@pytest.mark.parametrize(("name", "stack", "shape"), SMALL)
def test_a_chain_is_its_equation(name: str, stack: str, shape: Shape) -> None:
    """The normal matrix of every factor times another factor, by torch.einsum of everything at once."""
    terms = FACTORIZATIONS[name].equation(stack).split("->")[0].split(",")
    factors = dict(zip(terms, random_factors(name, stack, shape, rank_ladder(name, shape)[0]), strict=True))
    norm = random_norm(shape)
    metrics = {f"{stack}oO": norm.outputs, f"{stack}iI": norm.inputs}
    for term in terms:
        second = {t: "".join(c if c in stack else c.upper() for c in t) for t in terms}
        operands = metrics | {t: f for t, f in factors.items() if t != term}
        operands |= {second[t]: f for t, f in factors.items() if t != term}
        sizes = {
            c: n for t, f in factors.items() for copy in (t, second[t]) for c, n in zip(copy, f.shape, strict=True)
        }
        chain = cheapest_chain(tuple(operands), term, second[term], tuple(sorted(sizes.items())))
        assert chain is not None
        value = factors[term]
        for equation, tree in chain.steps:
            value = product(equation, value, form(tree, operands, {}))
        half = {t: f for t, f in operands.items() if t in factors}
        dense = norm.metrics.applied(
            reconstruct(f"{','.join([*half, term])}->{stack}oi", [*half.values(), factors[term]])
        )
        expected = torch.einsum(f"{','.join([*half, stack + 'oi'])}->{term}", *half.values(), dense)
        torch.testing.assert_close(value, expected, rtol=1e-8, atol=1e-8)
