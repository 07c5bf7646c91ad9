"""Laws of the allocation: the optimum of exhaustive search, within the budget, above its certified bound."""

import copy
import itertools
import random

import pytest
import torch
from cases import POINTS, one_sentence, point, tiny_bert
from transformers import BertConfig, BertModel

import lobert
from lobert.compression.allocation import Sizing, allowance, group_options, offer_sizes, size_parts, spend_budget
from lobert.compression.budget import ALIGNMENT, Option, aligned, allocate, cheapest, convex_front, gain
from lobert.compression.compress import compress_model, install_skeleton, linear_macs
from lobert.compression.costs import Budget, macs_cost
from lobert.compression.objective import Objective
from lobert.compression.plan import GroupPlan, make_plan
from lobert.encoders.roles import encoder_layers
from lobert.errors import LobertError
from lobert.factorizations import factorization

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


@pytest.mark.parametrize("seed", range(20))
def test_preferred_sizes_are_chosen_as_far_as_they_spend_the_budget(seed: int) -> None:
    groups = random_groups(seed, convex=True)
    preferred = [options[::2] for options in groups]
    for budget in range(len(groups), 3 * sum(map(len, groups))):
        found, free, only = allocate(groups, budget, preferred), allocate(groups, budget), allocate(preferred, budget)
        assert found.cost <= budget
        assert found.bound == free.bound
        assert free.error - 1e-12 <= found.error <= only.error
        if only.cost >= 0.99 * budget:
            assert found.options == only.options


@pytest.mark.parametrize(("keep", "others"), [(0.5, 0), (0.2, 0), (0.04, 2)])
@pytest.mark.parametrize("name", ["all_svd", "all_pivoted_svd"])
def test_ranks_are_aligned_where_that_costs_next_to_nothing(name: str, keep: float, others: int) -> None:
    """Some are not where a step of all is more than what is left to spend."""
    model = tiny_bert(hidden_size=384, intermediate_size=1536, num_hidden_layers=1)
    plans, budget = make_plan(model, point(name, keep)), allowance(model, point(name, keep))
    offers = offer_sizes(model, plans, Objective(), None)
    chosen, allocation = spend_budget(plans, offers, budget)
    free = allocate(list(offers.values()), budget)
    ranks = [plan.rank[0] for plan in chosen if plan.rank]
    assert sum(rank > ALIGNMENT and rank % ALIGNMENT > 0 for rank in ranks) <= others
    assert 0.99 * budget <= allocation.cost <= budget
    assert allocation.bound <= allocation.error <= 1.01 * free.error
    assert allocation.bound <= free.error


@pytest.mark.parametrize(("rank", "last"), [((99,), 99), ((199,), 192), ((2, 199), 199)])
def test_few_sizes_and_those_of_stacks_stay_all(rank: tuple[int, ...], last: int) -> None:
    options = [Option((*rank[:-1], size), size, 1 / size) for size in range(1, rank[-1] + 1)]
    assert aligned(options)[-1].rank == (*rank[:-1], last)
    assert (aligned(options) == options) is (last == rank[-1])


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
    budget = allowance(model, parts)
    chosen, allocation = spend_budget(plans, offer_sizes(model, plans, Objective(), None), budget)
    assert sum(plan.parameters for plan in chosen) == allocation.cost <= budget
    uniform = compress_model(tiny_bert(), plans)
    greedy = compress_model(tiny_bert(), chosen)
    assert greedy.keep <= keep
    if "tucker" not in name:  # whose errors an allocation knows at some sizes only
        assert greedy.error <= uniform.error + 1e-9


STACKED = ["cp_4d", "tt_4d", "tt_vertical", "tucker_4d", "tucker_vertical", "ffn_tucker", "ffn_cp", "basis_vertical"]


@pytest.mark.parametrize("keep", [0.7, 0.5, 0.25])
@pytest.mark.parametrize("name", [("svd", "ffn_svd"), *STACKED, ("tucker_4d", "ffn_cp")])
def test_greedy_reaches_the_asked_share_within_a_percent(name: str | tuple[str, ...], keep: float) -> None:
    """Or as near as one share for all groups does: the ranks of tensors as small as these are large steps."""
    model, parts = wider_bert(), point(name, keep)
    plans = make_plan(model, parts)
    chosen, allocation = spend_budget(plans, offer_sizes(model, plans, Objective(), None), allowance(model, parts))
    dense = sum(plan.dense_parameters for plan in plans)
    share = sum(plan.parameters for plan in chosen) / dense
    assert min(0.99 * keep, sum(plan.parameters for plan in plans) / dense) <= share <= keep
    assert allocation.cost == sum(plan.parameters for plan in chosen)


