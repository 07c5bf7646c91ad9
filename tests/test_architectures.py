"""The laws of compression on every architecture of the table, and on encoders that patterns describe."""

import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import POINTS, ROOT, logits_of, one_sentence, point, tiny_bert, token_batch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, BertForMaskedLM, PreTrainedModel

import lobert
from lobert.checkpoint import save_student
from lobert.compression.calibration import Recorder, calibrate
from lobert.compression.compress import BANK, compress_model, encoder_macs, linear_macs
from lobert.compression.objective import Objective
from lobert.compression.plan import GroupPlan, make_plan
from lobert.compression.refit import refit_head
from lobert.compression.replay import Replay
from lobert.compression.sequential import chosen_order, compress_in_order
from lobert.compression.stream import open_stream
from lobert.distill.knowledge import forward, has_token_types, model_inputs
from lobert.encoders.architectures import ARCHITECTURES
from lobert.encoders.roles import depth_of, encoder_layers, encoder_linears, keep_first_layers, layer_uses
from lobert.encoders.source import most_tokens, set_dropout
from lobert.errors import LobertError
from lobert.factorizations import factorization
from lobert.layers.factored import FactoredLinear
from lobert.layers.lookup import FactoredEmbedding
from lobert.support import inserted, main, refusal, rows, tables

SIZES = {
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 24,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
V3 = {"relative_attention": True, "position_buckets": 4, "share_att_key": True, "pos_att_type": ["p2c", "c2p"]}
OWN: dict[str, dict[str, Any]] = {  # what an architecture has beside the usual sizes
    "distilbert": {"hidden_dim": 32},
    "electra": {"embedding_size": 8},
    "albert": {"embedding_size": 8},
    "deberta-v2": {**V3, "embedding_size": 8, "norm_rel_ebd": "layer_norm", "position_biased_input": False,
                   "type_vocab_size": 0, "pooler_hidden_size": 16},
    "modernbert": {"local_attention": 6, "cls_token_id": 1, "sep_token_id": 2},
}  # fmt: skip
PATTERNS = {
    "query": "bert.encoder.layer.*.attention.self.query",
    "key": "bert.encoder.layer.*.attention.self.key",
    "value": "bert.encoder.layer.*.attention.self.value",
    "attention_output": "encoder.layer.*.attention.output.dense",  # the base model's name may be left out
    "intermediate": "encoder.layer.*.intermediate.dense",
    "output": "encoder.layer.*.output.dense",
    "pooler": "bert.pooler.dense",
    "word_embeddings": "embeddings.word_embeddings",
    "head": "classifier",
}
KINDS = [names.split(", ")[0] for names in rows()]  # one for each row of the table
ORDERED = [kind for kind in [*KINDS, "megatron-bert"] if kind != "albert"]
STACKS = [("tucker_4d", "ffn_tt", "embeddings_svd", "pooler_svd"), ("falcon_vertical", "ffn_cp")]
MATRICES = [("tucker_layer", "ffn_svd", "embeddings_svd", "pooler_svd"), ("all_svd",)]
CASES = [(kind, names) for kind in [*KINDS, "megatron-bert"] for names in (STACKS + MATRICES)[2 * (kind == "albert") :]]
BATCHES = [token_batch(8, seed=seed) for seed in range(3)]
EXACT = {"rtol": 1e-4, "atol": 1e-5}


@cache
def _tiny(kind: str, changes: tuple[tuple[str, Any], ...]) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, **OWN.get(kind, {}), **dict(changes)})
    config.num_labels = 3
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    if kind not in ARCHITECTURES:
        lobert.set_roles(model, PATTERNS)
    return model.eval()


def tiny(kind: str, **changes: Any) -> PreTrainedModel:
    """A small classifier of this kind in which every parameter matters; the kind outside the table has patterns."""
    return copy.deepcopy(_tiny(kind, tuple(changes.items())))


def answers(model: PreTrainedModel, batch: dict[str, Tensor] | None = None) -> Tensor:
    return logits_of(model, model_inputs(model, batch or token_batch()))


def at_full_rank(plans: list[GroupPlan]) -> list[GroupPlan]:
    return [replace(plan, rank=factorization(plan.factorization).full_rank(plan.shape)) for plan in plans]


@cache
def compressed(kind: str, names: tuple[str, ...]) -> PreTrainedModel:
    """At full rank: not to be changed."""
    model = tiny(kind)
    compress_model(model, at_full_rank(make_plan(model, point(names))))
    return model


