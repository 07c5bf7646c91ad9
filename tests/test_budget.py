"""Laws of the allocation: the optimum of exhaustive search, within the budget, above its certified bound."""

import itertools
import random

import pytest
from cases import one_sentence, point, tiny_bert

from lobert.compression.allocation import Sizing, parameter_budget, size_parts, spend_budget
from lobert.compression.budget import Option, allocate, convex_front
from lobert.compression.compress import compress_model
from lobert.compression.objective import Objective
from lobert.compression.plan import make_plan
from lobert.errors import LobertError
from lobert.roles import encoder_layers

Groups = list[list[Option]]


def random_groups(seed: int, convex: bool) -> Groups:
    """Groups of some sizes; with `convex` each unit of cost saves less than the one before, as in a spectrum."""
    draw = random.Random(seed)
    groups = []
    for _ in range(draw.randint(1, 4)):
        count = draw.randint(1, 5)
        savings = sorted((draw.random() for _ in range(count)), reverse=True)
        errors = [sum(savings[k:]) for k in range(count + 1)]
        if not convex:
            errors = [error + draw.random() * 0.3 for error in errors]
        groups.append([Option((k,), 1 + 3 * k, error) for k, error in enumerate(errors)])
    return groups


def best_error(groups: Groups, budget: float) -> float:
    """By trying every choice."""
    choices = itertools.product(*groups)
    return min(sum(o.error for o in choice) for choice in choices if sum(o.cost for o in choice) <= budget)


@pytest.mark.parametrize("seed", range(40))
def test_allocation_of_equal_steps_is_the_optimum(seed: int) -> None:
    """Where every step costs the same and saves less than the one before, greedy is optimal."""
    groups = random_groups(seed, convex=True)
    for budget in range(len(groups), 3 * sum(map(len, groups))):
        found = allocate(groups, budget)
        assert found.cost <= budget
        assert found.error == pytest.approx(best_error(groups, budget), abs=1e-12)


@pytest.mark.parametrize("seed", range(40))
def test_no_choice_is_below_the_bound(seed: int) -> None:
    groups = random_groups(seed, convex=False)
    for budget in range(len(groups), 3 * sum(map(len, groups))):
        found, best = allocate(groups, budget), best_error(groups, budget)
        assert found.cost <= budget
        assert found.bound - 1e-12 <= best <= found.error + 1e-12


def test_the_front_holds_the_best_buys_only() -> None:
    options = [
        Option((1,), 1, 9.0),
        Option((2,), 2, 8.5),
        Option((3,), 3, 4.0),
        Option((4,), 4, 4.5),
        Option(None, 5, 0),
    ]
    assert [option.cost for option in convex_front(options)] == [1, 3, 5]


def test_a_budget_below_the_smallest_ranks_is_refused() -> None:
    with pytest.raises(LobertError, match="even the smallest ranks cost 7") as caught:
        allocate([[Option((1,), 3, 1.0)], [Option((1,), 4, 1.0)]], 6.5)
    one_sentence(caught.value)


@pytest.mark.parametrize("name", ["svd", "tucker_layer", "falcon_vertical", ("svd", "ffn_svd")])
@pytest.mark.parametrize("keep", [0.9, 0.6, 0.4])
def test_greedy_is_never_worse_than_uniform_at_the_same_budget(name: str, keep: float) -> None:
    model, parts = tiny_bert(), point(name, keep)
    plans = make_plan(model, parts)
    budget = parameter_budget(model, parts)
    chosen, allocation = spend_budget(model, plans, budget, Objective(), None)
    assert sum(plan.parameters for plan in chosen) == allocation.cost <= budget
    uniform = compress_model(tiny_bert(), plans)
    greedy = compress_model(tiny_bert(), chosen)
    assert greedy.keep <= keep
    if "tucker" not in name:  # whose sizes an allocation takes from a coarse grid
        assert greedy.error <= uniform.error + 1e-9


@pytest.mark.parametrize("keep", [0.5, 0.25])
def test_greedy_reaches_the_asked_share_within_a_percent(keep: float) -> None:
    model, parts = tiny_bert(), point(("svd", "ffn_svd"), keep)
    chosen, _ = spend_budget(model, make_plan(model, parts), parameter_budget(model, parts), Objective(), None)
    share = sum(plan.parameters for plan in chosen) / sum(plan.dense_parameters for plan in chosen)
    assert 0.99 * keep <= share <= keep


@pytest.mark.parametrize("scope", ["encoder", "model"])
def test_keep_is_a_share_of_its_scope(scope: str) -> None:
    model = tiny_bert()
    whole = encoder_layers(model) if scope == "encoder" else model
    before = sum(parameter.numel() for parameter in whole.parameters())
    parts = size_parts(model, point(("svd", "ffn_svd")), Sizing(0.6, scope))  # type: ignore[arg-type]
    plans = make_plan(model, parts)
    saved = sum(plan.dense_parameters - plan.parameters for plan in plans)
    assert 0.57 <= (before - saved) / before <= 0.6


@pytest.mark.parametrize(
    ("sizing", "words"),
    [
        (lambda: Sizing(0.5, "layers"), "decomp.scope=layers"),  # type: ignore[arg-type]
        (lambda: Sizing(0.5, "encoder", "best"), "decomp.allocate=best"),  # type: ignore[arg-type]
        (lambda: Sizing(None, "encoder"), "give decomp.keep"),
        (lambda: size_parts(tiny_bert(), point("svd"), Sizing(0.05, "model")), "of it is not compressed"),
    ],
)
def test_a_size_that_cannot_be_is_refused(sizing: object, words: str) -> None:
    with pytest.raises(LobertError, match=words) as caught:
        sizing()  # type: ignore[operator]
    one_sentence(caught.value)
