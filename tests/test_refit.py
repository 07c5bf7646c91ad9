"""Laws of the closed-form head: never further from the teacher than before, and exact where that is possible."""

import pytest
import torch
from cases import logits_of, one_sentence, point, tiny_bert, token_batch
from torch import Tensor
from transformers import BertModel

from lobert.compression.compress import compress_model
from lobert.compression.plan import make_plan
from lobert.compression.refit import refit_head
from lobert.errors import LobertError

Examples = list[tuple[dict[str, Tensor], Tensor]]


def examples(labels: int, count: int = 4) -> Examples:
    teacher = tiny_bert(labels=labels)
    return [(batch, logits_of(teacher, batch)) for batch in (token_batch(6, seed=seed) for seed in range(count))]


def distance(model: torch.nn.Module, batches: Examples) -> float:
    return torch.cat([(logits_of(model, batch) - wanted).flatten() for batch, wanted in batches]).square().mean().item()


@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("name", ["svd", "falcon_4d", "ffn_svd"])
def test_the_refitted_head_is_nearer_to_the_teacher(name: str, labels: int) -> None:
    model, batches = tiny_bert(labels=labels), examples(labels)
    compress_model(model, make_plan(model, point(name)))
    before = distance(model, batches)
    reported = refit_head(model, batches)
    assert distance(model, batches) == pytest.approx(reported, rel=1e-3, abs=1e-6)
    assert reported < before


def test_a_head_that_was_moved_is_brought_back() -> None:
    """With an encoder that is the teacher's and more examples than features, the teacher's head is the only answer."""
    model, batches = tiny_bert(), examples(3, count=20)
    with torch.no_grad():
        model.classifier.weight.add_(torch.randn_like(model.classifier.weight))
        model.classifier.bias.add_(1.0)
    before = distance(model, batches)
    assert refit_head(model, batches) < 1e-3 * before


def test_an_undamaged_student_keeps_its_head() -> None:
    model = tiny_bert()
    refit_head(model, examples(3))
    torch.testing.assert_close(model.classifier.weight, tiny_bert().classifier.weight, rtol=0, atol=1e-5)


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(LobertError, match="refit_head needs a classifier") as caught:
        refit_head(BertModel(tiny_bert().config), [])
    one_sentence(caught.value)
