"""How many neurons the feed-forward networks keep: as many as leave the smallest error together with the ranks."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from lobert.compression.allocation import Offers, Sizing, spend_budget
from lobert.compression.budget import Allocation
from lobert.compression.grouping import NETWORK, Neurons, Part
from lobert.compression.neurons import Elimination, Narrowing, cut_axes, eliminations
from lobert.compression.objective import Objective
from lobert.compression.plan import GroupPlan
from lobert.compression.statistics import Statistics
from lobert.encoders.roles import Network, feedforwards, width_of
from lobert.errors import LobertError

# Of the neurons: from the one that is likely to be the best on, they are tried as long as they get better.
SHARES = (1, 3 / 4, 1 / 2, 3 / 8, 1 / 4, 3 / 16, 1 / 8, 3 / 32, 1 / 16)
LIKELY = 3.0  # the share of the neurons that is best, over that of the numbers: seen were 2.5 to 3.75
UNWEIGHED = "which ones matter only a calibrated norm can tell: type decomp.objective=loss, or activations"

Offer = Callable[[PreTrainedModel, Sequence[GroupPlan], Statistics | None, Narrowing | None], Offers]


@dataclass(frozen=True)
class Spent:
    """How a budget was spent on neurons and ranks; `narrowing` is None where all neurons stay."""

    plans: list[GroupPlan]
    allocation: Allocation
    narrowing: Narrowing | None = None

    @property
    def error(self) -> float:
        """Squared, of what went with the neurons and of what the ranks leave out."""
        return self.allocation.error + (self.narrowing.error if self.narrowing else 0.0)

    def story(self, unit: str) -> str:
        """One line: how many neurons stay, if not all, and how the rest of the budget was spent, in which unit."""
        ranks = self.allocation.story(unit)
        if self.narrowing is None:
            return ranks
        share = self.narrowing.error / self.error if self.error else 0.0
        stay = f"{self.narrowing.count:,} of {self.narrowing.full:,} neurons stay"
        return f"{stay}, which makes {share:.0%} of the error; {ranks}"


def spend(
    model: PreTrainedModel,
    plans: Sequence[GroupPlan],
    objective: Objective,
    statistics: Statistics | None,
    neurons: Neurons,
    allowed: float,
    offer: Offer,
) -> Spent:
    """Ranks for `allowed` of the budget at most, and where some `neurons` can go, a number of these."""
    if neurons == 1.0 or statistics is None:
        return Spent(*spend_budget(plans, offer(model, plans, statistics, None), allowed))
    return spend_on_neurons(model, plans, objective, statistics, neurons, allowed, offer)


def spend_on_neurons(
    model: PreTrainedModel,
    plans: Sequence[GroupPlan],
    objective: Objective,
    statistics: Statistics,
    neurons: Neurons,
    allowed: float,
    offer: Offer,
) -> Spent:
    """Neurons and ranks for `allowed` of the budget at most; the model is left as it is.

    `offer` says which sizes some groups can have in a model with these statistics, and without some of its neurons.
    """
    full, touched = width_of(model), cut_axes(feedforwards(model))
    inside = [plan for plan in plans if plan.slices[0][0].path in touched]
    outside = offer(model, [plan for plan in plans if plan not in inside], statistics, None)
    tried = counts(full, neurons)
    place = likely(tried, allowed / sum(plan.dense_parameters for plan in plans) * full)
    networks = eliminations(model, objective, statistics)
    narrowings = {count: narrowing(networks, count, full) for count in tried[: place + 1]}

    def spent(count: int) -> Spent:
        left = narrowings.get(count) or narrowing(networks, count, full)
        if left is None:
            return Spent(*spend_budget(plans, outside | offer(model, inside, statistics, None), allowed))
        offers = offer(left.narrowed(model), left.plans(inside), left.statistics(statistics), left)
        return Spent(*spend_budget(left.plans(plans), outside | offers, allowed), left)

    start = spent(tried[place])
    best = better(start, spent, tried[place + 1 :])
    return best if best is not start else better(start, spent, tried[:place][::-1])


def better(best: Spent, spent: Callable[[int], Spent], tried: Iterable[int]) -> Spent:
    """The last of the tried numbers of neurons, each of which leaves a smaller error than the one before; or `best`."""
    for count in tried:
        if (found := spent(count)).error >= best.error:
            break
        best = found
    return best


def likely(tried: Sequence[int], kept: float) -> int:
    """Which of the tried numbers of neurons is likely to be the best where a budget is worth `kept` of them."""
    return max((place for place, count in enumerate(tried) if count >= LIKELY * kept), default=0)


def narrowing(networks: Mapping[Network, Elimination], count: int, full: int) -> Narrowing | None:
    """The networks with so many of their neurons; None for all."""
    if count == full:
        return None
    return Narrowing({net: steps.down_to(count) for net, steps in networks.items()}, count, full)


def counts(full: int, neurons: Neurons) -> list[int]:
    """How many neurons to try."""
    shares = SHARES if neurons == "auto" else (float(neurons),)
    return list(dict.fromkeys(max(1, round(share * full)) for share in shares))


def planned_narrowing(
    model: PreTrainedModel, plans: Sequence[GroupPlan], objective: Objective, statistics: Statistics | None
) -> Narrowing | None:
    """What a plan that was made of a narrower model takes out of this one; None where that is nothing.

    Raises LobertError where its groups contradict each other, or there is no norm to choose neurons in.
    """
    count = planned_width(model, plans)
    if count is None:
        return None
    full = width_of(model)
    if statistics is None:
        raise LobertError(f"this plan keeps {count} of {full} neurons, and {UNWEIGHED}")
    return narrowing(eliminations(model, objective, statistics), count, full)


def planned_width(model: PreTrainedModel, plans: Sequence[GroupPlan]) -> int | None:
    """How many neurons a plan leaves; None where it says nothing of them, LobertError where it contradicts itself."""
    if not any(plan.full_shape for plan in plans):
        return None
    axes, widths = cut_axes(feedforwards(model)), set[float]()
    for plan in plans:
        axis = axes.get(plan.slices[0][0].path)
        if axis is not None:
            widths.add(width_of(model) * plan.shape[axis] / (plan.full_shape or plan.shape)[axis])
        elif plan.full_shape:
            raise LobertError(f"group '{plan.name}' of the plan has a full_shape, and is of no feed-forward network")
    if len(widths) != 1:
        raise LobertError(f"the plan leaves {sorted(widths)} neurons, and all networks have as many: give one number")
    return round(widths.pop())


def neurons_for(
    model: PreTrainedModel, parts: Sequence[Part], plans: Sequence[GroupPlan], objective: Objective, sizing: Sizing
) -> Neurons:
    """How many neurons are to stay under these settings: 1.0, all of them, where `auto` is asked for and none can go.

    Raises LobertError where a share is asked for and cannot be had.
    """
    asked = asked_neurons(parts)
    if asked == 1.0 or (reason := why_all_stay(model, plans, objective, sizing)) is None:
        return asked
    if asked != "auto":
        raise LobertError(f"decomp.neurons={asked:g} cannot be: {reason}")
    return 1.0


def asked_neurons(parts: Sequence[Part]) -> Neurons:
    """What the parts say of neurons; LobertError where they do not agree, or have none."""
    inside = [part for part in parts if set(NETWORK) & set(part.roles)]
    asked = list(dict.fromkeys(part.asked_neurons for part in inside or parts))
    if len(asked) > 1:
        named = ", ".join(f"{part.name} {part.asked_neurons}" for part in inside)
        raise LobertError(f"the parts of decomp want different numbers of neurons ({named}): type decomp.neurons=auto")
    return asked[0] if asked else 1.0


def why_all_stay(
    model: PreTrainedModel, plans: Sequence[GroupPlan], objective: Objective, sizing: Sizing
) -> str | None:
    """Why no neuron can go under these settings; None where some can."""
    try:
        paths = cut_axes(feedforwards(model)).keys()
    except LobertError as error:
        return str(error)
    single = {plan.slices[0][0].path for plan in plans if not plan.stack and plan.slices[0][0].is_whole}
    if not paths <= single:
        return (
            "both weights of every feed-forward network have to be compressed, each by itself: take all_svd or ffn_svd"
        )
    if objective.name == "weights":
        return UNWEIGHED
    if sizing.allocate != "greedy":
        return "the budget is spent on neurons and ranks together: type decomp.allocate=greedy"
    return None
