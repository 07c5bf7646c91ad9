"""Tasks, their examples from any source, tokens on disk, batches and metrics."""

from lobert.data.loader import LengthGroupedBatchSampler, ResumableLoader, TextData, collate
from lobert.data.metrics import METRICS, compute_metrics
from lobert.data.sources import fingerprint_examples, load_examples, load_task
from lobert.data.tasks import Task
from lobert.data.tokens import TokenizedSplit, tokenize

__all__ = [
    "METRICS",
    "LengthGroupedBatchSampler",
    "ResumableLoader",
    "Task",
    "TextData",
    "TokenizedSplit",
    "collate",
    "compute_metrics",
    "fingerprint_examples",
    "load_examples",
    "load_task",
    "tokenize",
]
