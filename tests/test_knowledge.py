"""Laws of the teacher's outputs: from disk or live, in any order, they are the same and teach the same."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cases import TINY, one_sentence, tiny_bert, token_batch
from torch import Tensor

import lobert
from lobert.data import Task
from lobert.distill.knowledge import LiveTeacher, StoredKnowledge, forward, knowledge_bytes, write_knowledge
from lobert.distill.losses import match_layers
from lobert.errors import LobertError
from lobert.training.settings import Distillation, Training
from lobert.training.student import Student

EXAMPLES = 11
LAYERS, HIDDEN = TINY["num_hidden_layers"], TINY["hidden_size"]
FILES = ["train.logits.npy", "train.cls.npy"]
HEADER = 128  # bytes before the numbers of a small .npy file
ORDERS = {"as written": list(range(EXAMPLES)), "backwards": list(range(EXAMPLES))[::-1], "some, twice": [7, 0, 7, 3]}
Batch = dict[str, Tensor]


def batch_of(rows: list[int]) -> Batch:
    tokens = token_batch(EXAMPLES)
    return {"index": torch.tensor(rows), "labels": torch.tensor(rows) % 3, **{k: v[rows] for k, v in tokens.items()}}


def batches(rows: list[int], size: int = 4) -> Iterator[Batch]:
    for start in range(0, len(rows), size):
        yield batch_of(rows[start : start + size])


@pytest.fixture(scope="module")
def knowledge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("knowledge")
    write_knowledge(tiny_bert(), batches(list(range(EXAMPLES))), EXAMPLES, folder, "train")
    return folder


def student_terms(teacher: object, batch: Batch, regression: bool = False) -> dict[str, tuple[float, Tensor]]:
    model = tiny_bert(labels=1 if regression else 3)
    lobert.compress(model, "falcon_4d")
    labels = () if regression else ("a", "b", "c")
    task = Task("any", ("text",), ("pearson" if regression else "accuracy",), labels)
    kd = Distillation(alpha=0.7, temperature=5.0, beta=100.0, normalize=True, class_mean=True)
    student = Student(model, task, Training(1, 1e-3), 0, kd, teacher, match_layers(LAYERS, LAYERS))  # type: ignore[arg-type]
    return student.loss_terms(batch)


@pytest.mark.parametrize("order", ORDERS)
def test_stored_outputs_are_the_live_ones_to_half_precision(knowledge: Path, order: str) -> None:
    batch = batch_of(ORDERS[order])
    stored, live = StoredKnowledge(knowledge, "train")(batch), LiveTeacher(tiny_bert())(batch)
    assert live.cls.shape == (len(ORDERS[order]), LAYERS + 1, HIDDEN)
    for mine, theirs in ((stored.logits, live.logits), (stored.cls, live.cls)):
        assert mine.dtype == theirs.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("order", ORDERS)
def test_both_teach_the_same(knowledge: Path, order: str) -> None:
    batch = batch_of(ORDERS[order])
    teachers = StoredKnowledge(knowledge, "train"), LiveTeacher(tiny_bert())
    stored, live = (student_terms(teacher, batch) for teacher in teachers)
    assert stored.keys() == live.keys() == {"labels", "soft_targets", "patience"}
    for name, (weight, value) in stored.items():
        assert weight == live[name][0]
        assert value.item() > 0
        assert value.item() == pytest.approx(live[name][1].item(), rel=5e-3)


def test_the_order_of_writing_does_not_matter(knowledge: Path, tmp_path: Path) -> None:
    write_knowledge(tiny_bert(), batches([5, 0, 10, 3, 1, 9, 2, 8, 4, 7, 6], size=3), EXAMPLES, tmp_path, "train")
    mine, theirs = (StoredKnowledge(folder, "train")(batch_of([0, 5, 10])) for folder in (tmp_path, knowledge))
    torch.testing.assert_close(mine.logits, theirs.logits, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(mine.cls, theirs.cls, rtol=2e-3, atol=2e-3)


def test_scores_are_kept_too(tmp_path: Path) -> None:
    teacher = tiny_bert(seed=3, labels=1)
    write_knowledge(teacher, batches(list(range(EXAMPLES))), EXAMPLES, tmp_path, "train")
    batch = batch_of([4, 2, 9])
    teachers = StoredKnowledge(tmp_path, "train"), LiveTeacher(teacher)
    stored, live = (student_terms(kind, batch, regression=True) for kind in teachers)
    for name in ("labels", "soft_targets", "patience"):
        assert stored[name][1].item() == pytest.approx(live[name][1].item(), rel=5e-3)


def test_size_on_disk_is_as_predicted(knowledge: Path) -> None:
    assert len(StoredKnowledge(knowledge, "train")) == EXAMPLES
    held = sum((knowledge / name).stat().st_size - HEADER for name in FILES)
    assert held == knowledge_bytes(EXAMPLES, LAYERS, HIDDEN, outputs=3)


def test_teachers_learn_nothing_and_drop_nothing_out(tmp_path: Path) -> None:
    live = LiveTeacher(tiny_bert().train())
    first, second = live(batch_of([1, 2])), live(batch_of([1, 2]))
    assert torch.equal(first.logits, second.logits)
    assert not first.logits.requires_grad
    assert not any(parameter.requires_grad for parameter in live.model.parameters())
    write_knowledge(tiny_bert().train(), batches([0, 1]), 2, tmp_path, "dev")
    stored = StoredKnowledge(tmp_path, "dev")(batch_of([1, 0]))
    torch.testing.assert_close(stored.logits, live(batch_of([1, 0])).logits, rtol=1e-2, atol=1e-3)


def test_the_teacher_is_no_part_of_the_student() -> None:
    kd = Distillation(1.0, 1.0, 1.0, True, True)
    task = Task("any", ("text",), ("accuracy",), ("a", "b", "c"))
    student = Student(tiny_bert(), task, Training(1, 1e-3), 0, kd, LiveTeacher(tiny_bert(seed=1)))
    assert {id(p) for p in student.parameters()} == {id(p) for p in student.model.parameters()}


def test_the_first_token_of_every_layer() -> None:
    model, batch = tiny_bert(), batch_of([0, 1, 2])
    outputs = forward(model, batch)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        hidden = model.bert(**inputs, output_hidden_states=True).hidden_states
        torch.testing.assert_close(outputs.logits, model(**inputs).logits)
    assert outputs.cls.shape[1] == len(hidden) == LAYERS + 1
    for layer, states in enumerate(hidden):
        torch.testing.assert_close(outputs.cls[:, layer], states[:, 0])


# ---- damage ----


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("size", [0, 5, 100, HEADER, -1])
def test_a_truncated_file_is_named(knowledge: Path, tmp_path: Path, name: str, size: int) -> None:
    for file in FILES:
        content = (knowledge / file).read_bytes()
        (tmp_path / file).write_bytes(content[:size] if file == name else content)
    with pytest.raises(LobertError, match=name) as caught:
        StoredKnowledge(tmp_path, "train")
    one_sentence(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(LobertError, match=FILES[0]):
        StoredKnowledge(tmp_path, "train")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])  # the last is too large for half precision
def test_outputs_that_cannot_be_kept_are_refused(tmp_path: Path, value: float) -> None:
    model = tiny_bert()
    torch.nn.init.constant_(model.classifier.bias, value)
    with pytest.raises(LobertError, match="finite") as caught:
        write_knowledge(model, batches([0, 1]), 2, tmp_path, "train")
    one_sentence(caught.value)
