"""Laws of blocks: addresses are what they say, blocks make up the weight, a layer of blocks equals the whole one."""

import copy
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import exists, logits_of, one_sentence, point, tiny_bert, token_batch
from test_sequential import last_sums
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import lobert
from lobert.checkpoint import save_student
from lobert.compression.calibration import calibrate
from lobert.compression.compress import compress_model, install_skeleton, linear_macs, stack_weights
from lobert.compression.grouping import Part
from lobert.compression.objective import Objective
from lobert.compression.plan import GroupPlan, make_plan
from lobert.compression.sequential import chosen_order, compress_in_order
from lobert.encoders import roles
from lobert.errors import LobertError
from lobert.factorizations import FACTORIZATIONS
from lobert.layers.blocklinear import BlockLinear, assembled
from lobert.layers.blocks import Axis, Block, squares
from lobert.layers.factored import FactoredLinear
from lobert.layers.group import FactorGroup
from lobert.layers.sharing import SharedInput
from lobert.layers.ways import EVALUATIONS, Evaluation

LAYER = "bert.encoder.layer.1"
FFN = (f"{LAYER}.intermediate.dense", f"{LAYER}.output.dense")
STACKS: list[list[str]] = [[], ["role"], ["layer"], ["role", "layer"]]
LETTERS = {"role": "s", "layer": "l"}
CUT = [
    (name, stack)
    for name, stack in itertools.product(FACTORIZATIONS, STACKS)
    if exists(FACTORIZATIONS[name], "".join(LETTERS[axis] for axis in stack)) and name != "dense"
]
EXACT = {"rtol": 1e-4, "atol": 1e-4}


def cut_part(name: str = "tucker", stack: list[str] | None = None, **changes: Any) -> Part:
    """All six matrices in squares."""
    every = ["query", "key", "value", "attention_output", "intermediate", "output"]
    stack = ["role", "layer"] if stack is None else stack
    return replace(Part("cut", every, stack, name, default_rank="full", cut=True), **changes)


def cut_model(**changes: Any) -> nn.Module:
    model = tiny_bert()
    compress_model(model, make_plan(model, [cut_part(**changes)]))
    return model


# ---- addresses ----


@pytest.mark.parametrize("text", ["a.b", "a.0.dense[rows 1/4]", "a.0.dense[columns 12/12]", "pooler"])
def test_an_address_is_read_as_it_is_written(text: str) -> None:
    assert str(Block.parse(text)) == text


def test_a_block_of_one_is_the_whole() -> None:
    assert Block.parse("a[rows 1/1]") == Block.parse("a[columns 1/1]") == Block("a") == Block("a").cut("rows", 1)[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[rows 1/2]",
        "a[rows 0/2]",
        "a[rows 3/2]",
        "a[row 1/2]",
        "a[rows 1/0]",
        "a[rows 1/2",
        "a[rows 1/2]b",
        3,
        None,
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(LobertError, match="addresses no weight") as caught:
        Block.parse(text)
    one_sentence(caught.value)


@pytest.mark.parametrize(("axis", "count", "parts"), itertools.product(["rows", "columns"], [1, 2, 3], [1, 2]))
def test_blocks_of_blocks_make_up_the_weight_in_order(axis: Axis, count: int, parts: int) -> None:
    matrix = torch.arange(12.0 * 24).reshape(12, 24)
    blocks = [piece for block in Block("w").cut(axis, count) for piece in block.cut(axis, parts)]
    assert blocks == blocks[0].siblings()
    assert torch.equal(torch.cat([block.of(matrix) for block in blocks], 0 if axis == "rows" else 1), matrix)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Block("w", "rows", 0, 5).of(torch.ones(12, 24)), "do not make 5 blocks"),
        (lambda: Block("w", "rows", 0, 2).cut("columns", 2), "cut by rows already"),
        (lambda: squares(Block("w"), (100, 48)), "cut=false"),
        (lambda: make_plan(tiny_bert(intermediate_size=100), [cut_part()]), "intermediate.dense.*no multiple of 48"),
        (lambda: make_plan(tiny_bert(), [cut_part(cut="yes")]), "cut=yes"),
        (
            lambda: make_plan(tiny_bert(vocab_size=96), [cut_part("svd", [], roles=["word_embeddings"])]),
            "part of an embedding",
        ),
        (lambda: make_plan(tiny_bert(), [*point("all_tucker"), *point("ffn_svd")]), "both compress.*intermediate"),
        (lambda: make_plan(tiny_bert(), [*point("ffn_svd"), *point("all_tucker")]), "both compress.*rows 1/4"),
        (lambda: install_skeleton(tiny_bert(), [moved("[rows 1/2]")]), r"rows 1/2\]' as \[48, 48\].* is \[96, 48\]"),
        (lambda: install_skeleton(tiny_bert(), [moved("[rows 1/5]")]), "do not make 5 blocks"),
    ],
)
def test_what_cannot_be_cut_is_refused(wrong: Any, words: str) -> None:
    with pytest.raises(LobertError, match=words) as caught:
        wrong()
    one_sentence(caught.value)


