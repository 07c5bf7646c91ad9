"""Laws of the sequential order: nothing drifts where nothing is lost, every target is a regression's optimum, every sum
keeps its mean, and the end of the network is closer than without it."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import logits_of, one_sentence, point, tiny_bert, token_batch
from torch import Tensor, nn
from transformers import PreTrainedModel

import lobert
from lobert.compression.calibration import Recorder, calibrate
from lobert.compression.compress import compress_model
from lobert.compression.draft import Draft
from lobert.compression.fit import RIDGE, Fit
from lobert.compression.objective import Objective
from lobert.compression.plan import GroupPlan, make_plan
from lobert.compression.sequential import chosen_order, compress_in_order
from lobert.compression.statistics import Statistics
from lobert.encoders.roles import encoder_layers, encoder_linears, linear_at
from lobert.errors import LobertError
from lobert.evaluation import closeness, drawing_order
from lobert.factorizations import factorization
from lobert.stages.workspace import calibration_count, most_inputs

BATCHES = [token_batch(8, seed=seed) for seed in range(4)]
LAST = "bert.encoder.layer.{}.output.LayerNorm"
POINTS = ["all_svd", "ffn_svd", "tucker_layer", "falcon_layer", ("tucker_layer", "ffn_svd"), ("svd", "pooler_svd")]


def statistics_of(model: PreTrainedModel) -> Statistics:
    return calibrate(model, encoder_linears(model), BATCHES, gradients=True)


def at_full_rank(plans: list[GroupPlan]) -> list[GroupPlan]:
    return [replace(plan, rank=factorization(plan.factorization).full_rank(plan.shape)) for plan in plans]


@torch.no_grad()
def last_sums(model: PreTrainedModel) -> Tensor:
    """What the last norm of the encoder reads, of all real tokens, `[tokens, hidden]`."""
    path = LAST.format(len(encoder_layers(model)) - 1)
    recorder, found = Recorder({path: model.get_submodule(path)}), []
    for batch in BATCHES:
        logits_of(model, batch)
        found.append(recorder.inputs[path][-1][batch["attention_mask"].bool()])
    recorder.remove()
    return torch.cat(found)


@pytest.mark.parametrize("kind", ["activations", "fisher", "loss"])
@pytest.mark.parametrize("name", POINTS)
def test_full_rank_leaves_the_logits(name: str | tuple[str, ...], kind: str) -> None:
    model = tiny_bert()
    before = logits_of(model)
    plans = at_full_rank(make_plan(model, point(name)))
    compress_in_order(model, plans, BATCHES, Objective(kind), statistics_of(model))  # type: ignore[arg-type]
    torch.testing.assert_close(logits_of(model), before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["activations", "fisher", "loss"])
def test_a_weight_whose_inputs_do_not_vary_stays_what_it_is(kind: str) -> None:
    """Values that are biases alone leave the attention's output one input, of which a covariance is rounding."""
    model = tiny_bert()
    with torch.no_grad():
        for layer in encoder_layers(model):
            layer.attention.self.value.weight.zero_()
    plans = make_plan(model, point("all_svd", 0.5))
    report = compress_in_order(model, plans, BATCHES, Objective(kind), statistics_of(model))  # type: ignore[arg-type]
    assert all(group.error < 1 for group in report.groups if group.name.startswith("attention_output"))


@pytest.mark.parametrize("kind", ["activations", "loss"])
@pytest.mark.parametrize("name", ["all_svd", "svd", "tucker_layer", "falcon_layer"])
def test_before_anything_has_drifted_both_orders_are_one(name: str, kind: str) -> None:
    """The query of the first layer reads the embeddings, which nobody compressed.

    Where a stack's factors are refined, the search ends before it is at rest, and the last bits of the statistics, from
    two passes, show in its end.
    """
    objective, path = Objective(kind), "bert.encoder.layer.0.attention.self.query"  # type: ignore[arg-type]
    models = [tiny_bert(), tiny_bert()]
    plans, statistics = make_plan(models[0], point(name, 0.5)), statistics_of(models[0])
    compress_in_order(models[0], plans, BATCHES, objective, statistics)
    compress_model(models[1], plans, objective=objective, statistics=statistics)
    ordered, parallel = (model.get_submodule(path) for model in models)
    slack = 2e-3 if kind == "loss" and "layer" in name else 1e-5
    torch.testing.assert_close(ordered.weight, parallel.weight, rtol=1e-3, atol=slack)
    torch.testing.assert_close(ordered.bias, parallel.bias, rtol=1e-3, atol=slack)


