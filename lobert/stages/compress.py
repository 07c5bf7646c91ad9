"""From the dense model that a student starts from to its factors: calibrated, allocated, factorized."""

import logging
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lobert.compression.allocation import Offers, allowance, size_parts
from lobert.compression.compress import CompressionReport, compress_model
from lobert.compression.costs import UNITS
from lobert.compression.grouping import Neurons
from lobert.compression.neurons import Narrowing, Whole
from lobert.compression.plan import GroupPlan
from lobert.compression.refit import refit_head
from lobert.compression.sequential import chosen_order, compress_in_order
from lobert.compression.statistics import Statistics
from lobert.compression.width import neurons_for, planned_narrowing, spend
from lobert.distill.knowledge import model_inputs
from lobert.job import Job
from lobert.layers.pairs import fold
from lobert.progress import bar, track
from lobert.stages.calibration import calibration_batches, make_statistics
from lobert.stages.offers import make_offers
from lobert.stages.workspace import Workspace
from lobert.storage.artefacts import Recipe

log = logging.getLogger(__name__)


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
    return allotted(work, model, plans, start, statistics, neurons)


def allotted(
    work: Workspace,
    model: PreTrainedModel,
    plans: list[GroupPlan],
    start: Recipe,
    statistics: Statistics | None,
    neurons: Neurons = 1.0,
) -> tuple[list[GroupPlan], Narrowing | None]:
    """The plan with what the job's budget buys, where it is to be spent greedily; and what goes for it."""
    job = work.job
    if job.sizing.allocate != "greedy" or not plans:
        return plans, None
    offer = partial(offers_beside, work, start)
    spent = spend(model, plans, job.objective, statistics, neurons, asked_budget(job, model), offer)
    log.info("allocation: %s", spent.story(UNITS[job.sizing.budget]))
    return spent.plans, spent.narrowing


def offers_beside(
    work: Workspace,
    start: Recipe,
    model: PreTrainedModel,
    plans: Sequence[GroupPlan],
    statistics: Statistics | None,
    narrowing: Narrowing | None,
) -> Offers:
    """What each group can be in a model from which neurons have gone."""
    start = start if narrowing is None else {**start, "neurons": narrowing.count}
    return make_offers(work, model, plans, start, statistics)


def asked_budget(job: Job, model: PreTrainedModel) -> float:
    """How much the job lets its compressions spend."""
    return allowance(model, size_parts(model, job.parts, job.sizing), job.sizing.budget)


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
