"""Laws of the objectives: optimal where they are exact, never worse than the weights, finite on poor statistics."""

import math
from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from cases import GROUPS, logits_of, one_sentence, point, random_tensor, rank_ladder, tiny_bert, token_batch
from torch import Tensor
from transformers import PreTrainedModel

import lobert
from lobert.compression.calibration import Recorder, calibrate, joined, random_direction, squared_weight_gradients
from lobert.compression.compress import compress_model
from lobert.compression.importance import FLOOR, by_place
from lobert.compression.objective import Goal, Norm, Objective, ObjectiveName, group_norm
from lobert.compression.plan import make_plan
from lobert.compression.statistics import TABLES, Statistics, load_statistics, save_statistics
from lobert.compression.whitening import decompose_in_norm, errors_in_norm, matrix_scale
from lobert.distill.knowledge import Batch
from lobert.encoders.roles import encoder_layers, encoder_linears, linear_at
from lobert.errors import LobertError
from lobert.factorizations import FACTORIZATIONS, Shape, reconstruct
from lobert.layers.blocks import Block

KINDS = ["activations", "fisher", "loss"]


def random_metric(stack: Shape, size: int, seed: int, condition: float = 1e3) -> Tensor:
    """Symmetric positive matrices `[*stack, size, size]` of a given condition."""
    random = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(*stack, size, size, dtype=torch.float64, generator=random))[0]
    values = torch.logspace(0, -math.log10(condition), size, dtype=torch.float64)
    return (basis * values) @ basis.mT


def random_norm(shape: Shape, seed: int = 0, condition: float = 1e3) -> Norm:
    """Metrics of their own for every slice."""
    stack, (rows, columns) = shape[:-2], shape[-2:]
    inputs = random_metric(stack, columns, seed, condition)
    return Norm(inputs, random_metric(stack, rows, seed + 1, condition))


def shared_norm(shape: Shape, outputs: bool) -> Norm:
    """One input metric for all slices, and one output metric or none."""
    stack, (rows, columns) = shape[:-2], shape[-2:]
    left = random_metric((), rows, 1) if outputs else torch.eye(rows, dtype=torch.float64)
    return Norm(random_metric((), columns, 0).repeat(*stack, 1, 1), left.repeat(*stack, 1, 1))


def error_in(norm: Norm, name: str, stack: str, tensor: Tensor, factors: list[Tensor]) -> float:
    return norm.squared(tensor - reconstruct(FACTORIZATIONS[name].equation(stack), factors))