def moved(ending: str) -> GroupPlan:
    """A sound plan of one square, moved to another block."""
    plan = make_plan(tiny_bert(), [cut_part("svd", [], roles=["query"])])[0]
    return replace(plan, slices=((Block.parse(FFN[0] + ending), ()),))


# ---- the layer ----


def layer_of_blocks(axis: Axis, taken: tuple[int, ...], evaluation: Evaluation, bias: bool) -> BlockLinear:
    """Three blocks `[6, 6]` in double precision: slices of a Tucker group as far as `taken`, dense otherwise."""
    torch.manual_seed(0)
    shape = (3, 6, 6)
    group = FactorGroup(FACTORIZATIONS["tucker"], "s", shape, (2, 3, 4), evaluation).double()
    group.set_factors([torch.randn_like(factor) for factor in group.factors])
    dense = nn.Linear(*((6, 18) if axis == "rows" else (18, 6)), bias=bias).double()
    shared = SharedInput(len(taken)) if axis == "rows" else None
    factored = {Block("w", axis, k, 3): FactoredLinear(group, (k,), None, shared) for k in taken}
    layer = assembled(dense, factored)
    assert isinstance(layer, BlockLinear)
    object.__setattr__(layer, "group", group)
    return layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize("taken", [(0, 1, 2), (1,), (0, 2)])
@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_outputs_and_gradients_are_those_of_the_whole(
    axis: Axis, taken: tuple[int, ...], evaluation: Evaluation, bias: bool
) -> None:
    layer = layer_of_blocks(axis, taken, evaluation, bias)
    x = torch.randn(2, 5, layer.in_features, dtype=torch.float64, requires_grad=True)
    wanted = [x, *layer.group.factors, *layer.parameters()]  # type: ignore[union-attr,misc]
    answers = []
    for y in (layer(x), nn.functional.linear(x, layer.weight, layer.bias)):
        answers.append([y, *torch.autograd.grad(y.sin().sum(), wanted)])  # type: ignore[arg-type]
    for mine, dense in zip(*answers, strict=True):
        torch.testing.assert_close(mine, dense)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), answers[0][0])


# ---- whole models ----


@pytest.mark.parametrize(("name", "stack"), CUT)
def test_full_rank_leaves_the_logits_on_every_stack_of_squares(name: str, stack: list[str], tmp_path: Path) -> None:
    model = cut_model(name=name, stack=stack)
    torch.testing.assert_close(logits_of(model), logits_of(tiny_bert()), **EXACT)
    merged = lobert.merge(model)
    torch.testing.assert_close(logits_of(merged), logits_of(model), **EXACT)
    assert merged.state_dict().keys() == tiny_bert().state_dict().keys()
    save_student(model, tmp_path)
    torch.testing.assert_close(logits_of(lobert.load(tmp_path)), logits_of(model))


@pytest.mark.parametrize("stack", STACKS)
def test_every_square_is_in_one_slice_and_named(stack: list[str]) -> None:
    plans = make_plan(tiny_bert(), [cut_part("svd" if not stack else "tucker", stack)])
    blocks = [block for plan in plans for block, _ in plan.slices]
    assert len(blocks) == len(set(blocks)) == 12 * 4
    assert {plan.shape[-2:] for plan in plans} == {(48, 48)}
    assert len({plan.name for plan in plans}) == len(plans) == 48 // len(plans[0].slices)
    if not stack:
        assert plans[0].name == "query_0"
        assert "intermediate_rows_2_of_4_0" in {plan.name for plan in plans}


