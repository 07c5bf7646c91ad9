"""Scores of a classifier on the labelled dev splits of a task."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from lobert.data import LengthGroupedBatchSampler, ResumableLoader, Task, TextDataModule, compute_metrics
from lobert.distill.knowledge import model_inputs
from lobert.progress import track


def score(task: Task, split: str, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The task's metrics, from logits `[n, C]` (classes) or `[n, 1]` (scores); names carry the split's suffix."""
    predictions = logits[:, 0] if task.is_regression else logits.argmax(-1)
    metrics = compute_metrics(task.metrics, predictions, labels)
    return {name + task.eval[split]: value for name, value in metrics.items()}


@torch.no_grad()
def predict(model: nn.Module, batches: Iterable[Mapping[str, Tensor]]) -> np.ndarray:
    """Logits `[n, C]` in the order of the examples, whatever that of the batches. Puts the model in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    rows, logits = [], []
    for batch in batches:
        inputs = {name: tensor.to(device) for name, tensor in model_inputs(batch).items()}
        logits.append(model(**inputs).logits.float().cpu().numpy())
        rows.append(batch["index"].numpy())
    order = np.argsort(np.concatenate(rows))
    return np.concatenate(logits)[order]


def every_example(data: TextDataModule, split: str) -> ResumableLoader:
    """Batches that hold each example of a split once, sorted by length, whatever the number of processes."""
    tokens = data.splits[split]
    sampler = LengthGroupedBatchSampler(tokens.lengths(), data.eval_batch_size, seed=0, shuffle=False)
    return ResumableLoader(tokens, sampler, data.pad_token_id, data.num_workers)


def some_examples(data: TextDataModule, split: str, count: int) -> ResumableLoader:
    """Batches of `count` examples of a split (of all where it has fewer), the same in every run, sorted by length."""
    tokens = data.splits[split]
    rows = np.random.default_rng(0).permutation(len(tokens))[:count]
    rows = rows[np.argsort(tokens.lengths()[rows], kind="stable")]
    size = data.eval_batch_size
    batches = [rows[start : start + size].tolist() for start in range(0, len(rows), size)]
    return ResumableLoader(tokens, batches, data.pad_token_id, data.num_workers)


def evaluate(model: nn.Module, task: Task, data: TextDataModule) -> dict[str, float]:
    """Metrics of the model on every labelled dev split."""
    metrics: dict[str, float] = {}
    for split in task.eval_splits:
        loader = every_example(data, split)
        logits = predict(model, track(loader, f"evaluating on {split}", len(loader)))
        labels = data.splits[split].labels
        assert labels is not None, f"{split} is a labelled split"
        metrics |= score(task, split, logits, labels)
    return metrics