def test_every_architecture_has_its_law_tests() -> None:
    assert sorted(", ".join(rows()).split(", ")) == sorted(ARCHITECTURES)
    assert {name for names in STACKS + MATRICES for name in names} <= set(POINTS)


@pytest.mark.parametrize(("kind", "names"), CASES)
def test_full_rank_leaves_the_logits_as_they_are(kind: str, names: tuple[str, ...]) -> None:
    model, dense = compressed(kind, names), tiny(kind)
    torch.testing.assert_close(answers(model), answers(dense), **EXACT)
    replaced = [m for m in model.modules() if isinstance(m, FactoredLinear | FactoredEmbedding)]
    assert len(replaced) == sum(len(group["slices"]) for group in model.config.lobert["groups"])


@pytest.mark.parametrize(("kind", "names"), CASES)
def test_a_student_is_loaded_and_merged_to_the_same_logits(kind: str, names: tuple[str, ...], tmp_path: Path) -> None:
    model = compressed(kind, names)
    save_student(model, tmp_path)
    torch.testing.assert_close(answers(lobert.load(tmp_path)), answers(model), rtol=1e-5, atol=1e-6)
    merged, dense = lobert.merge(model), tiny(kind)
    torch.testing.assert_close(answers(merged), answers(model), **EXACT)
    assert {key: value.shape for key, value in merged.state_dict().items()} == {
        key: value.shape for key, value in dense.state_dict().items()
    }
    tables = [[m.padding_idx for m in each.modules() if isinstance(m, nn.Embedding)] for each in (merged, dense)]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("kind", [*KINDS, "megatron-bert"])
def test_parameters_and_multiply_adds_are_counted_as_predicted(kind: str) -> None:
    model, dense = tiny(kind), tiny(kind)
    plans = make_plan(model, point("all_svd", keep=0.5))
    report = compress_model(model, plans)
    saved = sum(p.numel() for p in dense.parameters()) - sum(p.numel() for p in model.parameters())
    assert saved == sum(plan.dense_parameters - plan.parameters for plan in plans) > 0
    assert encoder_macs(dense) == layer_uses(dense) * linear_macs(encoder_layers(dense))
    assert encoder_macs(dense) == sum(group.dense_macs for group in report.groups)
    assert encoder_macs(model) == sum(group.macs for group in report.groups)
    assert report.keep <= 0.5
    assert (depth_of(dense), layer_uses(dense)) == ((2, 2) if kind == "albert" else (2, 1))