def root(metric: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(metric)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


@pytest.mark.parametrize("shape", [(12, 18), (18, 12), (9, 9)])
def test_svd_reaches_the_optimum_of_its_norm(shape: Shape) -> None:
    """Eckart and Young in the norm: the dropped singular values of G^(1/2) W C^(1/2)."""
    tensor, norm, svd = random_tensor(shape), random_norm(shape), FACTORIZATIONS["svd"]
    values = torch.linalg.svdvals(root(norm.outputs) @ tensor @ root(norm.inputs)).square()
    for rank in rank_ladder("svd", shape):
        factors = decompose_in_norm(svd, "", tensor, rank, norm)
        expected = values[rank[0] :].sum().item()
        assert error_in(norm, "svd", "", tensor, factors) == pytest.approx(expected, rel=1e-6, abs=1e-12)
        assert errors_in_norm(svd, "", tensor, [rank], norm)[0] == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("shape", [(3, 6, 9), (3, 1, 7)])
def test_falcon_on_a_layer_reaches_the_optimum_of_the_activations(shape: Shape) -> None:
    """Row by row of the outputs: the dropped singular values of the rows of all slices, in the shared input metric."""
    tensor, norm = random_tensor(shape), shared_norm(shape, outputs=False)
    per_row = (tensor @ root(norm.inputs[0])).transpose(0, 1)
    for rank in rank_ladder("falcon", shape):
        factors = decompose_in_norm(FACTORIZATIONS["falcon"], "s", tensor, rank, norm)
        expected = torch.linalg.svdvals(per_row)[:, rank[0] :].square().sum().item()
        assert error_in(norm, "falcon", "s", tensor, factors) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("unit", [1.0, 1e-24])
@pytest.mark.parametrize("condition", [1.0, 1e4, 1e14])
@pytest.mark.parametrize("where", ["anywhere", "where the norm is small"])
def test_errors_are_told_to_five_digits(where: str, condition: float, unit: float) -> None:
    """In single precision, where that is enough, as in double."""
    shape = (3, 12, 18)
    norm, tensor, lost = random_norm(shape, condition=condition), random_tensor(shape), random_tensor(shape)
    norm = Norm(unit * norm.inputs, unit * norm.outputs)
    if where != "anywhere":
        lost = torch.linalg.solve(norm.outputs, torch.linalg.solve(norm.inputs, lost, left=False))
    found = tensor - lost
    assert Goal(tensor, norm).error(found) == pytest.approx(norm.squared(tensor - found), rel=1e-5)


@pytest.mark.parametrize("kind", ["own metrics", "shared inputs", "shared metrics"])
@pytest.mark.parametrize(("name", "stack", "shape"), GROUPS)
def test_the_norm_is_never_served_worse_than_by_the_weights(name: str, stack: str, shape: Shape, kind: str) -> None:
    method, tensor = FACTORIZATIONS[name], random_tensor(shape)
    norm = random_norm(shape) if kind == "own metrics" else shared_norm(shape, outputs=kind == "shared metrics")
    for rank in rank_ladder(name, shape, steps=2)[:-1]:  # of the full rank another law says more
        plain, normed = method.decompose(tensor, rank), decompose_in_norm(method, stack, tensor, rank, norm)
        slack = 1e-9 * norm.squared(tensor)
        if name == "tucker" and not stack:
            slack = 1e-2 * norm.squared(tensor)  # HOOI on a matrix is an SVD up to its tolerance
        assert error_in(norm, name, stack, tensor, normed) <= error_in(norm, name, stack, tensor, plain) + slack


@pytest.mark.parametrize("condition", [1e8, 1e14])
@pytest.mark.parametrize(("name", "stack", "shape"), GROUPS)
def test_full_rank_reproduces_the_tensor_in_any_norm(name: str, stack: str, shape: Shape, condition: float) -> None:
    method, tensor = FACTORIZATIONS[name], random_tensor(shape)
    norm = random_norm(shape, 5, condition)
    factors = decompose_in_norm(method, stack, tensor, method.full_rank(shape), norm)
    assert all(factor.isfinite().all() for factor in factors)
    assert error_in(norm, name, stack, tensor, factors) <= 1e-12 * norm.squared(tensor)


# ---- calibration ----

POOLER = "bert.pooler.dense"


def calibrated(examples: int = 12, labels: int = 3) -> Statistics:
    model = tiny_bert(labels=labels)
    batches = [token_batch(examples // 2, seed=seed) for seed in (0, 1)]
    return calibrate(model, encoder_linears(model), batches, gradients=True, regression=labels == 1)


def test_input_moments_are_those_of_the_real_tokens() -> None:
    model, batch = tiny_bert(), token_batch()
    statistics = calibrate(model, encoder_linears(model), [batch], gradients=False)
    with torch.no_grad():
        embedded = model.bert.embeddings(batch["input_ids"], batch["token_type_ids"])
    tokens = embedded[batch["attention_mask"].bool()].double()
    for role in ("query", "key", "value"):
        path = Block(f"bert.encoder.layer.0.attention.self.{role}")
        torch.testing.assert_close(statistics.input_mean(path), tokens.mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(statistics.covariance(path), tokens.T.cov(correction=0), rtol=1e-4, atol=1e-5)
    assert len(statistics.second_moment) == 4 * 4 + 1  # of a layer's six linears three share an input; the pooler
    assert not statistics.gradient


def test_gradient_moments_are_the_fisher_information_of_examples_that_count_alike() -> None:
    """With two labels, whose Fisher matrix has rank one, no sign matters: p (1 - p) times the logits' difference."""
    model, batch, paths = tiny_bert(labels=2), token_batch(examples=7), ["bert.encoder.layer.1.output.dense", POOLER]
    kept: list[Tensor] = []
    handles = [linear_at(model, p).register_forward_hook(lambda _, inputs, output: kept.append(output)) for p in paths]
    logits = model(**batch).logits
    for handle in handles:
        handle.remove()
    found = torch.autograd.grad((logits[:, 0] - logits[:, 1]).sum(), kept)
    inner, last = (gradient.double() for gradient in found)
    alike = inner / last.norm(dim=-1)[:, None, None]
    statistics = calibrate(model, paths, [batch], gradients=True)
    torch.testing.assert_close(statistics.gradient[paths[0]], torch.einsum("bto,btp->op", alike, alike) / 7)
    assert statistics.gradient[POOLER].trace().item() == pytest.approx(1)


@pytest.mark.parametrize("role", ["attention.self.value", "output.dense"])
def test_tokens_count_by_the_length_of_their_gradient(role: str) -> None:
    """First tokens by the mean over these, the others by theirs, and every example by its length at the pooler."""
    model, batches, paths = tiny_bert(labels=2), [token_batch(5, seed=seed) for seed in (0, 1)], []
    paths = [f"bert.encoder.layer.1.{role}", POOLER]
    statistics, lengths, tokens = calibrate(model, paths, batches, gradients=True), [], []
    for batch in batches:
        recorder, mask = Recorder({path: linear_at(model, path) for path in paths}), batch["attention_mask"].bool()
        logits = model(**batch).logits
        recorder.remove()
        outputs = [recorder.outputs[path][0] for path in paths]
        inner, last = torch.autograd.grad((logits[:, 0] - logits[:, 1]).sum(), outputs)
        own, first = inner.norm(dim=-1) / last.norm(dim=-1, keepdim=True), torch.zeros_like(mask)
        first[:, 0] = True
        length = torch.where(first, own[first].mean(), own[mask & ~first].mean())[mask]
        lengths.append(length + FLOOR * length.mean())
        tokens.append(recorder.inputs[paths[0]][0][mask].double())
    weights, x = torch.cat(lengths).double(), torch.cat(tokens)
    weights /= weights.mean()
    torch.testing.assert_close(statistics.importance[paths[0]].double(), weights, rtol=1e-4, atol=1e-5)
    weighed, block = statistics.by_importance(), Block(paths[0])
    torch.testing.assert_close(weighed.input_mean(block), (weights @ x) / len(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weighed.covariance(block), x.T.cov(correction=0, aweights=weights), rtol=1e-3, atol=1e-4)


def test_importance_is_that_of_first_tokens_and_of_others() -> None:
    """Wherever padding is, which counts for nothing and gets nothing."""
    lengths = torch.tensor([[4.0, 1.0, 2.0, 9.0], [9.0, 2.0, 3.0, 6.0]])
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]]).bool()
    expected = torch.tensor([[3.0, 3.0, 3.0, 0.0], [0.0, 3.0, 3.0, 3.0]])
    torch.testing.assert_close(by_place(lengths, mask), expected)
    lengths[1, 1] = 6.0
    expected[mask & (mask.cumsum(-1) == 1)] = 5.0
    torch.testing.assert_close(by_place(lengths, mask), expected)
    assert by_place(torch.ones(2, 1), torch.ones(2, 1).bool()).eq(1).all()  # texts of one token


def test_what_no_norm_is_made_of_is_left_out_and_the_rest_is_the_same() -> None:
    model, batches = tiny_bert(), [token_batch(6, seed=seed) for seed in (0, 1)]
    whole = calibrate(model, encoder_linears(model), batches, gradients=True)
    inputs, weighted = {"mean", "second_moment"}, {"weighted_mean", "weighted_moment", "importance"}
    tables = {"activations": inputs, "fisher": inputs | {"fisher"}, "loss": weighted}
    for norm, own in tables.items():
        part = calibrate(model, encoder_linears(model), batches, gradients=True, norms=[norm])  # type: ignore[list-item]
        found = {field.name for field in fields(part) if len(getattr(part, field.name))}
        assert found == {"source", "gradient", "logits"} | own
        for table in found - {"source"}:
            torch.testing.assert_close(getattr(part, table), getattr(whole, table), rtol=0, atol=0)


@pytest.mark.parametrize("norms", [["loss"], KINDS])
def test_an_example_without_gradients_adds_nothing(norms: list[ObjectiveName]) -> None:
    model = tiny_bert()
    torch.nn.init.zeros_(model.classifier.weight)
    statistics = calibrate(model, encoder_linears(model), [token_batch()], gradients=True, norms=norms)
    assert all(not moment.any() for moment in statistics.gradient.values())
    assert all((weights == 1).all() for weights in statistics.importance.values())
    for path in encoder_linears(model):
        torch.testing.assert_close(
            statistics.by_importance().covariance(Block(path)), statistics.covariance(Block(path))
        )


@pytest.mark.parametrize("shape", [(4, 7), (4,)])
def test_squared_weight_gradients_are_those_of_every_example(shape: Shape) -> None:
    gradient, x = torch.randn(*shape, 5), torch.randn(*shape, 3)
    rows, columns = gradient.reshape(4, -1, 5), x.reshape(4, -1, 3)
    expected = sum((g.T @ v).square().sum(0) for g, v in zip(rows, columns, strict=True))
    found = squared_weight_gradients(joined([gradient]), joined([x]))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_random_directions_have_the_fisher_matrix_as_their_moment() -> None:
    logits = torch.tensor([[2.0, 0.5, -1.0]]).repeat(20_000, 1)
    drawn = random_direction(logits, False, torch.Generator().manual_seed(0)).double()
    p = logits[0].double().softmax(-1)
    torch.testing.assert_close(drawn.T @ drawn / len(drawn), torch.diag(p) - torch.outer(p, p), rtol=0, atol=5e-3)


def test_statistics_come_back_from_disk(tmp_path: object) -> None:
    statistics = calibrated()
    save_statistics(statistics, tmp_path)  # type: ignore[arg-type]
    found = load_statistics(tmp_path)  # type: ignore[arg-type]
    assert found.source == statistics.source
    assert torch.equal(found.logits, statistics.logits)
    assert found.logits.shape[1] > 1
    for table in TABLES:
        mine, theirs = getattr(statistics, table), getattr(found, table)
        assert mine.keys() == theirs.keys()
        for path, tensor in mine.items():
            assert theirs[path].dtype == torch.float64
            torch.testing.assert_close(theirs[path], tensor, rtol=1e-15, atol=0)  # symmetric but for a last bit


def test_symmetric_moments_take_as_much_of_the_disk_as_in_single_precision(tmp_path: object) -> None:
    statistics = calibrated()
    save_statistics(statistics, tmp_path)  # type: ignore[arg-type]
    numbers = sum(tensor.numel() for name in TABLES for tensor in getattr(statistics, name).values())
    assert (tmp_path / "statistics.safetensors").stat().st_size < 1.15 * 4 * numbers  # type: ignore[operator]


def test_damaged_statistics_are_named(tmp_path: object) -> None:
    (tmp_path / "statistics.safetensors").write_bytes(b"half a file")  # type: ignore[operator]
    with pytest.raises(LobertError, match=r"statistics\.safetensors cannot be read"):
        load_statistics(tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize("rank", [6, 2])
def test_a_root_is_one_with_and_without_a_cholesky_factor(rank: int) -> None:
    basis = torch.linalg.qr(torch.randn(6, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    metric = basis @ basis.T - 1e-16 * torch.eye(6, dtype=torch.float64)
    assert bool(torch.linalg.cholesky_ex(metric)[1]) == (rank < 6)
    scale = matrix_scale(0, "", "i", metric)
    torch.testing.assert_close(scale.forward @ scale.forward.mT, metric, rtol=0, atol=1e-12)
    undone = scale.undone("ri", scale.forward.contiguous())
    torch.testing.assert_close(undone, torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("letters", "modes"),
    [("", "ri"), ("", "lori"), ("l", "ilr"), ("l", "li"), ("l", "ilsr"), ("sl", "sli"), ("sl", "ilsr")],
)
def test_a_scaling_is_undone_by_solving_as_by_its_inverse(letters: str, modes: str) -> None:
    sizes, random = {"l": 2, "s": 3, "o": 4, "r": 2, "i": 5}, torch.Generator().manual_seed(0)
    root = torch.randn(*(sizes[c] for c in letters), 5, 5, dtype=torch.float64, generator=random)
    solved = matrix_scale(0, letters, "i", root @ root.mT + 0.1 * torch.eye(5, dtype=torch.float64))
    assert solved.inverse is None
    factor = torch.randn([sizes[c] for c in modes], dtype=torch.float64, generator=random)
    inverted = replace(solved, inverse=torch.linalg.inv(solved.forward)).undone(modes, factor)
    torch.testing.assert_close(solved.undone(modes, factor), inverted, rtol=1e-9, atol=1e-9)


# ---- whole models ----


@pytest.mark.parametrize(("examples", "labels"), [(2, 3), (2, 1)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["svd", "tucker_layer", "tucker_4d", "falcon_layer", "falcon_vertical", "all_tucker"])
def test_poor_statistics_give_finite_models(name: str, kind: str, labels: int, examples: int) -> None:
    """Two examples span a fraction of the input space: most eigenvalues of the metrics are zero."""
    model = tiny_bert(labels=labels)
    statistics = calibrated(examples, labels)
    report = compress_model(model, make_plan(model, point(name)), objective=Objective(kind), statistics=statistics)  # type: ignore[arg-type]
    assert logits_of(model).isfinite().all()
    assert all(0 <= group.objective_error <= 1 + 1e-9 for group in report.groups)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["svd", "tucker_vertical", "falcon_4d", "tt_vertical", "basis_vertical", "cp_layer"])
def test_a_single_token_gives_a_finite_model(name: str, kind: str) -> None:
    """One example of one token: the centred covariances are zero."""
    model = tiny_bert()
    statistics = calibrate(model, encoder_linears(model), [token_batch(1, length=1)], gradients=True)
    compress_model(model, make_plan(model, point(name)), objective=Objective(kind), statistics=statistics)  # type: ignore[arg-type]
    assert logits_of(model).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_full_rank_leaves_the_logits_in_any_norm(kind: str) -> None:
    model, statistics = tiny_bert(), calibrated()
    before = logits_of(model)
    plans = make_plan(model, point(("svd", "ffn_svd"), keep=None))
    full = [plan.__class__(**{**plan.__dict__, "rank": (min(plan.shape),)}) for plan in plans]
    compress_model(model, full, objective=Objective(kind), statistics=statistics)  # type: ignore[arg-type]
    torch.testing.assert_close(logits_of(model), before, rtol=1e-3, atol=1e-3)


def test_the_bias_keeps_the_mean_output() -> None:
    """After compression the first layer's query has, on the calibration tokens, the mean it had before."""
    model, batch = tiny_bert(), token_batch()
    path = "bert.encoder.layer.0.attention.self.query"
    statistics = calibrate(model, encoder_linears(model), [batch], gradients=False)
    mean = statistics.input_mean(Block(path))
    before = linear_at(model, path)
    wanted = before.weight.double() @ mean + before.bias.double()
    compress_model(
        model, make_plan(model, point("svd", 0.3)), objective=Objective("activations"), statistics=statistics
    )
    after = model.get_submodule(path)
    torch.testing.assert_close(after.weight.double() @ mean + after.bias.double(), wanted, rtol=1e-4, atol=1e-5)


def test_activations_keep_the_outputs_better_than_weights() -> None:
    model = tiny_bert()
    before = logits_of(model)
    batches = [token_batch(8, seed=seed) for seed in range(4)]
    errors = {}
    for objective in ("weights", "activations", "loss"):
        student = tiny_bert()
        lobert.compress(student, ["svd", "ffn_svd"], keep=0.5, data=batches, objective=objective)  # type: ignore[arg-type]
        errors[objective] = (logits_of(student) - before).norm().item()
    assert errors["activations"] < errors["weights"]
    assert errors["loss"] < errors["weights"]


def not_finite(model: PreTrainedModel, batches: list[Batch]) -> None:
    with torch.no_grad():
        encoder_layers(model)[0].output.LayerNorm.weight[0] = math.nan


def all_padding(model: PreTrainedModel, batches: list[Batch]) -> None:
    batches[1]["attention_mask"].zero_()


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (not_finite, "is not finite: the model is broken"),
        (all_padding, "without a real token"),
        (lambda model, batches: batches.clear(), "has no examples"),
    ],
)
def test_moments_of_nothing_and_of_what_is_not_finite_are_refused(
    spoil: Callable[[PreTrainedModel, list[Batch]], None], words: str, gradients: bool
) -> None:
    model, batches = tiny_bert(), [token_batch(seed=seed) for seed in range(2)]
    spoil(model, batches)
    with pytest.raises(LobertError, match=words) as caught:
        calibrate(model, encoder_linears(model), batches, gradients)
    one_sentence(caught.value)


def test_an_objective_without_data_is_refused() -> None:
    with pytest.raises(LobertError, match="give data=") as caught:
        lobert.compress(tiny_bert(), "svd", objective="activations")
    one_sentence(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "activation"}, "did you mean 'activations'"),
        ({"name": "loss", "damping": 0.0}, "above 0"),
        ({"name": "loss", "metric_power": 2.0}, "from 0 to 1"),
    ],
)
def test_an_impossible_objective_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(LobertError, match=words) as caught:
        Objective(**settings)  # type: ignore[arg-type]
    one_sentence(caught.value)


def test_the_weights_need_no_statistics() -> None:
    model = tiny_bert()
    assert group_norm(Objective(), make_plan(model, point("svd"))[0], None) is None
    report = compress_model(model, make_plan(model, point("svd")))
    assert all(group.objective_error == group.error > 0 for group in report.groups)
