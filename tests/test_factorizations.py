"""Laws of the factorizations and of the contraction they share, each against an independent dense evaluation."""

import itertools
import math
import pickle
import random
from collections.abc import Callable, Iterator
from functools import reduce

import numpy as np
import pytest
import tensorly
import torch
from cases import GROUPS, one_sentence, random_factors, random_tensor, rank_ladder
from tensorly.decomposition import parafac, tensor_train
from tensorly.decomposition import tucker as tensorly_tucker
from torch import Tensor

from lobert.errors import LobertError
from lobert.factorizations import FACTORIZATIONS, RankSetting, Shape, factorization, reconstruct, relative_error
from lobert.factorizations.contraction import contract
from lobert.factorizations.dial import NEAR, Dial
from lobert.factorizations.orders import cheapest_path
from lobert.factorizations.tucker import best_tucker, sequential_hosvd

EXACT = 1e-10
TUCKER, CP, TT = ([group[1:] for group in GROUPS if group[0] == name] for name in ("tucker", "cp", "tt"))
CLOSED: dict[str, Callable[[Tensor], Tensor]] = {  # the matrices whose truncated SVD the factorization is
    "svd": lambda tensor: tensor,
    "falcon": lambda tensor: torch.stack([slab.flatten(1) for slab in tensor.unbind(1)]),
    "basis": lambda tensor: tensor.flatten(0, -2),
}
SHRINKABLE = [group for group in GROUPS if min(group[2][-2:]) >= 6 and group[2][0] > 1]
KEEPS = [1.0, 0.7, 0.5, 0.35]
# Share of the squared norm by which two ranks may be out of order: the best CP terms are NP-hard, so ALS may end in
# a slightly better minimum at the smaller of two neighbours. Its bound, tested below, allows no such thing.
DISORDER = {"cp": 1e-4}
MANY = 12  # positions of a longer dial are tried in even steps


def squared_error(name: str, stack: str, tensor: Tensor, rank: tuple[int, ...]) -> float:
    """`||T - einsum(factors)||²` by torch.einsum of the whole equation."""
    method = FACTORIZATIONS[name]
    factors = method.decompose(tensor, rank)
    return (tensor - torch.einsum(method.equation(stack), *factors)).square().sum().item()


def dropped(matrix: Tensor, rank: int) -> float:
    """Sum of the squared singular values after the first `rank`, over all matrices `[..., m, n]`."""
    return torch.linalg.svdvals(matrix)[..., rank:].square().sum().item()


@pytest.mark.parametrize("content", ["random", "zero", "rank one"])
@pytest.mark.parametrize(("name", "stack", "shape"), GROUPS)
def test_full_rank_reproduces_the_tensor(name: str, stack: str, shape: Shape, content: str) -> None:
    tensor = {"random": random_tensor(shape), "zero": torch.zeros(shape), "rank one": torch.ones(shape)}[
        content
    ].double()
    full = FACTORIZATIONS[name].full_rank(shape)
    assert squared_error(name, stack, tensor, full) <= EXACT**2 * max(1.0, tensor.square().sum().item())