@pytest.mark.parametrize("keep", [0.6, 0.3, 0.12])
@pytest.mark.parametrize("name", STACKED)
def test_greedy_on_a_grid_is_about_as_close_as_uniform(name: str, keep: float) -> None:
    """Errors between the sizes of the grid are on a line, so a rank may go to another group than it should."""
    model, parts = wider_bert(), point(name, keep)
    plans = make_plan(model, parts)
    chosen, _ = spend_budget(plans, offer_sizes(model, plans, Objective(), None), allowance(model, parts))
    assert compress_model(wider_bert(), chosen).error <= 1.02 * compress_model(wider_bert(), plans).error


def wider_bert() -> BertModel:
    """Of sizes at which a percent can be told."""
    return tiny_bert(hidden_size=48, intermediate_size=192, num_hidden_layers=3)


@pytest.mark.parametrize("scope", ["encoder", "model"])
def test_keep_is_a_share_of_its_scope(scope: str) -> None:
    model = tiny_bert()
    whole = encoder_layers(model) if scope == "encoder" else model
    before = sum(parameter.numel() for parameter in whole.parameters())
    parts = size_parts(model, point(("svd", "ffn_svd")), Sizing(0.6, scope))  # type: ignore[arg-type]
    plans = make_plan(model, parts)
    saved = sum(plan.dense_parameters - plan.parameters for plan in plans)
    assert 0.57 <= (before - saved) / before <= 0.6


@pytest.mark.parametrize("budget", ["parameters", "macs"])
@pytest.mark.parametrize("scope", ["encoder", "model"])
def test_a_share_of_a_scope_that_is_too_small_names_one_that_is_not(scope: str, budget: Budget) -> None:
    if (scope, budget) == ("model", "macs"):
        pytest.skip("a model has no multiply-adds per token")
    model, parts = tiny_bert(), point("all_svd")

    def sized(keep: float) -> list[GroupPlan]:
        return make_plan(model, size_parts(model, parts, Sizing(keep, scope, budget=budget)), budget=budget)  # type: ignore[arg-type]

    with pytest.raises(LobertError, match=r"impossible|smallest rank") as caught:
        sized(1e-3)
    if "impossible" in str(caught.value):  # for what is not compressed, which is told first
        share = float(str(caught.value).split(": ")[1].split("%")[0]) / 100
        with pytest.raises(LobertError, match="smallest rank") as caught:
            sized(share + 2e-3)
    least = float(one_sentence(caught.value).split("type keep=")[1].split()[0])
    assert sized(least)
    with pytest.raises(LobertError):
        sized(least - 2e-4)


# ---- multiply-adds ----

SAVING = [name for name in POINTS if name not in ("pooler_svd", "embeddings_svd", "falcon_vertical")]


def counted_share(model: BertModel, plans: list[GroupPlan]) -> float:
    """Share of the touched weights' multiply-adds that the compressed model is counted with; compresses in place."""
    layers, touched = encoder_layers(model), sum(plan.dense_parameters for plan in plans)
    before = linear_macs(layers)
    install_skeleton(model, plans)
    return (touched - before + linear_macs(layers)) / touched


@pytest.fixture(scope="module")
def bert_base() -> BertModel:
    with torch.device("meta"):
        return BertModel(BertConfig())


@pytest.mark.parametrize("keep", [0.5, 0.1])
@pytest.mark.parametrize("name", SAVING)
def test_a_share_of_multiply_adds_is_the_largest_below(bert_base: BertModel, name: str, keep: float) -> None:
    """Counted on the compressed model, at most a hundredth below what was asked; FALCON's steps are whole matrices."""
    model = copy.deepcopy(bert_base)
    if "falcon" in name and keep < 1 / 3:
        with pytest.raises(LobertError, match="too small for falcon"):
            make_plan(model, point(name, keep), budget="macs")
        return
    plans = make_plan(model, point(name, keep), budget="macs")
    share = counted_share(model, plans)
    assert share <= keep
    if "falcon" in name:
        assert share > keep - 0.34
    else:
        assert share > keep - 0.01


@pytest.mark.parametrize("name", SAVING)
def test_the_next_rank_would_cost_too_much(name: str) -> None:
    model = tiny_bert()
    default = make_plan(model, point(name))[0].rank  # where the dial starts
    plan = make_plan(model, point(name, 0.5), budget="macs")[0]
    method = factorization(plan.factorization)
    cost = macs_cost(model, method.name, plan.stack, plan.shape, plan.slices, "auto")
    dial = [method.scaled_rank(plan.shape, n + 1, default) for n in range(method.dial_length(plan.shape, default))]
    within = [rank for rank in dial if cost(rank) <= 0.5 * plan.dense_parameters]
    assert cost(within[-1]) <= cost(plan.rank) <= 0.5 * plan.dense_parameters < cost(dial[len(within)])


