"""Laws of the lower bounds: below every error, equal to the optimal ones, 0 for what the factors can be."""

import math

import pytest
import torch
from cases import GROUPS, random_factors, random_tensor, rank_ladder
from test_factorizations import squared_error
from test_objective import error_in, random_norm, shared_norm

from lobert.compression.whitening import decompose_in_norm, lower_bound_in_norm
from lobert.factorizations import FACTORIZATIONS, Shape, reconstruct
from lobert.factorizations.bounds import unfolding_rank

OPTIMAL = ("svd", "falcon", "basis", "dense")
ROUNDING = 1e-12


@pytest.mark.parametrize(("name", "stack", "shape"), GROUPS)
def test_no_error_is_below_its_bound_and_the_optimal_ones_are_on_it(name: str, stack: str, shape: Shape) -> None:
    method, tensor = FACTORIZATIONS[name], random_tensor(shape, seed=2)
    slack = ROUNDING * tensor.square().sum().item()
    for rank in rank_ladder(name, shape, steps=4):
        bound, error = method.lower_bound(stack, tensor, rank), squared_error(name, stack, tensor, rank)
        assert 0 <= bound <= error + slack
        if name in OPTIMAL:
            assert bound == pytest.approx(error, rel=1e-9, abs=slack)


@pytest.mark.parametrize(("name", "stack", "shape"), GROUPS)
def test_the_bound_of_what_factors_of_this_rank_can_be_is_zero(name: str, stack: str, shape: Shape) -> None:
    """Random factors reach every rank that an unfolding can have: a rank counted too low would show."""
    method = FACTORIZATIONS[name]
    for rank in rank_ladder(name, shape, steps=4):
        tensor = reconstruct(method.equation(stack), random_factors(name, stack, shape, rank))
        assert method.lower_bound(stack, tensor, rank) <= ROUNDING * tensor.square().sum().item()


@pytest.mark.parametrize(("name", "stack", "shape"), [g for g in GROUPS if g[0] in ("tucker", "cp", "tt")])
def test_the_bound_is_at_least_that_of_every_single_mode(name: str, stack: str, shape: Shape) -> None:
    """Spectra that are dropped: HOSVD's for Tucker, the worst unfolding for CP, those of each link of a train."""
    method, tensor = FACTORIZATIONS[name], random_tensor(shape, seed=2)
    for rank in rank_ladder(name, shape, steps=3):
        widths = {"tucker": rank, "cp": rank * len(shape), "tt": rank}[name]
        for position, width in enumerate(widths):
            links = tensor.flatten(0, position).flatten(1) if name == "tt" else tensor.movedim(position, 0).flatten(1)
            dropped = torch.linalg.svdvals(links)[width:].square().sum().item()
            assert method.lower_bound(stack, tensor, rank) >= dropped * (1 - 1e-9) - ROUNDING


@pytest.mark.parametrize("seed", range(6))
def test_the_rank_of_an_unfolding_is_what_random_factors_reach(seed: int) -> None:
    terms = [("ac", "abd", "bi"), ("rs", "rl", "roi"), ("abcd", "as", "bl", "co", "di"), ("sa", "alb", "boc", "ci")]
    chosen = terms[seed % len(terms)]
    random = torch.Generator().manual_seed(seed)
    letters = sorted(set("".join(chosen)))
    sizes = dict(zip(letters, (torch.randint(2, 5, (len(letters),), generator=random)).tolist(), strict=True))
    modes = [c for c in letters if sum(c in term for term in chosen) == 1]
    factors = [torch.randn([sizes[c] for c in term], dtype=torch.float64, generator=random) for term in chosen]
    for mode in modes:
        columns = "".join(c for c in modes if c != mode)
        unfolding = torch.einsum(f"{','.join(chosen)}->{mode}{columns}", *factors).flatten(1)
        assert torch.linalg.matrix_rank(unfolding) == unfolding_rank(chosen, mode, columns, sizes)


@pytest.mark.parametrize("kind", ["own metrics", "shared inputs", "shared metrics"])
@pytest.mark.parametrize(("name", "stack", "shape"), GROUPS)
def test_in_a_norm_the_bound_holds_where_there_is_one(name: str, stack: str, shape: Shape, kind: str) -> None:
    method, tensor = FACTORIZATIONS[name], random_tensor(shape)
    norm = random_norm(shape) if kind == "own metrics" else shared_norm(shape, outputs=kind == "shared metrics")
    rank = rank_ladder(name, shape, steps=3)[0]
    bound = lower_bound_in_norm(method, stack, tensor, rank, norm)
    if math.prod(shape[:-2]) > 1 and kind == "own metrics" and name not in ("falcon", "dense"):
        assert bound is None
    if name != "falcon" and (not stack or kind != "own metrics"):
        assert bound is not None
    if bound is not None:
        error = error_in(norm, name, stack, tensor, decompose_in_norm(method, stack, tensor, rank, norm))
        assert bound <= error * (1 + 1e-6) + 1e-9 * norm.squared(tensor)
        if name in OPTIMAL:
            assert bound == pytest.approx(error, rel=1e-6, abs=1e-9 * norm.squared(tensor))
