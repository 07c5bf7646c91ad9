"""Laws of compression: at full rank nothing changes, at any rank only the targeted weights do."""

import copy
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import ALIASES, CONF_COUNTS, POINTS, ROOT, conf_names, logits_of, one_sentence, point, tiny_bert, token_batch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertModel, PreTrainedModel, XLNetConfig, XLNetModel

import lobert
from lobert.checkpoint import save_student
from lobert.compression.compress import BANK, CompressionReport, compress_model, linear_macs
from lobert.compression.plan import make_plan
from lobert.encoders.roles import find_weights, keep_first_layers
from lobert.errors import LobertError
from lobert.layers.factored import FactoredLinear
from lobert.layers.lookup import FactoredEmbedding
from lobert.layers.ways import EVALUATIONS, Evaluation
from lobert.stages.evaluate import encoder_parameters

NAMES = conf_names("decomp")
KINDS = [name for name in NAMES if name not in ALIASES]
LISTS = [("tucker_4d", "ffn_svd"), ("svd", "ffn_tucker")]
EXACT = {"rtol": 1e-5, "atol": 1e-5}
LOAD_ALL = """
import sys
from pathlib import Path
from typing import Any
from lobert.startup import loading
with loading():
    import torch
    from safetensors.torch import load_file, save_file
    import lobert, lobert.pipeline
assert "pytorch_lightning" not in sys.modules, "Lightning takes seconds, and only training needs it"
root = Path(sys.argv[1])
batch = load_file(root / "batch.safetensors")
with torch.no_grad():
    logits = {folder.name: lobert.load(folder)(**batch).logits for folder in root.iterdir() if folder.is_dir()}
save_file(logits, root / "logits.safetensors")
"""


def compress(model: nn.Module, name: str | tuple[str, ...], **size: Any) -> CompressionReport:
    """`lobert.compress` without composing the configuration again."""
    return compress_model(model, make_plan(model, point(name, **size)))


def compressed(
    name: str | tuple[str, ...], keep: float | None = None, evaluation: Evaluation = "auto"
) -> PreTrainedModel:
    model = tiny_bert()
    compress_model(model, make_plan(model, point(name, keep), evaluation))
    return model


def targeted(name: str | tuple[str, ...], model: nn.Module) -> set[str]:
    return {path for part in point(name) for path in find_weights(model, list(part.roles)).values()}


def test_every_point_is_here() -> None:
    assert len(NAMES) == CONF_COUNTS["decomp"]


@pytest.mark.parametrize("name", NAMES)
def test_full_rank_leaves_the_logits_as_they_are(name: str) -> None:
    model = tiny_bert()
    report = compress(model, name, rank=None if name == "none" else "full")
    torch.testing.assert_close(logits_of(model), logits_of(tiny_bert()), **EXACT)
    assert report.error < 1e-6
    layers = {path for path, module in model.named_modules() if isinstance(module, FactoredLinear | FactoredEmbedding)}
    assert {path.partition(".blocks.")[0] for path in layers} == targeted(name, tiny_bert())


@pytest.mark.parametrize("name", [*KINDS, *LISTS])
def test_all_that_is_not_targeted_survives_bit_for_bit(name: str | tuple[str, ...]) -> None:
    model, dense = compressed(name), tiny_bert()
    replaced = {f"{path}.weight" for path in targeted(name, dense)}
    before, after = dense.state_dict(), model.state_dict()
    factors = {key for key in after if key.startswith(f"{BANK}.")}
    assert after.keys() - factors == before.keys() - replaced
    assert all(torch.equal(after[key], before[key]) for key in before.keys() - replaced)
    assert [p.requires_grad for p in model.parameters()] == [True] * len(list(model.parameters()))


@pytest.mark.parametrize("name", [*KINDS, *LISTS])
def test_each_factor_is_once_in_the_state_and_counted_as_predicted(name: str | tuple[str, ...]) -> None:
    model, dense = tiny_bert(), tiny_bert()
    plans = make_plan(model, point(name))
    report = compress_model(model, plans)
    factors = {key: value for key, value in model.state_dict().items() if key.startswith(f"{BANK}.")}
    assert len({value.data_ptr() for value in factors.values()}) == len(factors)
    parameters = {key: value for key, value in model.named_parameters() if key in factors}
    held = sum(value.numel() for value in parameters.values())
    small = sum(value.nbytes for key, value in factors.items() if key not in parameters)  # where identities stand
    assert small <= sum(sum(plan.shape[-2:]) for plan in plans)
    replaced = sum(dense.get_submodule(path).weight.numel() for path in targeted(name, dense))
    assert held == sum(plan.parameters for plan in plans) == sum(group.parameters for group in report.groups)
    assert report.keep == (pytest.approx(held / replaced) if replaced else 1)
    saved = sum(p.numel() for p in dense.parameters()) - sum(p.numel() for p in model.parameters())
    assert saved == replaced - held


