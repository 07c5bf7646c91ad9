"""Scores of a classifier on the labelled dev splits of a task."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lobert.data import LengthGroupedBatchSampler, ResumableLoader, Task, TextData, compute_metrics
from lobert.distill.knowledge import model_inputs
from lobert.progress import track

Predictions = Mapping[str, np.ndarray]  # logits [n, C] of each split


def score(task: Task, split: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The metrics, from logits `[n, C]` (classes, options) or scores `[n, 1]`; names carry the split's suffix."""
    metrics = compute_metrics(task.metrics, decisions(task, logits), labels)
    return {name + task.eval[split]: value for name, value in metrics.items()}


def decisions(task: Task, logits: np.ndarray) -> np.ndarray:
    """Class ids or scores `[n]` that logits `[n, C]` or `[n, 1]` decide for."""
    return logits[:, 0] if task.is_regression else logits.argmax(-1)


def score_all(task: Task, predictions: Predictions, labels: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Metrics of every dev split; and before them of all together, where no split is the main one."""
    metrics: dict[str, float] = {}
    if task.pools:
        logits, truth = (np.concatenate([part[split] for split in task.main_splits]) for part in (predictions, labels))
        metrics |= compute_metrics(task.metrics, decisions(task, logits), truth)
    for split, values in predictions.items():
        metrics |= score(task, split, values, labels[split])
    return metrics


@torch.no_grad()
def predict(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> np.ndarray:
    """Logits `[n, C]` in the order of the examples, whatever that of the batches. Puts the model in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    rows, logits = [], []
    for batch in batches:
        inputs = {name: tensor.to(device) for name, tensor in model_inputs(model, batch).items()}
        logits.append(model(**inputs).logits.float().cpu().numpy())
        rows.append(batch["index"].numpy())
    order = np.argsort(np.concatenate(rows))
    return np.concatenate(logits)[order]


def every_example(data: TextData, split: str) -> ResumableLoader:
    """Batches that hold each example of a split once, sorted by length, whatever the number of processes."""
    tokens = data.splits[split]
    sampler = LengthGroupedBatchSampler(tokens.lengths(), data.eval_rows(split), seed=0, shuffle=False)
    return ResumableLoader(tokens, sampler, data.pad_token_id, data.num_workers)


def some_examples(data: TextData, split: str, count: int | None) -> ResumableLoader:
    """Batches of the first `count` examples of a split (of all for None) in `drawing_order`, sorted by length."""
    return sorted_batches(data, split, drawing_order(data.splits[split].lengths())[:count])


def middle_batch(data: TextData, split: str, size: int) -> Mapping[str, Tensor]:
    """One batch of the `size` examples of a split (of all, where it has fewer) whose lengths are in the middle."""
    order = np.argsort(data.splits[split].lengths(), kind="stable")
    first = max(0, (len(order) - size) // 2)
    rows = order[first : first + size].tolist()
    return next(iter(ResumableLoader(data.splits[split], [rows], data.pad_token_id, 0)))


def drawing_order(lengths: np.ndarray) -> np.ndarray:
    """All examples, the same way in every run, drawn without replacement with odds in proportion to their lengths.

    What is sampled so is tokens. Drawn evenly, the many fragments in SST-2's training split would stand for its
    sentences, too. By exponential keys (Efraimidis and Spirakis, 2006).
    """
    return np.argsort(np.random.default_rng(0).exponential(size=len(lengths)) / lengths)


def sorted_batches(data: TextData, split: str, rows: np.ndarray) -> ResumableLoader:
    """Batches of some examples of a split, sorted by length."""
    tokens = data.splits[split]
    rows = rows[np.argsort(tokens.lengths()[rows], kind="stable")]
    size = data.eval_rows(split)
    batches = [rows[start : start + size].tolist() for start in range(0, len(rows), size)]
    return ResumableLoader(tokens, batches, data.pad_token_id, data.num_workers)


def predict_splits(model: nn.Module, data: TextData, splits: Iterable[str]) -> Predictions:
    """Logits of the model on each of the splits."""
    loaders = {split: every_example(data, split) for split in splits}
    return {
        split: predict(model, track(loader, f"predicting {split}", len(loader))) for split, loader in loaders.items()
    }


def predict_dev(model: nn.Module, data: TextData) -> Predictions:
    """Logits of the model on every labelled dev split."""
    return predict_splits(model, data, data.eval_splits)


def score_splits(task: Task, data: TextData, predictions: Predictions) -> dict[str, float]:
    """Metrics of predictions on every labelled dev split."""
    labels = {split: data.splits[split].labels for split in predictions}
    assert all(values is not None for values in labels.values()), "dev splits are labelled"
    return score_all(task, predictions, labels)  # type: ignore[arg-type]


def evaluate(model: nn.Module, task: Task, data: TextData) -> dict[str, float]:
    """Metrics of the model on every labelled dev split."""
    return score_splits(task, data, predict_dev(model, data))


@dataclass(frozen=True)
class Closeness:
    """How near a student's predictions are to its teacher's, over the examples of all dev splits.

    Attributes:
        agreement: share of the examples with the same label; None for a regression.
        divergence: mean KL(teacher || student) of the class probabilities, in nats; for a regression the mean squared
            difference of the scores.
    """

    agreement: float | None
    divergence: float


def closeness(teacher: Predictions, student: Predictions) -> Closeness:
    """Both have logits `[n, C]`, or scores `[n, 1]`, of the same splits."""
    wanted, given = (torch.from_numpy(np.concatenate([p[s] for s in teacher])).double() for p in (teacher, student))
    if wanted.shape[-1] == 1:
        return Closeness(None, (wanted - given).square().mean().item())
    log_wanted, log_given = wanted.log_softmax(-1), given.log_softmax(-1)
    divergence = (log_wanted.exp() * (log_wanted - log_given)).sum(-1).mean().item()
    agreement = (wanted.argmax(-1) == given.argmax(-1)).double().mean().item()
    return Closeness(agreement, divergence)
