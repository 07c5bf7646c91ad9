"""The teacher, found by what it was made from, or fine-tuned."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lobert.artefacts import Recipe, make_folder
from lobert.checkpoint import load
from lobert.encoder import build_classifier, model_key
from lobert.errors import LobertError
from lobert.evaluation import Predictions, predict_splits
from lobert.stages.workspace import Workspace, batches_for, finish_model
from lobert.teacher import Teacher
from lobert.trainer import fit

log = logging.getLogger(__name__)

PREDICTIONS_FILE = "predictions.safetensors"


def teacher_recipe(work: Workspace) -> Recipe:
    job = work.job
    return {
        **work.trained_with(job.teacher),
        "encoder": work.encoder_key,
        "labels": job.task.labels,
        "seed": job.teacher_seed,
        "dropout": job.encoder.dropout,
    }


def teacher_folder(work: Workspace) -> Path:
    """Where the teacher is, or will be."""
    job = work.job
    return job.store.path("teacher", f"{job.task.name}_{job.encoder.name}", teacher_recipe(work))


def make_teacher(work: Workspace, loggers: Sequence[Logger] = ()) -> Path:
    """The folder of the fine-tuned teacher, found or trained."""
    folder = teacher_folder(work)
    build = partial(train_teacher, work, loggers)
    make_folder(folder, teacher_recipe(work), build, resume=work.job.resume, together=True)
    return folder


def teacher_predictions(work: Workspace, teacher: Path) -> Predictions:
    """The teacher's logits on the labelled dev splits, found or computed."""
    return stored_predictions(work, teacher, work.job.task.eval_splits)


def stored_predictions(work: Workspace, teacher: Path, splits: Sequence[str]) -> Predictions:
    """The teacher's logits on some splits, found or computed: all its students share them."""
    job = work.job
    recipe = {"teacher": model_key(teacher), "data": {split: work.data.splits[split].fingerprint for split in splits}}
    folder = job.store.path("predictions", f"{job.task.name}_{job.encoder.name}", recipe)
    make_folder(folder, recipe, partial(compute_predictions, work, teacher, splits))
    try:
        return load_file(folder / PREDICTIONS_FILE)
    except (OSError, SafetensorError) as error:
        raise LobertError(f"{folder} cannot be read ({error}): delete it and run again to make it anew") from None


def compute_predictions(work: Workspace, teacher: Path, splits: Sequence[str], folder: Path) -> None:
    """Run the teacher over the splits."""
    model = load(teacher).to(work.job.machine.device)
    save_file(dict(predict_splits(model, work.data, splits)), folder / PREDICTIONS_FILE)


def train_teacher(work: Workspace, loggers: Sequence[Logger], folder: Path) -> None:
    """Fine-tune the encoder on the labels and save the best epoch."""
    job = work.job
    log.info("teacher: fine-tuning %s on %s", job.encoder.name, job.task.name)
    pl.seed_everything(job.teacher_seed, verbose=False)
    model = build_classifier(work.encoder, job.task.labels, job.teacher_seed, job.encoder.dropout)
    module = Teacher(model, job.task, job.teacher, job.teacher_seed)
    fit(module, batches_for(work, job.teacher, job.teacher_seed), job.machine, folder, loggers)
    if module.global_rank == 0:
        finish_model(work, model, folder, {})
