"""Feed-forward networks with fewer neurons: which of them stay, and what the second weight is without the others.

A neuron is a row of a network's first weight and a column of its second one, so without it both are smaller, whatever
their ranks: where little is to be kept, most of a factorized network is what it spends on neurons. Those go first whose
outputs the others make up for best, in the norm in which the weights are factorized then (the surgeon of Hassibi and
Stork, 1993, taking neurons in place of single weights, and a few of them at once).
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lobert.compression.objective import Objective, group_norm
from lobert.compression.plan import GroupPlan
from lobert.compression.statistics import Statistics
from lobert.encoders.roles import Network, feedforwards, linear_at, set_width
from lobert.layers.blocks import Block

AT_ONCE = 1 / 16  # the share of the neurons that goes before the others are seen anew (0.4 % farther than 1 / 400)
Whole = tuple[PreTrainedModel, Mapping[str, Tensor]]  # a model with all neurons, and which outputs stay, by path
FLOOR = 1e-6  # of the mean variance of a neuron, without which few examples would leave a metric that has no inverse


@dataclass(frozen=True)
class Remainder:
    """What is left of a network.

    Attributes:
        kept: `[n]`, the numbers of its neurons, in their order.
        error: squared, of its outputs, in the norm.
        scaled: `[out, n]`, Rᵀ times the second linear's weight, which makes up for the neurons that went.
        of: the network with all of them.
    """

    kept: Tensor
    error: float
    scaled: Tensor
    of: "Elimination"

    @cached_property
    def weight(self) -> Tensor:
        """`[out, n]`, of the second linear, in double precision."""
        return torch.linalg.solve_triangular(self.of.root.mT, self.scaled, upper=True)

    @property
    def shift(self) -> Tensor:
        """`[out]`, what goes to its bias."""
        return self.of.weight @ self.of.mean - self.weight @ self.of.mean[self.kept]


@dataclass
class Elimination:
    """The neurons of one network on their way out.

    Attributes:
        weight: `[out, neurons]`, of the second linear.
        mean: `[neurons]`, what the neurons give on average.
        inputs: `[neurons, neurons]`, the metric of what they give.
        root: `[out, out]`, R of the metric R Rᵀ of the outputs.
        kept: the numbers of those that are left.
        error: squared, so far.
    """

    weight: Tensor
    mean: Tensor
    inputs: Tensor
    root: Tensor
    kept: Tensor = field(init=False)
    error: float = 0.0

    def __post_init__(self) -> None:
        self.kept = torch.arange(len(self.mean))
        root = torch.linalg.cholesky(self.inputs)
        self._inverse = torch.cholesky_inverse(root)  # of those kept, whatever else it has
        self._scaled = self.root.mT @ self.weight

    def down_to(self, count: int) -> Remainder:
        """What is left with `count` neurons, not more than are left now; the same, whatever was asked for before."""
        while (left := len(self.kept)) - (batch := max(1, int(left * AT_ONCE))) >= count:
            self._drop(self._cheapest(batch))
        last = self._cheapest(left - count)
        kept = self.kept[~torch.isin(self.kept, last)]
        makes_up, error = self._made_up(last, kept)
        return Remainder(kept, self.error + error, self._scaled[:, kept] - self._scaled[:, last] @ makes_up, self)

    def _cheapest(self, count: int) -> Tensor:
        """The numbers of so many neurons that cost least, each seen by itself."""
        costs = (self._scaled.square().sum(0) / self._inverse.diagonal())[self.kept]
        return self.kept[costs.argsort(stable=True)[:count]]

    def _made_up(self, gone: Tensor, others: Tensor | slice) -> tuple[Tensor, float]:
        """`[gone, others]`, how the others make up for those that go, and the squared error that stays."""
        crossed, lost = self._inverse[gone], self._scaled[:, gone]
        found = torch.linalg.solve(crossed[:, gone], torch.cat([crossed[:, others], lost.mT], 1))
        split = found.shape[1] - len(lost)
        return found[:, :split], (found[:, split:] * lost.mT).sum().item()

    def _drop(self, gone: Tensor) -> None:
        """Let these go, and have the others make up for all of them.

        Rows and columns of those that went stay where they are, as zeros but for rounding: copies would take longer.
        """
        makes_up, error = self._made_up(gone, slice(None))
        self.error += error
        self._scaled.addmm_(self._scaled[:, gone], makes_up, alpha=-1)
        self._inverse.addmm_(self._inverse[gone].mT, makes_up, alpha=-1)
        self.kept = self.kept[~torch.isin(self.kept, gone)]


@dataclass(frozen=True)
class Narrowing:
    """Every feed-forward network with `count` of its `full` neurons."""

    networks: Mapping[Network, Remainder]
    count: int
    full: int

    @property
    def error(self) -> float:
        """Squared, of all networks."""
        return sum(remainder.error for remainder in self.networks.values())

    @property
    def kept(self) -> dict[str, Tensor]:
        """Which outputs of every first linear stay, by its path."""
        return {net.intermediate: self._rows(net, remainder) for net, remainder in self.networks.items()}

    @torch.no_grad()
    def narrow(self, model: PreTrainedModel) -> None:
        """Take the neurons out of the model, in place."""
        for net, remainder in self.networks.items():
            rows, (first, second) = (
                self._rows(net, remainder),
                (linear_at(model, p) for p in (net.intermediate, net.output)),
            )
            resize(first, first.weight[rows], None if first.bias is None else first.bias[rows])
            resize(
                second, remainder.weight, None if second.bias is None else second.bias + remainder.shift.to(second.bias)
            )
        set_width(model, self.count)

    def take_out(self, model: PreTrainedModel, statistics: Statistics) -> tuple[Whole, Statistics]:
        """Take the neurons out of the model, in place. Returns the model as it was, and the statistics without them."""
        whole = copy.deepcopy(model), self.kept
        self.narrow(model)
        return whole, self.statistics(statistics)

    def narrowed(self, model: PreTrainedModel) -> PreTrainedModel:
        """A copy of the model without the neurons."""
        model = copy.deepcopy(model)
        self.narrow(model)
        return model

    def statistics(self, statistics: Statistics) -> Statistics:
        """Those of the model without the neurons."""
        inputs = {net.output: remainder.kept for net, remainder in self.networks.items()}
        return replace(
            statistics,
            mean=Chosen(statistics.mean, inputs),
            second_moment=Chosen(statistics.second_moment, inputs),
            weighted_mean=Chosen(statistics.weighted_mean, inputs),
            weighted_moment=Chosen(statistics.weighted_moment, inputs),
            fisher=Chosen(statistics.fisher, inputs),
            gradient=Chosen(statistics.gradient, self.kept),
        )

    def plans(self, plans: Sequence[GroupPlan]) -> list[GroupPlan]:
        """The groups as they are in the model without the neurons."""
        axes = cut_axes(self.networks)
        return [self._plan(plan, axes.get(plan.slices[0][0].path)) for plan in plans]

    def _plan(self, plan: GroupPlan, axis: int | None) -> GroupPlan:
        if axis is None:
            return plan
        shape = list(plan.shape)
        shape[axis] = shape[axis] // self.full * self.count
        return plan.narrowed(tuple(shape))

    def _rows(self, net: Network, remainder: Remainder) -> Tensor:
        """The rows of a first linear that belong to the neurons: one each, or two where every one has a gate."""
        return torch.cat([remainder.kept + start * self.full for start in range(net.gates)])


def cut_axes(networks: Iterable[Network]) -> dict[str, int]:
    """Along which axis of its weight `[out, in]` a linear has the neurons, by its path."""
    return {path: axis for net in networks for path, axis in ((net.intermediate, -2), (net.output, -1))}


def eliminations(model: PreTrainedModel, objective: Objective, statistics: Statistics) -> dict[Network, Elimination]:
    """The networks of a model, all of their neurons still there, in the norm of the objective."""
    return {net: elimination(model, net, objective, statistics) for net in feedforwards(model)}


def elimination(model: PreTrainedModel, net: Network, objective: Objective, statistics: Statistics) -> Elimination:
    """One network."""
    weight, block = linear_at(model, net.output).weight.detach().cpu().double(), Block(net.output)
    rows, columns = weight.shape
    norm = group_norm(objective, GroupPlan(net.output, "svd", "", (rows, columns), (1,), ((block, ()),)), statistics)
    assert norm is not None, "every objective but the weights has a norm"
    mean = objective.view(statistics).input_mean(block)
    return Elimination(weight, mean, floored(norm.inputs), torch.linalg.cholesky(floored(norm.outputs)))


def floored(metric: Tensor) -> Tensor:
    """A metric `[n, n]` that has an inverse."""
    metric = metric.clone()
    diagonal = metric.diagonal()
    diagonal += FLOOR * diagonal.mean()
    return metric


@dataclass(frozen=True)
class Chosen(Mapping[str, Tensor]):
    """A table of vectors `[n]` and matrices `[n, n]` by path, with the entries that stay of those in `kept`.

    They are picked when they are asked for: no norm reads all tables, and large matrices take long to copy.
    """

    table: Mapping[str, Tensor]
    kept: Mapping[str, Tensor]

    def __getitem__(self, path: str) -> Tensor:
        value = self.table[path]
        return part(value, self.kept[path]) if path in self.kept else value

    def __iter__(self) -> Iterator[str]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)


def part(value: Tensor, kept: Tensor) -> Tensor:
    """The entries of a vector, or the rows and columns of a matrix."""
    return value[kept] if value.dim() == 1 else value[kept][:, kept]


def resize(linear: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    """Give a linear another weight and bias, in place."""
    linear.weight = nn.Parameter(weight.to(linear.weight))
    if bias is not None:
        linear.bias = nn.Parameter(bias.to(linear.weight).contiguous())
    linear.out_features, linear.in_features = weight.shape
