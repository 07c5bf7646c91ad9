"""The norm in which a compression is close to its model: of the weights, of the layers' outputs, or of the loss.

A norm gives each weight matrix an input metric C and an output metric G, and the error tr(G D C Dᵀ) to what D it lacks.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from lobert.compression.plan import GroupPlan
from lobert.compression.statistics import Statistics
from lobert.errors import LobertError, suggest
from lobert.factorizations import reconstruct
from lobert.factorizations.numerics import eigh
from lobert.layers.blocks import Block

SMALL = 1e-20  # a number in this unit is one in single precision before it is divided by it
LEAST = 1e-9  # weight of a slice that nothing seems to depend on, as a share of the largest
ObjectiveName = Literal["weights", "activations", "fisher", "loss"]


@dataclass(frozen=True)
class Objective:
    """Which norm, and how it is tamed.

    Attributes:
        name: `weights`, Frobenius; `activations`, the mean squared change of a layer's centred output; `fisher`, the
            diagonal input metric of FWSVD (Hsu et al. 2022); `loss`, the K-FAC approximation of the change of the loss
            (Martens and Grosse, 2015), with metrics on both sides, tokens counting by their importance.
        damping: share of the mean eigenvalue of a metric that is added to all of them.
        metric_power: power of the metrics, from 0 (the identity) to 1.
        temperature: of the teacher's softmax in the Fisher information: a fine-tuned teacher is so sure of its training
            examples that without it a few odd ones would make up the whole metric.
    """

    name: ObjectiveName = "weights"
    damping: float = 1e-3
    metric_power: float = 1.0
    temperature: float = 100.0

    def __post_init__(self) -> None:
        if self.name not in get_args(ObjectiveName):
            choices = get_args(ObjectiveName)
            raise LobertError(f"decomp.objective={self.name} is not known: {suggest(str(self.name), choices)}")
        for name, most in (("damping", math.inf), ("metric_power", 1.0), ("temperature", math.inf)):
            value, least = getattr(self, name), 0 if name == "metric_power" else math.ulp(0)
            if not isinstance(value, int | float) or not least <= value <= most:
                wanted = "a power from 0 to 1" if name == "metric_power" else "a number above 0"
                raise LobertError(f"decomp.{name}={value} will not do: give {wanted}")

    @property
    def needs_gradients(self) -> bool:
        return self.name in ("fisher", "loss")

    @property
    def weighs_tokens(self) -> bool:
        """Whether a token counts as much as a change of what a layer makes of it matters to the loss."""
        return self.name == "loss"

    def view(self, statistics: Statistics) -> Statistics:
        """The statistics with the moments of the inputs that this norm is made of."""
        return statistics.by_importance() if self.weighs_tokens else statistics


@dataclass(frozen=True)
class Metrics:
    """The metrics of one tensor without what is zero: `[*stack, n, n]`, or `[*stack, n]` where all are diagonal."""

    inputs: Tensor
    outputs: Tensor

    def applied(self, tensor: Tensor) -> Tensor:
        """G T C, slice by slice, of `tensor [*stack, out, in]`."""
        inputs, outputs = self.inputs, self.outputs
        tensor = tensor @ inputs if inputs.dim() == tensor.dim() else tensor * inputs.unsqueeze(-2)
        return outputs @ tensor if outputs.dim() == tensor.dim() else tensor * outputs.unsqueeze(-1)

    def squared(self, difference: Tensor) -> float:
        """Sum over slices of tr(G D C Dᵀ) for `difference [*stack, out, in]`."""
        return (self.applied(difference) * difference).sum().item()

    def single(self, units: Sequence[float]) -> "Metrics":
        """In single precision and in units of their own, those of the inputs first."""
        return Metrics(*(in_units(m, unit) for m, unit in zip((self.inputs, self.outputs), units, strict=True)))


def in_units(metric: Tensor, unit: float) -> Tensor:
    """A metric in single precision, in a unit of its own; divided after rounding, a third of the time, if it may be."""
    if SMALL < unit < 1 / SMALL:
        return metric.float().div_(unit)
    return torch.div(metric, unit).float()


@dataclass(frozen=True)
class Norm:
    """Input metrics `[*stack, in, in]` and output metrics `[*stack, out, out]` of one tensor."""

    inputs: Tensor
    outputs: Tensor

    @cached_property
    def metrics(self) -> Metrics:
        """The same without what is zero."""
        return Metrics(narrowed(self.inputs), narrowed(self.outputs))

    def squared(self, difference: Tensor) -> float:
        """Sum over slices of tr(G D C Dᵀ) for `difference [*stack, out, in]`."""
        return self.metrics.squared(difference)


@dataclass(frozen=True)
class Goal:
    """A tensor `[*stack, out, in]` that factors are to come close to, and the norm in which they are.

    Attributes:
        tensor: in double precision.
        norm: likewise.
        single: the least share of its whole that an error has to be for single precision to tell it.
    """

    tensor: Tensor
    norm: Norm
    single: float = 1e-3

    @cached_property
    def total(self) -> float:
        """The squared norm of the tensor."""
        return self._squared(self.tensor, lambda: (self.weighted * self.tensor.float()).sum().item())

    @cached_property
    def weighted(self) -> Tensor:
        """G T C of the tensor T, by the metrics in single precision and their units."""
        return self.rough.applied(self.tensor.float())

    @cached_property
    def rough(self) -> Metrics:
        """The metrics in single precision, in units of `unit`: it would not hold the products of small ones."""
        return self.norm.metrics.single(self._units)

    @property
    def unit(self) -> float:
        """The mean diagonal of the input metrics times that of the output metrics."""
        return math.prod(self._units)

    @cached_property
    def _units(self) -> list[float]:
        return [metric.diagonal(dim1=-2, dim2=-1).mean().item() for metric in (self.norm.inputs, self.norm.outputs)]

    def error(self, found: Tensor) -> float:
        """The squared distance of `found [*stack, out, in]`."""
        return self.squared(self.tensor - found)

    def squared(self, lost: Tensor) -> float:
        """The squared norm of a tensor.

        In single precision, unless it is but a small part of what it would be in a norm of such metrics that has no
        directions: then what is left of large products is their rounding.
        """
        return self._squared(lost, lambda: self.rough.squared(lost.float()))

    def _squared(self, lost: Tensor, rough: Callable[[], float]) -> float:
        found = rough()
        return found * self.unit if found > self.single * lost.square().sum().item() else self.norm.squared(lost)

    def error_of(self, equation: str, factors: Sequence[Tensor]) -> float:
        """The squared distance of the tensor that these factors make; in single precision where that tells it."""
        error = self.error(reconstruct(equation, [factor.float() for factor in factors]))
        return error if self.is_rough(error) else self.error(reconstruct(equation, factors))

    def is_rough(self, error: float) -> bool:
        """Whether single precision is enough to lower this squared error."""
        return error > self.single * self.total


def group_norm(objective: Objective, plan: GroupPlan, statistics: Statistics | None) -> Norm | None:
    """The norm of one group's tensor; None is that of the weights, which needs no metrics.

    Each block of a weight has metrics of its own; what blocks of one weight do to each other's output is left out.
    """
    if objective.name == "weights":
        return None
    assert statistics is not None, "every objective but the weights needs calibration"
    statistics = objective.view(statistics)
    stack, (rows, columns) = plan.shape[:-2], plan.shape[-2:]
    inputs = torch.empty((*stack, columns, columns), dtype=torch.float64)
    outputs = torch.eye(rows, dtype=torch.float64).repeat(*stack, 1, 1)
    weights = torch.ones(stack, dtype=torch.float64)
    for block, index in plan.slices:
        inputs[index] = tamed(input_metric(objective, statistics, block), objective)
        gradient = statistics.output_gradient(block)
        if objective.name == "loss":
            assert gradient is not None, "the norm of the loss needs gradients"
            outputs[index] = tamed(gradient, objective)
        elif gradient is not None:  # how much a change of this output matters, in one unit for all layers
            weights[index] = trace(gradient) / rows
    return Norm(inputs, outputs * above_zero(weights)[..., None, None])


def above_zero(weights: Tensor) -> Tensor:
    """The weights of a group's slices, those of slices that no gradient reaches just above 0; ones where all are."""
    most = weights.max()
    return weights.clamp(min=LEAST * most) if most > 0 else torch.ones_like(weights)