@pytest.mark.parametrize("tokens", [3, 40])
def test_a_target_is_the_optimum_of_its_ridge_regression(tokens: int) -> None:
    random = torch.Generator().manual_seed(0)
    x, y = (torch.randn(tokens, size, generator=random) for size in (7, 5))
    weight = torch.randn(5, 7, dtype=torch.float64, generator=random)
    weights = torch.rand(tokens, generator=random) + 0.1
    fit = Fit()
    for part in (slice(0, 2), slice(2, None)):
        fit.inputs.add(x[part], weights[part])
        fit.add_wanted(y[part], x[part], weights[part])
    share = (weights / weights.sum()).double().unsqueeze(1)
    means = [(share * v.double()).sum(0) for v in (x, y)]
    centred, goal = (share.sqrt() * (v.double() - mean) for v, mean in zip((x, y), means, strict=True))
    strength = (RIDGE * centred.square().sum() / 7).sqrt()  # of the rows that pull the weight to the dense one
    rows = torch.cat([centred, strength * torch.eye(7, dtype=torch.float64)])
    wanted = torch.linalg.lstsq(rows, torch.cat([goal, strength * weight.T])).solution.T
    found = fit.target(weight)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(means[0] @ found.T + fit.bias(found), means[1], rtol=1e-5, atol=1e-6)


def test_more_examples_than_were_calibrated_are_refused_and_the_model_is_left_dense() -> None:
    model = tiny_bert()
    before = copy.deepcopy(model.state_dict())
    plans, statistics = make_plan(model, point("all_svd", 0.5)), statistics_of(model)
    with pytest.raises(LobertError, match="more tokens than calibration saw"):
        compress_in_order(model, plans, [*BATCHES, *BATCHES], Objective("loss"), statistics)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("rank", [3, 200])
def test_a_draft_runs_what_was_put_into_it_and_keeps_the_biases(rank: int) -> None:
    """By its factors where that is less, and by their product elsewhere; at the end the dense weights are back."""
    model, path = tiny_bert(), "bert.encoder.layer.1.output.dense"
    dense = linear_at(model, path)
    weight, x = dense.weight.detach().clone(), torch.randn(5, 7, dense.in_features)
    left, right = torch.randn(rank, dense.out_features), torch.randn(rank, dense.in_features)
    with torch.no_grad(), Draft(model) as draft:
        draft.open(path)
        linear_at(model, path).weight.copy_(left.T @ right)
        linear_at(model, path).bias.fill_(2.0)
        draft.divide(path, left, right)
        wanted, found = nn.functional.linear(x, left.T @ right) + 2.0, model.get_submodule(path)(x)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
        assert isinstance(model.get_submodule(path), nn.Linear) == (rank > 100)
    assert model.get_submodule(path) is dense
    assert torch.equal(dense.weight, weight)
    assert (dense.bias == 2.0).all()


@pytest.mark.parametrize("name", ["all_svd", ("tucker_layer", "ffn_svd"), "ffn_svd"])
@pytest.mark.parametrize("keep", [0.5, 0.25])
def test_the_last_sum_keeps_its_mean_and_is_closer_than_in_parallel(name: str | tuple[str, ...], keep: float) -> None:
    wanted = last_sums(tiny_bert())
    models = [tiny_bert(), tiny_bert()]
    plans, statistics = make_plan(models[0], point(name, keep)), statistics_of(models[0])
    compress_in_order(models[0], plans, BATCHES, Objective("activations"), statistics)
    compress_model(models[1], plans, objective=Objective("activations"), statistics=statistics)
    ordered, parallel = (last_sums(model) for model in models)
    torch.testing.assert_close(ordered.mean(0), wanted.mean(0), rtol=1e-3, atol=1e-4)
    assert (ordered - wanted).square().sum() < (parallel - wanted).square().sum()


