"""Laws of the distillation losses: NumPy's own formulas, and nothing to learn where student equals teacher."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lobert.distill.losses import hard_label_loss, match_layers, patience_loss, score_loss, soft_target_loss

TEMPERATURES = [0.5, 1.0, 5.0, 20.0]
MATCHINGS = [[(1, 1), (2, 2), (3, 3)], [(1, 2), (2, 4)], [(3, 1)]]
Loss = Callable[[Tensor, Tensor], Tensor]


def draw(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


# Every loss on logits or vectors, with the shape of what it compares.
LOSSES: dict[str, tuple[Loss, tuple[int, ...]]] = {
    **{
        f"soft targets, T={t}, class_mean={mean}": (
            lambda a, b, t=t, mean=mean: soft_target_loss(a, b, t, mean),
            (5, 3),
        )
        for t in TEMPERATURES
        for mean in (True, False)
    },
    "scores": (score_loss, (5, 1)),
    **{
        f"patience, normalize={n}": (lambda a, b, n=n: patience_loss(a, b, MATCHINGS[0], n), (4, 5, 8))
        for n in (True, False)
    },
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("name", LOSSES)
def test_nothing_is_lost_and_nothing_pulls_where_student_equals_teacher(
    name: str, scale: float, dtype: torch.dtype
) -> None:
    loss, shape = LOSSES[name]
    teacher = draw(*shape, scale=scale).to(dtype)
    student = teacher.clone().requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-6)
    assert student.grad is not None
    assert student.grad.abs().max() <= 1e-6 * (20 if "T=" in name else 1)


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_down_the_gradient_brings_the_student_nearer(name: str) -> None:
    loss, shape = LOSSES[name]
    student, teacher = draw(*shape, seed=1).requires_grad_(), draw(*shape, seed=2)
    before = loss(student, teacher)
    (gradient,) = torch.autograd.grad(before, student)
    assert before > 0
    assert loss(student - 1e-3 * gradient, teacher) < before


@pytest.mark.parametrize("class_mean", [True, False])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_soft_targets_are_the_scaled_divergence(temperature: float, class_mean: bool, classes: int) -> None:
    student, teacher = draw(6, classes, seed=1), draw(6, classes, seed=2)
    p, q = softmax(teacher.numpy() / temperature), softmax(student.numpy() / temperature)
    divergence = (p * (np.log(p) - np.log(q))).sum(-1).mean()
    expected = temperature**2 * divergence / (classes if class_mean else 1)
    assert soft_target_loss(student, teacher, temperature, class_mean).item() == pytest.approx(expected)


def test_soft_targets_bear_certain_teachers() -> None:
    student = draw(2, 2).requires_grad_()
    value = soft_target_loss(student, torch.tensor([[1e4, -1e4], [-1e4, 1e4]], dtype=torch.float64), 1.0, False)
    value.backward()
    assert value.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("matching", MATCHINGS)
def test_patience_is_the_mean_squared_distance_of_matched_vectors(
    matching: list[tuple[int, int]], normalize: bool
) -> None:
    student, teacher = draw(4, 4, 8, seed=1), draw(4, 5, 8, seed=2)
    squares = []
    for mine, theirs in matching:
        pair = [student.numpy()[:, mine], teacher.numpy()[:, theirs]]
        if normalize:
            pair = [vectors / np.linalg.norm(vectors, axis=-1, keepdims=True) for vectors in pair]
        squares.append((pair[0] - pair[1]) ** 2)
    assert patience_loss(student, teacher, matching, normalize).item() == pytest.approx(np.mean(squares))


def test_patience_reads_the_matched_layers_alone() -> None:
    student, teacher = draw(4, 4, 8, seed=1), draw(4, 13, 8, seed=2)
    before = patience_loss(student, teacher, [(1, 4), (2, 8)], True)
    student[:, [0, 3]] += 1
    teacher[:, [0, 1, 12]] += 1
    assert patience_loss(student, teacher, [(1, 4), (2, 8)], True) == before


def test_patience_of_no_layers_is_zero() -> None:
    assert patience_loss(draw(4, 2, 8), draw(4, 13, 8), [], True) == 0


def test_scores_are_compared_by_their_square() -> None:
    student, teacher = draw(6, 1, seed=1), draw(6, 1, seed=2)
    assert score_loss(student, teacher).item() == pytest.approx(np.square(student.numpy() - teacher.numpy()).mean())


@pytest.mark.parametrize("classes", [2, 3])
def test_class_labels(classes: int) -> None:
    logits, labels = draw(6, classes), torch.arange(6) % classes
    expected = -np.log(softmax(logits.numpy())[np.arange(6), labels.numpy()]).mean()
    assert hard_label_loss(logits, labels).item() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize("examples", [1, 6])
def test_score_labels(examples: int, dtype: torch.dtype) -> None:
    logits, labels = draw(examples, 1).float(), torch.arange(examples).to(dtype)
    expected = np.square(logits.numpy()[:, 0] - labels.numpy()).mean()
    assert hard_label_loss(logits, labels).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        (12, 12, [(layer, layer) for layer in range(1, 12)]),
        (6, 12, [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10)]),
        (3, 12, [(1, 4), (2, 8)]),
        (5, 12, [(1, 2), (2, 4), (3, 6), (4, 8)]),
        (11, 12, [(layer, layer) for layer in range(1, 11)]),
        (1, 12, []),
        (1, 1, []),
    ],
)
def test_layers_are_matched_as_pkd_skip_does(student: int, teacher: int, pairs: list[tuple[int, int]]) -> None:
    assert match_layers(student, teacher) == pairs