def test_row_blocks_read_one_input_and_column_blocks_their_own() -> None:
    """Of each layer: Q, K and V share an input, the four blocks of the intermediate another one; the rest is alone."""
    layer = cut_model().bert.encoder.layer[0]
    found = [module.shared for module in layer.modules() if isinstance(module, FactoredLinear)]
    assert sorted(shared.size for shared in set(found)) == [1, 1, 1, 1, 1, 3, 4]


def test_tucker_projects_the_input_of_four_blocks_once() -> None:
    model = tiny_bert()
    compress_model(model, make_plan(model, [cut_part(rank=[9, 3, 24, 20])], "contract"))
    dense, x = model.get_submodule(FFN[0]), torch.randn(16, 48)
    with torch.no_grad():
        dense(x)  # what takes no tokens is formed by now
    with FlopCounterMode(display=False) as together, torch.no_grad():
        dense(x)
    with FlopCounterMode(display=False) as apart, torch.no_grad():
        for block in dense.blocks:  # type: ignore[union-attr]
            block(x.clone())
    assert apart.get_total_flops() - together.get_total_flops() >= 3 * 2 * 16 * 48 * 20


@pytest.mark.parametrize("name", ["tucker", "cp", "tt", "basis"])
def test_the_share_of_the_multiply_adds_is_what_the_model_needs(name: str) -> None:
    model = tiny_bert()
    plans = make_plan(model, [cut_part(name, keep=0.5)], budget="macs")
    dense = linear_macs(model.bert.encoder)
    compress_model(model, plans)
    assert 0.45 * dense <= linear_macs(model.bert.encoder) <= 0.5 * dense


def test_blocks_that_no_group_takes_stay_dense() -> None:
    model = tiny_bert()
    plans = [plan for plan in make_plan(model, [cut_part("svd", [])]) if "_1_of_4" in plan.name]
    plans = [replace(plan, rank=(5,)) for plan in plans]
    before = {path: model.get_submodule(path).weight.clone() for path in FFN}
    report = compress_model(model, plans)
    assert linear_macs(model.bert.encoder) == 4 * (12 * 48 * 48) - sum(g.dense_macs - g.macs for g in report.groups)
    for path, left in zip(FFN, (slice(48, None), (slice(None), slice(48, None))), strict=True):
        after = model.get_submodule(path).weight
        assert torch.equal(after[left], before[path][left])
        assert not torch.equal(after, before[path])
    twin = tiny_bert(seed=1)
    install_skeleton(twin, [GroupPlan.from_dict(group) for group in model.config.lobert["groups"]])
    twin.load_state_dict(model.state_dict())
    assert torch.equal(logits_of(twin), logits_of(model))