def input_metric(objective: Objective, statistics: Statistics, block: Block) -> Tensor:
    if objective.name == "fisher":
        return torch.diag(statistics.input_fisher(block))
    return statistics.covariance(block)


def tamed(metric: Tensor, objective: Objective) -> Tensor:
    """The damped metric, raised to a power at unchanged trace; the identity for a metric of zeros."""
    total = trace(metric)
    if not total > 0:
        return torch.eye(len(metric), dtype=metric.dtype)
    metric = metric.clone()
    metric.diagonal().add_(objective.damping * total / len(metric))
    if objective.metric_power == 1:
        return metric
    values, vectors = eigh(metric)
    power = (vectors * values.clamp(min=0) ** objective.metric_power) @ vectors.T
    return power * (trace(metric) / trace(power))


def narrowed(metric: Tensor) -> Tensor:
    """The diagonals `[..., n]` of matrices `[..., n, n]` that have nothing else, and other matrices as they are."""
    diagonal = metric.diagonal(dim1=-2, dim2=-1)
    return diagonal.contiguous() if metric.count_nonzero() == diagonal.count_nonzero() else metric


def trace(metric: Tensor) -> Tensor:
    """Of `metric [..., n, n]`."""
    return metric.diagonal(dim1=-2, dim2=-1).sum(-1)