@pytest.mark.parametrize("name", POINTS)
def test_half_of_the_weights(name: str) -> None:
    model = tiny_bert()
    dense = linear_macs(model)
    report = compress(model, name, keep=0.5)
    assert report.keep <= 0.5
    assert logits_of(model).isfinite().all()
    assert linear_macs(model) == dense - sum(group.dense_macs - group.macs for group in report.groups)
    assert linear_macs(model) <= dense or name == "embeddings_svd"  # a dense table needs none


@pytest.mark.parametrize("name", POINTS)
def test_the_reported_error_is_that_of_the_layers(name: str) -> None:
    model, dense = tiny_bert(), tiny_bert()
    report = compress(model, name)
    pairs = [(dense.get_submodule(path).weight, model.get_submodule(path).weight) for path in targeted(name, dense)]
    difference = sum((before - after).square().sum().item() for before, after in pairs)
    total = sum(before.square().sum().item() for before, _ in pairs)
    assert report.error == pytest.approx(math.sqrt(difference / total), rel=1e-4)
    assert 0 < report.error < 1


@pytest.mark.parametrize("name", [*POINTS, *LISTS])
def test_all_evaluations_agree(name: str | tuple[str, ...]) -> None:
    answers = [logits_of(compressed(name, keep=0.5, evaluation=evaluation)) for evaluation in EVALUATIONS]
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*POINTS, *LISTS])
def test_the_merged_model_is_dense_and_the_same(name: str | tuple[str, ...]) -> None:
    model = compressed(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    merged = lobert.merge(model)
    torch.testing.assert_close(logits_of(merged), logits_of(model), rtol=1e-4, atol=1e-4)
    assert {key: value.shape for key, value in merged.state_dict().items()} == {
        key: value.shape for key, value in tiny_bert().state_dict().items()
    }
    assert not hasattr(merged.config, "lobert")
    assert model.config.lobert["groups"]
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(model.state_dict()[key], value) for key, value in before.items())


def test_merging_a_dense_model_copies_it() -> None:
    model = tiny_bert()
    merged = lobert.merge(model)
    assert merged is not model
    assert torch.equal(logits_of(merged), logits_of(model))


@pytest.mark.parametrize("name", [*KINDS, *LISTS])
def test_a_copy_keeps_the_sharing_and_nothing_in_common(name: str | tuple[str, ...]) -> None:
    model = compressed(name)
    twin = copy.deepcopy(model)
    assert torch.equal(logits_of(twin), logits_of(model))
    bank = set(map(id, getattr(twin, BANK).values()))
    assert {
        id(layer.group) for layer in twin.modules() if isinstance(layer, FactoredLinear | FactoredEmbedding)
    } == bank
    before = logits_of(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(1.0)
    assert torch.equal(logits_of(model), before)
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits_of(twin), before, rtol=1e-5, atol=1e-6)


def test_a_new_process_loads_every_student_to_the_same_logits(tmp_path: Path) -> None:
    models = {"-".join(names): compressed(names) for names in [*((name,) for name in KINDS), *LISTS]}
    for name, model in models.items():
        save_student(model, tmp_path / name)
        assert {path.suffix for path in (tmp_path / name).iterdir()} == {".json", ".safetensors"}
    save_file(token_batch(), tmp_path / "batch.safetensors")
    subprocess.run([sys.executable, "-c", LOAD_ALL, str(tmp_path)], cwd=ROOT, check=True, timeout=120)
    answers = load_file(tmp_path / "logits.safetensors")
    assert answers.keys() == models.keys()
    for name, model in models.items():
        torch.testing.assert_close(answers[name], logits_of(model), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", POINTS)
def test_a_student_with_fewer_layers(name: str, tmp_path: Path) -> None:
    model = tiny_bert()
    keep_first_layers(model, 2)
    short = tiny_bert(num_hidden_layers=2)
    short.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits_of(model), logits_of(short))
    compress(model, name, rank="full")
    torch.testing.assert_close(logits_of(model), logits_of(short), **EXACT)
    save_student(model, tmp_path)
    torch.testing.assert_close(logits_of(lobert.load(tmp_path)), logits_of(model))