SMALL: list[tuple[str | tuple[str, ...], int]] = [("svd", 1), ("tucker_layer", 3), ("falcon_layer", 3)]
SMALL += [("basis_vertical", 3), (("falcon_layer", "ffn_tucker"), 2)]


@pytest.mark.parametrize("budget", ["parameters", "macs"])
@pytest.mark.parametrize(("name", "layers"), SMALL)
def test_greedy_is_what_exhaustive_search_finds(name: str | tuple[str, ...], layers: int, budget: Budget) -> None:
    """Equal wherever a price spends the whole budget; between two such budgets above the bound that is told."""
    model = tiny_bert(num_hidden_layers=layers)
    groups = [group_options(model, plan, Objective(), None, budget) for plan in make_plan(model, point(name))]
    groups = [group[len(group) - 1 :: -(1 + len(group) // 12)] for group in groups]  # fewer, the dense one among them
    fronts = [convex_front(options) for options in groups]
    prices = sorted({gain(*pair) for front in fronts for pair in itertools.pairwise(front)})
    for price in prices[:: 1 + len(prices) // 6]:
        spent = sum(cheapest(front, price).cost for front in fronts)
        found = allocate(groups, spent)
        assert found.cost == spent
        assert found.error == pytest.approx(best_error(groups, spent), rel=1e-9, abs=1e-9)
        between = allocate(groups, 1.02 * spent)
        assert between.bound - 1e-9 <= best_error(groups, 1.02 * spent) <= between.error + 1e-9


@pytest.mark.parametrize("name", ["svd", "tucker_layer", ("falcon_4d", "ffn_svd"), "basis_vertical", "all_svd"])
@pytest.mark.parametrize("allocate_by", ["uniform", "greedy"])
def test_the_compressed_model_needs_what_the_budget_allows(name: str | tuple[str, ...], allocate_by: str) -> None:
    model = tiny_bert()
    lobert.compress(model, name, keep=0.5, budget="macs", allocate=allocate_by)  # type: ignore[arg-type]
    dense, plans = linear_macs(encoder_layers(tiny_bert())), make_plan(tiny_bert(), point(name))
    touched = sum(plan.dense_parameters for plan in plans)
    assert linear_macs(encoder_layers(model)) <= dense - 0.5 * touched
    whole = tiny_bert()
    lobert.compress(whole, "all_svd", keep=0.5, scope="encoder", budget="macs", allocate=allocate_by)  # type: ignore[arg-type]
    assert 0.47 * dense <= linear_macs(encoder_layers(whole)) <= 0.5 * dense


def test_slices_that_share_an_input_are_counted_once() -> None:
    """With one projection of the inputs for Q, K and V, the same multiply-adds buy a larger rank than without."""
    together, apart = (make_plan(tiny_bert(), point(name, 0.5), budget="macs")[0] for name in ("cp_layer", "svd"))
    (d, _), (r,) = apart.shape, apart.rank
    assert 2 * d * r <= d * d / 2 < 2 * d * (r + 1)
    (r,) = together.rank
    assert 4 * d * r <= 3 * d * d / 2 < 4 * d * (r + 1)


@pytest.mark.parametrize(
    ("sizing", "words"),
    [
        (lambda: Sizing(0.5, budget="flops"), "decomp.budget=flops"),  # type: ignore[arg-type]
        (lambda: Sizing(None, budget="macs"), "give decomp.keep"),
        (lambda: Sizing(0.5, "model", budget="macs"), "type decomp.scope=encoder"),
        (
            lambda: size_parts(tiny_bert(), point("svd"), Sizing(0.5, "encoder", budget="macs")),
            "multiply-adds of the en",
        ),
        (lambda: size_parts(tiny_bert(), [], Sizing(0.5, "encoder")), "100.0% of it is not compressed"),
        (lambda: make_plan(tiny_bert(), point("svd", 0.5), budget="flops"), "decomp.budget=flops"),  # type: ignore[arg-type]
        (lambda: make_plan(tiny_bert(), point("svd", 0.5), "merge", "macs"), "type decomp.evaluation=auto"),
        (lambda: make_plan(tiny_bert(), point("pooler_svd", 0.5), budget="macs"), "'bert.pooler.dense' is outside"),
        (lambda: make_plan(tiny_bert(), point("embeddings_svd", 0.5), budget="macs"), "word_embeddings' is outside"),
        (lambda: make_plan(tiny_bert(), point("falcon_vertical", 0.5), budget="macs"), "falcon .* such as svd"),
        (lambda: make_plan(tiny_bert(), point("falcon_4d", 0.2), budget="macs"), "type keep=0.35"),
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
