"""Laws of multiple choice: an example is its options one after another, in every part of the pipeline."""

from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from cases import CONF, TINY, point, token_batch
from layouts import read_task, write_local
from test_architectures import KINDS, OWN, SIZES, at_full_rank
from torch import Tensor
from transformers import AutoConfig, AutoModelForMultipleChoice, PreTrainedModel

import lobert
from lobert.compression.calibration import calibrate
from lobert.compression.compress import compress_model
from lobert.compression.plan import make_plan
from lobert.compression.refit import refit_head
from lobert.data import TokenizedSplit, collate
from lobert.distill.knowledge import StoredKnowledge, forward, model_inputs, token_mask, write_knowledge
from lobert.encoders.brought import BroughtTeacher, load_brought
from lobert.encoders.roles import encoder_linears
from lobert.errors import LobertError
from lobert.evaluation import score_all
from lobert.launch.ledger import Values
from lobert.pipeline import run
from lobert.results.record import find_records

EXAMPLES, OPTIONS, LENGTH = 5, 4, 9


def chooser(kind: str = "bert", **sizes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(sizes or TINY), num_labels=OPTIONS)
    model = AutoModelForMultipleChoice.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model.eval()


def choices() -> dict[str, Tensor]:
    """A batch `[examples, options, length]`."""
    flat = token_batch(EXAMPLES * OPTIONS, LENGTH)
    shaped = {name: tensor.view(EXAMPLES, OPTIONS, LENGTH) for name, tensor in flat.items()}
    return {**shaped, "index": torch.arange(EXAMPLES)}


def test_collate_puts_options_side_by_side() -> None:
    lengths = np.array([3, 5, 4, 2, 6, 1])
    split = TokenizedSplit(
        "train", np.arange(21, dtype=np.int32), None, np.cumsum([0, *lengths]), np.array([1, 0, 2]), "x", options=2
    )
    assert len(split) == 3
    assert split.lengths().tolist() == [5, 4, 6]
    batch = collate([split[2], split[0]], pad_token_id=99)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 2, 6)
    assert batch["input_ids"][0].tolist() == [[14, 15, 16, 17, 18, 19], [20, 99, 99, 99, 99, 99]]
    assert batch["attention_mask"].sum(-1).tolist() == [[6, 1], [3, 5]]
    assert (batch["index"].tolist(), batch["labels"].tolist()) == ([2, 0], [2, 1])


def test_outputs_have_the_options_as_an_axis(tmp_path: Path) -> None:
    model, batch = chooser(), choices()
    outputs = forward(model, batch)
    assert outputs.logits.shape == (EXAMPLES, OPTIONS)
    assert outputs.cls.shape == (EXAMPLES, OPTIONS, TINY["num_hidden_layers"] + 1, TINY["hidden_size"])
    one = {name: tensor[2, 3][None] for name, tensor in model_inputs(model, batch).items()}
    with torch.no_grad():
        states = model.bert(**one, output_hidden_states=True).hidden_states
    torch.testing.assert_close(outputs.cls[2, 3], torch.cat([state[:, 0] for state in states]))
    write_knowledge(model, [batch], EXAMPLES, tmp_path, "train")
    stored = StoredKnowledge(tmp_path, "train")(batch)
    torch.testing.assert_close(stored.logits, outputs.logits, rtol=2e-3, atol=2e-3)
    torch.testing.assert_close(stored.cls, outputs.cls, rtol=2e-3, atol=2e-3)


def test_input_moments_are_those_of_all_options() -> None:
    model, batch = chooser(), choices()
    flat = {name: tensor.flatten(0, 1) for name, tensor in model_inputs(model, batch).items()}
    assert torch.equal(token_mask(batch), flat["attention_mask"].bool())
    paths = encoder_linears(model)
    found = calibrate(model, paths, [batch], gradients=True)
    plain = calibrate(model.bert, [path.removeprefix("bert.") for path in paths], [flat], gradients=False)
    for path in plain.mean:
        torch.testing.assert_close(found.mean[f"bert.{path}"], plain.mean[path])
        torch.testing.assert_close(found.second_moment[f"bert.{path}"], plain.second_moment[path])


def test_gradient_moments_are_the_same_in_any_batches() -> None:
    """Every example counts alike, all its options together; the random signs follow the order of the examples."""
    model, batch = chooser(), choices()
    paths = encoder_linears(model)
    parts = [{name: tensor[i : i + 1] for name, tensor in batch.items()} for i in range(EXAMPLES)]
    whole, apart = (calibrate(model, paths, batches, gradients=True) for batches in ([batch], parts))
    for path in paths:
        torch.testing.assert_close(whole.gradient[path], apart.gradient[path], rtol=1e-3, atol=1e-6)
        torch.testing.assert_close(whole.fisher[path], apart.fisher[path], rtol=1e-3, atol=1e-6)
    assert whole.gradient[paths[-1]].trace().item() == pytest.approx(1, rel=1e-4)  # of length one at the last linear


