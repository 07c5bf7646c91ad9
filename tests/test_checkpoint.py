"""Laws of students on disk: what was saved is loaded, and damage is named in one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import logits_of, one_sentence, tiny_bert
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification

import lobert
from lobert.checkpoint import WEIGHTS, save_student
from lobert.errors import LobertError

KEY = "factors.query_key_value.factors.0"
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_bert()
    lobert.compress(model, ["tucker_4d", "ffn_svd"])
    folder = tmp_path_factory.mktemp("student")
    save_student(model, folder)
    return folder


@pytest.fixture
def student(original: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(original, tmp_path / "student"))


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def refused(folder: Path) -> str:
    with pytest.raises(LobertError) as caught:
        lobert.load(folder)
    return one_sentence(caught.value)


def test_a_loaded_student_is_the_saved_one(student: Path) -> None:
    model = lobert.load(student)
    assert not model.training
    assert load_file(student / WEIGHTS).keys() == model.state_dict().keys()
    again = student.with_name("again")
    save_student(model, again)
    assert json.loads((again / "config.json").read_text()) == json.loads((student / "config.json").read_text())
    assert torch.equal(logits_of(lobert.load(str(again))), logits_of(model))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_student_in_half_precision_stays_in_it(student: Path, dtype: torch.dtype) -> None:
    model = lobert.load(student).to(dtype)
    save_student(model, student)
    loaded = lobert.load(student)
    assert {parameter.dtype for parameter in loaded.parameters()} == {dtype}
    assert torch.equal(logits_of(loaded), logits_of(model))


def test_a_dense_folder_loads_too(tmp_path: Path) -> None:
    model = tiny_bert(labels=2)
    save_student(model, tmp_path)
    torch.testing.assert_close(logits_of(lobert.load(tmp_path)), logits_of(model))


def test_a_merged_model_needs_no_lobert(student: Path, tmp_path: Path) -> None:
    model = lobert.load(student)
    lobert.merge(model).save_pretrained(tmp_path / "dense")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "dense").eval()
    assert "lobert" not in (tmp_path / "dense" / "config.json").read_text()
    torch.testing.assert_close(logits_of(plain), logits_of(model), rtol=1e-4, atol=1e-4)


# ---- damage ----


@pytest.mark.parametrize("key", [KEY, "classifier.bias", "bert.encoder.layer.1.attention.self.key.bias"])
@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda tensors, key: tensors.pop(key), "lacks"),
        (lambda tensors, key: tensors.update({key: tensors[key][1:].clone()}), "but the model's is"),
        (lambda tensors, key: tensors.update({key: tensors[key][None].clone()}), "but the model's is"),
        (lambda tensors, key: tensors.update({f"{key}.more": tensors[key].clone()}), "does not have"),
    ],
)
def test_a_wrong_tensor_is_named(student: Path, change: Callable[[Tensors, str], object], word: str, key: str) -> None:
    tensors = load_file(student / WEIGHTS)
    change(tensors, key)
    save_file(tensors, student / WEIGHTS)
    message = refused(student)
    assert key in message
    assert word in message


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_weights(student: Path, share: float) -> None:
    whole = (student / WEIGHTS).read_bytes()
    (student / WEIGHTS).write_bytes(whole[: int(share * len(whole))])
    assert WEIGHTS in refused(student)


@pytest.mark.parametrize("name", ["config.json", WEIGHTS])
def test_a_missing_file_is_named(student: Path, name: str) -> None:
    (student / name).unlink()
    assert name in refused(student)
    assert str(student) in refused(student)


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_no_folder_at_all(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / name) in refused(tmp_path / name)


@pytest.mark.parametrize("text", [b"", b"{", b'{"a": 1,}', b"\xff\xfe", b"[]", b"3", b"{}", b'{"model_type": "bert"}'])
def test_a_broken_config_is_named(student: Path, text: bytes) -> None:
    (student / "config.json").write_bytes(text)
    assert "config.json" in refused(student)


@pytest.mark.parametrize("name", ["GoneForSequenceClassification", "Tensor", "AutoModel"])
def test_an_unknown_model_class_is_named(student: Path, name: str) -> None:
    edit_config(student, lambda config: config.update(architectures=[name]))
    assert name in refused(student)


@pytest.mark.parametrize("version", [0, 2, None, "1"])
def test_a_plan_of_another_version_is_refused(student: Path, version: object) -> None:
    edit_config(student, lambda config: config["lobert"].update(version=version))
    assert f"version {version}" in refused(student)


@pytest.mark.parametrize(
    "damage",
    [
        {"rank": [1, 1]},
        {"rank": [2, 3, 36, 0]},
        {"rank": [2, 3, 36, "x"]},
        {"shape": [3, 4]},
        {"stack": "s"},
        {"stack": "xy"},
        {"factorization": "tuker"},
        {"evaluation": "dense"},
        {"slices": [["bert.encoder.layer.9.attention.self.key", [0, 0]]]},
        {"slices": [["bert.encoder.layer.0.attention.self.key", [0, 9]]]},
        {"slices": [["bert.encoder.layer.0.attention.self.key", [0]]]},
        {"slices": []},
    ],
    ids=str,
)
def test_a_damaged_group_is_refused(student: Path, damage: dict[str, Any]) -> None:
    edit_config(student, lambda config: config["lobert"]["groups"][0].update(damage))
    refused(student)


@pytest.mark.parametrize(
    "plan", [5, "plan", [], {}, {"version": 1}, {"version": 1, "groups": 3}, {"version": 1, "groups": [None]}]
)
def test_a_damaged_plan_is_refused(student: Path, plan: object) -> None:
    edit_config(student, lambda config: config.update(lobert=plan))
    refused(student)
