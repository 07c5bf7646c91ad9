"""Distillation losses, as pure functions of tensors; every one is a mean over the batch.

Shapes: B examples, C classes or options (or 1 score), L layers, d hidden size. `matching` pairs student layers with
teacher layers.
Sources: Hinton et al. 2015 (soft targets), Sun et al. 2019 (patient knowledge distillation, PKD).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

LayerMatching = Sequence[tuple[int, int]]  # (student layer, teacher layer), counted from 1; 0 is the embedding output


def hard_label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with class ids `[B]`, or squared error with scores `[B]` where there is one output."""
    if logits.shape[-1] == 1:
        return F.mse_loss(logits.squeeze(-1), labels.to(logits.dtype))
    return F.cross_entropy(logits, labels)


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float, class_mean: bool) -> Tensor:
    """`T² KL(softmax(teacher / T) || softmax(student / T))` of logits `[B, C]`.

    With `class_mean` it is averaged over the classes too, as the original's is; without, it is the KL itself.
    """
    log_student = F.log_softmax(student / temperature, dim=-1)
    log_teacher = F.log_softmax(teacher / temperature, dim=-1)
    divergence = F.kl_div(log_student, log_teacher, reduction="none", log_target=True)
    per_example = divergence.mean(-1) if class_mean else divergence.sum(-1)
    return temperature**2 * per_example.mean()


def score_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared error between the scores `[B, 1]` of student and teacher: soft targets for regression."""
    return F.mse_loss(student, teacher)


def patience_loss(student: Tensor, teacher: Tensor, matching: LayerMatching, normalize: bool) -> Tensor:
    """Mean squared error between matched [CLS] vectors, student `[..., Ls + 1, d]` and teacher `[..., Lt + 1, d]`.

    With `normalize` each vector is first scaled to unit length (PKD, equation 7). Zero where no layers are matched.
    """
    if not matching:
        return student.new_zeros(())
    pairs = torch.tensor(matching, device=student.device)
    mine, theirs = student[..., pairs[:, 0], :], teacher[..., pairs[:, 1], :]
    if normalize:
        mine, theirs = F.normalize(mine, dim=-1), F.normalize(theirs, dim=-1)
    return F.mse_loss(mine, theirs)


def match_layers(student_layers: int, teacher_layers: int) -> list[tuple[int, int]]:
    """Pairs for the patience loss: all layers but the last, one to one, or PKD-skip for a student with fewer layers.

    PKD-skip takes every k-th teacher layer, k = teacher // student: 6 of 12 gives teacher layers 2, 4, 6, 8, 10.
    """
    step = teacher_layers // student_layers
    return [(layer, layer * step) for layer in range(1, student_layers)]