@pytest.mark.parametrize("name", POINTS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_compressed_says_why(kind: str, name: str) -> None:
    reason = refusal(tiny(kind), point(name))
    if kind == "albert" and "layer" in point(name)[0].stack:
        assert reason is not None
        assert "share one set of weights, so a stack by layer has one slice" in reason
    else:
        assert reason is None


@pytest.mark.parametrize("kind", [*KINDS, "megatron-bert"])
def test_calibration_and_order_lose_nothing_at_full_rank(kind: str) -> None:
    model, names = tiny(kind), ("tucker_layer", "ffn_svd", "embeddings_svd", "pooler_svd")
    statistics = calibrate(model, encoder_linears(model), BATCHES, gradients=True)
    plans, objective = at_full_rank(make_plan(model, point(names))), Objective("loss")
    order = chosen_order("auto", objective, model, plans)
    assert order == ("parallel" if kind == "albert" else "sequential")
    if order == "sequential":
        compress_in_order(model, plans, BATCHES, objective, statistics)
    else:
        compress_model(model, plans, objective=objective, statistics=statistics)
    torch.testing.assert_close(answers(model), answers(tiny(kind)), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def last_hidden(model: PreTrainedModel) -> Tensor:
    """What the last layer gives, of all real tokens."""
    stream, layers = open_stream(model, BATCHES), range(len(encoder_layers(model)))
    hidden = stream.hidden
    for layer in layers:
        hidden = [call() for call in stream.calls(model, layer, hidden)]
    return torch.cat([x[mask] for x, mask in zip(hidden, stream.masks, strict=True)])


@pytest.mark.parametrize("kind", ORDERED)
def test_the_stream_is_the_model_and_order_brings_its_end_closer(kind: str) -> None:
    dense, models = tiny(kind), [tiny(kind), tiny(kind)]
    wanted = last_hidden(dense)
    if kind not in ("modernbert", "megatron-bert"):  # whose last norm comes after the layers
        with torch.no_grad():
            given = [dense(**model_inputs(dense, b), output_hidden_states=True).hidden_states[-1] for b in BATCHES]
        masks = [batch["attention_mask"].bool() for batch in BATCHES]
        torch.testing.assert_close(wanted, torch.cat([x[m] for x, m in zip(given, masks, strict=True)]))
    statistics = calibrate(dense, encoder_linears(dense), BATCHES, gradients=False)
    plans = make_plan(dense, point("all_svd", keep=0.5))
    compress_in_order(models[0], plans, BATCHES, Objective("activations"), statistics)
    compress_model(models[1], plans, objective=Objective("activations"), statistics=statistics)
    ordered, parallel = ((last_hidden(model) - wanted).square().sum() for model in models)
    assert ordered < parallel


@pytest.mark.parametrize("kind", ORDERED)
@torch.no_grad()
def test_answers_come_of_what_the_last_layer_gave_without_running_any(kind: str) -> None:
    model = tiny(kind)
    stream, layers = open_stream(model, BATCHES), encoder_layers(model)
    hidden = stream.hidden
    for number in range(len(layers)):
        hidden = [call() for call in stream.calls(model, number, hidden)]
    handles = [layer.register_forward_pre_hook(lambda *_: pytest.fail("ran")) for m in layers for layer in m.children()]
    found = [output.logits for output in stream.answers(model, BATCHES, hidden)]
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(torch.cat(found), torch.cat([answers(model, batch) for batch in BATCHES]))
    assert not any("forward" in vars(layer) for layer in layers)


class Recomputed(Replay):
    """Keeps nothing."""

    def begin(self, batch: int) -> None:
        super().begin(batch)
        self._kept = {}


@pytest.mark.parametrize("names", [("all_svd",), ("ffn_svd",), ("tucker_layer", "ffn_svd")])
@pytest.mark.parametrize("kind", ORDERED)
def test_a_replayed_layer_is_the_layer(kind: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    models, product, calls = [tiny(kind), tiny(kind)], nn.functional.linear, list[str]()
    statistics = calibrate(models[0], encoder_linears(models[0]), BATCHES, gradients=True)
    plans = make_plan(models[0], point(names))
    for model, replay in zip(models, (Replay, Recomputed), strict=True):
        monkeypatch.setattr("lobert.compression.sequential.Replay", replay)
        name = replay.__name__
        monkeypatch.setattr(nn.functional, "linear", lambda *xs, by=name: (calls.append(by), product(*xs))[1])
        inside = list(encoder_layers(model).modules())
        compress_in_order(model, plans, BATCHES, Objective("loss"), statistics)
        assert not any("forward" in vars(module) for module in inside)
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, models[1].state_dict()[name]), name
    assert calls.count("Replay") < calls.count("Recomputed")


def calls_of(model: PreTrainedModel, path: str, batch: dict[str, Tensor]) -> list[Tensor]:
    recorder = Recorder({path: model.get_submodule(path)})
    answers(model, batch)
    recorder.remove()
    return [x.double() for x in recorder.inputs[path]]


def test_all_uses_of_a_shared_weight_are_calibrated() -> None:
    model, batch = tiny("albert"), token_batch()
    path = "albert.encoder.albert_layer_groups.0.albert_layers.0.attention.query"
    calls = calls_of(model, path, batch)
    assert len(calls) == 2
    x = torch.cat([call[batch["attention_mask"].bool()] for call in calls])
    statistics = calibrate(model, encoder_linears(model), [batch], gradients=False)
    torch.testing.assert_close(statistics.mean[path], x.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(statistics.second_moment[path], x.T @ x / len(x), rtol=1e-5, atol=1e-6)
    assert statistics.source[path.replace("query", "value")] == path


def test_the_fisher_information_of_a_shared_weight_is_that_of_its_whole_gradient() -> None:
    """Of one example and two labels: p (1 - p) times the squared gradient of the logits' difference."""
    model, path = tiny("albert"), "albert.encoder.albert_layer_groups.0.albert_layers.0.ffn"
    model.classifier = nn.Linear(16, 2)
    batch = {name: tensor[:1] for name, tensor in token_batch().items()}
    statistics = calibrate(model, encoder_linears(model), [batch], gradients=True)
    logits = model(**batch).logits
    (gradient,) = torch.autograd.grad(logits[0, 0] - logits[0, 1], model.get_submodule(path).weight)
    expected = gradient.double().square().sum(0) * logits.softmax(-1).prod().item()
    torch.testing.assert_close(statistics.fisher[path], expected, rtol=1e-4, atol=1e-9)


def test_relative_positions_count_as_much_as_the_tokens() -> None:
    model, batch = tiny("deberta-v2"), token_batch()
    path = "deberta.encoder.layer.1.attention.self.{}_proj"
    tokens, positions = calls_of(model, path.format("key"), batch)
    x, p = tokens[batch["attention_mask"].bool()], positions[0]
    statistics = calibrate(model, encoder_linears(model), [batch], gradients=True)
    together = (x.T @ x / len(x) + p.T @ p / len(p)) / 2
    torch.testing.assert_close(statistics.second_moment[path.format("query")], together, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(statistics.second_moment[path.format("value")], x.T @ x / len(x), rtol=1e-5, atol=1e-6)
    assert statistics.source[path.format("key")] == path.format("query")
    assert all(moment.isfinite().all() for moment in statistics.gradient.values())


@pytest.mark.parametrize("kind", [*KINDS, "megatron-bert"])
def test_a_shorter_student_has_its_hidden_states_and_is_saved(kind: str, tmp_path: Path) -> None:
    model = tiny(kind)
    assert forward(model, BATCHES[0]).cls.shape == (8, 3, 16)
    keep_first_layers(model, 1)
    with torch.no_grad():
        assert forward(model, BATCHES[0]).cls.shape == (8, 2, 16)
    assert (depth_of(model), model.config.num_hidden_layers) == (1, 1)
    assert not torch.equal(answers(model), answers(tiny(kind)))
    compress_model(model, make_plan(model, point("svd", rank="full" if kind == "albert" else 8)))
    save_student(model, tmp_path)
    torch.testing.assert_close(answers(lobert.load(tmp_path)), answers(model), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_library_takes_the_best_and_the_head_is_refitted(kind: str) -> None:
    model, teacher = tiny(kind), tiny(kind)
    report = lobert.compress(model, keep=0.4, data=BATCHES)
    assert report.keep <= 0.4
    wanted = [answers(teacher, batch) for batch in BATCHES]

    def distance() -> float:
        return sum((answers(model, b) - w).square().sum().item() for b, w in zip(BATCHES, wanted, strict=True))

    before = distance()
    refit_head(model, zip(BATCHES, wanted, strict=True))
    assert distance() < before


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_given_the_token_types_it_tells_apart(kind: str) -> None:
    model, batch = tiny(kind), token_batch()
    told = kind not in ("distilbert", "deberta-v2", "mpnet", "modernbert")
    assert has_token_types(model) == told == ("token_type_ids" in model_inputs(model, batch))
    one = tiny("roberta", type_vocab_size=1)  # as the published ones: a second type would be out of range
    assert answers(one).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_every_dropout_is_replaced(kind: str) -> None:
    config = tiny(kind).config
    set_dropout(config, 0.3)
    model = AutoModelForSequenceClassification.from_config(config)
    rates = {module.p for module in model.modules() if isinstance(module, nn.Dropout) or hasattr(module, "drop_prob")}
    assert rates == {0.3}


@pytest.mark.parametrize(
    ("kind", "most"), [("bert", 24), ("roberta", 23), ("mpnet", 22), ("deberta-v2", None), ("modernbert", None)]
)
def test_the_longest_text_is_known(kind: str, most: int | None) -> None:
    model = tiny(kind)
    assert most_tokens(model) == most
    longest = {"input_ids": torch.full((1, most or 40), 5), "attention_mask": torch.ones(1, most or 40).long()}
    assert answers(model, longest).isfinite().all()
    if most is not None:
        with pytest.raises((IndexError, RuntimeError)):
            answers(model, {name: torch.cat([x, x[:, :1]], 1) for name, x in longest.items()})


# ---- what stands in the way of an order ----


def test_a_convolution_between_the_layers_goes_in_parallel() -> None:
    model = tiny("deberta-v2", conv_kernel_size=3)
    plans, objective = make_plan(model, point("svd")), Objective("activations")
    assert chosen_order("auto", objective, model, plans) == "parallel"
    with pytest.raises(LobertError, match=r"'encoder\.conv' stands between") as caught:
        chosen_order("sequential", objective, model, plans)
    assert "order=parallel" in one_sentence(caught.value)


def test_shared_layers_have_no_order() -> None:
    model = tiny("albert")
    with pytest.raises(LobertError, match="the 2 layers of this albert share their weights") as caught:
        chosen_order("sequential", Objective("loss"), model, make_plan(model, point("svd")))
    one_sentence(caught.value)


def test_hidden_states_that_change_between_the_layers_are_noticed() -> None:
    model = tiny_bert()
    model.bert.encoder.layer[2].register_forward_pre_hook(lambda module, arguments: (arguments[0] * 2, *arguments[1:]))
    with pytest.raises(LobertError, match=r"decomp\.order=parallel") as caught:
        open_stream(model, BATCHES)
    one_sentence(caught.value)


def test_uneven_groups_of_layers_are_refused() -> None:
    for changes in ({"inner_group_num": 2}, {"num_hidden_layers": 3, "num_hidden_groups": 2}):
        with pytest.raises(LobertError, match="unevenly") as caught:
            layer_uses(tiny("albert", **changes))
        one_sentence(caught.value)
    two = tiny("albert", num_hidden_layers=4, num_hidden_groups=2)
    assert (depth_of(two), layer_uses(two)) == (4, 2)
    assert refusal(two, point("tucker_vertical")) is None
    with pytest.raises(LobertError, match=r"student\.layers=2"):
        keep_first_layers(two, 2)


def test_a_table_that_the_head_uses_too_is_refused() -> None:
    model = BertForMaskedLM(tiny_bert().config)
    with pytest.raises(LobertError, match="are one weight") as caught:
        lobert.compress(model, "embeddings_svd")
    one_sentence(caught.value)
    assert not hasattr(model, BANK)


# ---- patterns ----


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        ({"query": "bert.encoder.layer.*.attention.self.qury"}, "did you mean 'bert.encoder.layer.*.attention.self.q"),
        ({"query": "bert.encoder.layers.*.attention.self.query"}, "fits no module"),
        ({"pooler": "bert.poler.dense", **{"query": PATTERNS["query"]}}, "did you mean 'bert.pooler.dense'"),
        ({"gate": "bert.encoder.layer.*.gate", "query": PATTERNS["query"]}, "fits 1 of 2 layers"),
        ({"query": "bert.encoder.layer.*.attention"}, "not an nn.Linear"),
        ({"query": "bert.encoder.layer.*.attention.*.query"}, "one * for the number"),
        ({"query": PATTERNS["query"], "key": "bert.other.*.key"}, "no one list of layers"),
        ({"pooler": "bert.pooler.dense"}, "no one list of layers"),
        ({"query": ""}, "no one list of layers"),
    ],
)  # fmt: skip
def test_a_pattern_that_does_not_fit_is_answered(patterns: dict[str, str], words: str) -> None:
    config = AutoConfig.for_model("megatron-bert", **SIZES)
    model = AutoModelForSequenceClassification.from_config(config)
    model.bert.encoder.layer[1].gate = nn.Linear(16, 16)
    with pytest.raises(LobertError) as caught:
        lobert.set_roles(model, patterns)
    assert words in one_sentence(caught.value)
    with pytest.raises(LobertError, match="no roles are known for a model of type 'megatron-bert'") as caught:
        make_plan(model, point("svd"))
    assert "encoder.roles.query='bert.encoder.layer.*.attention.self.query'" in one_sentence(caught.value)


def test_patterns_change_a_known_row_where_they_differ() -> None:
    model = tiny("bert")
    lobert.set_roles(model, {"value": "encoder.layer.*.attention.output.dense", "key": None})
    paths = [block.path for plan in make_plan(model, point("svd")) for block, _ in plan.slices]
    assert "bert.encoder.layer.0.attention.self.key" in paths
    assert "bert.encoder.layer.0.attention.output.dense" in paths
    assert "bert.encoder.layer.0.attention.self.value" not in paths


def test_damaged_patterns_in_a_folder_are_one_sentence(tmp_path: Path) -> None:
    model = tiny("bert")
    model.config.lobert_roles = {"query": 3}
    with pytest.raises(LobertError, match="are damaged") as caught:
        make_plan(model, point("svd"))
    one_sentence(caught.value)


# ---- the page ----


def test_the_page_of_architectures_is_up_to_date() -> None:
    page = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")
    made = tables({name: point(name) for name in sorted(POINTS)})
    assert inserted(page, made, Path("page")) == page, "run python -m lobert.support docs/architectures.md"


def test_a_page_without_a_place_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LobertError, match="no place for the tables"):
        inserted("a page", "tables", Path("page.md"))
    assert main([str(tmp_path / "nowhere.md")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
