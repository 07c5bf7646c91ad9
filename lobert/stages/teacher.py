"""The teacher, found by what it was made from, fine-tuned (the best of several, where asked), or brought along."""

import json
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from lobert.encoders.brought import brought_key, load_brought
from lobert.stages.chance import check_teacher
from lobert.stages.workspace import Workspace, finish_model, read_facts
from lobert.startup import loading
from lobert.storage.artefacts import Recipe, find, make_folder, write_atomic
from lobert.training.candidates import Candidate, differences
from lobert.training.settings import CHECKPOINTS

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

log = logging.getLogger(__name__)

SEARCH_FILE = "search.json"


def teacher_recipe(work: Workspace, candidate: Candidate) -> Recipe:
    job = work.job
    return {
        **work.trained_with(candidate.training),
        "encoder": work.encoder_key,
        "labels": job.task.labels,
        **({"kind": job.task.kind} if job.task.is_choice else {}),  # the labels tell the other kinds apart
        "seed": candidate.seed,
        "dropout": job.encoder.dropout,
    }


def brought_recipe(work: Workspace) -> Recipe:
    job = work.job
    assert job.brought is not None
    return {
        "brought": brought_key(work.encoder),
        "named": job.brought.labels,
        "labels": job.task.labels,
        "data": {split: work.data_key[split] for split in job.task.eval_splits},
        "dropout": job.encoder.dropout,
    }


def recipes(work: Workspace) -> list[Recipe]:
    """What each teacher that is to be had is made from."""
    if work.job.brought:
        return [brought_recipe(work)]
    return [teacher_recipe(work, candidate) for candidate in work.job.candidates]


def found_teacher(work: Workspace) -> Path | None:
    """The teacher, if nothing has to be made for it."""
    return make_teacher(work) if all(find(folder_of(work, recipe), recipe) for recipe in recipes(work)) else None


def folder_of(work: Workspace, recipe: Recipe) -> Path:
    """Where the teacher made from `recipe` is, or will be."""
    job = work.job
    return job.store.path("teacher", f"{job.task.name}_{job.encoder.name}", recipe)


def make_teacher(work: Workspace, loggers: Sequence["Logger"] = ()) -> Path:
    """The folder of the teacher, found or made; of several, that of the best on dev.

    Raises LobertError for a teacher that was brought along and is at chance level, unless it is forced.
    """
    folder = bring_teacher(work) if work.job.brought else best_teacher(work, loggers)
    check_teacher(work, folder)
    return folder


def bring_teacher(work: Workspace) -> Path:
    """The folder of the teacher that was brought along, its classes in the task's order, its dev scores measured."""
    job, recipe = work.job, brought_recipe(work)
    folder = folder_of(work, recipe)
    if not find(folder, recipe):
        assert job.brought is not None
        model, order = load_brought(work.encoder, job.brought, job.task, job.encoder.dropout)
        make_folder(folder, recipe, partial(adopt_teacher, work, model, order))
    return folder


def adopt_teacher(work: Workspace, model: PreTrainedModel, order: list[int], folder: Path) -> None:
    """Measure the classifier that was brought along and save it as a teacher."""
    model.to(work.job.machine.device)
    finish_model(work, model, folder, {"order": order})


def best_teacher(work: Workspace, loggers: Sequence["Logger"]) -> Path:
    """The folder of the candidate that scores best on dev, the first of equals; each is found or trained."""
    candidates, folders = work.job.candidates, []
    for number, (candidate, varied) in enumerate(zip(candidates, differences(candidates), strict=True), start=1):
        if len(candidates) > 1:
            log.info("teacher %d of %d: %s", number, len(candidates), listed(varied))
        folders.append(candidate_teacher(work, candidate, loggers if len(candidates) == 1 else ()))
    best = max(folders, key=lambda folder: dev_score(work, folder))
    if len(candidates) > 1:
        keep_search(work, folders, best)
    return best


def candidate_teacher(work: Workspace, candidate: Candidate, loggers: Sequence["Logger"]) -> Path:
    """The folder of one fine-tuned teacher."""
    recipe = teacher_recipe(work, candidate)
    folder = folder_of(work, recipe)
    build = partial(train_teacher, work, candidate, loggers)
    make_folder(folder, recipe, build, resume=work.job.resume, together=True, scratch=CHECKPOINTS)
    return folder


def dev_score(work: Workspace, folder: Path) -> float:
    """The main dev metric of a teacher."""
    return float(read_facts(folder)["metrics"][work.job.task.main_metric])


def tried(work: Workspace) -> list[dict[str, Any]]:
    """What each candidate of a search was and scored on dev; nothing where there was none."""
    candidates = work.job.candidates
    if work.job.brought or len(candidates) == 1:
        return []
    folders = [folder_of(work, recipe) for recipe in recipes(work)]
    return [
        {**varied, "score": dev_score(work, folder)}
        for varied, folder in zip(differences(candidates), folders, strict=True)
    ]


def keep_search(work: Workspace, folders: Sequence[Path], best: Path) -> None:
    """Say which candidate was chosen, and write down what was tried with which score."""
    job, metric = work.job, work.job.task.main_metric
    lines = [f"{metric} {100 * row.pop('score'):.1f} with {listed(row)}" for row in tried(work)]
    log.info("teacher: the best of %d has %s", len(lines), lines[folders.index(best)])
    content = {"metric": metric, "tried": tried(work), "chosen": best.name}
    recipe = {"teachers": [folder.name for folder in folders]}

    def build(folder: Path) -> None:
        write_atomic(folder / SEARCH_FILE, json.dumps(content, indent=2) + "\n")

    job.store.make("search", f"{job.task.name}_{job.encoder.name}", recipe, build)


def listed(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def train_teacher(work: Workspace, candidate: Candidate, loggers: Sequence["Logger"], folder: Path) -> None:
    """Fine-tune the encoder on the labels and save the best epoch."""
    with loading():  # late: Lightning takes seconds, and most teachers are found
        from lobert.training.teacher import Teacher
        from lobert.training.trainer import fit

    job, seed = work.job, candidate.seed
    log.info("teacher: fine-tuning %s on %s", job.encoder.name, job.task.name)
    model = work.classifier(seed)
    module = Teacher(model, job.task, candidate.training, seed)
    fit(module, work.data, job.machine, folder, loggers)
    if module.global_rank == 0:
        assert isinstance(module.model, PreTrainedModel)
        finish_model(work, module.model, folder, {})
