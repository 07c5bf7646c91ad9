"""Laws of narrower feed-forward networks: what goes costs what is said, what stays makes up for it as well as can be,
neurons that do nothing go first and are not missed, and more are taken only where that is better.
"""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cases import logits_of, one_sentence, point, tiny_bert, token_batch
from test_architectures import tiny
from test_pipeline import run_here, the_record
from torch import Tensor
from transformers import PreTrainedModel

import lobert
from lobert.checkpoint import save_student
from lobert.compression.allocation import Offers, Sizing, allowance, offer_sizes
from lobert.compression.calibration import calibrate
from lobert.compression.neurons import Elimination, Narrowing, elimination, eliminations
from lobert.compression.objective import Objective
from lobert.compression.plan import GroupPlan, make_plan
from lobert.compression.planfile import read_plan, write_plan
from lobert.compression.statistics import Statistics
from lobert.compression.width import SHARES, neurons_for, planned_narrowing, planned_width, spend_on_neurons
from lobert.encoders.roles import encoder_linears, feedforwards, linear_at, width_of
from lobert.errors import LobertError
from lobert.results.record import find_records

BATCHES = [token_batch(8, seed=seed) for seed in range(4)]
KINDS = ["bert", "roberta", "distilbert", "albert", "deberta-v2", "modernbert", "mpnet", "electra", "megatron-bert"]
OBJECTIVES = ["activations", "fisher", "loss"]


def statistics_of(model: PreTrainedModel) -> Statistics:
    return calibrate(model, encoder_linears(model), BATCHES, gradients=True)


def random_elimination(neurons: int, outputs: int = 5, seed: int = 0) -> Elimination:
    random = torch.Generator().manual_seed(seed)
    weight, mean, left, right = (
        torch.randn(shape, dtype=torch.float64, generator=random)
        for shape in [(outputs, neurons), (neurons,), (neurons, 2 * neurons), (outputs, outputs)]
    )
    return Elimination(weight, mean, left @ left.mT, torch.linalg.cholesky(right @ right.mT))


def norm_of(steps: Elimination, lost: Tensor) -> float:
    """tr(G D C Dᵀ) of what a weight lacks."""
    return ((steps.root.mT @ lost) @ steps.inputs * (steps.root.mT @ lost)).sum().item()


def best_error(steps: Elimination, kept: list[int]) -> tuple[float, Tensor]:
    """The smallest error that a weight on these neurons can have, and the weight, by least squares."""
    root = torch.linalg.cholesky(steps.inputs)
    weight = torch.linalg.lstsq(root[kept].mT, (steps.weight @ root).mT).solution.mT
    whole = torch.zeros_like(steps.weight)
    whole[:, kept] = weight
    return norm_of(steps, steps.weight - whole), weight


