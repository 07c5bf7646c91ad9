"""Laws of the plan: the original's sizes on BERT-base, every targeted weight in exactly one slice, mistakes refused."""

import dataclasses
import json
from collections import Counter
from typing import Any

import pytest
import torch
from cases import ALIASES, POINTS, one_sentence, point, tiny_bert
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from lobert.compression.compress import stack_weights
from lobert.compression.grouping import Part
from lobert.compression.plan import GroupPlan, make_plan
from lobert.encoders.roles import find_weights, matrix_at
from lobert.errors import LobertError
from lobert.factorizations import RankSetting
from lobert.layers.blocks import Block

L, D, M = 12, 768, 3072

# point: groups, rank of the first, parameters of one group (by hand), kept per cent as the original's table gives it
ORIGINAL: dict[str, tuple[int, tuple[int, ...], int | list[int], float]] = {
    "svd": (3 * L, (192,), 2 * 192 * D, 50.0),
    "tucker_layer": (L, (2, 384, 384), 2 * 384 * 384 + 2 * 3 + 2 * 384 * D, 50.0),
    "falcon_layer": (L, (1,), 3 * D + D * D, 33.5),
    "tucker_vertical": (3, (8, 576, 576), 8 * 576 * 576 + 8 * L + 2 * 576 * D, 50.0),
    "falcon_vertical": (3, (1,), L * D + D * D, 8.5),
    "tucker_4d": (1, (2, 8, 576, 576), 2 * 8 * 576 * 576 + 2 * 3 + 8 * L + 2 * 576 * D, 29.2),
    "falcon_4d": (1, (1,), 3 * L + L * D * D, 33.3),
    "ffn_svd": (2 * L, (306,), 306 * (M + D), 49.8),
    "ffn_tucker": (2, (8, 4 * 492, 492), 8 * 4 * 492 * 492 + 8 * L + 4 * 492 * M + 492 * D, 50.1),
    # not in the original: sizes chosen so that half stays
    "cp_layer": (L, (576,), 576 * (3 + 2 * D), 50.1),
    "cp_vertical": (3, (2304,), 2304 * (L + 2 * D), 50.4),
    "cp_4d": (1, (6912,), 6912 * (3 + L + 2 * D), 50.5),
    "ffn_cp": (2, (3672,), 3672 * (L + M + D), 50.0),
    "tt_layer": (L, (3, 288), 3 * 3 + 3 * D * 288 + 288 * D, 50.0),
    "tt_vertical": (3, (12, 354), L * 12 + 12 * D * 354 + 354 * D, 49.9),
    "tt_4d": (1, (3, 30, 444), 3 * 3 + 3 * L * 30 + 30 * D * 444 + 444 * D, 49.8),
    "ffn_tt": (2, (12, 376), [L * 12 + 12 * M * 376 + 376 * D, L * 12 + 12 * D * 1151 + 1151 * M], 50.0),
    "basis_vertical": (3, (354,), 354 * (L * D + D), 49.9),
    "all_svd": (6 * L, (256,), [256 * 2 * D] * 4 * L + [256 * (M + D)] * 2 * L, 50.0),
    "all_pivoted_svd": (6 * L, (288,), [288 * (2 * D - 288)] * 4 * L + [288 * (M + D - 288)] * 2 * L, 49.2),
    "all_narrow_svd": (6 * L, (288,), [288 * (2 * D - 288)] * 4 * L + [288 * (M + D - 288)] * 2 * L, 49.2),
    "all_tucker": (1, (9, 8, 384, 384), 72 * 384 * 384 + 9 * 12 + 8 * L + 2 * 384 * D, 13.2),
    "pooler_svd": (1, (192,), 192 * 2 * D, 50.0),
    "embeddings_svd": (1, (374,), 374 * (30_522 + D), 49.9),
    "free": (1, (3, 12, 522, 522), 36 * 522 * 522 + 3 * 3 + L * L + 2 * 522 * D, 50.0),
}


@pytest.fixture(scope="module")
def bert_base() -> nn.Module:
    with torch.device("meta"):
        return BertModel(BertConfig())


@pytest.mark.parametrize("name", [*POINTS, *ALIASES])
def test_default_ranks_are_the_originals(bert_base: nn.Module, name: str) -> None:
    groups, rank, parameters, kept = ORIGINAL[ALIASES.get(name, name)]
    plans = make_plan(bert_base, point(name))
    each = [parameters] * groups if isinstance(parameters, int) else parameters
    assert sorted(plan.parameters for plan in plans) == sorted(each)
    assert len(plans) == groups
    assert plans[0].rank == rank
    touched = {"ffn": 2 * L * D * M, "all": 4 * L * D * D + 2 * L * D * M, "pooler": D * D}
    touched["embeddings"] = 30_522 * D
    assert sum(plan.dense_parameters for plan in plans) == touched.get(name.split("_")[0], 3 * L * D * D)
    assert 100 * sum(each) / sum(plan.dense_parameters for plan in plans) == pytest.approx(kept, abs=0.06)


