"""Laws of the shared input: Q, K and V of a layer share what they can, and are the dense products all the same."""

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
import torch
from cases import POINTS, SHAPES, exists, point, random_factors, rank_ladder, tiny_bert, token_batch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from lobert.compression.compress import compress_model, linear_macs
from lobert.compression.plan import make_plan
from lobert.factorizations import FACTORIZATIONS, Shape
from lobert.factorizations.product import product
from lobert.layers.factored import FactoredLinear
from lobert.layers.group import FactorGroup
from lobert.layers.lookup import FactoredEmbedding
from lobert.layers.sharing import SharedInput
from lobert.layers.ways import EVALUATIONS, Evaluation, Way

CASES = [
    (name, stack, shape)
    for name, method in FACTORIZATIONS.items()
    for stack in ("s", "sl")
    if exists(method, stack)
    for shape in SHAPES[stack]
    if 1 not in shape
]
MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "training": torch.enable_grad,
    "no_grad": torch.no_grad,
    "inference": torch.inference_mode,
}
NAMES = ["query", "key", "value"]


def sharers(name: str, stack: str, shape: Shape, evaluation: Evaluation = "auto", step: int = 3) -> nn.ModuleList:
    """All roles of the last layer of a group, which read one input."""
    rank = rank_ladder(name, shape)[step]
    group = FactorGroup(FACTORIZATIONS[name], stack, shape, rank, evaluation).double()
    group.set_factors(random_factors(name, stack, shape, rank))
    shared, rest = SharedInput(shape[0]), tuple(size - 1 for size in shape[1:-2])
    biases = torch.randn(shape[0], shape[-2], dtype=torch.float64)
    return nn.ModuleList(FactoredLinear(group, (role, *rest), biases[role], shared) for role in range(shape[0]))


def falcon() -> nn.ModuleList:
    return sharers("falcon", "s", (3, 12, 18), "contract")


def parameters(layers: nn.ModuleList) -> list[Tensor]:
    return [*layers[0].group.factors, *layers.parameters()]


def dense(layers: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """The same products by one einsum of the whole equation."""
    tensor = torch.einsum(layers[0].group.equation, *layers[0].group.whole_factors())
    return [nn.functional.linear(x, tensor[layer.index], layer.bias) for layer in layers]


def close(mine: list[Tensor], reference: list[Tensor]) -> None:
    torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-9)


def is_empty(shared: SharedInput) -> bool:
    return shared._input is None and not shared._results and not shared._served


def random_input(width: int = 18) -> Tensor:
    return torch.randn(2, 5, width, dtype=torch.float64, requires_grad=True)


# ---- the same function ----


@pytest.mark.parametrize("step", [0, 3, 5])
@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize(("name", "stack", "shape"), CASES)
def test_joint_products_and_all_gradients_are_the_dense_ones(
    name: str, stack: str, shape: Shape, evaluation: Evaluation, step: int
) -> None:
    layers = sharers(name, stack, shape, evaluation, step)
    for tokens in (1, 40):
        x = torch.randn(tokens, shape[-1], dtype=torch.float64, requires_grad=True)
        outputs = [[layer(x) for layer in layers], dense(layers, x)]
        close(*outputs)
        seen = torch.randn(shape[0], *outputs[0][0].shape, dtype=torch.float64)
        wanted = [x, *parameters(layers)]
        close(*(list(torch.autograd.grad((torch.stack(y) * seen).sum(), wanted)) for y in outputs))
        assert is_empty(layers[0].shared)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize(("name", "stack", "shape"), CASES)
def test_any_order_any_number_of_slices_in_any_mode(
    name: str, stack: str, shape: Shape, evaluation: Evaluation, mode: str
) -> None:
    layers = sharers(name, stack, shape, evaluation)
    with MODES[mode]():
        inputs = [torch.randn(4, shape[-1], dtype=torch.float64) for _ in range(2)]
        for role, which in [(2, 0), (0, 0), (0, 0), (1, 1), (2, 1), (1, 0), (0, 1), (1, 1), (2, 1)]:
            close([layers[role](inputs[which])], [dense(layers, inputs[which])[role]])


def test_a_backward_pass_of_each_output_by_itself() -> None:
    layers, x = falcon(), random_input()
    for layer, reference in zip(layers, dense(layers, x), strict=True):
        wanted = [x, *layers[0].group.factors]
        mine = torch.autograd.grad(layer(x).sum(), wanted)
        close(list(mine), list(torch.autograd.grad(reference.sum(), wanted, retain_graph=True)))


