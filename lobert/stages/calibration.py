"""Calibration statistics of the model a student starts from, found or computed."""

import logging
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from lobert.compression.calibration import calibrate
from lobert.compression.examples import noisy
from lobert.compression.objective import ObjectiveName
from lobert.compression.statistics import STATISTICS_VERSION, Statistics, load_statistics, save_statistics
from lobert.distill.knowledge import Batch
from lobert.encoders.roles import encoder_linears
from lobert.evaluation import some_examples
from lobert.job import Job
from lobert.progress import track
from lobert.stages.workspace import Workspace
from lobert.storage.artefacts import Recipe, make_folder

log = logging.getLogger(__name__)


def calibration_recipe(work: Workspace, start: Recipe, norm: ObjectiveName, gradients: bool) -> Recipe:
    """`start` says which model the student starts from, `norm` what the statistics are for."""
    job = work.job
    return {
        "start": start,
        "version": STATISTICS_VERSION,
        "data": work.data_key["train"],
        "calibration": asdict(job.calibration),
        "norm": norm,
        "gradients": gradients,
        "temperature": job.objective.temperature if gradients else None,
    }


def calibration_batches(work: Workspace) -> list[Batch]:
    """The examples of the calibration, on which the sequential order and the head are fitted, too."""
    calibration = work.job.calibration
    return noisy(list(some_examples(work.data, "train", calibration.examples)), calibration.noise)


def needs_gradients(job: Job) -> bool:
    """Whether the norm, or comparing groups with each other, asks how much each output matters to the loss."""
    return job.objective.needs_gradients or job.sizing.allocate == "greedy"


def make_statistics(work: Workspace, start: Recipe, model: PreTrainedModel) -> Statistics | None:
    """The statistics that the job's objective needs, found or computed; None where it needs none."""
    if work.job.objective.name == "weights":
        return None
    return statistics_for(work, start, model, work.job.objective.name, needs_gradients(work.job))


def input_statistics(work: Workspace, start: Recipe, model: PreTrainedModel) -> Statistics:
    """The statistics that the job's objective needs, if any, and in any case the moments of the inputs."""
    own = make_statistics(work, start, model)
    if own is not None and own.second_moment:
        return own
    inputs = statistics_for(work, start, model, "activations", gradients=False)
    if own is None:
        return inputs
    return replace(own, source=inputs.source, mean=inputs.mean, second_moment=inputs.second_moment)


def statistics_for(
    work: Workspace, start: Recipe, model: PreTrainedModel, norm: ObjectiveName, gradients: bool
) -> Statistics:
    """The statistics that one norm is made of, with the moments of the gradients or without, found or computed."""
    recipe = calibration_recipe(work, start, norm, gradients)
    folder = work.job.store.path("calibration", f"{work.job.task.name}_{work.job.encoder.name}", recipe)
    make_folder(folder, recipe, partial(compute_statistics, work, model, norm, gradients))
    return load_statistics(folder)


def compute_statistics(
    work: Workspace, model: PreTrainedModel, norm: ObjectiveName, gradients: bool, folder: Path
) -> None:
    """Run the model over some training examples and keep the moments of every linear of its encoder."""
    job = work.job
    batches, exchanged = calibration_batches(work), 100 * job.calibration.noise
    count = sum(len(batch["input_ids"]) for batch in batches)
    log.info("calibration: on %d training examples, %.0f %% of their tokens exchanged", count, exchanged)
    model.to(job.machine.device)
    how = job.task.is_regression, job.objective.temperature, [norm]
    watched = track(batches, "calibrating", len(batches))
    statistics = calibrate(model, encoder_linears(model), watched, gradients, *how)
    model.cpu()
    save_statistics(statistics, folder)
