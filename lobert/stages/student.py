"""The student, found by what it was made from, or compressed and distilled."""

import copy
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor
from transformers import PreTrainedModel

from lobert.checkpoint import load
from lobert.compression.allocation import Offers, allowance, size_parts, spend_budget
from lobert.compression.compress import CompressionReport, GroupReport, compress_model
from lobert.compression.costs import UNITS
from lobert.compression.neurons import Narrowing, Whole
from lobert.compression.plan import GroupPlan
from lobert.compression.refit import refit_head
from lobert.compression.sequential import chosen_order, compress_in_order
from lobert.compression.statistics import STATISTICS_VERSION, Statistics
from lobert.compression.width import asked_neurons, neurons_for, planned_narrowing, spend_on_neurons
from lobert.distill.knowledge import model_inputs
from lobert.distill.losses import match_layers
from lobert.encoders.roles import depth_of, keep_first_layers
from lobert.encoders.source import model_key
from lobert.evaluation import closeness, predict_dev, score_splits
from lobert.job import Job
from lobert.layers.pairs import fold, unfold
from lobert.progress import bar, track
from lobert.stages.calibration import calibration_batches, make_statistics
from lobert.stages.knowledge import teacher_outputs
from lobert.stages.offers import make_offers
from lobert.stages.outputs import teacher_predictions
from lobert.stages.workspace import Workspace, batches_for, finish_model, planned
from lobert.storage.artefacts import Recipe, fingerprint, make_folder, process_rank
from lobert.training.student import Student
from lobert.training.trainer import CHECKPOINTS, fit

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
    if asked_neurons(job.parts) != 1.0:
        recipe |= {"neurons": asked_neurons(job.parts)}
    if chosen_order(job.order, job.objective, model, planned(job, model)) == "sequential":
        recipe |= {"order": "sequential"}
    if job.sizing.budget != "parameters":
        recipe |= {"counted": job.sizing.budget}
    if job.refit_head:
        recipe |= {"refit_head": True, "calibration": asdict(job.calibration)}
    return recipe


def asked_budget(job: Job, model: PreTrainedModel) -> float:
    """How much the job lets its compressions spend."""
    return allowance(model, size_parts(model, job.parts, job.sizing), job.sizing.budget)


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


def make_student(work: Workspace, teacher: Path, compressed: Compressed, loggers: Sequence[Logger] = ()) -> Path:
    """The folder of the trained student, found or made; needs the knowledge where it distils from disk."""
    folder = run_folder(work, compressed) / "student"
    build = partial(train_student, work, teacher, compressed, loggers)
    make_folder(folder, compressed.recipe, build, resume=work.job.resume, together=True, scratch=CHECKPOINTS)
    return folder


def train_student(
    work: Workspace, teacher: Path, compressed: Compressed, loggers: Sequence[Logger], folder: Path
) -> None:
    """Compress, score before training, distil unless it is for no epoch, and save what is best."""
    job = work.job
    pl.seed_everything(job.seed, verbose=False)
    model = student_start(work, teacher)
    report = compress_start(work, model, compressed.plans, compressed.start)
    model.to(job.machine.device)
    predictions = predict_dev(model, work.data)
    zero_shot = score_splits(job.task, work.data, predictions)
    near = asdict(closeness(teacher_predictions(work, teacher), predictions))
    log.info("student: %s", story(report, zero_shot, job))
    if job.student.epochs:
        model = distil(work, teacher, model, loggers, folder, zero_shot[job.task.main_metric])
    if process_rank() == 0:
        facts: dict[str, Any] = {"zero_shot_metrics": zero_shot, "zero_shot_closeness": near}
        facts |= {"groups": [asdict(group) for group in report.groups]}
        finish_model(work, model, folder, facts, None if job.student.epochs else zero_shot)


def distil(
    work: Workspace, teacher: Path, model: PreTrainedModel, loggers: Sequence[Logger], folder: Path, before: float
) -> PreTrainedModel:
    """Train the student and return it as it was in its best epoch, or as it is now if its dev score `before` is higher.

    Compressed in a calibrated norm it may be as good as its teacher at once, and a short training may cost more than it
    brings.
    """
    job, untrained = work.job, copy.deepcopy(model)
    matching = match_layers(depth_of(model), depth_of(load(teacher, job.encoder.roles)))
    outputs = teacher_outputs(work, teacher)
    unfold(model)
    module = Student(model, job.task, job.student, job.seed, job.distillation, outputs, matching)
    best = fit(module, batches_for(work, job.student, job.seed), job.machine, folder, loggers)
    if best < torch.tensor(before).item():  # in single precision, as Lightning keeps its scores
        log.info("student: %.2f in its best epoch, %.2f before training: that is what stays", 100 * best, 100 * before)
        return untrained
    trained = module.model
    assert isinstance(trained, PreTrainedModel)
    fold(trained)
    return trained