@pytest.mark.parametrize("count", [0, -1, 5])
def test_an_impossible_number_of_layers_is_refused(count: int) -> None:
    with pytest.raises(LobertError, match=f"student.layers={count}") as caught:
        keep_first_layers(tiny_bert(), count)
    assert "1 to 4" in one_sentence(caught.value)


def test_a_bare_encoder_is_compressed_too() -> None:
    encoder, dense = tiny_bert().bert, tiny_bert().bert
    assert isinstance(encoder, BertModel)
    compress(encoder, "falcon_4d", rank="full")
    with torch.no_grad():
        answers = [model(**token_batch()).last_hidden_state for model in (encoder, dense)]
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("first", "second"), [("svd", "svd"), ("svd", "falcon_4d"), ("svd", "ffn_svd"), ("none", "svd")]
)
def test_compressing_twice_is_refused(first: str, second: str) -> None:
    model = tiny_bert()
    compress(model, first)
    before = model.state_dict().keys()
    with pytest.raises(LobertError, match="compressed already") as caught:
        compress(model, second)
    one_sentence(caught.value)
    assert model.state_dict().keys() == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused_and_named(value: float) -> None:
    model = tiny_bert()
    path = "bert.encoder.layer.2.attention.self.key"
    model.get_submodule(path).weight.data[3, 4] = value
    with pytest.raises(LobertError, match=path) as caught:
        compress(model, "tucker_4d")
    one_sentence(caught.value)
    assert not hasattr(model, BANK)


def xlnet() -> nn.Module:
    return XLNetModel(XLNetConfig(vocab_size=50, d_model=16, n_layer=1, n_head=2, d_inner=32))


@pytest.mark.parametrize(
    ("model", "kind"), [(nn.Linear(4, 4), "Linear"), (nn.Sequential(nn.Linear(4, 4)), "Sequential"), (xlnet(), "xlnet")]
)
def test_models_that_are_not_known_are_refused(model: nn.Module, kind: str) -> None:
    with pytest.raises(LobertError, match=f"type '{kind}'") as caught:
        compress(model, "svd")
    assert "Choices: albert, bert" in one_sentence(caught.value)
    assert "encoder.roles.query=" in one_sentence(caught.value)


@pytest.mark.parametrize(
    ("names", "settings", "words"),
    [
        ("falcn_4d", {}, "did you mean 'falcon_4d'"),
        (["svd", "fn_svd"], {}, "did you mean 'ffn_svd'"),
        ("svd", {"keep": 0.5, "rank": 4}, "give one of them"),
        ("svd", {"keep": 2}, "keep=2"),
        ("svd", {"rank": 49}, "49"),
        ("svd", {"evaluation": "dense"}, "no evaluation 'dense'"),
        (["svd", "ffn_svd"], {"rank": 4}, "decomp.rank=4"),
    ],
)
def test_mistakes_in_the_call_change_nothing(names: str | list[str], settings: dict[str, object], words: str) -> None:
    model = tiny_bert()
    with pytest.raises(LobertError) as caught:
        lobert.compress(model, names, **settings)  # type: ignore[arg-type]
    assert words in one_sentence(caught.value)
    assert model.state_dict().keys() == tiny_bert().state_dict().keys()


def test_two_models_of_one_config_do_not_share_the_plan() -> None:
    student, teacher = tiny_bert(), tiny_bert()
    teacher = type(teacher)(student.config)
    compress(student, "svd")
    assert not hasattr(teacher.config, "lobert")


def test_a_model_in_double_precision_loses_none_of_it() -> None:
    model, dense = tiny_bert().double(), tiny_bert().double()
    with torch.no_grad():
        for twin in (model, dense):
            twin.bert.encoder.layer[0].attention.self.query.weight.add_(math.pi * 1e-9)
    lobert.compress(model, "svd", rank="full")
    torch.testing.assert_close(logits_of(model), logits_of(dense), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "names", ["all_svd", "all_pivoted_svd", "all_tucker", "embeddings_svd", "pooler_svd", "tucker_4d"]
)
def test_what_is_outside_the_layers_is_no_part_of_the_encoder(names: str) -> None:
    model = tiny_bert()
    before, plans = encoder_parameters(model), make_plan(model, point(names))
    inside = [plan for plan in plans if ".encoder." in plan.slices[0][0].path]
    compress_model(model, plans)
    saved = sum(plan.dense_parameters - plan.parameters for plan in inside)
    assert encoder_parameters(model) == before - saved
    assert bool(inside) == (names not in ("embeddings_svd", "pooler_svd"))
