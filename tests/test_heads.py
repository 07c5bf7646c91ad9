"""Laws of weights that meet in an attention's heads: together they are the same function from fewer numbers, as many
as is said; a budget is spent on both as exhaustive search would; an attention that does more than to multiply stays
as it is.
"""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cases import logits_of, one_sentence, point, tiny_bert, token_batch
from test_architectures import tiny
from test_pipeline import run_here, the_record
from transformers import PreTrainedModel

import lobert
from lobert.checkpoint import save_student
from lobert.compression.allocation import Sizing, spend_budget
from lobert.compression.budget import Option
from lobert.compression.compress import compress_model
from lobert.compression.costs import parameters_of
from lobert.compression.heads import joined_as_asked
from lobert.compression.joint import joined, met
from lobert.compression.plan import GroupPlan, check_pairs, make_plan
from lobert.compression.planfile import read_plan, write_plan
from lobert.compression.points import named_parts
from lobert.encoders.attention import meetings
from lobert.errors import LobertError
from lobert.layers.pairs import fold, unfold

PLAIN = ["bert", "roberta", "distilbert", "albert", "mpnet", "electra"]
OTHERS = ["deberta-v2", "modernbert", "megatron-bert"]
BATCHES = [token_batch(8, seed=seed) for seed in range(4)]
SIZE = tiny_bert().config.hidden_size // tiny_bert().config.num_attention_heads


def at_rank(model: PreTrainedModel, rank: int, partner_rank: int | None = None) -> list[GroupPlan]:
    """Pivoted plans in which keys and values have one rank, queries and outputs of the attention the other one."""
    plans = joined(model, make_plan(model, point("all_pivoted_svd")))
    found = {plan.name: plan for plan in plans}
    for plan in plans:
        if plan.heads is not None and plan.heads.pivots:
            partner = found[plan.heads.partner]
            sized = [
                GroupPlan(**{**vars(p), "rank": (min(r, *p.shape),)})
                for p, r in ((plan, rank), (partner, partner_rank or rank))
            ]
            found |= {p.name: p for p in met(*sized)}
    return list(found.values())


def with_biases(model: PreTrainedModel) -> PreTrainedModel:
    """A fresh model has biases of zero, which would hide what happens to them."""
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") and parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=random))
    return model


@pytest.mark.parametrize("ranks", [(2, 3), (3, 2), (SIZE, 2), (SIZE + 3, 2), (SIZE + 1, SIZE + 5), (1, SIZE + 2)])
@pytest.mark.parametrize("kind", PLAIN)
def test_together_they_are_what_they_were_apart(kind: str, ranks: tuple[int, int], tmp_path: Path) -> None:
    model = with_biases(tiny(kind)).double()
    report = compress_model(model, at_rank(model, *ranks))
    before = logits_of(model)
    fold(model)
    torch.testing.assert_close(logits_of(model), before, rtol=1e-7, atol=1e-9)
    assert sum(p.numel() for p in model.factors.parameters()) == sum(group.parameters for group in report.groups)
    save_student(model.float(), tmp_path)
    loaded = lobert.load(tmp_path)
    for other in (loaded, lobert.merge(loaded)):
        torch.testing.assert_close(logits_of(other), before.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ranks", [(2, 3), (SIZE + 3, 2), (SIZE + 1, SIZE + 5)])
@pytest.mark.parametrize("kind", PLAIN)
def test_whole_factors_train_and_fold_again(kind: str, ranks: tuple[int, int]) -> None:
    model = with_biases(tiny(kind)).double()
    compress_model(model, at_rank(model, *ranks))
    fold(model)
    before, count = logits_of(model), sum(p.numel() for p in model.parameters())
    unfold(model)
    torch.testing.assert_close(logits_of(model), before, rtol=1e-7, atol=1e-9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    trained = logits_of(model)
    assert not torch.allclose(trained, before)
    fold(model)
    torch.testing.assert_close(logits_of(model), trained, rtol=1e-7, atol=1e-9)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("ranks", [(2, 3), (SIZE + 3, SIZE + 1)])
def test_unfolded_both_sides_are_as_strong(ranks: tuple[int, int]) -> None:
    model = with_biases(tiny_bert()).double()
    compress_model(model, at_rank(model, *ranks))
    fold(model)
    unfold(model)
    for meeting in meetings(tiny_bert()):
        one, other = (model.get_submodule(path) for path in (meeting.one, meeting.other))
        mine = torch.cat([one.weight, one.bias[:, None]], 1)
        theirs = torch.cat([other.weight, other.bias[:, None]], 1) if meeting.mode == "o" else other.weight.T
        strengths = [side.unflatten(0, (meeting.heads, -1)).square().sum(2) for side in (mine, theirs)]
        torch.testing.assert_close(*strengths)


def a_pair(model: PreTrainedModel) -> list[GroupPlan]:
    plans = joined(model, make_plan(model, point("all_pivoted_svd")))
    return [plan for plan in plans if plan.name in ("query_0", "key_0")]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.35, 0.6, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_a_budget_is_spent_on_a_pair_as_by_exhaustive_search(share: float, seed: int) -> None:
    plans = a_pair(tiny_bert())
    random = torch.Generator().manual_seed(seed)
    offers = {}
    for plan in plans:
        full = min(plan.shape)
        errors = torch.rand(full, generator=random).square().cumsum(0).flip(0).tolist()
        ranks = [
            Option((rank,), parameters_of("pivoted_svd", "", plan.shape, (rank,)), errors[rank])
            for rank in range(1, full)
        ]
        offers[plan.name] = [*ranks, Option(None, plan.dense_parameters, 0.0)]
    allowed = share * sum(plan.dense_parameters for plan in plans)
    chosen, allocation = spend_budget(plans, offers, allowed)
    key, query = (next(p for p in plans if p.name == name) for name in ("key_0", "query_0"))
    best = float("inf")
    for one, other in itertools.product(offers["key_0"], offers["query_0"]):
        sized = [GroupPlan(**{**vars(p), "rank": o.rank}) for p, o in ((key, one), (query, other)) if o.rank]
        numbers = sum(plan.parameters for plan in met(*sized)) if len(sized) == 2 else one.cost + other.cost
        if numbers <= allowed:
            best = min(best, one.error + other.error)
    assert sum(plan.parameters for plan in chosen) == allocation.cost <= allowed
    check_pairs(chosen)
    assert allocation.bound <= best <= allocation.error + 1e-12


def test_a_joint_budget_buys_no_less_than_one_apart() -> None:
    for keep in (0.2, 0.4, 0.7):
        errors = []
        for heads in ("apart", "joint"):
            model = with_biases(tiny_bert())
            report = lobert.compress(model, "all_pivoted_svd", keep=keep, data=BATCHES, heads=heads, order="parallel")
            assert report.keep <= keep
            errors.append(sum((g.objective_error * g.norm) ** 2 for g in report.groups))
            assert all(plan.get("heads") is None for plan in model.config.lobert["groups"]) is (heads == "apart")
        assert errors[1] < errors[0]


@pytest.mark.parametrize("kind", OTHERS)
def test_other_attentions_stay_apart(kind: str) -> None:
    model = tiny(kind)
    plans, sizing = make_plan(model, point("all_pivoted_svd")), Sizing(0.3, allocate="greedy")
    assert joined_as_asked(model, plans, point("all_narrow_svd"), sizing) == plans
    asked = named_parts("all_pivoted_svd", heads="joint")
    with pytest.raises(LobertError, match="heads=joint cannot be") as found:
        joined_as_asked(model, plans, asked, sizing)
    assert one_sentence(found.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"decomp": "all_svd"}, "pivoted_svd"),
        ({"decomp": "ffn_svd"}, "pivoted_svd"),
        ({"allocate": "uniform"}, "allocate=greedy"),
        ({"budget": "macs"}, "budget=parameters"),
        ({"heads": "together"}, "joint"),
    ],
)
def test_what_cannot_be_is_said(changes: dict[str, Any], said: str) -> None:
    settings = {"decomp": "all_pivoted_svd", "keep": 0.3, "data": BATCHES, "heads": "joint", **changes}
    with pytest.raises(LobertError, match=said) as found:
        lobert.compress(tiny_bert(), **settings)
    assert one_sentence(found.value)