# ---- nothing stale ----


def equal_copy(x: Tensor, layers: nn.ModuleList) -> Tensor:
    return x.detach().clone().requires_grad_()


def in_place(x: Tensor, layers: nn.ModuleList) -> Tensor:
    with torch.no_grad():
        x.mul_(2)
    return x


def optimizer_step(x: Tensor, layers: nn.ModuleList) -> Tensor:
    for factor in layers[0].group.factors:
        factor.grad = torch.ones_like(factor)
    torch.optim.SGD(layers[0].group.factors, lr=0.1).step()
    return x


def assigned_data(x: Tensor, layers: nn.ModuleList) -> Tensor:
    layers[0].group.factors[-1].data = 2 * layers[0].group.factors[-1].data
    return x


def other_evaluation(x: Tensor, layers: nn.ModuleList) -> Tensor:
    layers[0].group.ways.evaluation = "merge"
    return x


@pytest.mark.parametrize("change", [equal_copy, in_place, optimizer_step, assigned_data, other_evaluation])
@pytest.mark.parametrize(("name", "stack", "shape"), CASES)
def test_a_change_between_the_slices_is_seen(
    name: str, stack: str, shape: Shape, change: Callable[[Tensor, nn.ModuleList], Tensor]
) -> None:
    layers, x = sharers(name, stack, shape, "contract"), random_input(shape[-1])
    layers[0](x)
    x = change(x, layers)
    reference = dense(layers, x)[1]
    wanted = [x, *layers[0].group.factors]
    mine = layers[1](x)
    close([mine], [reference])
    close(*(list(torch.autograd.grad(y.square().sum(), wanted)) for y in (mine, reference)))


@pytest.mark.parametrize("first", MODES)
def test_products_made_without_gradients_are_not_used_with_them(first: str) -> None:
    layers, x = falcon(), random_input()
    with torch.no_grad() if first == "training" else MODES[first]():
        layers[0](x)
    close(list(torch.autograd.grad(layers[1](x).sum(), [x])), list(torch.autograd.grad(dense(layers, x)[1].sum(), [x])))


def test_an_input_that_asks_for_gradients_later_gets_them() -> None:
    layers, x = falcon(), random_input().detach()
    layers[0](x)
    x.requires_grad_()
    close(list(torch.autograd.grad(layers[1](x).sum(), [x])), list(torch.autograd.grad(dense(layers, x)[1].sum(), [x])))


def test_autocast_between_the_slices_is_seen() -> None:
    layers, x = falcon().float(), random_input().float()
    layers[0].group.float()
    for lower in (True, False, True):
        role = int(lower)
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            y = layers[role](x)
        assert y.dtype == (torch.bfloat16 if lower else torch.float32)
        error = (y.float() - dense(layers, x)[role]).abs().max()
        assert error <= (0.05 if lower else 1e-5) * dense(layers, x)[role].abs().max()


# ---- nothing kept ----


@pytest.mark.parametrize("mode", MODES)
def test_products_are_dropped_when_all_have_had_them(mode: str) -> None:
    layers = falcon()
    with MODES[mode]():
        x = torch.randn(5, 18, dtype=torch.float64)
        for layer, empty in zip(layers, [False, False, True], strict=True):
            layer(x)
            assert is_empty(layer.shared) == empty


def test_products_are_dropped_when_a_backward_pass_goes_through_them() -> None:
    layers = falcon()
    layers[0](random_input()).sum().backward()
    assert is_empty(layers[0].shared)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layers: pickle.loads(pickle.dumps(layers))])
def test_a_copy_shares_among_its_own(duplicate: Callable[[nn.ModuleList], nn.ModuleList]) -> None:
    layers, x = falcon(), random_input()
    layers[0](x)
    twins = duplicate(layers)
    assert len({id(twin.shared) for twin in twins} | {id(layers[0].shared)}) == 2
    assert is_empty(twins[0].shared)
    with torch.no_grad():
        twins[0].group.factors[0].mul_(2)
    close([twin(x) for twin in twins], dense(twins, x))
    close([layers[1](x)], dense(layers, x)[1:2])


# ---- in a model ----


def attention_inputs() -> Tensor:
    return torch.randn(2, 8, 48, generator=torch.Generator().manual_seed(0))


