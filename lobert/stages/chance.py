"""Whether a teacher knows anything: its dev score against that of a constant answer."""

import logging
from itertools import permutations
from pathlib import Path

import numpy as np

from lobert.data.chance import chance_level
from lobert.data.metrics import METRICS
from lobert.errors import LobertError
from lobert.stages.outputs import teacher_predictions
from lobert.stages.workspace import Workspace, read_facts
from lobert.storage.artefacts import process_rank

log = logging.getLogger(__name__)

MOST_CLASSES = 5  # of which all orders are tried


def check_teacher(work: Workspace, teacher: Path) -> None:
    """Refuse a teacher that was brought along and is at chance level unless it is forced; warn of any other."""
    if process_rank() > 0:
        return
    job = work.job
    sentence = at_chance(work, teacher)
    if sentence is None:
        return warn_of_scale(work, teacher)
    if job.brought and not job.brought.force:
        way = better_order(work, teacher) or "take another one, or type teacher.force=true to have it all the same"
        raise LobertError(f"the teacher in '{job.brought.path}' knows nothing of {job.task.name}: {sentence}; {way}")
    log.warning("teacher: knows nothing of %s: %s", job.task.name, sentence)


def at_chance(work: Workspace, teacher: Path) -> str | None:
    """How the teacher's main dev score compares with chance, unless it is more than one standard error above."""
    task, labels = work.job.task, dev_labels(work)
    level, error = chance_level(task.main_metric, labels, len(task.labels))
    reached = float(read_facts(teacher)["metrics"][task.main_metric])
    if reached > level + error:
        return None
    return f"{task.main_metric} {100 * reached:.1f} on dev, and chance is {100 * level:.1f} ± {100 * error:.1f}"


def dev_labels(work: Workspace) -> np.ndarray:
    """Labels `[n]` of the dev splits of the main score."""
    labels = [work.data.splits[split].labels for split in work.job.task.main_splits]
    return np.concatenate([part for part in labels if part is not None])


def dev_logits(work: Workspace, teacher: Path) -> np.ndarray:
    """The teacher's logits `[n, C]` on the same examples."""
    predictions = teacher_predictions(work, teacher)
    return np.concatenate([predictions[split] for split in work.job.task.main_splits])


def better_order(work: Workspace, teacher: Path) -> str | None:
    """How to name the teacher's classes, where another order of them scores above chance: it was trained by that."""
    task, labels, count = work.job.task, dev_labels(work), work.job.task.num_outputs
    if task.is_choice or not 2 <= count <= MOST_CLASSES:
        return None
    logits, metric = dev_logits(work, teacher), METRICS[task.main_metric]
    reached = {order: metric(logits[:, order].argmax(-1), labels) for order in permutations(range(count))}
    best = max(reached, key=lambda order: reached[order])
    level, error = chance_level(task.main_metric, labels, count)
    if reached[best] <= level + error:
        return None
    places = [read_facts(teacher)["order"][i] for i in best]  # in the logits of the teacher as it was brought
    names = ",".join(task.labels[places.index(place)] for place in range(count))
    return f"with its classes in another order it has {100 * reached[best]:.1f}: type teacher.labels=[{names}]"


def warn_of_scale(work: Workspace, teacher: Path) -> None:
    """Say so where scores follow the task's, and are on another scale: worse than their mean would be."""
    task = work.job.task
    if not (task.is_regression and work.job.brought):
        return
    labels, scores = dev_labels(work), dev_logits(work, teacher)[:, 0]
    if np.mean((scores - labels) ** 2) > np.var(labels):
        log.warning(
            "teacher: its scores, from %.3g to %.3g, are on another scale than the labels, from %.3g to %.3g: "
            "kd.alpha=1 has the student learn from the teacher's alone",
            *(scores.min(), scores.max(), labels.min(), labels.max()),
        )