def test_a_plan_file_is_obeyed_and_its_ranks_can_be_edited(tmp_path: Path) -> None:
    model = tiny_bert()
    write_plan(tmp_path / "plan.yaml", at_rank(model, 5, 3))
    content = yaml.safe_load((tmp_path / "plan.yaml").read_text(encoding="utf-8"))
    assert read_plan(tmp_path / "plan.yaml", model) == at_rank(model, 5, 3)
    for group in content["groups"]:
        if group["name"] == "key_0":
            assert group["heads"] == "joint"
            group["rank"] = [2]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    plans = {plan.name: plan for plan in read_plan(tmp_path / "plan.yaml", model)}
    assert {plans[name].heads.used for name in ("key_0", "query_0")} == {2}
    key = next(group for group in content["groups"] if group["name"] == "key_0")
    for heads, said in (("apart", "query_0"), ("together", "together")):
        key["heads"] = heads
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        with pytest.raises(LobertError, match=said) as found:
            read_plan(tmp_path / "plan.yaml", model)
        assert one_sentence(found.value)


def test_a_damaged_pair_is_refused(tmp_path: Path) -> None:
    model = tiny_bert()
    plans = at_rank(model, 3)
    one = [plan for plan in plans if plan.name != "query_0"]
    with pytest.raises(LobertError, match="key_0"):
        check_pairs(one)
    compress_model(model, plans)
    fold(model)
    model.get_submodule("factors.key_0.frame").places.zero_()
    save_student(model, tmp_path)
    with pytest.raises(LobertError, match="identities") as found:
        lobert.load(tmp_path)
    assert one_sentence(found.value)


def test_a_run_trains_a_joint_student(tmp_path: Path) -> None:
    run_here(tmp_path, "decomp=all_narrow_svd", "decomp.keep=0.4", "student.epochs=1")
    assert 0.39 < (the_record(tmp_path).keep_targets or 0.0) <= 0.4
    model = lobert.load(next(tmp_path.glob("**/student/config.json")).parent)
    assert [group for group in model.config.lobert["groups"] if group.get("heads")]
    assert all(group.folded for group in model.factors.values())
    whole = logits_of(model)
    unfold(model)
    torch.testing.assert_close(logits_of(model), whole, rtol=1e-4, atol=1e-5)


def test_an_anatomy_looks_at_each_weight_of_a_pair_alone(tmp_path: Path) -> None:
    run_here(tmp_path, "stage=anatomy", "decomp=all_narrow_svd", "decomp.keep=0.4")
    assert list(tmp_path.glob("artefacts/anatomy/*/*.json"))
