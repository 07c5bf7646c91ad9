"""Laws of the compressed layers: each is its slice of the dense tensor, gradients included, however it is evaluated."""

import copy
import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from cases import GROUPS, random_factors, rank_ladder
from torch import Tensor, nn

from lobert.factorizations import FACTORIZATIONS, Shape
from lobert.layers.factored import FactoredLinear
from lobert.layers.group import FactorGroup
from lobert.layers.ways import EVALUATIONS, Evaluation

CASES = [group for group in GROUPS if 1 not in group[2]]
BATCHES = [(), (1,), (4,), (2, 3), (0,), (2, 0)]
STEP = 3  # place in the rank ladder
MERGED = ("merge", "svd", "", (12, 18))

# Multiply-adds per token through the factors of one slice, as one would count them on paper.
THROUGH: dict[str, Callable[..., int]] = {
    "dense": lambda o, i: o * i,
    "svd": lambda o, i, r: r * i + r * o,
    "falcon": lambda o, i, r: r * o * i + r * o,
    "basis": lambda o, i, r: r * i + r * o,
    # what belongs to the stack is merged into the factor of the rows, once for all tokens
    "cp": lambda o, i, r: r * i + r * o,
    "tt": lambda o, i, *rank: rank[-1] * i + rank[-1] * o,
    # the core stays by itself, or is merged with its neighbour on either side, once for all tokens
    "tucker": lambda o, i, *rank: min(
        rank[-1] * i + rank[-1] * rank[-2] + rank[-2] * o, rank[-1] * (i + o), rank[-2] * (i + o)
    ),
}


def make_group(evaluation: Evaluation, name: str, stack: str, shape: Shape, step: int = STEP) -> FactorGroup:
    rank = rank_ladder(name, shape)[step]
    group = FactorGroup(FACTORIZATIONS[name], stack, shape, rank, evaluation).double()
    group.set_factors(random_factors(name, stack, shape, rank))
    return group


def last_slice(group: FactorGroup, bias: bool = True) -> FactoredLinear:
    index = tuple(size - 1 for size in group.shape[:-2])
    return FactoredLinear(group, index, torch.randn(group.shape[-2], dtype=torch.float64) if bias else None)


def dense(layer: FactoredLinear, x: Tensor) -> Tensor:
    """The same product by one einsum of the whole equation, through which autograd goes too."""
    weight = torch.einsum(layer.group.equation, *layer.group.whole_factors())[layer.index]
    return nn.functional.linear(x, weight, layer.bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize(("name", "stack", "shape"), CASES)
def test_output_and_all_gradients_are_those_of_the_dense_product(
    name: str, stack: str, shape: Shape, evaluation: Evaluation, bias: bool
) -> None:
    layer = last_slice(make_group(evaluation, name, stack, shape), bias)
    wanted = [*layer.group.factors, *layer.parameters()]
    for batch in BATCHES:
        x = torch.randn(*batch, shape[-1], dtype=torch.float64, requires_grad=True)
        outputs = [layer(x), dense(layer, x)]
        torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)
        seen = torch.randn_like(outputs[0])
        mine, reference = (torch.autograd.grad((y * seen).sum(), [x, *wanted]) for y in outputs)
        assert len(mine) == 1 + len(layer.group.factors) + bias
        torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize(("name", "stack", "shape"), CASES)
def test_every_slice_is_its_dense_weight_with_and_without_gradients(
    name: str, stack: str, shape: Shape, evaluation: Evaluation
) -> None:
    group = make_group(evaluation, name, stack, shape)
    tensor = torch.einsum(group.equation, *group.whole_factors()).detach()
    for index in torch.cartesian_prod(*map(torch.arange, (1, *shape[:-2]))).reshape(-1, len(shape) - 1)[:, 1:].tolist():
        layer = FactoredLinear(group, tuple(index), None).eval()
        torch.testing.assert_close(layer.weight.detach(), tensor[tuple(index)], rtol=1e-10, atol=1e-10)
        for batch in BATCHES:
            x = torch.randn(*batch, shape[-1], dtype=torch.float64)
            with torch.no_grad():
                torch.testing.assert_close(layer(x), x @ tensor[tuple(index)].T, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1), (torch.float16, 0.02)])
