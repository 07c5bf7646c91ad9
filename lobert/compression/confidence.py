"""A compressed classifier as sure of its answers as its teacher is: one number for its last layer.

Compression makes some answers other than the teacher's, and leaves the logits as large as they were: the student is
too sure. One factor on them makes up for that, as temperature scaling does after training (Guo et al., 2017), here
fitted to the teacher's answers in place of labels. No answer changes by it.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lobert.compression.refit import last_linear

FACTORS = (0.05, 20.0)  # the least and the most
HALVINGS = 60


@torch.no_grad()
def match_confidence(model: PreTrainedModel, found: Iterable[Tensor], wanted: Tensor) -> float:
    """Scale the last layer, in place, to the smallest divergence from the teacher's logits `wanted [n, C]`.

    `found` are the model's own for the same n examples, in batches, and not read where there is nothing to match: no
    logits, a score in place of classes, or no last layer that is linear. Returns the factor, 1 there.
    """
    head = last_linear(model)
    if head is None or wanted.dim() != 2 or wanted.shape[1] < 2:
        return 1.0
    factor = best_factor(torch.cat([*found]).double().cpu(), wanted.double().cpu())
    head.weight.mul_(factor)
    if head.bias is not None:
        head.bias.mul_(factor)
    return factor


def best_factor(logits: Tensor, wanted: Tensor) -> float:
    """The factor s of `logits [n, C]` with the smallest mean KL divergence of softmax(s logits) from softmax(wanted).

    It is convex in s, so its slope, the mean of E[logits] by the one less that by the other, crosses zero once.
    """
    target = (wanted.softmax(1) * logits).sum(1).mean()
    low, high = FACTORS
    for _ in range(HALVINGS):
        middle = (low * high) ** 0.5
        slope = ((middle * logits).softmax(1) * logits).sum(1).mean() - target
        low, high = (middle, high) if slope < 0 else (low, middle)
    return (low * high) ** 0.5
