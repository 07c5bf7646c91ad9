"""Laws of a student's confidence: no answer changes, and it is nowhere further from its teacher's than before."""

import itertools

import pytest
import torch
from cases import logits_of, point, tiny_bert, token_batch
from test_sequential import BATCHES, statistics_of
from torch import Tensor
from transformers import BertModel

from lobert.compression.compress import compress_model
from lobert.compression.confidence import FACTORS, best_factor, match_confidence
from lobert.compression.objective import Objective
from lobert.compression.plan import make_plan
from lobert.compression.sequential import compress_in_order

DATA = [token_batch(6, seed=seed) for seed in range(4)]


def answers(model: torch.nn.Module) -> Tensor:
    return torch.cat([logits_of(model, batch) for batch in DATA])


def divergence(logits: Tensor, wanted: Tensor) -> float:
    teacher, student = (values.double().log_softmax(1) for values in (wanted, logits))
    return (teacher.exp() * (teacher - student)).sum(1).mean().item()


@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize(("sure", "name"), itertools.product([0.3, 1.0, 4.0], ["all_svd", "falcon_4d"]))
def test_answers_stay_and_the_divergence_is_the_smallest_of_any_factor(sure: float, name: str, labels: int) -> None:
    model, wanted = tiny_bert(labels=labels), answers(tiny_bert(labels=labels))
    compress_model(model, make_plan(model, point(name, keep=0.4)))
    with torch.no_grad():
        model.classifier.weight.mul_(sure)
        model.classifier.bias.mul_(sure)
    before = answers(model)
    factor = match_confidence(model, [before], wanted)
    after = answers(model)
    torch.testing.assert_close(after, factor * before, rtol=1e-4, atol=1e-5)
    assert torch.equal(after.argmax(1), before.argmax(1))
    tried = [divergence(s * before, wanted) for s in torch.logspace(-1.3, 1.3, 400).tolist()]
    assert divergence(after, wanted) <= min(tried) + 1e-6
    assert divergence(after, wanted) <= divergence(before, wanted) + 1e-6


def test_an_undamaged_student_is_as_sure_as_before() -> None:
    model = tiny_bert()
    assert match_confidence(model, (logits_of(model, batch) for batch in DATA), answers(model)) == pytest.approx(1)


@pytest.mark.parametrize("sign", [1, -1])
def test_one_that_is_always_right_or_wrong_gets_a_bounded_factor(sign: int) -> None:
    logits = torch.randn(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert best_factor(logits, sign * 1e4 * logits) == pytest.approx(FACTORS[max(sign, 0)], rel=1e-6)


@pytest.mark.parametrize("labels", [1, 3])
def test_sequential_order_ends_with_it(labels: int) -> None:
    """A score has no confidence: its head stays."""
    model, dense = tiny_bert(labels=labels), tiny_bert(labels=labels)
    plans, statistics = make_plan(model, point("all_svd", 0.3)), statistics_of(dense)
    compress_in_order(model, plans, BATCHES, Objective("loss"), statistics)
    wanted, found = (torch.cat([logits_of(m, batch) for batch in BATCHES]) for m in (dense, model))
    ratio = model.classifier.weight / dense.classifier.weight
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))
    if labels == 1:
        assert ratio[0, 0] == 1
    else:
        assert best_factor(found.double(), wanted.double()) == pytest.approx(1, abs=1e-4)


def test_a_model_without_logits_is_left_alone() -> None:
    model = BertModel(tiny_bert().config).eval()
    assert match_confidence(model, iter(()), torch.empty(0)) == 1
