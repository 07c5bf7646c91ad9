"""Laws of the compressed embedding: it is the lookup of its dense table, gradients included, and never forms it."""

from pathlib import Path

import pytest
import torch
from cases import logits_of, one_sentence, point, random_factors, rank_ladder, tiny_bert, token_batch
from torch import nn

import lobert
from lobert.checkpoint import save_student
from lobert.compression.allocation import Sizing, size_parts
from lobert.compression.calibration import calibrate
from lobert.compression.compress import compress_model, linear_macs
from lobert.compression.objective import Objective
from lobert.compression.plan import make_plan
from lobert.compression.sequential import compress_in_order
from lobert.encoders.roles import encoder_linears
from lobert.errors import LobertError
from lobert.factorizations import FACTORIZATIONS
from lobert.layers.group import FactorGroup
from lobert.layers.lookup import FactoredEmbedding, dense_embedding
from lobert.layers.ways import EVALUATIONS, Evaluation

SHAPE = (12, 40)  # [out, tokens]
METHODS = ["svd", "tucker", "dense"]
TABLE = "bert.embeddings.word_embeddings"


def embedding(name: str, evaluation: Evaluation = "auto") -> FactoredEmbedding:
    rank = rank_ladder(name, SHAPE)[-2 if name != "dense" else 0]
    group = FactorGroup(FACTORIZATIONS[name], "", SHAPE, rank, evaluation).double()
    group.set_factors(random_factors(name, "", SHAPE, rank))
    return FactoredEmbedding(group)


@pytest.mark.parametrize(
    "ids", [torch.tensor([[3, 0, 39], [3, 7, 3]]), torch.tensor(5), torch.zeros(0, dtype=torch.long)]
)
@pytest.mark.parametrize("evaluation", EVALUATIONS)
@pytest.mark.parametrize("name", METHODS)
def test_a_lookup_and_its_gradients_are_those_of_the_dense_table(
    name: str, evaluation: Evaluation, ids: torch.Tensor
) -> None:
    layer = embedding(name, evaluation)
    outputs = [layer(ids), nn.functional.embedding(ids, layer.weight)]
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)
    seen = torch.randn_like(outputs[0])
    mine, reference = (torch.autograd.grad((y * seen).sum(), list(layer.group.factors)) for y in outputs)
    torch.testing.assert_close(mine, reference, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(dense_embedding(layer)(ids), outputs[0], rtol=1e-10, atol=1e-10)


def test_multiply_adds_of_a_lookup_are_those_of_its_rows() -> None:
    layer = embedding("svd")
    assert layer.macs_per_token() == layer.group.rank[0] * SHAPE[0]
    model = tiny_bert()
    before = linear_macs(model)
    report = compress_model(model, make_plan(model, point("embeddings_svd", 0.5)))
    assert linear_macs(model) == before + report.groups[0].macs
    assert report.groups[0].dense_macs == 0


@pytest.mark.parametrize("name", ["embeddings_svd", ("embeddings_svd", "all_svd")])
def test_full_rank_leaves_the_logits_and_a_saved_student_is_the_same(
    name: str | tuple[str, ...], tmp_path: Path
) -> None:
    model = tiny_bert()
    before = logits_of(model)
    full = [plan.__class__(**{**plan.__dict__, "rank": (min(plan.shape),)}) for plan in make_plan(model, point(name))]
    compress_model(model, full)
    torch.testing.assert_close(logits_of(model), before, rtol=1e-4, atol=1e-4)
    save_student(model, tmp_path)
    again = lobert.load(tmp_path)
    assert torch.equal(logits_of(again), logits_of(model))
    merged = lobert.merge(again)
    assert isinstance(merged.get_submodule(TABLE), nn.Embedding)
    torch.testing.assert_close(logits_of(merged), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("allocate", ["uniform", "greedy"])
@pytest.mark.parametrize("objective", ["weights", "activations", "loss"])
def test_every_objective_and_allocation_keeps_its_share(objective: str, allocate: str) -> None:
    model, batches = tiny_bert(), [token_batch(8)]
    data = None if objective == "weights" else batches
    names = ["embeddings_svd", "all_svd"]
    report = lobert.compress(model, names, keep=0.5, data=data, objective=objective, allocate=allocate)  # type: ignore[arg-type]
    assert 0.45 < report.keep <= 0.5
    assert logits_of(model).isfinite().all()


def test_the_layers_make_up_for_what_the_table_lost() -> None:
    """In order, the first linears are fitted to what they read from the compressed table."""
    before, batches = logits_of(tiny_bert()), [token_batch(8, seed=seed) for seed in range(4)]
    errors, objective = [], Objective("activations")
    for ordered in (True, False):
        model = tiny_bert()
        plans = make_plan(model, point(("embeddings_svd", "all_svd"), 0.6))
        statistics, objective = (
            calibrate(model, encoder_linears(model), batches, gradients=False),
            Objective("activations"),
        )
        if ordered:
            compress_in_order(model, plans, batches, objective, statistics)
        else:
            compress_model(model, plans, objective=objective, statistics=statistics)
        errors.append((logits_of(model) - before).norm().item())
    assert errors[0] < errors[1]


@pytest.mark.parametrize("name", ["embeddings_svd", "pooler_svd"])
def test_what_is_outside_the_layers_is_no_share_of_the_encoder(name: str) -> None:
    with pytest.raises(LobertError, match="outside them: use scope=model") as caught:
        size_parts(tiny_bert(), point((name, "all_svd")), Sizing(0.5, "encoder"))
    one_sentence(caught.value)