@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize(("name", "stack", "shape"), CASES)
def test_other_precisions(
    name: str, stack: str, shape: Shape, evaluation: Evaluation, dtype: torch.dtype, tolerance: float
) -> None:
    layer = last_slice(make_group(evaluation, name, stack, shape))
    x = torch.randn(5, shape[-1], dtype=torch.float64)
    expected = dense(layer, x).detach()
    layer.group.to(dtype)
    layer.to(dtype)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            y = layer(x.to(dtype))
        assert y.dtype == dtype
        assert (y.double() - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize(("name", "stack", "shape"), CASES)
def test_multiply_adds_per_token(name: str, stack: str, shape: Shape, evaluation: Evaluation) -> None:
    group = make_group(evaluation, name, stack, shape)
    out, into = shape[-2:]
    through = THROUGH[name.removeprefix("pivoted_")](out, into, *group.rank)
    expected = {"contract": through, "merge": out * into, "auto": min(through, out * into)}
    assert group.ways.macs_per_token() == expected[evaluation]


@pytest.mark.parametrize("tokens", [1, 10, 1000])
@pytest.mark.parametrize(("name", "stack", "shape"), CASES)
def test_auto_takes_the_cheaper_way(name: str, stack: str, shape: Shape, tokens: int) -> None:
    """Of all slices together. What no token enters is formed in every pass in training, and kept in evaluation."""
    for step in range(6):
        group = make_group("auto", name, stack, shape, step)
        products = tokens * math.prod(shape) // group.ways.sizes.get("s", 1)  # roles that read inputs of their own
        kept, formed = (group.ways.contract_path(tokens, training) for training in (False, True))
        assert group.ways.merges(tokens, training=False) == (products < kept.running)
        assert group.ways.merges(tokens, training=True) == (
            products + group.ways.merge_path().multiply_adds < formed.running + formed.forming
        )


# ---- the kept weight ----


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adamw": torch.optim.AdamW,
    "adamw, fused": partial(torch.optim.AdamW, fused=True),
    "adamw, one by one": partial(torch.optim.AdamW, foreach=False),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize(("name", "stack", "shape"), CASES)
def test_evaluation_sees_every_training_step(
    name: str, stack: str, shape: Shape, evaluation: Evaluation, optimizer: str
) -> None:
    """A fused optimizer changes the factors without raising their version counters."""
    layer = last_slice(make_group(evaluation, name, stack, shape))
    steps = OPTIMIZERS[optimizer](layer.group.parameters(), lr=0.1)
    x = torch.randn(5, shape[-1], dtype=torch.float64)
    for _ in range(2):
        with torch.no_grad():
            torch.testing.assert_close(layer(x), dense(layer, x))
        layer(x).square().sum().backward()
        steps.step()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), dense(layer, x))


def scale(group: FactorGroup) -> None:
    with torch.no_grad():
        group.factors[0].mul_(2)


def load(group: FactorGroup) -> None:
    group.load_state_dict({**group.state_dict(), "factors.0": 2 * group.factors[0].detach()})


def optimize(group: FactorGroup) -> None:
    group.factors[0].grad = -group.factors[0].detach().clone()
    torch.optim.SGD([group.factors[0]], lr=1.0).step()


def assign(group: FactorGroup) -> None:
    group.factors[0].data = 2 * group.factors[0].data


def reset(group: FactorGroup) -> None:
    first, *others = (factor.detach() for factor in group.whole_factors())
    group.set_factors([2 * first, *others])


def put(group: FactorGroup) -> None:
    group.load_state_dict({**group.state_dict(), "factors.0": 2 * group.factors[0].detach()}, assign=True)


@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize("change", [scale, load, put, optimize, assign, reset])
def test_what_is_kept_follows_the_factors(change: Callable[[FactorGroup], None], evaluation: Evaluation) -> None:
    """The merged weight, and the views of the slices' factors."""
    layer = last_slice(make_group(evaluation, "falcon", "s", (3, 12, 18)), bias=False)
    x = torch.randn(3, layer.in_features, dtype=torch.float64)
    with torch.no_grad():
        before = layer(x)
    change(layer.group)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), 2 * before)


@pytest.mark.parametrize("evaluation", ["contract", "merge"])
@pytest.mark.parametrize(("name", "stack", "shape"), CASES)
def test_what_needs_no_tokens_is_formed_once_for_many_forwards(
    name: str, stack: str, shape: Shape, evaluation: Evaluation
) -> None:
    layer = last_slice(make_group(evaluation, name, stack, shape))
    assert len({id(matrix) for _ in range(3) for matrix in formed(layer)}) == len(formed(layer))


def formed(layer: FactoredLinear) -> list[Tensor]:
    """What the layer goes on with in evaluation."""
    with torch.no_grad():
        layer(torch.randn(2, layer.in_features, dtype=torch.float64))
        return layer.group.operands(layer.group.ways.way(2, False, 1), layer.index).tensors


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_autocast_and_full_precision_take_turns(evaluation: Evaluation) -> None:
    layer = last_slice(make_group(evaluation, "falcon", "s", (3, 12, 18))).float()
    layer.group.float()
    x = torch.randn(4, 18)
    with torch.no_grad():
        expected = dense(layer, x)
        for lower in (True, False, True, False):
            with torch.autocast("cpu", torch.bfloat16, enabled=lower):
                y = layer(x)
            error = (y.float() - expected).abs().max()
            assert error <= (0.05 if lower else 1e-5) * expected.abs().max()


@pytest.mark.parametrize("evaluation", EVALUATIONS)
def test_a_copy_has_factors_of_its_own_and_nothing_kept(evaluation: Evaluation) -> None:
    layer = last_slice(make_group(evaluation, "falcon", "s", (3, 12, 18)), bias=False)
    x = torch.randn(3, layer.in_features, dtype=torch.float64)
    with torch.no_grad():
        before = layer(x)
        twin = copy.deepcopy(layer)
        scale(twin.group)
        torch.testing.assert_close(twin(x), 2 * before)
        torch.testing.assert_close(layer(x), before)


def test_a_layer_leaves_the_factors_to_the_bank() -> None:
    group = make_group("auto", "tucker", "sl", (3, 4, 12, 18))
    assert set(last_slice(group).state_dict()) == {"bias"}
    assert len(group.state_dict()) == len(group.equation.split("->")[0].split(","))
