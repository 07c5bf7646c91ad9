"""The error of every group at every rank, found or computed: a sweep over sizes shares it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from transformers import PreTrainedModel

from lobert.compression.allocation import Offers, offer_sizes
from lobert.compression.budget import Option
from lobert.compression.plan import GroupPlan
from lobert.compression.statistics import Statistics
from lobert.errors import LobertError
from lobert.progress import bar
from lobert.stages.calibration import calibration_recipe, needs_gradients
from lobert.stages.workspace import Workspace
from lobert.storage.artefacts import Recipe, make_folder, write_atomic

OFFERS_FILE = "spectra.json"
OFFERS_VERSION = 2  # raised when other sizes come to be on offer, or with other errors


def make_offers(
    work: Workspace, model: PreTrainedModel, plans: Sequence[GroupPlan], start: Recipe, statistics: Statistics | None
) -> Offers:
    """What each group can be, with its error; `start` says what the model is."""
    job = work.job
    recipe = offers_recipe(work, plans, start)
    folder = job.store.path("spectra", f"{job.task.name}_{job.encoder.name}", recipe)
    make_folder(folder, recipe, partial(compute_offers, work, model, plans, statistics))
    return read_offers(folder)


def offers_recipe(work: Workspace, plans: Sequence[GroupPlan], start: Recipe) -> Recipe:
    """All that the errors depend on; not the size that is asked for, unless the ranks on offer follow from it."""
    job = work.job
    norm = job.objective.name
    groups = [{**replace(plan, heads=None).to_dict(), "rank": plan.dial.ranks(plan.method.GRID)} for plan in plans]
    recipe = {
        "start": start,
        "objective": asdict(job.objective),
        "calibration": None if norm == "weights" else calibration_recipe(work, start, norm, needs_gradients(job)),
        "counted": job.sizing.budget,
        "version": OFFERS_VERSION,
        "groups": groups,
    }
    plain: Recipe = json.loads(json.dumps(recipe))
    return plain


def compute_offers(
    work: Workspace, model: PreTrainedModel, plans: Sequence[GroupPlan], statistics: Statistics | None, folder: Path
) -> None:
    """Compute the spectrum of every group, or factorize it at each of its ranks."""
    job = work.job
    offers = offer_sizes(model, plans, job.objective, statistics, bar("weighing sizes"), job.sizing.budget)
    content = {name: [asdict(option) for option in options] for name, options in offers.items()}
    write_atomic(folder / OFFERS_FILE, json.dumps(content) + "\n")


def read_offers(folder: Path) -> Offers:
    """The offers that were computed; LobertError where they cannot be read."""
    try:
        content = json.loads((folder / OFFERS_FILE).read_text(encoding="utf-8"))
        return {
            name: [Option(None if o["rank"] is None else tuple(o["rank"]), o["cost"], o["error"]) for o in options]
            for name, options in content.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LobertError(f"{folder} cannot be read ({error}): delete it and run again to make it anew") from None
