"""The whole run on the tiny encoder: same numbers twice, artefacts found, resume, two processes, sweeps, mistakes."""

import csv
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from commands import forked
from safetensors.torch import load_file

import lobert
from lobert.errors import LobertError
from lobert.launch.ledger import Values
from lobert.pipeline import run
from lobert.results.record import Record, find_records
from lobert.signals import Terminated
from lobert.storage.artefacts import RECIPE_FILE
from lobert.training.finetune import FineTuner
from lobert.training.trainer import fit

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "task=demo", "task.train_examples=96", "task.dev_examples=96", "task.max_length=24", "encoder=tiny", "trainer=cpu",
    "student.epochs=2", "teacher.epochs=2", "latency_batch_size=4",
]  # fmt: skip


def run_here(output: Path, *overrides: str) -> Values:
    """One run in this process; what it returns to a search."""
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = hydra.compose("config", [*SMALL, f"output_dir={output}", *overrides])
    return run(cfg).values


def run_train(output: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """`python train.py` in a process of its own."""
    flags = [word for word in overrides if word.startswith("-")]
    settings = [*SMALL, f"output_dir={output}", *(word for word in overrides if word not in flags)]
    command = [sys.executable, str(ROOT / "train.py"), *flags, *settings]
    return subprocess.run(command, capture_output=True, text=True, cwd=output, timeout=300, stdin=subprocess.DEVNULL)


def the_record(output: Path) -> Record:
    records, broken = find_records(output)
    assert len(records) == 1
    assert not broken
    return records[0]


def curve(path: Path, name: str) -> list[float]:
    with path.open() as file:
        return [float(row["value"]) for row in csv.DictReader(file) if row["name"] == name]


def artefacts(output: Path, kind: str) -> list[Path]:
    return sorted(path for path in (output / "artefacts" / kind).iterdir() if path.is_dir())


NUMBERS = ("score", "teacher_score", "zero_shot_metrics", "metrics", "parameters", "keep_model", "error", "groups")


def test_same_seed_same_numbers(tmp_path: Path) -> None:
    outputs = [tmp_path / "a", tmp_path / "b"]
    scores = [run_here(output) for output in outputs]
    first, second = (the_record(output) for output in outputs)
    assert scores[0] == scores[1] == first.score
    assert [getattr(first, name) for name in NUMBERS] == [getattr(second, name) for name in NUMBERS]
    files = [next((output / "runs").glob("*/student")) for output in outputs]
    losses = [curve(folder / "metrics.csv", "train/loss") for folder in files]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6


def test_stages_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_here(tmp_path, "stage=teacher") is not None
    assert [len(artefacts(tmp_path, "teacher")), (tmp_path / "runs").exists()] == [1, False]
    assert run_here(tmp_path, "stage=knowledge") is None
    assert len(artefacts(tmp_path, "knowledge")) == 1
    run_here(tmp_path, "stage=student")
    assert not find_records(tmp_path)[0]
    score = run_here(tmp_path)
    record = the_record(tmp_path)
    assert set(record.found) >= {"teacher", "student"}

    def no_training(*args: Any) -> None:
        raise AssertionError("everything is there: nothing is to be trained")

    monkeypatch.setattr(FineTuner, "training_step", no_training)
    assert run_here(tmp_path) == score


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run of the usual settings, and of those that were changed before."""
    output = tmp_path_factory.mktemp("usual")
    run_here(output)
    return output


@pytest.mark.parametrize(
    ("override", "new_teacher"),
    [("teacher.learning_rate=3e-4", True), ("task.max_length=16", True), ("encoder.dropout=0.0", True),
     ("seed=1", False), ("kd.beta=3", False), ("decomp.keep=0.5", False), ("decomp.init=pretrained", False)],
)  # fmt: skip
def test_a_changed_setting_makes_a_new_artefact(usual: Path, override: str, new_teacher: bool) -> None:
    teachers, records = len(artefacts(usual, "teacher")), len(find_records(usual)[0])
    run_here(usual, override)
    assert len(artefacts(usual, "teacher")) == teachers + new_teacher
    assert len(find_records(usual)[0]) == records + 1
    for teacher in artefacts(usual, "teacher"):
        assert json.loads((teacher / RECIPE_FILE).read_text())


CALIBRATED = ["decomp=all_svd", "decomp.keep=0.5", "decomp.calibration_examples=16", "student.epochs=0"]


def test_the_engine_compresses_without_training(tmp_path: Path) -> None:
    """Calibration is an artefact of its own, shared by every student that needs the same statistics."""
    run_here(tmp_path, *CALIBRATED, "decomp.objective=loss", "decomp.allocate=greedy", "decomp.refit_head=true")
    record = the_record(tmp_path)
    assert record.metrics == record.zero_shot_metrics
    assert 0.49 < record.keep_targets <= 0.5
    assert (record.objective, record.allocate, record.refit_head, record.kd) == ("loss", "greedy", True, "untrained")
    assert record.order == "sequential"
    assert len(artefacts(tmp_path, "spectra")) == 1
    assert (record.agreement, record.divergence) == (record.zero_shot_agreement, record.zero_shot_divergence)
    assert not (tmp_path / "artefacts" / "knowledge").exists()
    run_here(tmp_path, *CALIBRATED, "decomp.objective=loss")
    assert len(artefacts(tmp_path, "calibration")) == 1
    run_here(tmp_path, *CALIBRATED, "decomp.objective=fisher", "decomp.scope=encoder")
    run_here(tmp_path, *CALIBRATED, "decomp.objective=activations")
    assert len(artefacts(tmp_path, "calibration")) == 3
    assert len(find_records(tmp_path)[0]) == 4
    assert {record.epochs for record in find_records(tmp_path)[0]} == {0}


def test_sizes_of_one_sweep_share_their_spectra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_here(tmp_path, *CALIBRATED, "decomp.objective=loss")
    monkeypatch.setattr("lobert.stages.offers.offer_sizes", None)  # nobody computes them again
    run_here(tmp_path, *CALIBRATED, "decomp.objective=loss", "decomp.keep=0.3")
    assert sorted(round(record.keep_targets or 0, 1) for record in find_records(tmp_path)[0]) == [0.3, 0.5]
    assert len(artefacts(tmp_path, "spectra")) == 1


def test_a_budget_of_multiply_adds_is_another_student(tmp_path: Path) -> None:
    """Also where the ranks are the same: the record says what was asked."""
    settings = ["decomp=[tucker_layer,ffn_svd]", "decomp.keep=0.4", "decomp.scope=encoder", "student.epochs=0"]
    run_here(tmp_path, *settings, "decomp.budget=macs", "decomp.allocate=greedy")
    record = the_record(tmp_path)
    assert (record.budget, record.scope, record.allocate) == ("macs", "encoder", "greedy")
    assert 0.39 < record.macs_per_token / record.teacher_macs_per_token <= 0.4
    for budget in ("parameters", "macs"):
        run_here(tmp_path, "decomp=svd", "decomp.keep=0.5", "student.epochs=0", f"decomp.budget={budget}")
    same = [record for record in find_records(tmp_path)[0] if record.decomp == "svd"]
    assert sorted(record.budget for record in same) == ["macs", "parameters"]
    assert same[0].groups == same[1].groups


@pytest.mark.parametrize(
    "overrides",
    [["decomp=none", "kd=none"], ["decomp=all_pivoted_svd", "decomp.objective=weights"],
     ["decomp=[tucker_4d,ffn_svd]", "kd=kd"], ["decomp=svd", "kd=pkd", "student.layers=1"],
     ["knowledge=live", "student.accumulate=2"]],
)  # fmt: skip
def test_kinds_of_students(tmp_path: Path, overrides: list[str]) -> None:
    run_here(tmp_path, *overrides)
    record = the_record(tmp_path)
    model = lobert.load(record.student_path)
    assert sum(parameter.numel() for parameter in model.parameters()) == record.parameters
    assert record.student_layers == (1 if "student.layers=1" in overrides else 2)
    dense = "decomp=none" in overrides
    assert (record.parameters == record.teacher_parameters) == dense
    terms = {"kd=none": {"labels"}, "kd=kd": {"labels", "soft_targets"}}
    expected = next((terms[o] for o in overrides if o in terms), {"labels", "soft_targets", "patience"})
    curves = Path(record.student_path) / "metrics.csv"
    assert {name for name in ("labels", "soft_targets", "patience") if curve(curves, f"train/{name}")} == expected


@pytest.mark.parametrize("gain", [-0.01, 0.0, 0.01])
def test_a_student_that_every_epoch_makes_worse_stays_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gain: float
) -> None:
    """Where an epoch is as good it counts: it may be closer to the teacher."""
    monkeypatch.setattr("lobert.stages.scores.score_splits", lambda *_: {"accuracy": 0.996})

    def scored(*args: Any) -> float:
        fit(*args)
        return torch.tensor(0.996 + gain).item()  # as Lightning has it

    run_here(tmp_path, "stage=student", "student.epochs=0")
    (first,) = tmp_path.rglob("student/*.safetensors")
    monkeypatch.setattr("lobert.training.trainer.fit", scored)
    run_here(tmp_path, "stage=student")
    (second,) = set(tmp_path.rglob("student/*.safetensors")) - {first}
    untrained, trained = load_file(first), load_file(second)
    assert untrained.keys() == trained.keys()
    assert all(torch.equal(untrained[name], trained[name]) for name in trained) == (gain < 0)


def test_uncompressed_student_scores_as_its_teacher_before_training(tmp_path: Path) -> None:
    run_here(tmp_path, "decomp=none")
    record = the_record(tmp_path)
    assert record.zero_shot_metrics == record.teacher_metrics
    assert (record.zero_shot_agreement, record.zero_shot_divergence) == (1, 0)


STOPS = [  # stage, batches per step, where the signal strikes: in this call of this method
    ("teacher", 1, "training_step", 2),
    ("teacher", 1, "validation_step", 0),
    ("teacher", 2, "training_step", 0),
    ("teacher", 2, "training_step", 3),
    ("teacher", 2, "training_step", 5),  # the last of an epoch: stops in the validation
    ("teacher", 2, "validation_step", 3),  # the last of all: too late to stop between steps
    ("student", 2, "training_step", 8),
    ("student", 2, "validation_step", 2),
]


def strike(monkeypatch: pytest.MonkeyPatch, step: str, number: int, *signals: int) -> list[int]:
    """Send this process signals while `step` is called for the time `number`; the list gets every global step."""
    called: list[int] = []
    original = getattr(FineTuner, step)

    def struck(self: FineTuner, *args: Any) -> Any:
        called.append(self.global_step)
        if len(called) == number + 1:
            for signum in signals:
                os.kill(os.getpid(), signum)
        return original(self, *args)

    monkeypatch.setattr(FineTuner, step, struck)
    return called


TWELVE = ["task.train_examples=96", "teacher.batch_size=16", "student.batch_size=16", "eval_batch_size=60"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Path]:
    """The output of a whole run, by stage and number of batches per step."""
    outputs = {}
    for stage, accumulate in (("teacher", 1), ("teacher", 2), ("student", 2)):
        output = outputs[stage, accumulate] = tmp_path_factory.mktemp(f"{stage}{accumulate}")
        run_here(output, *TWELVE, f"stage={stage}", f"{stage}.accumulate={accumulate}")
    return outputs


@pytest.mark.parametrize(("stage", "accumulate", "step", "number"), STOPS)
def test_a_run_that_a_signal_stops_resumes_to_the_same_result(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: dict[tuple[str, int], Path],
    stage: str,
    accumulate: int,
    step: str,
    number: int,
) -> None:
    overrides = [*TWELVE, f"stage={stage}", f"{stage}.accumulate={accumulate}"]
    signum = signal.SIGINT if number % 2 else signal.SIGTERM
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    if stage == "student":
        run_here(tmp_path, *TWELVE, "stage=knowledge", "student.accumulate=2")
    with monkeypatch.context() as patch:
        strike(patch, step, number, signum)
        with pytest.raises(Terminated if signum == signal.SIGTERM else KeyboardInterrupt):
            run_here(tmp_path, *overrides)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    run_here(tmp_path, *overrides)
    pattern = "artefacts/teacher/*" if stage == "teacher" else "runs/*/student"
    first, second = (next(output.glob(pattern)) for output in (undisturbed[stage, accumulate], tmp_path))
    assert (first / "metrics.csv").read_text() == (second / "metrics.csv").read_text()
    assert (first / "lobert.json").read_text() == (second / "lobert.json").read_text()
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    assert not (second / "checkpoints").exists()


class Interrupted(Exception):
    pass


def test_a_second_ctrl_c_stops_at_once_and_saves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = strike(monkeypatch, "training_step", 1, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run_here(tmp_path, *TWELVE, "stage=teacher")
    assert steps == [0, 1]
    assert not list(tmp_path.rglob("last.ckpt"))


def test_what_a_killed_run_loses_is_bounded_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With no time between saves, a run that goes down goes on where it was, whatever the calendar says."""
    monkeypatch.setattr("lobert.training.resume.SAVE_EVERY", 0)
    monkeypatch.setattr("time.time", itertools.cycle([4e9, 0.0]).__next__)
    steps: list[int] = []
    step = FineTuner.training_step

    def failing_step(self: FineTuner, batch: Any, batch_idx: int) -> torch.Tensor:
        steps.append(self.global_step)
        if len(steps) in (4, 9):  # in the third batch of the first and the second epoch
            raise Interrupted
        return step(self, batch, batch_idx)

    monkeypatch.setattr(FineTuner, "training_step", failing_step)
    for _ in range(2):
        with pytest.raises(Interrupted):
            run_here(tmp_path, *TWELVE, "stage=teacher")
    run_here(tmp_path, *TWELVE, "stage=teacher")
    assert steps == [0, 1, 2, 3, 3, 4, 5, 6, 7, 7, 8, 9, 10, 11]


def test_without_resume_a_stage_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = FineTuner.training_step

    def failing_step(self: FineTuner, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step == 2:
            raise Interrupted
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(FineTuner, "training_step", failing_step)
        with pytest.raises(Interrupted):
            run_here(tmp_path, "stage=teacher")
    steps: list[int] = []
    monkeypatch.setattr(
        FineTuner, "training_step", lambda self, b, i: (steps.append(self.global_step), step(self, b, i))[1]
    )
    run_here(tmp_path, "stage=teacher", "resume=false")
    assert steps == list(range(6))


def test_diverging_training_says_so(tmp_path: Path) -> None:
    with pytest.raises(LobertError, match="learning rate"):
        run_here(tmp_path, "teacher.learning_rate=1e30", "teacher.gradient_clip=0")


def test_two_processes_follow_the_curve_of_one(tmp_path: Path) -> None:
    """Same seed and global batch; dropout off, as each process draws its own."""
    one, two = tmp_path / "one", tmp_path / "two"
    two.mkdir()
    settings = ["encoder.dropout=0.0", "task.train_examples=99", "task.max_length=64"]
    run_here(one, *settings)
    result = run_train(two, *settings, "trainer=ddp", "trainer.accelerator=cpu")
    assert result.returncode == 0, result.stderr
    for pattern in ("artefacts/teacher/*", "runs/*/student"):
        curves = [curve(next(folder.glob(pattern)) / "metrics.csv", "train/loss") for folder in (one, two)]
        assert len(curves[0]) >= 6
        assert curves[1] == pytest.approx(curves[0], rel=1e-4)
    assert the_record(two).score == pytest.approx(the_record(one).score, abs=0.02)


def test_a_sweep_shares_its_teacher_and_survives_a_failed_job(tmp_path: Path) -> None:
    result = run_train(tmp_path, "-m", "decomp=svd,falcon_layer", "decomp.keep=0.5,0.1")
    assert result.returncode == 2, result.stderr
    assert "keep=0.1 is too small for falcon" in result.stderr
    assert "Traceback" not in result.stderr
    records, _ = find_records(tmp_path)
    assert sorted((record.decomp, record.keep) for record in records) == [
        ("falcon_layer", 0.5),
        ("svd", 0.1),
        ("svd", 0.5),
    ]
    assert len(artefacts(tmp_path, "teacher")) == len(artefacts(tmp_path, "knowledge")) == 1
    assert not [path for path in tmp_path.rglob("*") if "=" in path.name]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [("decomp.kep=0.5", "did you mean 'decomp.keep'"), ("decomp=falcn", "falcon"), ("stage=studnt", "student"),
     ("decomp.keep=2", "above 0 and at most 1"), ("decomp.rank=1000", "from 1 to"), ("student.layers=9", "2 layers"),
     ("encoder.path=./nowhere", "no such folder"), ("decomp.attention.roles=[query,vale]", "value"),
     ("task.data_dir=/nowhere task=MRPC", "MRPC")],
)  # fmt: skip
def test_a_mistake_gets_one_sentence(tmp_path: Path, override: str, sentence: str) -> None:
    done = forked("train.py", *SMALL, f"output_dir={tmp_path}", *override.split(), folder=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert sentence in done.stderr
    assert not (tmp_path / "artefacts" / "teacher").exists()  # it was said before anything was trained


def test_knowledge_says_its_size_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        run_here(tmp_path, "stage=knowledge")
    said = [line for line in caplog.messages if line.startswith("knowledge: ")]
    assert said[0].endswith(" kB")
    folder = artefacts(tmp_path, "knowledge")[0]
    assert {path.name for path in folder.iterdir()} >= {"train.logits.npy", "train.cls.npy", "validation.cls.npy"}


def test_the_environment_does_not_leak_into_artefacts(tmp_path: Path) -> None:
    run_here(tmp_path)
    home = os.path.expanduser("~")
    recipes = "".join(path.read_text() for path in tmp_path.rglob(RECIPE_FILE))
    assert home not in recipes
    assert str(tmp_path) not in recipes
