"""Predictions as GLUE takes them: a file of tab-separated index and answer for each test split."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lobert.data import Task
from lobert.errors import LobertError
from lobert.evaluation import decisions
from lobert.results.glue import HEADER
from lobert.storage.artefacts import write_atomic


def answers(task: Task, logits: np.ndarray) -> list[str]:
    """The answer to each example, as the task's files spell it, from logits `[n, C]` or scores `[n, 1]`.

    Scores with a range are held inside it and have three decimals, as in GLUE's sample submission; others have six
    significant digits. Raises LobertError where a prediction is not finite.
    """
    if not np.isfinite(logits).all():
        raise LobertError("a test prediction is not finite: train again, with a lower learning rate")
    if not task.is_regression:
        return [task.answers[i] for i in decisions(task, logits)]
    if task.score_range is None:
        return [f"{score:.6g}" for score in decisions(task, logits)]
    return [f"{score:.3f}" for score in np.clip(decisions(task, logits), *task.score_range)]


def write_answers(path: Path, ids: Sequence[str] | None, given: Sequence[str]) -> None:
    """Write the file of one split; without `ids` the examples are numbered from 0.

    Raises LobertError where an index is there twice, or it or an answer would not stay in its cell.
    """
    names = list(map(str, range(len(given)))) if ids is None else list(ids)
    if twice := next((name for name, count in Counter(names).items() if count > 1), None):
        raise LobertError(f"{path.name} cannot be written: the test file has the index '{twice}' more than once")
    if strange := next((cell for cell in (*names, *given) if any(sign in cell for sign in "\t\r\n")), None):
        raise LobertError(f"{path.name} cannot be written: a tab or a line's end is inside {strange!r:.60}")
    lines = [f"{name}\t{answer}" for name, answer in zip(names, given, strict=True)]
    write_atomic(path, "\n".join([HEADER, *lines]) + "\n")