def attention(name: str, evaluation: Evaluation = "auto") -> nn.Module:
    """The first self-attention of a small model, compressed."""
    model = tiny_bert()
    compress_model(model, make_plan(model, point(name), evaluation))
    return model.bert.encoder.layer[0].attention.self


STACKED = [
    "falcon_layer",
    "falcon_4d",
    "falcon_vertical",
    "tucker_layer",
    "tucker_4d",
    "tucker_vertical",
    "tt_4d",
    "cp_4d",
]


@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize("name", ["svd", *STACKED])
def test_the_products_counted_are_those_predicted(name: str, evaluation: Evaluation) -> None:
    """In a pass through all layers. torch counts the matrix products; scaling by a few numbers is none."""
    model, x, tokens = tiny_bert(), attention_inputs(), 16
    compress_model(model, make_plan(model, point(name), evaluation))
    layers = [module for module in model.modules() if isinstance(module, FactoredLinear)]
    groups = {id(layer.group): layer for layer in layers}.values()
    for training in (False, True):
        with torch.set_grad_enabled(training):
            attend(model, x)  # what is kept in evaluation is formed by now
            with FlopCounterMode(display=False) as counter:
                attend(model, x)
        expected = 0
        for layer in groups:
            group, size = layer.group, layer.shared.size
            assert size == (3 if "s" in group.stack else 1)
            way = group.ways.way(tokens, training, size)
            matrices, scalings = step_costs(way, {**group.ways.sizes, "n": tokens}, group.ways.inputs, size, training)
            products = (
                group.ways.inputs * size * tokens * group.ways.sizes["o"] * group.ways.sizes["i"] if way.merges else 0
            )
            assert matrices + scalings + products == way.multiply_adds
            expected += matrices + products
        assert counter.get_total_flops() == 2 * expected


def attend(model: nn.Module, x: Tensor) -> None:
    """Queries, keys and values of all layers, of an input of each layer's own."""
    for number, layer in enumerate(model.bert.encoder.layer):
        own = x + number
        for role in NAMES:
            layer.attention.self.get_submodule(role)(own)


def step_costs(way: Way, sizes: dict[str, int], inputs: int, sharers: int, training: bool) -> tuple[int, int]:
    """Multiply-adds of all slices' steps: of matrix products, and of steps that only scale one operand."""
    costs = [0, 0]
    for _, _, equation in way.halves.joint.steps if training else ():
        costs[scales(equation)] += math.prod(sizes[letter] for letter in letters_of(equation))
    for number, (_, _, equation) in enumerate(way.halves.each.steps):
        times = inputs * (1 if number in way.halves.each.common else sharers)
        costs[scales(equation)] += times * math.prod(sizes[letter] for letter in letters_of(equation))
    return costs[0], costs[1]


def letters_of(equation: str) -> set[str]:
    return set(equation.split("->")[0].replace(",", ""))


def scales(equation: str) -> bool:
    """Whether all letters of one operand are letters of the other, or none is summed over."""
    inputs, output = equation.split("->")
    first, second = map(set, inputs.split(","))
    return first <= second or second <= first or not first & second - set(output)


@pytest.mark.parametrize("name", ["svd", *STACKED])
def test_in_evaluation_no_factor_is_copied(name: str) -> None:
    """What is kept lies in memory as its products read it."""
    model, x = tiny_bert(), attention_inputs()[:1, :2]
    compress_model(model, make_plan(model, point(name)))
    with torch.no_grad():
        attend(model, x)
        with Copies() as copies:
            attend(model, x)
    assert [size for size in copies.sizes if size >= 48 * 6] == []  # those of two tokens are smaller


