"""Compression from the bottom up: every weight is fitted to what the dense model computes in its place, from the inputs
that the weights compressed before it leave. What is lost early is so made up for later, as far as it can be.

The target of a weight (see `fit`) is factorized in the norm of the inputs that it has then. Where a residual is added
to the output, what is wanted makes up for its drift, too. Without drift the target is the weight itself.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lobert.compression.calibration import Recorder
from lobert.compression.compress import CompressionReport, Track, compress_model, reads_tokens, stack_weights
from lobert.compression.confidence import match_confidence
from lobert.compression.draft import Draft
from lobert.compression.fit import Fit
from lobert.compression.importance import Reader, even_weights, real_tokens
from lobert.compression.moments import Moments
from lobert.compression.neurons import Whole
from lobert.compression.objective import Objective, group_norm
from lobert.compression.plan import GroupPlan
from lobert.compression.replay import Replay
from lobert.compression.statistics import Statistics
from lobert.compression.stream import Stream, first, open_stream
from lobert.compression.whitening import decompose_in_norm
from lobert.distill.knowledge import Batch
from lobert.encoders.roles import (
    encoder_layers,
    first_reader,
    layers_path,
    linear_at,
    matrix_at,
    no_order_of_layers,
    sum_after,
)
from lobert.errors import LobertError, suggest
from lobert.factorizations import factorization, reconstruct

Order = Literal["auto", "parallel", "sequential"]
PAIR = factorization("svd").equation("")  # of two factors of one matrix


@dataclass(frozen=True)
class Step:
    """Groups that are fitted together, as their weights all read the input of the linear at `source`."""

    layer: int
    source: str
    plans: list[GroupPlan]

    @property
    def paths(self) -> list[str]:
        return list(dict.fromkeys(block.path for plan in self.plans for block, _ in plan.slices))


@torch.no_grad()
def compress_in_order(
    model: PreTrainedModel,
    plans: Sequence[GroupPlan],
    batches: Sequence[Batch],
    objective: Objective,
    statistics: Statistics,
    track: Track = iter,
    whole: Whole | None = None,
) -> CompressionReport:
    """Factorize the planned groups of `model` in place, each on the inputs that the groups before it leave.

    `batches` are the examples that `statistics` were made from. Groups outside the layers are factorized as
    `compress_model` does. At the end a classifier is made as sure of its answers as the dense model is. Where neurons
    have gone from the model, `whole` is the one that still has them, which the weights are fitted to. Raises
    LobertError for a group whose weights do not all read one input of one layer.
    """
    steps = steps_of(model, plans)
    importance = statistics.importance if objective.weighs_tokens else {}
    dense, kept = whole or (copy.deepcopy(model.eval()), {})
    stream = open_stream(dense, batches)
    with Draft(model) as draft:
        fitted = fit_tables(draft, plans)
        wanted, drifted = stream.hidden, open_stream(model, batches).hidden if fitted else stream.hidden
        for number in track(range(len(encoder_layers(dense)))):
            here = [step for step in steps if step.layer == number]
            goals, wanted = goals_of(dense, number, here, stream, wanted, kept)
            pending = below(model, number, [path for step in here for path in step.paths])
            with Replay(encoder_layers(model)[number], pending) as replay:
                for step in here:
                    fits = measure(model, step, stream, drifted, goals, importance, replay)
                    for plan in step.plans:
                        fitted[plan.name] = fit_group(draft, plan, fits, objective, statistics)
                    replay.pending -= below(model, number, step.paths)
                drifted = [call() for call in stream.calls(model, number, drifted, replay)]
    report = compress_model(model, plans, objective=objective, statistics=statistics, fitted=fitted)
    match_confidence(model, (output.logits for output in stream.answers(model, batches, drifted)), statistics.logits)
    return report


def chosen_order(
    order: Order, objective: Objective, model: PreTrainedModel, plans: Sequence[GroupPlan]
) -> Literal["parallel", "sequential"]:
    """Which order it is: `auto` is sequential where the objective is calibrated and every group reads one input.

    Raises LobertError where a sequential one is asked for and cannot be.
    """
    if order not in get_args(Order):
        raise LobertError(f"decomp.order={order} is not known: {suggest(str(order), get_args(Order))}")
    if order == "sequential" and objective.name == "weights":
        raise LobertError("decomp.order=sequential needs calibration: type decomp.objective=loss or activations, too")
    if order == "parallel" or objective.name == "weights":
        return "parallel"
    try:
        inside = steps_of(model, plans)
    except LobertError:
        if order == "sequential":
            raise
        inside = []
    return "sequential" if inside else "parallel"


def steps_of(model: PreTrainedModel, plans: Sequence[GroupPlan]) -> list[Step]:
    """The groups inside the layers, in the order in which a forward pass comes to them: that of the modules."""
    if (reason := no_order_of_layers(model)) is not None:
        raise LobertError(f"decomp.order=sequential goes from layer to layer, and {reason}: use order=parallel")
    steps: dict[str, Step] = {}
    prefix = f"{layers_path(model)}."
    for plan in plans:
        sources = {first_reader(model, block.path) for block, _ in plan.slices}
        inside = [source for source in sources if source.startswith(prefix)]
        if len(sources) > 1:
            raise LobertError(
                f"decomp.order=sequential goes from input to input, and the weights of group '{plan.name}' read "
                f"{len(sources)} of them: compress single matrices or one layer's Q, K and V, or use order=parallel"
            )
        for source in inside:
            layer = int(source.removeprefix(prefix).partition(".")[0])
            steps.setdefault(source, Step(layer, source, [])).plans.append(plan)
    order = {path: position for position, (path, _) in enumerate(model.named_modules())}
    return sorted(steps.values(), key=lambda step: order[step.source])


def below(model: PreTrainedModel, layer: int, paths: Iterable[str]) -> set[str]:
    """The paths as they are below a layer."""
    return {path.removeprefix(f"{layers_path(model)}.{layer}.") for path in paths}


def fit_tables(draft: Draft, plans: Sequence[GroupPlan]) -> dict[str, list[Tensor]]:
    """Factors of the embeddings, by group; what they stand for takes the places of the dense tables in the draft."""
    fitted: dict[str, list[Tensor]] = {}
    for plan in (plan for plan in plans if reads_tokens(draft.model, plan)):
        factors = plan.method.decompose(stack_weights(draft.model, plan), plan.rank)
        fitted[plan.name] = factors
        put_weights(draft, plan, factors)
    return fitted


def goals_of(
    dense: PreTrainedModel,
    layer: int,
    steps: Sequence[Step],
    stream: Stream,
    hidden: Sequence[Tensor],
    kept: Mapping[str, Tensor],
) -> tuple[list[dict[str, list[Tensor]]], list[Tensor]]:
    """What is wanted of every weight, for each batch: its outputs in the dense model, or the sum that it is part of.

    Of a weight in `kept`, by its path, these of the outputs. And what the dense layer gives to the next one.
    """
    sums = {path: sum_after(dense, path) for step in steps for path in step.paths}
    whole = f"{layers_path(dense)}.{layer}"
    goals, given = [], []
    read, outputs = set(filter(None, sums.values())) - {whole}, {path for path, place in sums.items() if not place}
    for recorder in stream.watch(dense, layer, hidden, read, {*outputs, whole}):
        found = {path: [sum_at(recorder, p, whole)] if p else recorder.outputs[path] for path, p in sums.items()}
        goals.append({p: [y[..., kept[p]] for y in calls] if p in kept else calls for p, calls in found.items()})
        given.append(first(recorder.outputs[whole][0]))
    return goals, given


def sum_at(recorder: Recorder, place: str, whole: str) -> Tensor:
    """The sum that the module at `place` reads, or that the `whole` layer gives."""
    return first(recorder.outputs[whole][0]) if place == whole else recorder.inputs[place][0]


def measure(
    model: PreTrainedModel,
    step: Step,
    stream: Stream,
    hidden: Sequence[Tensor],
    goals: Sequence[Mapping[str, Sequence[Tensor]]],
    importance: Mapping[str, Tensor],
    replay: Replay,
) -> dict[str, Fit]:
    """What each weight of one step is to be fitted to, in the model as it is now, its own weights still dense.

    Tokens count by their `importance`, by path; where there is none, alike. `replay` is that of the step's layer.
    """
    whole = f"{layers_path(model)}.{step.layer}"
    in_sums = {path: place for path in step.paths if (place := sum_after(model, path))}
    calls = {path: len(goals[0][path]) for path in step.paths}
    fits, reader = new_fits(calls, bool(importance)), Reader(importance)
    given = [whole] if max(calls.values()) > 1 or whole in in_sums.values() else []
    runs = stream.watch(model, step.layer, hidden, {step.source, *in_sums.values()} - {whole}, given, replay)
    for recorder, goal, mask in zip(runs, goals, stream.masks, strict=True):
        read = [(real_tokens(x, mask).float(), even_weights(x, mask)) for x in recorder.inputs[step.source]]
        added = set[int]()
        for path, count in calls.items():
            wanted = goal[path]
            if path in in_sums:  # the rest of the sum is what it is, and of itself the replay has made zero
                wanted = [wanted[0] - sum_at(recorder, in_sums[path], whole)]
            for y, (x, even) in zip(wanted, read[:count], strict=True):
                weights = reader.take(path, x) if importance else even
                fits[path].add_wanted(real_tokens(y, mask).float(), x, weights)
                if id(fits[path].inputs) not in added:
                    fits[path].inputs.add(x, weights)
            added.add(id(fits[path].inputs))
    return fits


def new_fits(calls: Mapping[str, int], weighted: bool) -> dict[str, Fit]:
    """One for each weight; those that are called equally often have read the same, and unweighted share its moments."""
    shared = {count: Moments() for count in calls.values()}
    return {path: Fit(Moments() if weighted else shared[count]) for path, count in calls.items()}


def fit_group(
    draft: Draft, plan: GroupPlan, fits: Mapping[str, Fit], objective: Objective, statistics: Statistics
) -> list[Tensor]:
    """Factors of one group; what they stand for takes the places of its weights in the draft, with new biases."""
    target = torch.empty(plan.shape, dtype=torch.float64)
    paths = list(dict.fromkeys(block.path for block, _ in plan.slices))
    wholes = {path: fits[path].target(linear_at(draft.model, path).weight.double().cpu()) for path in paths}
    for block, index in plan.slices:
        target[index] = block.of(wholes[block.path])
    means = {path: fits[path].inputs.mean for path in paths}
    moments = {path: fits[path].inputs.moment for path in paths}
    now = replace(statistics, source={path: path for path in means}, mean=means, second_moment=moments)
    now = replace(now, weighted_mean=means, weighted_moment=moments)
    method = plan.method
    factors = decompose_in_norm(method, plan.stack, target, plan.rank, group_norm(objective, plan, now))
    put_weights(draft, plan, factors)
    for block, _ in plan.slices:
        linear = linear_at(draft.model, block.path)
        if linear.bias is not None:
            rows, own = block.rows(len(linear.bias)), fits[block.path]
            linear.bias[rows] = own.bias(linear.weight.double().cpu())[rows].to(linear.bias)
    if method.equation(plan.stack) == PAIR and plan.slices[0][0].is_whole:
        draft.divide(paths[0], *factors)
    return factors


def put_weights(draft: Draft, plan: GroupPlan, factors: Sequence[Tensor]) -> None:
    """Write what the factors of a group stand for into the draft."""
    found = reconstruct(plan.method.equation(plan.stack), factors)
    for block, index in plan.slices:
        draft.open(block.path)
        matrix_at(draft.model, block).copy_(found[index])
