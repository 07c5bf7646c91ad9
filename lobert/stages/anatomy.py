"""The anatomy of the damage, found or measured: every group of a plan compressed alone in a whole teacher."""

import copy
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from transformers import PreTrainedModel

from lobert.checkpoint import load
from lobert.compression.allocation import ALLOCATION_VERSION
from lobert.compression.compress import compress_model, ratio
from lobert.compression.joint import apart
from lobert.compression.plan import GroupPlan
from lobert.compression.points import decomp_name
from lobert.compression.statistics import STATISTICS_VERSION, Statistics
from lobert.compression.width import planned_width
from lobert.data import compute_metrics
from lobert.encoders.roles import Place, is_table, matrix_at, places_of_weights
from lobert.encoders.source import model_key
from lobert.errors import LobertError
from lobert.evaluation import Predictions, closeness, decisions, predict, sorted_batches
from lobert.job import Job
from lobert.layers.blocks import Block
from lobert.progress import track
from lobert.results.anatomy import ANATOMY_FILE, ANATOMY_SCHEMA, Anatomy, Cell, drops_table, read_anatomy, write_anatomy
from lobert.stages.calibration import input_statistics
from lobert.stages.compress import allotted, asked_budget
from lobert.stages.student import start_recipe
from lobert.stages.workspace import Workspace, planned
from lobert.storage.artefacts import Recipe, make_folder, write_atomic

log = logging.getLogger(__name__)

MEASURED_FILE = "measured.json"  # what an interrupted build has measured already
Unit = tuple[set[Place], list[GroupPlan]]


@dataclass(frozen=True)
class Intact:
    """The teacher before anything is done to it, what it says of some dev examples, and its calibration statistics."""

    model: PreTrainedModel
    rows: Mapping[str, np.ndarray]
    predictions: Predictions
    statistics: Statistics
    blocks: Mapping[Block, Place]


def check_anatomy(job: Job) -> None:
    """Refuse what is no teacher with one group compressed."""
    if job.stage != "anatomy":
        return
    if job.init != "teacher":
        raise LobertError("stage=anatomy compresses parts of the fine-tuned teacher: leave out decomp.init=pretrained")
    if job.layers is not None:
        raise LobertError(f"stage=anatomy looks at all layers of the teacher: leave out student.layers={job.layers}")
    if not job.parts and job.plan_file is None:
        raise LobertError("stage=anatomy has nothing to look at with decomp=none: choose a compression")


def make_anatomy(work: Workspace, teacher: Path) -> Path:
    """The file with the anatomy of the job's compression, found or measured; all neurons stay for it."""
    job = work.job
    model = load(teacher, job.encoder.roles)
    if (width := planned_width(model, planned(job, model))) is not None:
        raise LobertError(
            f"decomp.plan={job.plan_file} leaves {width} neurons to every feed-forward network, and stage=anatomy "
            "compresses one weight after the other in a whole teacher: give a plan with all neurons"
        )
    recipe = anatomy_recipe(work, teacher, model)
    name = decomp_name(job.parts) if job.plan_file is None else job.decomp
    folder = job.store.path("anatomy", f"{job.task.name}_{job.encoder.name}_{name}", recipe)
    make_folder(folder, recipe, partial(measure, work, teacher, model), resume=job.resume)
    return folder / ANATOMY_FILE


def anatomy_recipe(work: Workspace, teacher: Path, model: PreTrainedModel) -> Recipe:
    """All that the numbers depend on; the order is parallel, whatever is asked of a student."""
    job = work.job
    greedy = job.sizing.allocate == "greedy"
    recipe = {
        "schema": ANATOMY_SCHEMA,
        "teacher": model_key(teacher),
        "plan": [{**plan.to_dict(), "evaluation": "auto"} for plan in planned(job, model)],
        "objective": asdict(job.objective),
        "allocate": [job.sizing.budget, asked_budget(job, model), ALLOCATION_VERSION] if greedy else None,
        "statistics": STATISTICS_VERSION,
        "calibration": asdict(job.calibration),
        "data": {split: work.data_key[split] for split in ("train", *job.task.main_splits)},
        "metric": job.task.main_metric,
        "examples": job.anatomy_examples,
    }
    return dict(json.loads(json.dumps(recipe)))


def tell_anatomy(path: Path) -> Anatomy:
    """Print the table of the score's drops and where the file is."""
    anatomy = read_anatomy(path)
    console = Console()
    console.print(drops_table(anatomy), highlight=False, markup=False, soft_wrap=True)
    console.print(f"anatomy: {path}", highlight=False, markup=False, soft_wrap=True)
    return anatomy


def measure(work: Workspace, teacher: Path, model: PreTrainedModel, folder: Path) -> None:
    """Compress one group after the other, each alone, and write what it did."""
    job, start = work.job, start_recipe(work, teacher)
    statistics = input_statistics(work, start, model)
    plans = apart(allotted(work, model, planned(job, model), start, calibrated(job, statistics))[0])
    model.to(job.machine.device)
    rows = dev_rows(work)
    intact = Intact(model, rows, answers(work, model, rows), statistics, places_of_weights(model))
    units = together(plans, intact.blocks)
    count, total = sum(map(len, rows.values())), sum(len(work.data.splits[split]) for split in rows)
    log.info("anatomy: %d groups, each alone, on %d of %d dev examples", len(units), count, total)
    cells = all_cells(work, intact, units, folder / MEASURED_FILE)
    anatomy = Anatomy(
        task=job.task.name,
        encoder=job.encoder.name,
        decomp=job.decomp,
        keep=job.sizing.keep,
        objective=job.objective.name,
        metric=job.task.main_metric,
        teacher_score=main_score(work, intact, intact.predictions),
        teacher_fingerprint=model_key(teacher),
        examples=count,
        dev_examples=total,
        cells=cells,
    )
    write_anatomy(folder / ANATOMY_FILE, anatomy)
    (folder / MEASURED_FILE).unlink(missing_ok=True)