def test_a_transposed_group_swaps_its_ranks(bert_base: nn.Module) -> None:
    first, second = make_plan(bert_base, point("ffn_tucker"))
    assert (first.shape, second.shape) == ((L, M, D), (L, D, M))
    assert (first.rank, second.rank) == ((8, 1968, 492), (8, 492, 1968))
    exact = make_plan(bert_base, [dataclasses.replace(point("ffn_tucker")[0], rank=[5, 900, 300])])
    assert [plan.rank for plan in exact] == [(5, 900, 300), (5, 300, 900)]


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.25, 0.1])
@pytest.mark.parametrize("name", POINTS)
def test_keep_is_the_largest_share_below(bert_base: nn.Module, name: str, keep: float) -> None:
    parts = [dataclasses.replace(point(name)[0], keep=keep)]
    if "falcon" in name and 100 * keep < ORIGINAL[name][3]:  # less than its one term
        with pytest.raises(LobertError, match="too small"):
            make_plan(bert_base, parts)
        return
    plans = make_plan(bert_base, parts)
    share = sum(plan.parameters for plan in plans) / sum(plan.dense_parameters for plan in plans)
    assert share <= keep
    if "falcon" not in name:  # whose steps are whole matrices
        assert share > keep - 0.01


@pytest.mark.parametrize("keep", [0.5, 0.25])
def test_svd_of_the_ffn_keeps_what_the_original_does(bert_base: nn.Module, keep: float) -> None:
    plan = make_plan(bert_base, [dataclasses.replace(point("ffn_svd")[0], keep=keep)])[0]
    assert plan.rank == (int(keep * M * D / (M + D)),)


# ---- slices ----


@pytest.mark.parametrize("names", [*((name,) for name in POINTS), ("tucker_4d", "ffn_svd"), ("svd", "ffn_tucker")])
def test_every_targeted_weight_is_in_exactly_one_slice(names: tuple[str, ...]) -> None:
    model, parts = tiny_bert(), point(names)
    plans = make_plan(model, parts)
    wanted = {path for part in parts for path in find_weights(model, list(part.roles)).values()}
    held = Counter(block for plan in plans for block, _ in plan.slices)
    assert {block.path for block in held} == wanted
    for path in wanted:  # a one in every entry of the weight, once
        weight, marks = model.get_submodule(path).weight, [block for block in held.elements() if block.path == path]
        assert sum(stamp(block, matrix_at(model, Block(path)).shape) for block in marks).eq(1).all(), weight.shape
    assert len({plan.name for plan in plans}) == len(plans)
    for plan in plans:
        tensor = stack_weights(model, plan)
        assert tuple(tensor.shape) == plan.shape
        assert len({index for _, index in plan.slices}) == len(plan.slices) == tensor[..., 0, 0].numel()
        for block, index in plan.slices:
            assert torch.equal(tensor[index], matrix_at(model, block))


def stamp(block: Block, shape: torch.Size) -> Tensor:
    """Ones where the block is in a weight of this shape, zeros elsewhere."""
    whole = torch.zeros(shape)
    block.of(whole).fill_(1)
    return whole


def test_stacks_run_over_roles_and_layers_in_order() -> None:
    (plan,) = make_plan(tiny_bert(), point("tucker_4d"))
    places = {index: str(block) for block, index in plan.slices}
    assert places[0, 0] == "bert.encoder.layer.0.attention.self.query"
    assert places[1, 3] == "bert.encoder.layer.3.attention.self.key"
    assert places[2, 1] == "bert.encoder.layer.1.attention.self.value"


def test_a_role_outside_the_layers_is_one_group_beside_those_of_the_layers() -> None:
    plans = make_plan(tiny_bert(), [part(roles=["value", "pooler"], stack=[], factorization="svd", default_rank=4)])
    assert [plan.name for plan in plans] == ["value_0", "value_1", "value_2", "value_3", "pooler"]
    assert plans[-1].slices == ((Block("bert.pooler.dense"), ()),)


def test_a_model_without_the_role_is_refused() -> None:
    with torch.device("meta"), pytest.raises(LobertError, match=r"no module 'pooler\.dense'"):
        make_plan(BertModel(BertConfig(), add_pooling_layer=False), point("pooler_svd"))


