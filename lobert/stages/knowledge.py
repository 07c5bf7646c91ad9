"""The teacher's outputs on disk, found or computed; or the teacher itself, live."""

import logging
from functools import partial
from pathlib import Path

from lobert.checkpoint import load
from lobert.distill.knowledge import LiveTeacher, StoredKnowledge, TeacherOutputs, knowledge_bytes, write_knowledge
from lobert.encoders.roles import depth_of
from lobert.encoders.source import model_key
from lobert.evaluation import every_example
from lobert.progress import track
from lobert.stages.workspace import Workspace
from lobert.storage.artefacts import Recipe, make_folder

log = logging.getLogger(__name__)


def knowledge_recipe(work: Workspace, teacher: Path) -> Recipe:
    return {"teacher": model_key(teacher), "data": work.data_key}


def knowledge_folder(work: Workspace, teacher: Path) -> Path:
    """Where the teacher's outputs are, or will be."""
    job = work.job
    return job.store.path("knowledge", f"{job.task.name}_{job.encoder.name}", knowledge_recipe(work, teacher))


def make_knowledge(work: Workspace, teacher: Path) -> Path:
    """The folder of the teacher's outputs for train and dev, found or written."""
    folder = knowledge_folder(work, teacher)
    make_folder(folder, knowledge_recipe(work, teacher), partial(compute_knowledge, work, teacher))
    return folder


def compute_knowledge(work: Workspace, teacher: Path, folder: Path) -> None:
    """Run the teacher over train and dev."""
    model = load(teacher, work.job.encoder.roles)
    splits = ("train", *work.job.task.eval_splits)
    sizes = {split: len(work.data.splits[split]) for split in splits}
    layers, hidden = depth_of(model), model.config.hidden_size
    width = work.data.splits["train"].width
    size = knowledge_bytes(sum(sizes.values()), layers, hidden, work.job.task.num_outputs, width)
    log.info(
        "knowledge: logits and [CLS] vectors of %d layers for %d examples, %s",
        layers,
        sum(sizes.values()),
        readable(size),
    )
    model.to(work.job.machine.device)
    for split in splits:
        batches = every_example(work.data, split)
        write_knowledge(
            model, track(batches, f"teacher's outputs on {split}", len(batches)), sizes[split], folder, split
        )


def readable(size: int) -> str:
    """Bytes in a unit that people read."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


def teacher_outputs(work: Workspace, teacher: Path) -> TeacherOutputs | None:
    """Where the student hears its teacher: from disk, live, or not at all."""
    job = work.job
    if not job.distils:
        return None
    if job.knowledge == "live":
        return LiveTeacher(load(teacher))
    return StoredKnowledge(make_knowledge(work, teacher), "train")