def test_a_role_may_be_a_block_of_a_fused_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three quarters of the intermediate, said to be Q, K and V of one module: shared input, the rest untouched."""
    known = roles.ARCHITECTURES["bert"]
    fused = {role: f"intermediate.dense[rows {k}/4]" for k, role in enumerate(["query", "key", "value"], 1)}
    monkeypatch.setitem(roles.ARCHITECTURES, "bert", replace(known, roles={**known.roles, **fused}))
    assert len(roles.encoder_linears(tiny_bert())) == 4 * 3 + 1  # each module once
    for name in ("falcon_4d", "tucker_layer", "svd"):
        model = tiny_bert()
        plans = make_plan(model, point(name, rank="full"))
        assert plans[0].name == {"falcon_4d": "query_key_value", "tucker_layer": "query_key_value_0"}.get(
            name, "query_0"
        )
        compress_model(model, plans)
        torch.testing.assert_close(logits_of(model), logits_of(tiny_bert()), **EXACT)
        layer = model.get_submodule(FFN[0])
        assert [type(block) for block in layer.blocks] == [FactoredLinear] * 3 + [nn.Linear]  # type: ignore[union-attr]
        assert layer.blocks[0].shared.size == (1 if name == "svd" else 3)  # type: ignore[union-attr]
    halves = {"query": "intermediate.dense[rows 1/2]", "key": "intermediate.dense[rows 2/2]"}
    monkeypatch.setitem(roles.ARCHITECTURES, "bert", replace(known, roles=halves))
    (plan,) = make_plan(tiny_bert(), [cut_part(roles=["query", "key"])])
    assert plan.shape == (4, 4, 48, 48)
    assert str(plan.slices[-1][0]).endswith("3.intermediate.dense[rows 4/4]")


# ---- norms ----


def test_moments_of_blocks_are_blocks_of_the_moments() -> None:
    model = tiny_bert()
    whole = calibrate(model, FFN, [token_batch()], gradients=True)
    rows, columns = Block(FFN[0], "rows", 1, 4), Block(FFN[1], "columns", 2, 4)
    inside = slice(96, 144)
    mean = whole.mean[FFN[1]][inside]
    assert torch.equal(whole.input_mean(columns), mean)
    expected = whole.second_moment[FFN[1]][inside, inside] - torch.outer(mean, mean)
    torch.testing.assert_close(whole.covariance(columns), expected)
    torch.testing.assert_close(whole.covariance(rows), whole.covariance(Block(FFN[0])))
    assert torch.equal(found(whole.output_gradient(rows)), whole.gradient[FFN[0]][48:96, 48:96])
    assert torch.equal(found(whole.output_gradient(columns)), whole.gradient[FFN[1]])
    assert torch.equal(whole.input_fisher(columns), whole.fisher[FFN[1]][inside])
    shares = sum(whole.input_fisher(block) for block in rows.siblings())
    torch.testing.assert_close(shares, whole.fisher[FFN[0]])


def found(moment: Tensor | None) -> Tensor:
    assert moment is not None
    return moment


@pytest.mark.parametrize("kind", ["activations", "loss"])
def test_mean_outputs_of_cut_weights_stay(kind: str) -> None:
    """In every linear, what its calibration inputs give on average is what it was."""
    model, paths = tiny_bert(), list(FFN)
    statistics = calibrate(model, roles.encoder_linears(model), [token_batch(8)], gradients=True)
    seen = Objective(kind).view(statistics)  # type: ignore[arg-type]
    means = [seen.input_mean(Block(path)) for path in paths]
    wanted = [mean_output(model.get_submodule(path), mean) for path, mean in zip(paths, means, strict=True)]
    plans = make_plan(model, point("all_tucker"))
    compress_model(model, plans, objective=Objective(kind), statistics=statistics)  # type: ignore[arg-type]
    for path, mean, before in zip(paths, means, wanted, strict=True):
        torch.testing.assert_close(mean_output(model.get_submodule(path), mean), before, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def mean_output(layer: nn.Module, mean: Tensor) -> Tensor:
    return layer.weight.double() @ mean + layer.bias.double()  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("stack", [[], ["role"]])
def test_squares_are_compressed_in_order(stack: list[str]) -> None:
    """Where every group reads one input: nothing changes at full rank, and the last sum keeps its mean below it."""
    batches = [token_batch(8, seed=seed) for seed in range(4)]
    parts = [cut_part("tucker" if stack else "svd", stack, roles=[role]) for role in ("intermediate", "output")]
    model, objective = tiny_bert(), Objective("activations")
    statistics = calibrate(model, roles.encoder_linears(model), batches, gradients=True)
    full = make_plan(model, parts)
    assert chosen_order("auto", objective, model, full) == "sequential"
    twin = copy.deepcopy(model)
    compress_in_order(twin, full, batches, objective, statistics)
    torch.testing.assert_close(logits_of(twin), logits_of(model), rtol=1e-3, atol=1e-3)
    wanted = last_sums(model)
    half = make_plan(model, [replace(part, keep=0.5) for part in parts])
    compress_in_order(model, half, batches, objective, statistics)
    torch.testing.assert_close(last_sums(model).mean(0), wanted.mean(0), rtol=1e-3, atol=1e-4)


def test_a_stack_of_squares_holds_them() -> None:
    model = tiny_bert()
    (plan,) = make_plan(model, point("all_tucker"))
    tensor = stack_weights(model, plan)
    assert tuple(tensor.shape) == (12, 4, 48, 48)
    intermediate, output = (model.get_submodule(path).weight.double() for path in FFN)
    assert torch.equal(torch.cat(list(tensor[4:8, 1]), 0), intermediate)
    assert torch.equal(torch.cat(list(tensor[8:12, 1]), 1), output)