def test_the_model_is_left_dense_where_the_order_is_refused() -> None:
    model = tiny_bert()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(LobertError, match="order=parallel") as caught:
        compress_in_order(model, make_plan(model, point("tucker_4d")), BATCHES, Objective("loss"), statistics_of(model))
    one_sentence(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("order", "kind", "name", "found"),
    [
        ("auto", "weights", "all_svd", "parallel"),
        ("auto", "loss", "all_svd", "sequential"),
        ("auto", "loss", "tucker_vertical", "parallel"),
        ("auto", "loss", "pooler_svd", "parallel"),
        ("sequential", "activations", "falcon_layer", "sequential"),
        ("parallel", "loss", "all_svd", "parallel"),
        ("sequential", "weights", "all_svd", "needs calibration"),
        ("sequential", "loss", "falcon_4d", "read [0-9]+ of them"),
        ("up", "loss", "all_svd", "decomp.order=up"),
    ],
)
def test_the_order_is_chosen_or_refused(order: str, kind: str, name: str, found: str) -> None:
    model, objective = tiny_bert(), Objective(kind)  # type: ignore[arg-type]
    plans = make_plan(model, point(name))
    if found in ("parallel", "sequential"):
        assert chosen_order(order, objective, model, plans) == found  # type: ignore[arg-type]
        return
    with pytest.raises(LobertError, match=found) as caught:
        chosen_order(order, objective, model, plans)  # type: ignore[arg-type]
    one_sentence(caught.value)


def test_the_library_takes_the_best_by_default() -> None:
    """With data: every linear, pivoted, neurons as best, heads joint, in the loss norm, greedily, sequentially."""
    model, same = tiny_bert(), tiny_bert()
    lobert.compress(model, keep=0.5, data=iter(BATCHES))
    best = {"objective": "loss", "allocate": "greedy", "order": "sequential"}
    lobert.compress(same, "all_pivoted_svd", keep=0.5, neurons="auto", heads="joint", data=BATCHES, **best)  # type: ignore[arg-type]
    assert torch.equal(logits_of(model), logits_of(same))


@pytest.mark.parametrize("classes", [1, 3])
def test_closeness_is_what_its_definition_says(classes: int) -> None:
    random = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(9, classes, generator=random).double() for _ in range(2))
    split = [{"a": logits[:4].numpy(), "b": logits[4:].numpy()} for logits in (teacher, student)]
    found = closeness(*split)
    if classes == 1:
        assert found.agreement is None
        assert found.divergence == pytest.approx((teacher - student).square().mean().item())
    else:
        p, q = teacher.softmax(-1), student.softmax(-1)
        assert found.divergence == pytest.approx((p * (p / q).log()).sum(-1).mean().item())
        assert found.agreement == (teacher.argmax(-1) == student.argmax(-1)).double().mean().item()
    assert closeness(split[0], split[0]).divergence == 0


# ---- examples ----


def test_examples_are_drawn_by_their_lengths() -> None:
    """Of 900 short and 100 long texts, the long ones have half of the tokens, and about half of the first drawn."""
    lengths = np.array([2] * 900 + [18] * 100)
    order = drawing_order(lengths)
    assert sorted(order) == list(range(1000))
    assert 30 < (order[:80] >= 900).sum() < 50
    assert np.array_equal(order, drawing_order(lengths))


@pytest.mark.parametrize(
    ("asked", "length", "width", "inputs", "count"),
    [
        (None, 25, 1, 1536, 492),
        (None, 10, 4, 1536, 307),
        (None, 25, 1, 3072, 983),
        (None, 100, 1, 1536, 256),
        (None, 5, 1, 1536, 1024),
        (16, 25, 1, 1536, 16),
        (5000, 5, 1, 1536, 5000),
    ],
)
def test_calibration_takes_as_many_examples_as_have_tokens_enough_for_the_inputs(
    asked: int | None, length: int, width: int, inputs: int, count: int
) -> None:
    train = SimpleNamespace(lengths=lambda: np.full(3000, length), width=width)
    assert calibration_count(asked, train, inputs) == count  # type: ignore[arg-type]


def test_the_widest_weight_tells_how_many_inputs_there_are() -> None:
    assert most_inputs(tiny_bert()) == tiny_bert().config.intermediate_size