class Copies(TorchDispatchMode):
    """How many numbers each copy has that torch makes."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(
        self, func: Callable[..., Tensor], types: object, args: tuple[object, ...] = (), kwargs: object = None
    ) -> Tensor:
        result = func(*args, **(kwargs or {}))
        if func.__name__.split(".")[0] in ("clone", "copy_", "_to_copy"):
            self.sizes.append(result.numel())
        return result


@pytest.mark.parametrize("name", STACKED)
def test_gradients_of_all_layers_form_no_zeros(name: str) -> None:
    """A slice taken out of the factors by itself would fill a gradient of all of them with zeros."""
    model = tiny_bert()
    compress_model(model, make_plan(model, point(name)))
    layers = [module for module in model.modules() if isinstance(module, FactoredLinear)]
    output = sum(layer(attention_inputs()).sum() for layer in layers)
    kinds, waiting = set[str](), [output.grad_fn]
    while waiting:
        node = waiting.pop()
        kinds.add(type(node).__name__)
        waiting += [following for following, _ in node.next_functions if following is not None]
    assert "UnbindBackward0" in kinds
    assert not {"SelectBackward0", "SliceBackward0", "IndexBackward0"} & kinds


@pytest.mark.parametrize("name", ["falcon_layer", "falcon_4d"])
def test_one_matrix_product_serves_query_key_and_value(name: str) -> None:
    block, x = attention(name), attention_inputs()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for role in NAMES:
            block.get_submodule(role)(x)
    assert counter.get_total_flops() == 2 * 16 * 48 * 48


def test_tucker_projects_the_input_once() -> None:
    """By hand, at ranks (2, 24, 24) and 16 tokens: input, core with output once, both, then two numbers per role."""
    block = attention("tucker_layer", "contract")
    tokens, rank, width = 16, 24, 48
    path = block.query.group.ways.contract_path(tokens, True, 3)
    joined = tokens * rank * width + min(
        2 * rank * rank * width + tokens * 2 * rank * width,  # the core is merged with the output factor
        tokens * 2 * rank * rank + tokens * 2 * rank * width,
    )
    assert path.multiply_adds == joined + tokens * 2 * 3 * width
    assert path.multiply_adds < 3 * block.query.group.ways.contract_path(tokens, True).multiply_adds


@pytest.mark.parametrize("name", POINTS)
def test_shared_products_are_counted_once(name: str) -> None:
    model = tiny_bert()
    unshared = linear_macs(model)
    report = compress_model(model, make_plan(model, point(name)))
    layers = [module for module in model.modules() if isinstance(module, FactoredLinear)]
    together = {id(layer.shared): layer for layer in layers}.values()
    assert sum(layer.shared.size for layer in together) == len(layers)
    macs = sum(layer.group.ways.macs_per_token(layer.shared.size) for layer in together)
    macs += sum(layer.macs_per_token() for layer in model.modules() if isinstance(layer, FactoredEmbedding))
    assert macs == sum(group.macs for group in report.groups)
    assert linear_macs(model) == unshared - sum(group.dense_macs for group in report.groups) + macs


def gradients(model: nn.Module) -> Iterator[Tensor]:
    model.zero_grad()
    model.train()
    model(**token_batch()).logits.square().sum().backward()
    return (parameter.grad for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize("name", ["falcon_layer", "falcon_4d", "tucker_layer"])
def test_gradient_checkpointing_changes_no_gradient(name: str, evaluation: Evaluation, reentrant: bool) -> None:
    model = tiny_bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    compress_model(model, make_plan(model, point(name), evaluation))
    expected = [gradient.clone() for gradient in gradients(model)]
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    for _ in range(2):
        torch.testing.assert_close(list(gradients(model)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("readers", [1, 2, 3])
def test_a_checkpointed_block_of_some_readers_can_go_backward_twice(readers: int) -> None:
    layers, x = falcon(), random_input()
    y = checkpoint(lambda x: sum(layer(x) for layer in layers[:readers]), x, use_reentrant=False)
    wanted = [x, *layers[0].group.factors]
    reference = torch.autograd.grad(sum(dense(layers, x)[:readers]).sum(), wanted)
    for _ in range(2):
        close(list(torch.autograd.grad(y.sum(), wanted, retain_graph=True)), list(reference))


# ---- products of two operands ----


@pytest.mark.parametrize("size", [1, 2, 6])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "equation",
    [
        "ri,ni->nr", "ro,nr->no", "roi,ni->nro", "ro,nro->no", "r,nro->no", "a,nao->no", "acd,nd->nac", "acd,co->ado",
        "ro,ri->oi", "ro,roi->oi", "nr,ro->no", "ni,oi->on", "ro,ri->roi", "ro,ir->roi", ",no->no", "ab,abno->no",
        "rb,nro->bno",
    ],
)  # fmt: skip
def test_a_product_is_its_einsum(equation: str, bias: bool, size: int) -> None:
    inputs, output = equation.split("->")
    sizes = {letter: size if letter in "ra" else 3 + "bcdino".index(letter) for letter in "rabcdino"}
    first, second = (torch.randn([sizes[c] for c in term], dtype=torch.float64) for term in inputs.split(","))
    shift = torch.randn(sizes[output[-1]], dtype=torch.float64) if bias else None
    expected = torch.einsum(equation, first, second) + (0 if shift is None else shift)
    close([product(equation, first, second, shift)], [expected])
