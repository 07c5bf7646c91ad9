"""The student, found by what it was made from, or compressed and distilled."""

import copy
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from lobert.checkpoint import load, save_student
from lobert.compression.allocation import ALLOCATION_VERSION
from lobert.compression.compress import CompressionReport, GroupReport
from lobert.compression.plan import GroupPlan
from lobert.compression.sequential import chosen_order
from lobert.compression.statistics import STATISTICS_VERSION
from lobert.compression.width import asked_neurons
from lobert.distill.losses import match_layers
from lobert.encoders.roles import depth_of, keep_first_layers
from lobert.encoders.source import model_key
from lobert.job import Job
from lobert.layers.pairs import fold, unfold
from lobert.stages.compress import asked_budget, compress_start
from lobert.stages.knowledge import teacher_outputs
from lobert.stages.scores import score_student
from lobert.stages.workspace import Workspace, planned, write_facts
from lobert.startup import loading
from lobert.storage.artefacts import Recipe, fingerprint, make_folder, process_rank
from lobert.training.settings import CHECKPOINTS

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compressed:
    """A student before training: the model, its plan, and what is known of it."""

    plans: list[GroupPlan]
    recipe: Recipe
    start: Recipe


def plan_student(work: Workspace, teacher: Path) -> Compressed:
    """The plan of the student and all it depends on; looks at shapes only."""
    job = work.job
    model = student_start(work, teacher)
    plans, start = planned(job, model), start_recipe(work, teacher)
    recipe = {
        **work.trained_with(job.student),
        **start,
        **chosen_by(job, model),
        "plan": [{**plan.to_dict(), "evaluation": "auto"} for plan in plans],
        "distillation": asdict(job.distillation),
        "knowledge": job.knowledge if job.distils else None,
        "seed": job.seed,
        "dropout": job.encoder.dropout,
    }
    return Compressed(plans, json.loads(json.dumps(recipe)), start)


def start_recipe(work: Workspace, teacher: Path) -> dict[str, Any]:
    """Which model a student starts from."""
    return {
        "teacher": model_key(teacher),
        "start": "teacher" if work.job.init == "teacher" else work.encoder_key,
        "layers": work.job.layers,
    }


def chosen_by(job: Job, model: PreTrainedModel) -> Recipe:
    """What the factors depend on beside the plan: nothing more where they are those of the weights alone."""
    recipe: dict[str, Any] = {}
    if job.objective.name != "weights":
        recipe |= {"objective": asdict(job.objective), "calibration": asdict(job.calibration)}
        recipe |= {"statistics": STATISTICS_VERSION}
    if job.sizing.allocate != "uniform":
        recipe |= {"allocate": job.sizing.allocate, "budget": asked_budget(job, model)}
        recipe |= {"allocation": ALLOCATION_VERSION}
    if asked_neurons(job.parts) != 1.0:
        recipe |= {"neurons": asked_neurons(job.parts)}
    if chosen_order(job.order, job.objective, model, planned(job, model)) == "sequential":
        recipe |= {"order": "sequential"}
    if job.sizing.budget != "parameters":
        recipe |= {"counted": job.sizing.budget}
    if job.refit_head:
        recipe |= {"refit_head": True, "calibration": asdict(job.calibration)}
    return recipe


def run_folder(work: Workspace, compressed: Compressed) -> Path:
    """Folder of the run: it follows from what the student is made from."""
    return work.job.runs / f"{work.job.name}-{fingerprint(compressed.recipe, length=8)}"


def student_start(work: Workspace, teacher: Path) -> PreTrainedModel:
    """The dense model a student starts from: the teacher or the pretrained encoder; all or its first layers."""
    job = work.job
    model = load(teacher, job.encoder.roles) if job.init == "teacher" else work.classifier(job.seed)
    if job.layers is not None:
        keep_first_layers(model, job.layers)
    return model


def make_student(work: Workspace, teacher: Path, compressed: Compressed, loggers: Sequence["Logger"] = ()) -> Path:
    """The folder of the trained student, found or made; needs the knowledge where it distils from disk."""
    folder = run_folder(work, compressed) / "student"
    build = partial(train_student, work, teacher, compressed, loggers)
    make_folder(folder, compressed.recipe, build, resume=work.job.resume, together=True, scratch=CHECKPOINTS)
    return folder


def train_student(
    work: Workspace, teacher: Path, compressed: Compressed, loggers: Sequence["Logger"], folder: Path
) -> None:
    """Compress, score before training, distil, and save what is best; for no epoch compress and save.

    What is scored at the end is what a user will load.
    """
    job = work.job
    model = student_start(work, teacher)
    report = compress_start(work, model, compressed.plans, compressed.start)
    log.info("student: %.1f%% of the compressed weights stay, error %.4f", 100 * report.keep, report.error)
    before = None
    if job.student.epochs:
        before = score_student(work, teacher, model)
        metric, score = job.task.main_metric, before.metrics[job.task.main_metric]
        log.info("student: %s %.1f before training", metric, 100 * score)
        model = distil(work, teacher, model, loggers, folder, score)
    if process_rank() == 0:
        save_student(model.cpu(), folder, work.tokenizer)
        found = score_student(work, teacher, load(folder))
        groups = [asdict(group) for group in report.groups]
        write_facts(folder, {**(before or found).facts("zero_shot_"), "groups": groups, **found.facts()})


def distil(
    work: Workspace, teacher: Path, model: PreTrainedModel, loggers: Sequence["Logger"], folder: Path, before: float
) -> PreTrainedModel:
    """Train the student and return it as it was in its best epoch, or as it is now if its dev score `before` is higher.

    Compressed in a calibrated norm it may be as good as its teacher at once, and a short training may cost more than it
    brings.
    """
    with loading():  # late: Lightning takes seconds, and not every student is trained
        from lobert.training.student import Student
        from lobert.training.trainer import fit

    job, untrained = work.job, copy.deepcopy(model)
    matching = match_layers(depth_of(model), depth_of(load(teacher, job.encoder.roles)))
    outputs = teacher_outputs(work, teacher)
    unfold(model)
    module = Student(model, job.task, job.student, job.seed, job.distillation, outputs, matching)
    best = fit(module, work.data, job.machine, folder, loggers)
    if best < torch.tensor(before).item():  # in single precision, as Lightning keeps its scores
        log.info("student: %.2f in its best epoch, %.2f before training: that is what stays", 100 * best, 100 * before)
        return untrained
    trained = module.model
    assert isinstance(trained, PreTrainedModel)
    fold(trained)
    return trained


def read_report(facts: dict[str, Any]) -> CompressionReport:
    """The compression report that was saved with a student."""
    return CompressionReport([GroupReport(**group) for group in facts["groups"]])