def all_cells(work: Workspace, intact: Intact, units: Sequence[Unit], kept: Path) -> list[Cell]:
    """The cells of all units; those that an interrupted build has left in `kept` are not measured again."""
    measured = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    for places, plans in track(units, "compressing one at a time", len(units)):
        name = "+".join(plan.name for plan in plans)
        if name not in measured:
            measured[name] = [asdict(cell) for cell in unit_cells(work, intact, name, places, plans)]
            write_atomic(kept, json.dumps(measured))
    return [Cell(**cell) for cells in measured.values() for cell in cells]


def unit_cells(
    work: Workspace, intact: Intact, name: str, places: set[Place], plans: Sequence[GroupPlan]
) -> list[Cell]:
    """What the weights of one unit lose, and how the model does with them alone compressed."""
    model = compressed_alone(intact, work.job, plans)
    predictions = answers(work, model, intact.rows)
    score, near = main_score(work, intact, predictions), closeness(intact.predictions, predictions)
    touched = [(block, place) for block, place in intact.blocks.items() if place in places]
    return [
        Cell(layer, role, name, *weight_errors(intact, model, block), score, near.agreement, near.divergence)
        for block, (role, layer) in touched
    ]


def compressed_alone(intact: Intact, job: Job, plans: Sequence[GroupPlan]) -> PreTrainedModel:
    """A copy of the teacher in which these groups are compressed and nothing else is."""
    model = copy.deepcopy(intact.model).cpu()
    compress_model(model, plans, objective=job.objective, statistics=calibrated(job, intact.statistics))
    return model.to(job.machine.device)


def calibrated(job: Job, statistics: Statistics) -> Statistics | None:
    """The statistics where the job's objective needs any."""
    return None if job.objective.name == "weights" else statistics


@torch.no_grad()
def weight_errors(intact: Intact, model: PreTrainedModel, block: Block) -> tuple[float, float | None]:
    """Relative error of one weight, and of its outputs for the teacher's inputs about their means."""
    dense = matrix_at(intact.model, block).double().cpu()
    factored = model.get_submodule(block.path).weight.double().cpu()
    if is_table(intact.model, block.path):
        return math.sqrt(ratio((dense - factored.T).square().sum().item(), dense.square().sum().item())), None
    lost, covariance = dense - block.of(factored), intact.statistics.covariance(block)
    energies = [((matrix @ covariance) * matrix).sum().clamp(min=0).item() for matrix in (lost, dense)]
    return math.sqrt(ratio(lost.square().sum().item(), dense.square().sum().item())), math.sqrt(ratio(*energies))


# ---- which groups go together, and which examples ----


def together(plans: Sequence[GroupPlan], blocks: Mapping[Block, Place]) -> list[Unit]:
    """The groups, each by itself; those that hold blocks of one weight as one, with the weights they hold."""
    units: list[Unit] = []
    for plan in plans:
        places = {place_of(block, blocks) for block, _ in plan.slices}
        touching = [unit for unit in units if unit[0] & places]
        units = [unit for unit in units if unit not in touching]
        members = [member for unit in touching for member in unit[1]]
        units.append((places.union(*(unit[0] for unit in touching)), [*members, plan]))
    return units


def place_of(block: Block, blocks: Mapping[Block, Place]) -> Place:
    """Role and layer of the weight that a slice is, or is a block of; LobertError for one that has no role."""
    for weight, place in blocks.items():
        if weight.holds(block):
            return place
    raise LobertError(f"'{block}' of the plan is the weight of no role: leave it out for stage=anatomy")


def dev_rows(work: Workspace) -> dict[str, np.ndarray]:
    """Numbers of the examples of each main dev split that are looked at: evenly drawn, the same in every run."""
    job, splits = work.job, work.job.task.main_splits
    sizes = [len(work.data.splits[split]) for split in splits]
    drawn = np.sort(np.random.default_rng(0).permutation(sum(sizes))[: job.anatomy_examples])
    starts = np.cumsum([0, *sizes])
    rows = {s: drawn[(drawn >= a) & (drawn < b)] - a for s, a, b in zip(splits, starts, starts[1:], strict=False)}
    return {split: numbers for split, numbers in rows.items() if len(numbers)}


def answers(work: Workspace, model: PreTrainedModel, rows: Mapping[str, np.ndarray]) -> Predictions:
    """Logits `[n, C]` for these examples of each split."""
    return {split: predict(model, sorted_batches(work.data, split, numbers)) for split, numbers in rows.items()}


def main_score(work: Workspace, intact: Intact, predictions: Predictions) -> float:
    """The main metric on the examples that are looked at."""
    task, every = work.job.task, {split: work.data.splits[split].labels for split in predictions}
    labels = np.concatenate([values[intact.rows[s]] for s, values in every.items() if values is not None])
    logits = np.concatenate([predictions[split] for split in every])
    return compute_metrics([task.main_metric], decisions(task, logits), labels)[task.main_metric]