@pytest.mark.parametrize(("name", "stack", "shape"), GROUPS)
def test_error_never_grows_with_rank(name: str, stack: str, shape: Shape) -> None:
    method, tensor = FACTORIZATIONS[name], random_tensor(shape, seed=3)
    full = method.full_rank(shape)
    slack = max(EXACT, DISORDER.get(name, 0) * tensor.square().sum().item())
    sizes = range(1, method.dial_length(shape, full) + 1)
    dial = [method.scaled_rank(shape, size, full) for size in sizes[:: 1 + len(sizes) // MANY]]
    for ladder in (rank_ladder(name, shape), dial):
        errors = [squared_error(name, stack, tensor, rank) for rank in ladder]
        assert all(b <= a + slack for a, b in itertools.pairwise(errors))


@pytest.mark.parametrize(("name", "stack", "shape"), GROUPS)
def test_what_is_made_of_a_closed_form_is_no_farther(name: str, stack: str, shape: Shape) -> None:
    """Up to the precision in which it is found; and the closed form is as close as the method says."""
    method, tensor = FACTORIZATIONS[name], random_tensor(shape)
    for rank in rank_ladder(name, shape):
        closed = method.closed_form(tensor, rank)
        ways = closed, method.start(tensor, rank, closed, 0.9), method.finish(tensor, rank, closed)
        errors = [relative_error(tensor, method.equation(stack), factors) for factors in ways]
        best = relative_error(tensor, method.equation(stack), method.decompose(tensor, rank))
        assert all(later <= earlier + 1e-6 for earlier, later in itertools.pairwise(errors))
        assert errors[-1] == pytest.approx(best, rel=1e-2, abs=1e-6)
        assert errors[0] <= method.gain(shape) ** 0.5 * errors[-1] + 1e-6


@pytest.mark.parametrize(("name", "stack", "shape"), GROUPS)
def test_factors_have_the_predicted_shapes_and_parameters(name: str, stack: str, shape: Shape) -> None:
    method = FACTORIZATIONS[name]
    for rank in rank_ladder(name, shape):
        factors = method.decompose(random_tensor(shape), rank)
        assert [tuple(factor.shape) for factor in factors] == method.factor_shapes(stack, shape, rank)
        if not method.bonds(stack, shape, rank):
            assert sum(factor.numel() for factor in factors) == method.parameters(stack, shape, rank)
        assert all(factor.isfinite().all() and factor.is_contiguous() for factor in factors)


@pytest.mark.parametrize(("name", "stack", "shape"), GROUPS)
def test_reconstruction_and_reported_error_are_those_of_the_whole_einsum(name: str, stack: str, shape: Shape) -> None:
    equation, rank, tensor = FACTORIZATIONS[name].equation(stack), rank_ladder(name, shape)[2], random_tensor(shape)
    factors = random_factors(name, stack, shape, rank)
    dense = torch.einsum(equation, *factors)
    torch.testing.assert_close(reconstruct(equation, factors), dense, rtol=EXACT, atol=EXACT)
    assert relative_error(tensor, equation, factors) == pytest.approx(((tensor - dense).norm() / tensor.norm()).item())


@pytest.mark.parametrize(("name", "stack", "shape"), [group for group in GROUPS if group[0] in CLOSED])
def test_squared_error_is_the_dropped_spectrum(name: str, stack: str, shape: Shape) -> None:
    """FALCON: for each index of the second mode, the matrix of the first mode against all others."""
    tensor = random_tensor(shape)
    matrices = CLOSED[name](tensor)
    for rank in rank_ladder(name, shape):
        expected, total = dropped(matrices, rank[0]), tensor.square().sum().item()
        assert squared_error(name, stack, tensor, rank) == pytest.approx(expected, rel=1e-9, abs=1e-12 * total)


@pytest.mark.parametrize(("stack", "shape"), CP)
def test_cp_error_lies_within_its_bounds(stack: str, shape: Shape) -> None:
    """Above: the dropped σ² of the closed form. Below: the worst unfolding, whose rank the terms cannot exceed."""
    tensor = random_tensor(shape)
    rotated = tensor.permute(sorted(range(len(shape)), key=lambda mode: shape[mode]))
    for mode in range(len(shape) - 2):
        basis = torch.linalg.svd(rotated.movedim(mode, 0).flatten(1))[0]
        rotated = torch.tensordot(basis.T, rotated, ([1], [mode])).movedim(0, mode)
    strengths = torch.linalg.svdvals(rotated).flatten().square().sort(descending=True)[0]
    for (rank,) in rank_ladder("cp", shape):
        least = max(dropped(tensor.movedim(mode, 0).flatten(1), rank) for mode in range(len(shape)))
        error = squared_error("cp", stack, tensor, (rank,))
        assert least - EXACT <= error <= strengths[rank:].sum().item() + EXACT


@pytest.mark.parametrize(("stack", "shape"), TT)
def test_tt_error_lies_within_the_bounds_of_its_unfoldings(stack: str, shape: Shape) -> None:
    tensor = random_tensor(shape)
    for rank in rank_ladder("tt", shape):
        each = [dropped(tensor.flatten(0, link).flatten(1), width) for link, width in enumerate(rank)]
        assert max(each) - EXACT <= squared_error("tt", stack, tensor, rank) <= sum(each) + EXACT


@pytest.mark.filterwarnings("ignore:Trying to compute SVD")
@pytest.mark.parametrize("share", [0.1, 0.3])
@pytest.mark.parametrize(("stack", "shape"), [("s", (3, 24, 24)), ("l", (6, 20, 12)), ("sl", (3, 4, 12, 12))])
def test_cp_is_as_good_as_tensorly(stack: str, shape: Shape, share: float) -> None:
    tensor, rank = random_tensor(shape, seed=1), max(2, round(share * math.prod(shape) / max(shape)))
    with tensorly.backend_context("pytorch", local_threadsafe=True):
        theirs = tensorly.cp_to_tensor(parafac(tensor, rank, n_iter_max=50, tol=0, random_state=0))
    mine = math.sqrt(squared_error("cp", stack, tensor, (rank,)))
    assert mine <= (tensor - theirs).norm().item() + 0.02 * tensor.norm().item()


@pytest.mark.parametrize(("stack", "shape"), TT)
def test_tt_is_as_good_as_tensorly(stack: str, shape: Shape) -> None:
    tensor = random_tensor(shape, seed=1)
    for rank in rank_ladder("tt", shape):
        with tensorly.backend_context("pytorch", local_threadsafe=True):
            theirs = tensorly.tt_to_tensor(tensor_train(tensor, [1, *rank, 1]))
        assert squared_error("tt", stack, tensor, rank) <= (tensor - theirs).square().sum().item() + EXACT


@pytest.mark.parametrize(("name", "stack", "shape"), [group for group in GROUPS if group[0] in ("cp", "basis")])
def test_every_term_has_one_norm_in_all_factors(name: str, stack: str, shape: Shape) -> None:
    factors = FACTORIZATIONS[name].decompose(random_tensor(shape), rank_ladder(name, shape)[3])
    norms = torch.stack([factor.flatten(1).norm(dim=1) for factor in factors])
    torch.testing.assert_close(norms, norms[:1].expand_as(norms), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("stack", "shape"), TT)
def test_the_factors_of_a_train_at_full_rank_share_each_singular_value_evenly(stack: str, shape: Shape) -> None:
    """Seen from either side, the square of what meets at a rank is the singular value there."""
    tensor = random_tensor(shape)
    factors = FACTORIZATIONS["tt"].decompose(tensor, FACTORIZATIONS["tt"].full_rank(shape))
    left = factors[0]  # [..., rank]
    for link, factor in enumerate(factors[1:]):
        right = reduce(lambda a, b: torch.tensordot(a, b, 1), factors[link + 1 :])  # [rank, ...]
        values = torch.linalg.svdvals(tensor.flatten(0, link).flatten(1))[: len(right)]
        torch.testing.assert_close(left.flatten(0, -2).square().sum(0), values, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(right.flatten(1).square().sum(1), values, rtol=1e-6, atol=1e-6)
        left = torch.tensordot(left, factor, 1)


@pytest.mark.parametrize(("stack", "shape"), TUCKER)
def test_tucker_error_lies_within_the_hosvd_bounds(stack: str, shape: Shape) -> None:
    """Below: the worst mode alone. Above: all modes together, the bound of ST-HOSVD, which HOOI only improves."""
    tensor = random_tensor(shape)
    for rank in rank_ladder("tucker", shape):
        per_mode = [dropped(tensor.movedim(mode, 0).flatten(1), size) for mode, size in enumerate(rank)]
        assert max(per_mode) - EXACT <= squared_error("tucker", stack, tensor, rank) <= sum(per_mode) + EXACT


@pytest.mark.filterwarnings("ignore:Trying to compute SVD")
@pytest.mark.parametrize(
    ("stack", "shape", "rank"),
    [
        ("", (40, 30), (20, 20)),
        ("s", (3, 64, 64), (2, 32, 32)),
        ("s", (3, 64, 64), (2, 16, 16)),
        ("s", (2, 40, 40), (1, 20, 20)),
        ("l", (4, 48, 48), (2, 36, 36)),
        ("l", (6, 48, 48), (4, 36, 36)),
        ("l", (4, 96, 24), (3, 62, 15)),
        ("sl", (3, 4, 32, 32), (2, 3, 24, 24)),
    ],
)
def test_tucker_is_as_good_as_tensorly(stack: str, shape: Shape, rank: tuple[int, ...]) -> None:
    tensor = random_tensor(shape, seed=1)
    with tensorly.backend_context("numpy", local_threadsafe=True):
        theirs = tensorly.tucker_to_tensor(tensorly_tucker(tensor.numpy(), rank))
    reference = float(np.linalg.norm(tensor.numpy() - theirs))
    mine = math.sqrt(squared_error("tucker", stack, tensor, rank))
    assert mine <= reference + 1e-4 * tensor.norm().item()


@pytest.mark.parametrize("content", ["decaying", "exact", "ill-conditioned"])
@pytest.mark.parametrize(("stack", "shape"), TUCKER)
def test_tucker_of_float32_weights_is_as_good_as_all_in_double(stack: str, shape: Shape, content: str) -> None:
    ranks = rank_ladder("tucker", shape)
    tensor = {
        "decaying": lambda: random_tensor(shape),
        "exact": lambda: torch.einsum(
            FACTORIZATIONS["tucker"].equation(stack), *random_factors("tucker", stack, shape, ranks[0])
        ),
        "ill-conditioned": lambda: random_tensor(shape) * torch.logspace(0, -4, shape[-1], dtype=torch.float64),
    }[content]()
    weights = tensor.float().double()
    slack = 1e-14 * weights.square().sum().item()
    for rank in ranks:
        mine = squared_error("tucker", stack, weights, rank)
        core, *_ = best_tucker(weights, weights, sequential_hosvd(weights, rank))
        assert mine <= 1.002 * (weights.square().sum() - core.square().sum()).item() + slack


@pytest.mark.parametrize(("stack", "shape"), TUCKER)
def test_tucker_factors_are_orthonormal(stack: str, shape: Shape) -> None:
    for rank in rank_ladder("tucker", shape):
        for factor in FACTORIZATIONS["tucker"].decompose(random_tensor(shape), rank)[1:]:
            torch.testing.assert_close(factor @ factor.T, torch.eye(len(factor)).double(), rtol=0, atol=EXACT)


@pytest.mark.parametrize(
    ("name", "stack"),
    [
        *(("svd", stack) for stack in ("s", "l", "sl")),
        *((name, "") for name in ("falcon", "cp", "tt", "basis")),
    ],
)
def test_a_stack_that_a_method_cannot_factorize_is_refused(name: str, stack: str) -> None:
    with pytest.raises(LobertError, match=name) as caught:
        FACTORIZATIONS[name].equation(stack)
    one_sentence(caught.value)


def test_an_unknown_factorization_is_answered_with_the_nearest() -> None:
    with pytest.raises(LobertError, match="did you mean 'tucker'"):
        factorization("tuker")


# ---- sizes ----


@pytest.mark.parametrize(("name", "stack", "shape"), GROUPS)
def test_rank_within_a_share_is_the_largest_that_fits(name: str, stack: str, shape: Shape) -> None:
    method = FACTORIZATIONS[name]
    default = rank_ladder(name, shape)[3]
    dial = [method.scaled_rank(shape, size, default) for size in range(1, method.dial_length(shape, default) + 1)]
    sizes = [method.parameters(stack, shape, rank) for rank in dial]
    assert sizes == sorted(sizes)
    for keep in KEEPS:
        budget = keep * math.prod(shape)
        if sizes[0] > budget:
            with pytest.raises(LobertError, match="too small"):
                Dial(method, shape, default).keeping(stack, keep)
            continue
        fitting = max(size for size in sizes if size <= budget)
        rank = Dial(method, shape, default).keeping(stack, keep)
        assert fitting <= method.parameters(stack, shape, rank) <= budget
        assert (
            rank in dial
            or all(a >= b for a, b in zip(rank, dial[sizes.index(fitting)], strict=True))
            or (
                fitting < NEAR * budget  # between two steps of the dial, and not above the lower one in all
            )
        )
        assert method.resolve_rank(shape, rank) == rank


@pytest.mark.parametrize(("name", "stack", "shape"), SHRINKABLE)
def test_a_share_that_is_too_small_names_the_smallest_possible(name: str, stack: str, shape: Shape) -> None:
    method = FACTORIZATIONS[name]
    default = (1,) * len(method.full_rank(shape))
    with pytest.raises(LobertError, match="too small") as caught:
        Dial(method, shape, default).keeping(stack, 1e-6)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # as between a sweep's processes
    least = float(one_sentence(caught.value).split("type keep=")[1].split()[0])
    assert Dial(method, shape, default).keeping(stack, least) == method.scaled_rank(shape, 1, default)
    with pytest.raises(LobertError):
        Dial(method, shape, default).keeping(stack, least - 2e-4)


@pytest.mark.parametrize(
    ("name", "shape", "setting", "rank"),
    [
        ("svd", (12, 18), 5, (5,)),
        ("svd", (12, 18), "5", (5,)),
        ("svd", (12, 18), [5], (5,)),
        ("svd", (12, 18), "full", (12,)),
        ("svd", (12, 18), "1/4", (3,)),
        ("svd", (12, 18), "1/100", (1,)),
        ("falcon", (3, 12, 18), "full", (3,)),
        ("falcon", (12, 3, 5), "full", (5,)),
        ("tucker", (3, 12, 18), "full", (3, 12, 18)),
        ("tucker", (3, 2, 18), "full", (3, 2, 6)),
        ("tucker", (3, 12, 18), [2, "1/2", "2/3"], (2, 6, 12)),
        ("tucker", (3, 12, 18), ("2/3", 12, 1), (2, 12, 1)),
        ("cp", (3, 12, 18), "1/4", (9,)),
        ("cp", (12, 3, 5), "full", (15,)),
        ("tt", (3, 4, 12, 18), "full", (3, 12, 18)),
        ("tt", (12, 3, 5), "full", (12, 5)),
        ("tt", (3, 12, 18), ["1/1", "1/2"], (3, 9)),
        ("basis", (3, 12, 18), "1/2", (9,)),
    ],
)
def test_a_rank_is_read_as_it_is_written(name: str, shape: Shape, setting: RankSetting, rank: tuple[int, ...]) -> None:
    assert FACTORIZATIONS[name].resolve_rank(shape, setting) == rank


@pytest.mark.parametrize("entry", [0, -1, 19, "19", "x", "", "1/0", "3/2", "0/4", "-1/2", "2.5", 2.5, 0.5])
@pytest.mark.parametrize(("name", "shape"), [("svd", (18, 18)), ("tucker", (18, 18, 18))])
def test_an_impossible_rank_is_refused(name: str, shape: Shape, entry: RankSetting) -> None:
    method = FACTORIZATIONS[name]
    setting = entry if name == "svd" else [1, entry, 1]
    with pytest.raises(LobertError, match=name) as caught:
        method.resolve_rank(shape, setting)  # type: ignore[arg-type]
    assert "1 to 18" in one_sentence(caught.value) or "18, 18" in one_sentence(caught.value)


@pytest.mark.parametrize("setting", [[], [1, 2], 7, "1/2", [1, 2, 3, 4]])
def test_a_rank_with_the_wrong_number_of_entries_is_refused(setting: RankSetting) -> None:
    with pytest.raises(LobertError, match="takes 3 ranks") as caught:
        FACTORIZATIONS["tucker"].resolve_rank((3, 12, 18), setting)
    one_sentence(caught.value)


@pytest.mark.parametrize(("rank", "useful"), [((1, 5, 18), "[1, 4, 18]"), ((2, 12, 18), "[2, 8, 18]")])
def test_a_rank_that_a_train_cannot_use_is_refused(rank: tuple[int, ...], useful: str) -> None:
    with pytest.raises(LobertError, match="tt can use") as caught:
        FACTORIZATIONS["tt"].resolve_rank((3, 4, 12, 18), rank)
    assert useful in one_sentence(caught.value)


# ---- contraction ----


def random_einsum(seed: int) -> tuple[tuple[str, ...], str, dict[str, int]]:
    """Two to five operands that share letters, and an output of some of them."""
    draw = random.Random(seed)
    letters = "abcdoi"[: draw.randint(3, 6)]
    terms = tuple("".join(draw.sample(letters, draw.randint(1, 3))) for _ in range(draw.randint(2, 5)))
    present = sorted(set("".join(terms)))
    return terms, "".join(draw.sample(present, draw.randint(0, len(present)))), {c: draw.randint(1, 6) for c in letters}


def all_costs(terms: tuple[str, ...], output: str, sizes: dict[str, int]) -> Iterator[int]:
    """Multiply-adds of every pairwise order."""
    if len(terms) == 1:
        yield 0
    for right in range(len(terms)):
        for left in range(right):
            rest = tuple(term for index, term in enumerate(terms) if index not in (left, right))
            union = set(terms[left]) | set(terms[right])
            joined = "".join(sorted(union & set(output).union(*rest)))
            for cost in all_costs((*rest, joined), output, sizes):
                yield math.prod(sizes[letter] for letter in union) + cost


@pytest.mark.parametrize("seed", range(40))
def test_the_cheapest_path_is_the_einsum_at_the_least_cost(seed: int) -> None:
    terms, output, sizes = random_einsum(seed)
    operands = [torch.randn([sizes[c] for c in term], dtype=torch.float64) for term in terms]
    path = cheapest_path(terms, output, tuple(sorted(sizes.items())))
    expected = torch.einsum(f"{','.join(terms)}->{output}", *operands)
    torch.testing.assert_close(contract(path, operands), expected, rtol=1e-9, atol=1e-9)
    assert path.multiply_adds == min(all_costs(terms, output, sizes))


@pytest.mark.parametrize("tokens", [1, 7, 1000])
@pytest.mark.parametrize(("name", "stack", "shape"), GROUPS)
def test_without_merging_no_step_forms_a_weight(name: str, stack: str, shape: Shape, tokens: int) -> None:
    equation = FACTORIZATIONS[name].equation(stack)
    factors = random_factors(name, stack, shape, rank_ladder(name, shape)[2])
    whole = equation.split("->")[0].split(",")
    terms = [*("".join(c for c in term if c not in stack) for term in whole), "ni"]
    first = [f[tuple(0 if c in stack else slice(None) for c in term)] for f, term in zip(factors, whole, strict=True)]
    operands = [*first, torch.randn(tokens, shape[-1], dtype=torch.float64)]
    sizes = {c: n for term, x in zip(terms, operands, strict=True) for c, n in zip(term, x.shape, strict=True)}
    path = cheapest_path(tuple(terms), "no", tuple(sorted(sizes.items())), may_merge=False)
    weight = torch.einsum(equation, *factors)[(0,) * len(stack)]
    torch.testing.assert_close(contract(path, operands), operands[-1] @ weight.T, rtol=EXACT, atol=EXACT)
    formed = [set(step.split("->")[1]) for _, _, step in path.steps]
    assert all("n" in letters for letters in formed if {"o", "i"} <= letters)
