"""Calibration statistics of the model a student starts from, found or computed."""

import logging
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from lobert.artefacts import Recipe, make_folder
from lobert.compression.calibration import calibrate
from lobert.compression.statistics import STATISTICS_VERSION, Statistics, load_statistics, save_statistics
from lobert.evaluation import some_examples
from lobert.job import Job
from lobert.progress import track
from lobert.roles import encoder_linears
from lobert.stages.workspace import Workspace

log = logging.getLogger(__name__)


def calibration_recipe(work: Workspace, start: Recipe) -> Recipe:
    """`start` says which model the student starts from."""
    job = work.job
    return {
        "start": start,
        "version": STATISTICS_VERSION,
        "data": work.data_key["train"],
        "examples": job.calibration_examples,
        "gradients": needs_gradients(job),
        "temperature": job.objective.temperature if needs_gradients(job) else None,
    }


def needs_gradients(job: Job) -> bool:
    """Whether the norm, or comparing groups with each other, asks how much each output matters to the loss."""
    return job.objective.needs_gradients or job.sizing.allocate == "greedy"


def make_statistics(work: Workspace, start: Recipe, model: PreTrainedModel) -> Statistics | None:
    """The statistics that the job's objective needs, found or computed; None where it needs none."""
    job = work.job
    if job.objective.name == "weights":
        return None
    recipe = calibration_recipe(work, start)
    folder = job.store.path("calibration", f"{job.task.name}_{job.encoder.name}", recipe)
    make_folder(folder, recipe, partial(compute_statistics, work, model))
    return load_statistics(folder)


def compute_statistics(work: Workspace, model: PreTrainedModel, folder: Path) -> None:
    """Run the model over some training examples and keep the moments of every linear of its encoder."""
    job = work.job
    batches = some_examples(work.data, "train", job.calibration_examples)
    log.info("calibration: on %d training examples", min(job.calibration_examples, len(batches.split)))
    model.to(job.machine.device)
    how = job.task.is_regression, job.objective.temperature
    watched = track(batches, "calibrating", len(batches))
    statistics = calibrate(model, encoder_linears(model), watched, needs_gradients(job), *how)
    model.cpu()
    save_statistics(statistics, folder)
