"""What goes wrong around a run: kills, signals, full and read-only disks, damaged files, losses that are not finite."""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch

from lobert.curves import read_curves
from lobert.errors import LobertError
from lobert.launch.ledger import Values
from lobert.pipeline import run
from lobert.signals import StopRequest, Terminated, exit_code, kept_handlers, raise_on_sigterm
from lobert.storage import manifest
from lobert.training.curvefile import CurveFile
from lobert.training.finetune import FineTuner
from lobert.training.resume import damaged, sound_checkpoint

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "task=demo",
    "encoder=tiny",
    "trainer=cpu",
    "task.train_examples=48",
    "task.dev_examples=48",
    "teacher.epochs=2",
    "latency_batch_size=0",
]
CALIBRATED = [*SMALL, "decomp=svd", "decomp.keep=0.5", "decomp.objective=activations", "decomp.calibration_examples=16"]


def run_here(output: Path, *overrides: str) -> Values:
    """One run in this process, which has read no artefact yet."""
    manifest._sound.clear()
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        cfg = hydra.compose("config", [*overrides, f"output_dir={output}"])
    return run(cfg).values


def weights(output: Path, pattern: str = "runs/*/student") -> bytes:
    return next(output.glob(f"{pattern}/model.safetensors")).read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of an undisturbed run."""
    output = tmp_path_factory.mktemp("whole") / "out"
    run_here(output, *CALIBRATED)
    return output


# ---- kills and signals ----


def test_killed_runs_end_as_an_undisturbed_one() -> None:
    """The short version of `benchmarks/kill.py`."""
    command = [sys.executable, str(ROOT / "benchmarks" / "kill.py"), "--kills", "4", "--seed", "2"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=400, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 kills (kill, forked)" in done.stdout
    assert "all ended as the undisturbed run" in done.stdout


def started(output: Path, *overrides: str) -> subprocess.Popen[str]:
    """`train.py`, in the middle of a training that does not end soon."""
    settings = [*SMALL, "teacher.epochs=10000", "stage=teacher", f"output_dir={output}"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *settings, *overrides],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=output.parent,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not any(output.rglob("metrics.csv")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "training never began"
        time.sleep(0.05)
    return process


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def state(pid: int) -> str:
    """Letter of the state of a process, once it is dead or ten seconds have passed."""
    path, deadline, letter = Path(f"/proc/{pid}/stat"), time.monotonic() + 10, ""
    while letter != "Z" and time.monotonic() < deadline:
        try:
            letter = path.read_text().rpartition(")")[2].split()[0]
        except OSError:
            return "gone"
        time.sleep(0.05)
    return letter


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the second process in /proc")
def test_of_two_processes_one_hears_the_signal_and_both_stop_saved(tmp_path: Path) -> None:
    """The process that hears it has one beside it that loads data, and hears it, too."""
    process = started(tmp_path / "out", "trainer=ddp", "trainer.accelerator=cpu", "trainer.num_workers=1")
    (second,) = (child for child in children(process.pid) if children(child))
    for pid in (*children(second), second):
        os.kill(pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 143, said
    assert "interrupted: run the same command again to continue" in said
    assert "Traceback" not in said
    (last,) = tmp_path.glob("out/artefacts/teacher/*.partial/checkpoints/last.ckpt")
    assert not damaged(last)
    assert state(second) in ("gone", "Z")


def test_signals_become_exceptions_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with kept_handlers():
        raise_on_sigterm()
        with pytest.raises(Terminated) as caught:
            os.kill(os.getpid(), signal.SIGTERM)
        assert (exit_code(caught.value), exit_code(KeyboardInterrupt())) == (143, 130)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for install in (raise_on_sigterm, StopRequest().listen):
            install()  # as under nohup: what is ignored stays so
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_request_waits_and_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    request = StopRequest()
    with kept_handlers():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        request.listen()
        request.honour()
        for signum in (signal.SIGTERM, signal.SIGTERM):  # some managers send it twice
            os.kill(os.getpid(), signum)
        assert capfd.readouterr().err.count("stopping after this step: saving") == 1
        with pytest.raises(Terminated):
            request.honour()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


# ---- going on ----


class Interrupted(Exception):
    pass


def interrupt(output: Path, monkeypatch: pytest.MonkeyPatch, step: int, *overrides: str) -> None:
    """Go down in a training step, saved as often as can be."""
    original = FineTuner.training_step

    def failing(self: FineTuner, batch: Any, batch_idx: int) -> torch.Tensor:
        if self.global_step == step:
            raise Interrupted
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr("lobert.training.resume.SAVE_EVERY", 0)
        patch.setattr(FineTuner, "training_step", failing)
        with pytest.raises(Interrupted):
            run_here(output, *overrides)


def flip(path: Path, place: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 16
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [("last", None), ("last", flip), ("last", cut), ("best", flip), ("last", lambda p: os.truncate(p, 0))],
)
def test_moved_or_damaged_checkpoints_do_not_change_the_result(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    whole: Path,
    name: str,
    spoil: Callable[[Path], None] | None,
) -> None:
    """The first epoch is the best one here, so a run that forgets it ends with other weights."""
    interrupt(tmp_path / "before", monkeypatch, 3, *CALIBRATED, "stage=teacher")
    output = (tmp_path / "before").rename(tmp_path / "moved")
    (path,) = output.rglob(f"{name}.ckpt")
    if spoil:
        spoil(path)
    run_here(output, *CALIBRATED, "stage=teacher")
    assert weights(output, "artefacts/teacher/*") == weights(whole, "artefacts/teacher/*")
    said = [message for message in caplog.messages if "starts anew" in message]
    assert [f"{name}.ckpt.broken-1" in message for message in said] == [True] * bool(spoil)


def test_every_tensor_of_a_checkpoint_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    tensors = {"a": torch.arange(50.0), "b": torch.arange(500)}
    torch.save(tensors, path)
    assert sound_checkpoint(path) == path
    assert sound_checkpoint(tmp_path / "none.ckpt") is None
    content = path.read_bytes()
    for tensor in tensors.values():
        place = content.index(tensor.numpy().tobytes()) + 44
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert damaged(path)


def test_a_curve_goes_on_after_a_line_that_was_cut(tmp_path: Path) -> None:
    """And a run that begins with the scores of a step keeps the losses of that step."""
    CurveFile(tmp_path).log_metrics({"loss": 1.0, "epoch": 0}, 1)
    curve = CurveFile(tmp_path)
    for step in (1, 2, 3):
        curve.log_metrics({"loss": float(step), "epoch": 0}, step)
    curve.log_metrics({"val": 0.5, "epoch": 0}, 3)
    curve.log_metrics({"loss": 4.0, "epoch": 1}, 4)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("5,1,lo")
    CurveFile(tmp_path).log_metrics({"val": 0.75, "epoch": 0}, 3)
    rows = [(row["step"], row["name"], row["value"]) for row in read_curves(tmp_path / "metrics.csv")]
    assert rows == [("1", "loss", "1.0"), ("2", "loss", "2.0"), ("3", "loss", "3.0"), ("3", "val", "0.75")]


# ---- damage ----


def test_damage_anywhere_is_found_and_mended_before_numbers_are_made(
    tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out"
    shutil.copytree(whole, output)
    kinds = sorted(path for path in (output / "artefacts").iterdir())
    files = [max(next(kind.iterdir()).rglob("*"), key=lambda p: p.stat().st_size * p.is_file()) for kind in kinds]
    files.append(next(output.glob("runs/*/student/model.safetensors")))
    for number, path in enumerate(files):
        flip(path, 0.3 + number / 20)
    next(output.glob("runs/*/result.json")).unlink()
    score = run_here(output, *CALIBRATED)
    assert score == run_here(whole, *CALIBRATED)
    assert weights(output) == weights(whole)
    said = [message for message in caplog.messages if "is damaged" in message]
    assert len(said) == len(files) >= 6
    assert len(list(output.rglob("*.broken-1"))) == len(files)


# ---- disks ----


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: as a full disk, but in this process alone."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files_of(output: Path) -> dict[str, bytes]:
    """Contents of the models, knowledge and statistics of an output."""
    found = [*output.glob("artefacts/*/*/*"), *output.glob("runs/*/student/*")]
    return {str(path.relative_to(output)): path.read_bytes() for path in found if path.name != "recipe.json"}


@pytest.mark.parametrize("size", [3_000, 40_000, 120_000, 400_000])
def test_a_write_that_fails_is_one_sentence_and_costs_nothing(tmp_path: Path, whole: Path, size: int) -> None:
    """In tokens, encoder, teacher's weights, checkpoints."""
    with file_limit(size), pytest.raises(LobertError, match=r"cannot write '.*': a file would be larger") as caught:
        run_here(tmp_path, *CALIBRATED)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    run_here(tmp_path, *CALIBRATED)
    assert files_of(tmp_path) == files_of(whole)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A disk of its own at `folder`; skips where this user may not mount one."""
    folder.mkdir()
    if mount(folder, f"size={size}"):
        pytest.skip("may not mount a disk")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def mount(folder: Path, options: str) -> int:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode if shutil.which("mount") else 1


@pytest.mark.parametrize("size", ["60k", "700k", "1400k"])
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_with_room(tmp_path: Path, whole: Path, size: str) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, size):
        with pytest.raises(LobertError, match="its disk is full; free some space"):
            run_here(disk / "out", *CALIBRATED)
        assert mount(disk, "remount,size=64m") == 0
        run_here(disk / "out", *CALIBRATED)
        assert files_of(disk / "out") == files_of(whole)


def test_a_read_only_disk_serves_what_is_there_and_refuses_what_is_not(tmp_path: Path, whole: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk, "64m"):
        shutil.copytree(whole, disk / "out")
        assert mount(disk, "remount,ro") == 0
        assert run_here(disk / "out", *CALIBRATED) == run_here(whole, *CALIBRATED)
        for change in (["seed=3"], ["teacher.seed=3"]):
            with pytest.raises(LobertError, match=rf"cannot use '{disk}.*read-only; choose another place"):
                run_here(disk / "out", *CALIBRATED, *change)


# ---- losses that are not finite ----

ONE_STEP = ["task.train_examples=8", "teacher.epochs=1"]
DIVERGING = [
    (
        ["teacher.learning_rate=1e30", "teacher.gradient_clip=0"],
        [r"at step \d", r"1e\+30", "gradient_clip=0", "labels "],
    ),
    (["teacher.learning_rate=1e38"], [r"at step \d", r"1e\+38", "without finite weights"]),
    ([*ONE_STEP, "teacher.learning_rate=1e38"], ["answers on dev are not finite after step 1", r"1e\+38"]),
    (["teacher.learning_rate=1e30", "trainer.precision=bf16-mixed"], ["bf16-mixed cannot hold", "32-true"]),
]


@pytest.mark.parametrize(("overrides", "said"), DIVERGING)
def test_a_loss_that_is_not_finite_stops_with_step_and_cause(
    tmp_path: Path, overrides: list[str], said: list[str]
) -> None:
    for _ in range(2):  # also when the same is tried again
        with pytest.raises(LobertError) as caught:
            run_here(tmp_path, *SMALL, *overrides, "stage=teacher")
        assert [word for word in said if not re.search(word, str(caught.value))] == []
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.glob("artefacts/teacher/*[!l]"))
    run_here(tmp_path, *SMALL, *overrides, "teacher.learning_rate=1e-3", "stage=teacher")
    assert len(list(tmp_path.glob("artefacts/teacher/*[!l]"))) == 1


def test_the_broken_term_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "lobert.training.student.patience_loss", lambda *args: torch.tensor(float("inf"), requires_grad=True)
    )
    with pytest.raises(LobertError, match=r"not finite at step 0 \(patience inf\).*patience 100\)"):
        run_here(tmp_path, *CALIBRATED, "kd.beta=100")