def compress_start(work: Workspace, model: PreTrainedModel, plans: list[GroupPlan], start: Recipe) -> CompressionReport:
    """Calibrate, allocate and factorize in place, as far as the job asks for each; `start` says what the model is."""
    report, _ = compress_narrowed(work, model, plans, start)
    fold(model)
    return report


def compress_narrowed(
    work: Workspace, model: PreTrainedModel, plans: list[GroupPlan], start: Recipe
) -> tuple[CompressionReport, Narrowing | None]:
    """As `compress_start`, weights that meet in heads still as they would be apart; and which neurons went."""
    job = work.job
    statistics = make_statistics(work, start, model)
    plans, narrowing = sized(work, model, plans, start, statistics)
    teacher_logits = listen(work, model) if job.refit_head else []
    whole = None
    if narrowing is not None and statistics is not None:
        whole, statistics = narrowing.take_out(model, statistics)
    report = factorize(work, model, plans, statistics, whole)
    if job.refit_head:
        model.to(job.machine.device)
        refit_head(model, zip(calibration_batches(work), teacher_logits, strict=True))
    return report, narrowing


def sized(
    work: Workspace, model: PreTrainedModel, plans: list[GroupPlan], start: Recipe, statistics: Statistics | None
) -> tuple[list[GroupPlan], Narrowing | None]:
    """The plan with the neurons and ranks that the job's budget buys, and what goes for it; the model stays whole."""
    job = work.job
    if job.plan_file is not None:
        return plans, planned_narrowing(model, plans, job.objective, statistics)
    neurons = neurons_for(model, job.parts, plans, job.objective, job.sizing)
    if neurons == 1.0 or statistics is None:
        return allotted(work, model, plans, start, statistics), None
    offer = partial(offers_beside, work, start)
    spent = spend_on_neurons(model, plans, job.objective, statistics, neurons, asked_budget(job, model), offer)
    log.info("allocation: %s", spent.story(UNITS[job.sizing.budget]))
    return spent.plans, spent.narrowing


def offers_beside(
    work: Workspace,
    start: Recipe,
    model: PreTrainedModel,
    plans: Sequence[GroupPlan],
    statistics: Statistics,
    narrowing: Narrowing | None,
) -> Offers:
    """What each group can be in a model from which neurons have gone."""
    start = start if narrowing is None else {**start, "neurons": narrowing.count}
    return make_offers(work, model, plans, start, statistics)


def allotted(
    work: Workspace, model: PreTrainedModel, plans: list[GroupPlan], start: Recipe, statistics: Statistics | None
) -> list[GroupPlan]:
    """The plan with the ranks that the job's budget buys, where it is to be spent greedily."""
    job = work.job
    if job.sizing.allocate != "greedy" or not plans:
        return plans
    offers = make_offers(work, model, plans, start, statistics)
    plans, allocation = spend_budget(plans, offers, asked_budget(job, model))
    log.info("allocation: %s", allocation.story(UNITS[job.sizing.budget]))
    return plans


def factorize(
    work: Workspace,
    model: PreTrainedModel,
    plans: list[GroupPlan],
    statistics: Statistics | None,
    whole: Whole | None = None,
) -> CompressionReport:
    """Put factors in the place of the weights, in the job's order; `whole` is the model before neurons went."""
    job = work.job
    if statistics is None or chosen_order(job.order, job.objective, model, plans) == "parallel":
        return compress_model(model, plans, bar("factorizing"), job.objective, statistics)
    model.to(job.machine.device)
    if whole is not None:
        whole[0].to(job.machine.device)
    examples = calibration_batches(work)
    shown = bar("factorizing by layer")
    report = compress_in_order(model, plans, examples, job.objective, statistics, shown, whole)
    model.cpu()
    return report


@torch.no_grad()
def listen(work: Workspace, model: PreTrainedModel) -> list[Tensor]:
    """Logits `[B, C]` of the model before compression, for each batch of calibration examples."""
    device = work.job.machine.device
    model.to(device).eval()
    examples = calibration_batches(work)
    batches = ({name: tensor.to(device) for name, tensor in model_inputs(model, batch).items()} for batch in examples)
    logits = [model(**inputs).logits.cpu() for inputs in track(batches, "teacher's answers", len(examples))]
    model.cpu()
    return logits


def story(report: CompressionReport, zero_shot: dict[str, float], job: Job) -> str:
    """One line about a student before training."""
    score = 100 * zero_shot[job.task.main_metric]
    kept = f"{report.keep:.1%} of the compressed weights stay, error {report.error:.4f}"
    return f"{kept}, {job.task.main_metric} {score:.1f} before training"


def read_report(facts: dict[str, Any]) -> CompressionReport:
    """The compression report that was saved with a student."""
    return CompressionReport([GroupReport(**group) for group in facts["groups"]])
