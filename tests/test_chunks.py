"""Laws of feed-forward networks that take a large batch in chunks: the same function, where nothing is learnt."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from cases import logits_of, point, tiny_bert, token_batch
from test_architectures import EXACT, answers, tiny
from torch import Tensor, nn

import lobert
from lobert.compression.compress import compress_model
from lobert.compression.plan import make_plan
from lobert.layers import chunks
from lobert.layers.chunks import Chunked, take_chunks

CHUNKED = ["bert", "roberta", "electra", "distilbert", "albert"]  # whose networks transformers calls by a name


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 4)


def watched(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each call of a network from now on."""
    seen, kinds = list[int](), {(type(wrapper.layer), wrapper.method) for wrapper in wrappers(model)}
    for kind, method in kinds:
        monkeypatch.setattr(kind, method, counted(getattr(kind, method), seen))
    return seen


def wrappers(model: nn.Module) -> list[Chunked]:
    return [value for module in model.modules() for value in vars(module).values() if isinstance(value, Chunked)]


def counted(network: Callable[[nn.Module, Tensor], Tensor], seen: list[int]) -> Callable[[nn.Module, Tensor], Tensor]:
    return lambda layer, x: (seen.append(x.shape[:-1].numel()), network(layer, x))[1]


@pytest.mark.parametrize("length", [1, 3, 7, 9])
@pytest.mark.parametrize("kind", CHUNKED)
def test_chunks_change_nothing(kind: str, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny(kind), token_batch(3, length)
    expected = answers(model, batch)
    take_chunks(model)
    seen = watched(model, monkeypatch)
    torch.testing.assert_close(answers(model, batch), expected, **EXACT)
    tokens = 3 * length
    assert sum(seen) == 2 * tokens  # of two layers
    assert len(seen) == 2 * max(1, tokens // 4)
    assert max(seen) - min(seen) <= 1


@pytest.mark.parametrize("training", [True, False])
def test_in_training_and_for_hooks_a_batch_stays_whole(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("bert")
    take_chunks(model)
    seen, shapes = watched(model, monkeypatch), []
    if not training:
        for layer in model.bert.encoder.layer:
            layer.output.dense.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    with torch.set_grad_enabled(training):
        model(**token_batch(3, 9))
    assert seen == [27, 27]
    assert shapes == [] if training else [(3, 9, 32)] * 2


def test_a_student_has_chunks_and_a_merged_one_has_none() -> None:
    student = tiny_bert()
    compress_model(student, make_plan(student, point("falcon_4d")))
    assert {id(wrapper.layer) for wrapper in wrappers(student)} == {id(layer) for layer in student.bert.encoder.layer}
    assert not wrappers(lobert.merge(student))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_runs_its_own_network(duplicate: Callable[[nn.Module], nn.Module]) -> None:
    model = tiny_bert()
    take_chunks(model)
    before, twin = logits_of(model), duplicate(model)
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.output.dense.weight.zero_()
    torch.testing.assert_close(logits_of(twin), before)
    assert not torch.allclose(logits_of(model), before)
