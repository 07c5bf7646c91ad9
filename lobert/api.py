"""What `import lobert` offers: the command line's compression as a function."""

from collections.abc import Iterable, Sequence

from transformers import PreTrainedModel

from lobert.compression.allocation import (
    AskedAllocation,
    Scope,
    Sizing,
    allowance,
    chosen_allocation,
    offer_sizes,
    size_parts,
)
from lobert.compression.calibration import calibrate
from lobert.compression.compress import CompressionReport, compress_model
from lobert.compression.costs import Budget
from lobert.compression.examples import NOISE, Calibration, checked_batches, noisy
from lobert.compression.grouping import HeadsName, Neurons
from lobert.compression.heads import joined_as_asked
from lobert.compression.objective import Objective, ObjectiveName
from lobert.compression.plan import make_plan
from lobert.compression.points import named_parts
from lobert.compression.sequential import Order, chosen_order, compress_in_order
from lobert.compression.statistics import Statistics
from lobert.compression.width import Offer, neurons_for, spend
from lobert.distill.knowledge import Batch
from lobert.encoders.roles import chooses_options, encoder_linears
from lobert.errors import LobertError
from lobert.factorizations import RankSetting
from lobert.layers.pairs import fold
from lobert.layers.ways import Evaluation


def compress(
    model: PreTrainedModel,
    decomp: str | Sequence[str] = "all_narrow_svd",
    *,
    keep: float | None = None,
    scope: Scope = "targets",
    rank: RankSetting | None = None,
    neurons: Neurons | None = None,
    heads: HeadsName | None = None,
    data: Iterable[Batch] | None = None,
    objective: ObjectiveName | Objective | None = None,
    allocate: AskedAllocation = "auto",
    budget: Budget = "parameters",
    order: Order = "auto",
    evaluation: Evaluation = "auto",
    calibration_noise: float = NOISE,
) -> CompressionReport:
    """Compress an encoder of transformers in place, as `train.py decomp=...` does, and report sizes, costs and errors.

    Args:
        decomp: a name of `conf/decomp`, or several: `["tucker_4d", "ffn_svd"]`.
        keep: share of the weights in `scope` that stays, above 0 and at most 1; None for the point's default rank.
        scope: "targets" (the weights that `decomp` touches), "encoder" or "model".
        rank: exact rank instead, where `decomp` is one point.
        neurons: share of the feed-forward networks' neurons that stays, or "auto", as many as leave the smallest error;
            by default what `decomp` says. Needs data and greedy allocation.
        heads: "joint" to keep nothing that is redundant between queries and keys, and between values and output, or
            "apart"; by default what `decomp` says. Needs greedy allocation.
        data: a few hundred examples in batches of `input_ids [B, T]` and `attention_mask [B, T]`, for calibration;
            `[B, options, T]` for multiple choice.
        objective: "weights" (default without data), "activations", "fisher" or "loss" (default with data).
        allocate: "uniform", or "greedy": rank where it lowers the error of the objective most; by default greedy in the
            norm of the loss, for SVD and FALCON without an exact rank.
        budget: what `keep` is a share of and "greedy" spends: "parameters", or "macs", multiply-adds per token.
        order: "parallel", or "sequential": every layer makes up for the drift of those before it; by default
            sequential where there are data and every group reads one input.
        evaluation: "contract", "merge" or, by default, whichever costs fewer multiply-adds.
        calibration_noise: share of the tokens of `data` that are exchanged for others of it, so that the model has not
            seen these texts in its training.

    Raises LobertError for unknown names, impossible sizes, models whose roles are not known, and an objective that
    needs data where there is none.
    """
    goal = chosen_objective(objective, data is not None)
    named = named_parts(decomp, keep, rank, neurons, heads)
    sizing = Sizing(keep, scope, chosen_allocation(allocate, goal, named), budget)
    parts = size_parts(model, named, sizing)
    plans = joined_as_asked(model, make_plan(model, parts, evaluation, budget), parts, sizing)
    sequential = chosen_order(order, goal, model, plans) == "sequential"
    calibration = Calibration(noise=calibration_noise)
    batches = noisy(checked_batches(data, model.config.vocab_size), calibration.noise)
    neurons = neurons_for(model, parts, plans, goal, sizing)
    statistics = whole = None
    if goal.name != "weights":
        statistics = measure(model, batches, goal, goal.needs_gradients or sizing.allocate == "greedy")
    if sizing.allocate == "greedy":
        allowed, offer = allowance(model, parts, budget), weighing(goal, budget)
        spent = spend(model, plans, goal, statistics, neurons, allowed, offer)
        plans = spent.plans
        if spent.narrowing is not None and statistics is not None:
            whole, statistics = spent.narrowing.take_out(model, statistics)
    if sequential and statistics is not None:
        report = compress_in_order(model, plans, batches, goal, statistics, whole=whole)
    else:
        report = compress_model(model, plans, objective=goal, statistics=statistics)
    fold(model)
    return report


def weighing(goal: Objective, budget: Budget) -> Offer:
    """What tells the sizes that groups can have, with their errors in this norm."""
    return lambda model, plans, statistics, _: offer_sizes(model, plans, goal, statistics, budget=budget)


def chosen_objective(objective: ObjectiveName | Objective | None, calibrated: bool) -> Objective:
    """The objective that was asked for, or the best that the data allow."""
    if objective is None:
        return Objective("loss" if calibrated else "weights")
    chosen = objective if isinstance(objective, Objective) else Objective(objective)
    if chosen.name != "weights" and not calibrated:
        raise LobertError(f"objective='{chosen.name}' needs calibration: give data=, batches of a few hundred examples")
    return chosen


def measure(model: PreTrainedModel, data: Iterable[Batch], goal: Objective, gradients: bool) -> Statistics:
    """Calibration statistics of every linear of the encoder."""
    regression = model.config.num_labels == 1 and not chooses_options(model)
    return calibrate(model, encoder_linears(model), data, gradients, regression, goal.temperature, [goal.name])