@pytest.mark.parametrize("count", [59, 40, 11, 1])
@pytest.mark.parametrize("seed", range(3))
def test_what_stays_makes_up_for_the_rest_as_well_as_can_be(count: int, seed: int) -> None:
    steps = random_elimination(60, seed=seed)
    left = steps.down_to(count)
    error, weight = best_error(steps, left.kept.tolist())
    assert left.kept.tolist() == sorted(set(left.kept.tolist()))
    assert len(left.kept) == count
    assert left.error == pytest.approx(error, rel=1e-6)
    torch.testing.assert_close(left.weight, weight, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(left.weight @ steps.mean[left.kept] + left.shift, steps.weight @ steps.mean)


@pytest.mark.parametrize("seed", range(4))
def test_the_first_neuron_to_go_is_the_best_of_all(seed: int) -> None:
    every = random_elimination(9, seed=seed)
    errors = [best_error(every, [n for n in range(9) if n != gone])[0] for gone in range(9)]
    assert every.down_to(8).error == pytest.approx(min(errors))


def test_fewer_neurons_are_farther_and_on_the_way_down_is_where_one_would_have_come_at_once() -> None:
    steps, at_once = random_elimination(150), random_elimination(150)
    left = [steps.down_to(count) for count in (150, 146, 100, 31)]
    errors = [remainder.error for remainder in left]
    assert errors[0] == 0.0
    assert errors == sorted(errors)
    assert all(set(after.kept.tolist()) < set(before.kept.tolist()) for before, after in pairwise(left))
    assert at_once.down_to(31).kept.tolist() == left[-1].kept.tolist()


def with_idle_neurons(kind: str) -> tuple[PreTrainedModel, list[Tensor]]:
    """A model in which every second network output reads the first half of the neurons and nothing of the others."""
    model, working = tiny(kind), []
    for number, net in enumerate(feedforwards(model)):
        second = linear_at(model, net.output)
        idle = torch.randperm(second.in_features, generator=torch.Generator().manual_seed(number))[1::2]
        with torch.no_grad():
            second.weight[:, idle] = 0.0
        working.append(torch.tensor(sorted(set(range(second.in_features)) - set(idle.tolist()))))
    return model, working


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_idle_neurons_go_first_and_are_not_missed(kind: str, objective: str, tmp_path: Path) -> None:
    model, working = with_idle_neurons(kind)
    before, full = logits_of(model), width_of(model)
    networks = eliminations(model, Objective(objective), statistics_of(model))  # type: ignore[arg-type]
    left = Narrowing({net: steps.down_to(full // 2) for net, steps in networks.items()}, full // 2, full)
    assert [remainder.kept.tolist() for remainder in left.networks.values()] == [rows.tolist() for rows in working]
    left.narrow(model)
    torch.testing.assert_close(logits_of(model), before, rtol=1e-4, atol=1e-5)
    assert width_of(model) == full // 2
    save_student(model, tmp_path / "narrow", None)
    torch.testing.assert_close(logits_of(lobert.load(tmp_path / "narrow")), logits_of(model))


@pytest.mark.parametrize("order", ["parallel", "sequential"])
def test_compressed_without_idle_neurons_at_full_rank_nothing_changes(order: str) -> None:
    """Of bert, whose networks have 32 neurons: half of them idle, and enough budget for the others dense."""
    model, _ = with_idle_neurons("bert")
    before = logits_of(model)
    report = lobert.compress(model, "all_svd", keep=0.9, neurons=0.5, data=BATCHES, order=order)  # type: ignore[arg-type]
    assert model.config.intermediate_size == 16
    assert {group.factorization for group in report.groups} == {"dense"}
    torch.testing.assert_close(logits_of(model), before, rtol=1e-3, atol=1e-4)


def test_the_statistics_without_neurons_are_those_of_the_model_without_them() -> None:
    """Of the first layer, whose inputs are the same, with all that the gradients do not reach through other weights."""
    model, _ = with_idle_neurons("bert")
    statistics = statistics_of(model)
    left = {net: steps.down_to(16) for net, steps in eliminations(model, Objective("loss"), statistics).items()}
    narrowing = Narrowing(left, 16, 32)
    found, measured = narrowing.statistics(statistics), statistics_of(narrowing.narrowed(model))
    for table in ("mean", "second_moment", "weighted_mean", "weighted_moment", "gradient", "fisher"):
        for path, value in getattr(measured, table).items():
            torch.testing.assert_close(getattr(found, table)[path], value, rtol=1e-3, atol=1e-5)


# ---- how many ----


@cache
def usual_statistics() -> Statistics:
    """Of the usual model."""
    return statistics_of(tiny_bert())


def spent_by(model: PreTrainedModel, neurons: Any, keep: float, budget: str = "parameters") -> Any:
    goal, parts, statistics = Objective("loss"), point("all_svd", keep), usual_statistics()

    def offer(model: PreTrainedModel, plans: list[GroupPlan], statistics: Statistics, _: Narrowing | None) -> Offers:
        return offer_sizes(model, plans, goal, statistics, budget=budget)  # type: ignore[arg-type]

    plans, allowed = make_plan(model, parts, budget=budget), allowance(model, parts, budget)  # type: ignore[arg-type]
    return spend_on_neurons(model, plans, goal, statistics, neurons, allowed, offer), allowed  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", ["parameters", "macs"])
@pytest.mark.parametrize("keep", [0.8, 0.4, 0.15])
def test_as_many_neurons_stay_as_leave_the_smallest_error(keep: float, budget: str) -> None:
    """Of all that are tried, the one between those that are worse: on this model the only one, so the best of all."""
    model = tiny_bert()
    best, allowed = spent_by(model, "auto", keep, budget)
    tried = [spent_by(model, share, keep, budget)[0] for share in SHARES]
    widths = [t.narrowing.count if t.narrowing else 192 for t in tried]
    place = widths.index(best.narrowing.count if best.narrowing else 192)
    assert best.error == pytest.approx(tried[place].error)
    assert all(best.error <= t.error * (1 + 1e-9) for t in tried)
    assert best.allocation.cost <= allowed
    assert sum(plan.parameters for plan in best.plans) < sum(plan.full_parameters for plan in best.plans)


@pytest.mark.parametrize("likely", [0.1, 1.0, 30.0])
def test_where_the_search_begins_does_not_matter(monkeypatch: pytest.MonkeyPatch, likely: float) -> None:
    """From the fewest neurons, from some, or from all of them."""
    usual, _ = spent_by(tiny_bert(), "auto", 0.15)
    monkeypatch.setattr("lobert.compression.width.LIKELY", likely)
    found, _ = spent_by(tiny_bert(), "auto", 0.15)
    assert found.narrowing.count == usual.narrowing.count
    assert found.error == pytest.approx(usual.error)


def test_where_little_is_kept_fewer_neurons_are_better() -> None:
    found, _ = spent_by(tiny_bert(), "auto", 0.15)
    whole, _ = spent_by(tiny_bert(), 1.0, 0.15)
    assert found.narrowing.count < 192
    assert found.error < 0.9 * whole.error


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("all_narrow_svd", {"keep": 0.3}),
        ("all_narrow_svd", {"keep": 0.3, "scope": "encoder"}),
        ("all_narrow_svd", {"keep": 0.5, "scope": "model"}),
        ("ffn_svd", {"keep": 0.3, "neurons": 0.5}),
        ("all_svd", {"keep": 0.3, "neurons": "auto", "objective": "activations", "allocate": "greedy"}),
        ("all_svd", {"keep": 0.3, "neurons": 0.25, "order": "parallel"}),
        (("embeddings_svd", "all_svd"), {"keep": 0.4, "neurons": 0.5}),
        ("all_narrow_svd", {}),
    ],
)
def test_the_share_is_one_of_all_neurons_and_the_student_comes_back(
    name: str | tuple[str, ...], settings: dict[str, Any], tmp_path: Path
) -> None:
    model, dense = tiny_bert(), tiny_bert()
    report = lobert.compress(model, name, data=BATCHES, **settings)
    assert model.config.intermediate_size < 192 or not settings
    full = sum(plan.dense_parameters for plan in make_plan(dense, point(name)))
    assert sum(group.dense_parameters for group in report.groups) == full
    touched = {
        "targets": report.keep,
        "encoder": share(model, dense, "bert.encoder."),
        "model": share(model, dense, ""),
    }
    assert touched[settings.get("scope", "targets")] <= settings.get("keep", 1.0)
    save_student(model, tmp_path / "student", None)
    loaded = lobert.load(tmp_path / "student")
    torch.testing.assert_close(logits_of(loaded), logits_of(model), rtol=1e-4, atol=1e-5)
    merged = lobert.merge(loaded)
    torch.testing.assert_close(logits_of(merged), logits_of(model), rtol=1e-3, atol=1e-4)


def share(model: PreTrainedModel, dense: PreTrainedModel, prefix: str) -> float:
    """Of the parameters below a path, those of the factors with them."""

    def count(of: PreTrainedModel) -> int:
        return sum(p.numel() for name, p in of.named_parameters() if name.startswith((prefix, "factors.")))

    return count(model) / count(dense)


# ---- plans ----


def narrow_plan(model: PreTrainedModel, keep: float = 0.3) -> list[GroupPlan]:
    lobert.compress(model, "all_narrow_svd", keep=keep, neurons=0.5, data=BATCHES)
    return [GroupPlan.from_dict(group) for group in model.config.lobert["groups"]]


def test_a_plan_says_how_many_neurons_stay(tmp_path: Path) -> None:
    plans, dense = narrow_plan(tiny_bert()), tiny_bert()
    write_plan(tmp_path / "plan.yaml", plans)
    assert read_plan(tmp_path / "plan.yaml", dense) == plans
    assert planned_width(dense, plans) == 96
    found = planned_narrowing(dense, plans, Objective("loss"), statistics_of(dense))
    assert found is not None
    net = feedforwards(dense)[1]
    steps = elimination(dense, net, Objective("loss"), statistics_of(dense))
    assert found.networks[net].kept.tolist() == steps.down_to(96).kept.tolist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"full_shape": [384, 48]}, "this model's is"),
        ({"full_shape": [192, 96]}, "damaged"),
        ({"full_shape": "many"}, "damaged"),
        ({"full_shape": [96, 48]}, "damaged"),
        ({"shape": [64, 48]}, "all networks have as many"),
        ({"shape": [192, 48], "full_shape": None}, "all networks have as many"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    write_plan(tmp_path / "plan.yaml", narrow_plan(tiny_bert()))
    content = yaml.safe_load((tmp_path / "plan.yaml").read_text())
    next(group for group in content["groups"] if group["name"] == "intermediate_1").update(change)
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(LobertError, match=words) as caught:
        planned_width(tiny_bert(), read_plan(tmp_path / "plan.yaml", tiny_bert()))
    one_sentence(caught.value)


def test_a_plan_with_fewer_neurons_is_shown_and_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By its file comes the student that its settings make; without a norm, or for an anatomy, the file is refused."""
    settings = ["decomp=all_narrow_svd", "decomp.keep=0.3", "decomp.neurons=0.5"]
    run_here(tmp_path, *settings, "student.epochs=0")
    asked = the_record(tmp_path)
    run_here(tmp_path, "stage=plan", *settings)
    assert "neurons: 64 of 128 stay in every feed-forward network" in capsys.readouterr().out
    (path,) = (tmp_path / "plans").iterdir()
    for words, others in [("objective=loss", ["decomp.objective=weights"]), ("all neurons", ["stage=anatomy"])]:
        with pytest.raises(LobertError, match=words) as caught:
            run_here(tmp_path, f"decomp.plan='{path}'", "decomp.objective=loss", *others)
        one_sentence(caught.value)
    run_here(tmp_path, f"decomp.plan='{path}'", "decomp.objective=loss", "student.epochs=0")
    (obeyed,) = (record for record in find_records(tmp_path)[0] if record.decomp == path.stem)
    assert obeyed.groups == asked.groups
    assert obeyed.zero_shot_divergence == asked.zero_shot_divergence


# ---- settings ----


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("all_svd", {"neurons": 0}, "above 0"),
        ("all_svd", {"neurons": 1.5}, "at most 1"),
        ("all_svd", {"neurons": "many"}, "or auto"),
        ("all_svd", {"neurons": True}, "or auto"),
        ("all_svd", {"neurons": 0.5, "objective": "weights"}, "objective=loss"),
        ("all_svd", {"neurons": 0.5, "allocate": "uniform"}, "allocate=greedy"),
        ("falcon_4d", {"neurons": 0.5, "objective": "weights"}, "take all_svd"),
        ("svd", {"neurons": 0.5}, "both weights"),
        ("ffn_tucker", {"neurons": 0.5, "allocate": "greedy"}, "each by itself"),
    ],
)
def test_neurons_that_cannot_go_are_refused_in_one_sentence(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(LobertError, match=words) as caught:
        lobert.compress(tiny_bert(), name, keep=0.5, data=BATCHES, **settings)
    one_sentence(caught.value)


@pytest.mark.parametrize(
    ("names", "objective", "allocate", "found"),
    [
        ("all_narrow_svd", "loss", "greedy", "auto"),
        ("all_narrow_svd", "weights", "greedy", 1.0),
        ("all_narrow_svd", "loss", "uniform", 1.0),
        ("all_pivoted_svd", "loss", "greedy", 1.0),
        (("svd", "ffn_svd"), "loss", "greedy", 1.0),
    ],
)
def test_auto_leaves_all_neurons_where_none_can_go(
    names: str | tuple[str, ...], objective: str, allocate: str, found: object
) -> None:
    model, parts = tiny_bert(), point(names, 0.5)
    sizing = Sizing(0.5, allocate=allocate)  # type: ignore[arg-type]
    assert neurons_for(model, parts, make_plan(model, parts), Objective(objective), sizing) == found  # type: ignore[arg-type]


def test_a_run_keeps_what_it_was_asked_and_says_so(tmp_path: Path) -> None:
    run_here(tmp_path, "decomp=all_svd", "decomp.objective=loss", "decomp.keep=0.3", "decomp.neurons=0.5")
    record = the_record(tmp_path)
    assert record.decomp == "all_svd_neurons0.5"
    assert record.keep_targets is not None
    assert 0.25 < record.keep_targets <= 0.3
    assert record.parameters < record.teacher_parameters
    shapes = {tuple(group["shape"]) for group in record.groups if group["name"].startswith("output")}
    width = lobert.load(record.student_path).config.intermediate_size
    assert shapes == {(32, width)}
    assert {group["dense_parameters"] for group in record.groups if group["name"].startswith("output")} == {64 * width}