@pytest.mark.parametrize("kind", KINDS)
def test_choosers_of_every_architecture(kind: str) -> None:
    """The roles of the head are where a multiple-choice model has them: at full rank nothing changes."""
    model, batch = chooser(kind, **SIZES, **OWN.get(kind, {})), choices()
    wanted = forward(model, batch).logits.detach()
    statistics = calibrate(model, encoder_linears(model), [batch], gradients=True)
    assert statistics.gradient.keys() == set(encoder_linears(model))
    assert refit_head(model, [(batch, wanted)]) < 1e-10
    plans = make_plan(model, point(("all_svd", "pooler_svd", "embeddings_svd")))
    compress_model(model, at_full_rank(plans))
    torch.testing.assert_close(forward(model, batch).logits, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("order", ["parallel", "sequential"])
def test_a_chooser_is_compressed_refitted_saved_and_loaded(order: str, tmp_path: Path) -> None:
    model, batch = chooser(), choices()
    wanted = forward(model, batch).logits.detach()
    lobert.compress(model, "all_svd", keep=0.5, data=[batch], order=order)  # type: ignore[arg-type]
    before = (forward(model, batch).logits - wanted).square().mean().item()
    assert refit_head(model, [(batch, wanted)]) <= before + 1e-9
    model.save_pretrained(tmp_path / "small")
    torch.testing.assert_close(forward(lobert.load(tmp_path / "small"), batch).logits, forward(model, batch).logits)
    lobert.merge(model).save_pretrained(tmp_path / "dense")
    dense = AutoModelForMultipleChoice.from_pretrained(tmp_path / "dense").eval()
    torch.testing.assert_close(forward(dense, batch).logits, forward(model, batch).logits, rtol=1e-4, atol=1e-4)


def test_scores_are_told_together_and_apart() -> None:
    task = read_task("RACE")
    logits = {"validation_middle": np.eye(4)[[0, 1]], "validation_high": np.eye(4)[[3, 3, 3]]}
    labels = {"validation_middle": np.array([0, 1]), "validation_high": np.array([3, 0, 0])}
    found = score_all(task, logits, labels)
    assert found == {"accuracy": pytest.approx(0.6), "accuracy_middle": 1.0, "accuracy_high": pytest.approx(1 / 3)}
    assert next(iter(found)) == task.main_metric


def run_race(output: Path, *settings: str) -> Values:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return run(hydra.compose("config", [*settings, f"output_dir={output}"])).values


def test_race_goes_through_the_whole_pipeline(tmp_path: Path) -> None:
    write_local(read_task("RACE"), tmp_path)
    settings = ["task=RACE", "encoder=tiny", "trainer=cpu", "task.max_length=48", f"task.data_dir={tmp_path}"]
    settings += ["decomp=[tucker_layer,ffn_svd]", "student.batch_size=8"]
    score = run_race(tmp_path / "out", *settings, "stage=predict")
    (record,), _ = find_records(tmp_path / "out")
    assert record.score == score
    assert set(record.metrics) == {"accuracy", "accuracy_middle", "accuracy_high"}
    assert type(lobert.load(record.student_path)).__name__ == "BertForMultipleChoice"
    cls = np.load(next((tmp_path / "out").rglob("train.cls.npy")), mmap_mode="r")
    assert cls.shape == (12, 4, 3, 32)
    for level in ("middle", "high"):
        for who in ("student", "teacher"):
            path = Path(record.student_path).parent / "predictions" / who / f"RACE-{level}.tsv"
            head, *rows = (line.split("\t") for line in path.read_text().splitlines())
            assert head == ["index", "prediction"]
            assert [row[0] for row in rows] == [str(i) for i in range(6)]
            assert {row[1] for row in rows} <= {"A", "B", "C", "D"}

    teacher = next((tmp_path / "out" / "artefacts" / "teacher").iterdir())
    brought = [*settings, f"teacher.path={teacher}", "teacher.force=true", "stage=teacher"]
    assert run_race(tmp_path / "brought", *brought) == pytest.approx(record.teacher_score)
    with pytest.raises(LobertError, match="one of several options"):
        run_race(tmp_path / "brought", *brought, "teacher.labels=[A,B,C,D]")
    with pytest.raises(LobertError, match="another task"):
        load_brought(Path(record.student_path), BroughtTeacher(record.student_path), read_task("RTE"), None)