@pytest.mark.parametrize(
    ("sizes", "share"), [({}, 0.5), ({"keep": 0.25}, 0.25), ({"keep": 0.25, "default_keep": 0.9}, 0.25)], ids=str
)
def test_a_default_share_gives_way_to_what_is_asked(sizes: dict[str, float], share: float) -> None:
    asked = part(factorization="basis", **{"default_keep": 0.5, **sizes})
    given = part(factorization="basis", keep=share)
    assert [p.rank for p in make_plan(tiny_bert(), [asked])] == [p.rank for p in make_plan(tiny_bert(), [given])]
    assert make_plan(tiny_bert(), [part(factorization="basis", default_keep=0.5, rank=7)])[0].rank == (7,)


def test_planning_changes_nothing() -> None:
    model = tiny_bert()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    make_plan(model, point(("tucker_4d", "ffn_svd")))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


# ---- mistakes ----


def part(**changes: Any) -> Part:
    sound = Part("mine", roles=["query", "key"], stack=["layer"], factorization="tucker", default_rank="full")
    return dataclasses.replace(sound, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"roles": ["quary"]}, "did you mean 'query'"),
        ({"roles": []}, "roles"),
        ({"roles": ["query", "intermediate"], "stack": ["role"]}, "do not stack"),
        ({"stack": ["layers"]}, "did you mean 'layer'"),
        ({"roles": ["pooler"]}, "'pooler' is outside the layers"),
        ({"roles": ["query", "pooler"], "stack": ["role"]}, "'pooler' is outside the layers"),
        ({"factorization": "cp", "stack": [], "default_rank": 1}, "use svd"),
        ({"factorization": "tt", "rank": [4, 49]}, "49"),
        ({"default_keep": 2}, "keep=2"),
        ({"factorization": "tuker"}, "did you mean 'tucker'"),
        ({"factorization": "svd"}, "svd"),
        ({"factorization": "falcon", "stack": [], "default_rank": 1}, "falcon"),
        ({"keep": 0.5, "rank": 3}, "keep=0.5 and rank=3"),
        ({"keep": 0}, "keep=0"),
        ({"keep": 1.01}, "keep=1.01"),
        ({"keep": float("nan")}, "keep=nan"),
        ({"keep": 1e-6}, "too small"),
        ({"rank": 3}, "3 ranks"),
        ({"rank": [1, 2, 49]}, "49"),
        ({"rank": 0.5}, "rank"),
    ],
)
def test_a_part_that_cannot_be_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(LobertError) as caught:
        make_plan(tiny_bert(), [part(**changes)])
    assert words in one_sentence(caught.value)


@pytest.mark.parametrize("other", ["svd", "tucker_layer", "falcon_4d"])
def test_parts_that_overlap_are_refused(other: str) -> None:
    with pytest.raises(LobertError, match="two parts of decomp both compress") as caught:
        make_plan(tiny_bert(), [*point("tucker_4d"), *point(other)])
    assert "attention.self." in one_sentence(caught.value)


def test_an_unknown_evaluation_is_answered_with_the_nearest() -> None:
    with pytest.raises(LobertError, match="did you mean 'merge'"):
        make_plan(tiny_bert(), point("svd"), evaluation="merged")  # type: ignore[arg-type]


# ---- on disk ----


@pytest.mark.parametrize("rank", [None, "full"])
@pytest.mark.parametrize("name", POINTS)
def test_a_plan_survives_json(name: str, rank: RankSetting | None) -> None:
    for plan in make_plan(tiny_bert(), [dataclasses.replace(point(name)[0], rank=rank)], evaluation="merge"):
        assert GroupPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize("name", POINTS)
def test_every_place_of_a_tensor_is_filled_once(name: str) -> None:
    for plan in make_plan(tiny_bert(), point(name)):
        whole = plan.to_dict()
        slices, count = list(whole["slices"]), len(whole["slices"])
        for wrong, filled in ((slices[:-1], count - 1), ([*slices, slices[0]], count)):
            with pytest.raises(LobertError, match=f"{len(wrong)} slices fill {filled} of the {count} places"):
                GroupPlan.from_dict(json.loads(json.dumps({**whole, "slices": wrong})))


@pytest.mark.parametrize(
    "damage",
    [
        *({name: None} for name in ("name", "factorization", "stack", "shape", "rank", "slices")),
        {"color": "blue"},
        {"slices": [1, 2]},
        {"slices": 3},
        {"slices": [["a.b", [0], 1]]},
        {"slices": []},
        {"rank": 4},
        {"shape": None},
    ],
    ids=str,
)
def test_a_damaged_plan_is_refused(damage: dict[str, Any]) -> None:
    """None stands for a key that is not there."""
    whole = {**make_plan(tiny_bert(), point("tucker_4d"))[0].to_dict(), **damage}
    with pytest.raises(LobertError, match="plan is damaged") as caught:
        GroupPlan.from_dict({key: value for key, value in whole.items() if value is not None})
    one_sentence(caught.value)
