"""Laws of launching: a job's key, its entry and its lock, the share of a machine, the jobs of a sweep, its status."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import pytest
from cases import CONF, conf_names
from filelock import FileLock
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig
from test_results import RECORD

from lobert.launch.attempt import Attempt
from lobert.launch.ending import sweep_records
from lobert.launch.ledger import Entry, Ledger, Outcome, job_key, open_entry
from lobert.launch.slots import Machine, Sharing, plan_sharing, shared
from lobert.launch.status import find_status, render_status
from lobert.launch.sweep import SWEEP_FILE, Sweep, find_sweeps, read_command
from lobert.results.record import RECORD_FILE, write_record
from lobert.status import ALL_DONE, MISTAKE, UNFINISHED, main
from lobert.storage.artefacts import lock_path

SETTINGS: dict[str, Any] = {
    "task": {"name": "MRPC", "data_dir": None},
    "seed": 0,
    "stage": "evaluate",
    "output_dir": "a",
}
ENTRY = open_entry(SETTINGS, ["seed=0"])


# ---- keys ----


@pytest.mark.parametrize(
    ("change", "same"),
    [({"seed": 1}, False), ({"stage": "teacher"}, False), ({"task": {"name": "RTE"}}, False),
     ({"output_dir": "b"}, True), ({"logger": {"wandb": 1}}, True), ({"jobs_at_once": 3}, True),
     ({"optimize": ["score"]}, True)],
)  # fmt: skip
def test_a_job_is_named_by_what_its_numbers_follow_from(change: dict[str, Any], same: bool) -> None:
    assert (job_key(SETTINGS | change) == job_key(SETTINGS)) is same


@pytest.mark.parametrize(
    "change",
    [lambda path: path.write_text("other"), lambda path: os.utime(path, ns=(0, 0)), lambda path: path.unlink()],
)
@pytest.mark.parametrize("named", ["file", "folder", "data_dir", "environment"])
def test_a_job_is_another_when_a_file_it_names_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], object], named: str
) -> None:
    path = tmp_path / "MRPC" / "train.tsv"
    path.parent.mkdir()
    path.write_text("text")
    task: dict[str, Any] = {"data_dir": None, "local": {"folder": "MRPC"}}
    match named:
        case "file":
            task["own"] = {"train": str(path)}
        case "folder":
            task["own"] = {"folder": str(path.parent)}
        case "data_dir":
            task["data_dir"] = str(tmp_path)
        case "environment":
            monkeypatch.setenv("LOBERT_DATA_DIR", str(tmp_path))
    before = job_key({"task": task})
    assert job_key({"task": task}) == before
    change(path)
    assert job_key({"task": task}) != before


# ---- the ledger ----


@pytest.mark.parametrize("values", [None, 0.5, (0.5, 12.0)])
def test_what_a_job_returned_is_read_back(tmp_path: Path, values: Any) -> None:
    ledger = Ledger(tmp_path)
    ledger.finish(ENTRY, Outcome(values, tmp_path / "runs" / "one"))
    entry = ledger.read(ENTRY.key)
    assert entry is not None
    assert (entry.state, entry.returned, entry.folder) == ("done", values, "runs/one")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", json.dumps({**vars(ENTRY), "schema": 99}), "\0"])
def test_an_entry_that_cannot_be_read_counts_as_none(tmp_path: Path, text: str) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(ENTRY)
    ledger.path(ENTRY.key).write_text(text)
    assert ledger.read(ENTRY.key) is None


@pytest.mark.parametrize("state", ["waiting", "running"])
def test_a_job_runs_as_long_as_its_lock_is_held(tmp_path: Path, state: Any) -> None:
    ledger = Ledger(tmp_path)
    with ledger.claimed(ENTRY):
        ledger.write(replace(ENTRY, state=state))
        assert ledger.read(ENTRY.key).state == state  # type: ignore[union-attr]
    assert ledger.read(ENTRY.key).state == "interrupted"  # type: ignore[union-attr]
    assert not lock_path(ledger.path(ENTRY.key)).exists()


def test_a_lock_that_a_dead_process_left_is_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write(replace(ENTRY, state="running"))
    child = os.fork()
    if child == 0:
        FileLock(lock_path(ledger.path(ENTRY.key))).acquire()
        os._exit(9)
    os.waitpid(child, 0)
    assert lock_path(ledger.path(ENTRY.key)).exists()
    assert ledger.read(ENTRY.key).state == "interrupted"  # type: ignore[union-attr]


# ---- one job ----


def attempt(outputs: Path, run: Any) -> Attempt:
    return Attempt(run, DictConfig({}), Ledger(outputs), ENTRY, None)


def fail(error: BaseException) -> Callable[[Any], Outcome]:
    def run(cfg: Any) -> Outcome:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "state"),
    [(ValueError("a bug"), "failed"), (SystemExit(1), "failed"), (KeyboardInterrupt(), "interrupted")],
    ids=["error", "exit", "interrupt"],
)
def test_how_a_job_ends_is_written_down(tmp_path: Path, error: BaseException, state: str) -> None:
    with pytest.raises(type(error)):
        attempt(tmp_path, fail(error)).go()
    assert Ledger(tmp_path).read(ENTRY.key).state == state  # type: ignore[union-attr]
    assert attempt(tmp_path, lambda cfg: Outcome(0.25, None)).go() == 0.25
    assert Ledger(tmp_path).read(ENTRY.key).state == "done"  # type: ignore[union-attr]


# ---- shares of a machine ----

SHARES = [
    ("BasicLauncher", None, (8, 2), None, None),
    ("SlurmLauncher", None, (8, 2), None, None),
    ("JoblibLauncher", -1, (8, 0), None, Sharing(4, 2)),
    ("JoblibLauncher", 2, (8, 0), None, Sharing(2, 4)),
    ("JoblibLauncher", 8, (8, 2), None, Sharing(2, 4, ("0", "1"))),
    ("JoblibLauncher", 1, (8, 2), None, Sharing(1, 8, ("0",))),
    ("JoblibLauncher", 8, (8, 2), 4, Sharing(4, 2, ("0", "1", "0", "1"))),
    ("LocalLauncher", None, (1, 0), None, Sharing(1, 1)),
    ("LocalLauncher", None, (2, 0), 2, Sharing(2, 1)),
    ("LocalLauncher", None, (16, 8), None, Sharing(8, 2, tuple("01234567"))),
]


@pytest.mark.parametrize(("launcher", "started", "machine", "wanted", "expected"), SHARES)
def test_jobs_share_a_machine(
    launcher: str, started: int | None, machine: tuple[int, int], wanted: int | None, expected: Sharing | None
) -> None:
    cores, gpus = machine
    asked = {"_target_": f"hydra_plugins.{launcher}", "n_jobs": started}
    assert plan_sharing(asked, Machine(cores, tuple(map(str, range(gpus)))), wanted) == expected


def hold(folder: Path, start: float) -> None:
    """Take a share for a moment, and write down from when to when."""
    with shared(Sharing(2, 1)):
        begun = time.monotonic() - start
        time.sleep(0.2)
        (folder / f"{os.getpid()}.json").write_text(json.dumps([begun, time.monotonic() - start]))


def test_no_more_jobs_than_shares_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    start, children = time.monotonic(), []
    for _ in range(6):
        if (child := os.fork()) == 0:
            hold(tmp_path, start)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 6
    spans = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert len(spans) == 6
    assert max(sum(begun <= at < ended for begun, ended in spans) for at, _ in spans) <= 2


# ---- sweeps ----


def command(*overrides: str) -> Sweep:
    """The sweep of a `-m` command line."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        config = GlobalHydra.instance().hydra.compose_config(  # type: ignore[union-attr]
            "config", list(overrides), run_mode=hydra.types.RunMode.MULTIRUN, with_log_configuration=False
        )
        return read_command(config)


@pytest.mark.parametrize(
    ("overrides", "count"),
    [(["seed=0,1,2"], 3), (["seed=range(4)", "decomp=svd,[svd,ffn_svd]"], 8), (["sweep=nine"], 9),
     (["sweep=original"], 24), (["sweep=ablation"], 12), (["sweep=rank_curve"], 36),
     (["sweep=rank_curve", "seed=0", "decomp=svd"], 4),
     (["sweep=layers"], 4), (["sweep=nine", "seed=0,1"], 18)],
)  # fmt: skip
def test_a_sweep_knows_its_jobs(overrides: list[str], count: int) -> None:
    sweep = command(*overrides)
    assert sweep.jobs is not None
    assert len(sweep.jobs) == len({tuple(job) for job in sweep.jobs}) == count


@pytest.mark.parametrize("name", conf_names("sweep"))
def test_every_job_of_a_preset_composes(name: str) -> None:
    sweep = command(f"sweep={name}")
    assert sweep.name.startswith(f"{name}-")
    assert (sweep.jobs is None) == (name == "search")
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        for job in (sweep.jobs or [[]])[:: max(1, len(sweep.jobs or []) // 4)]:
            assert hydra.compose("config", [word for word in job if not word.startswith("sweep=")])


@pytest.mark.parametrize(
    ("others", "same"),
    [(["output_dir=elsewhere"], True), (["logger=wandb"], True), (["jobs_at_once=2"], True), (["kd.beta=1"], False)],
)
def test_the_same_command_is_the_same_sweep(others: list[str], same: bool) -> None:
    assert (command("seed=0,1", *others).name == command("seed=0,1").name) is same


def test_a_job_is_called_by_what_it_does_not_share() -> None:
    grid = command("seed=0,1", "kd.beta=1")
    assert [grid.short(job) for job in grid.jobs or ()] == ["seed=0", "seed=1"]
    search = command("sweep=search", "kd.beta=1")
    assert (
        search.short(["kd.beta=1", "sweep=search", "decomp.keep=0.123456789", "seed=1"]) == "decomp.keep=0.1235 seed=1"
    )


def some_sweep(outputs: Path) -> Sweep:
    """Four jobs: done, failed, dead, and never started."""
    sweep = Sweep(outputs, "sweep-1", [[f"seed={seed}", "task=MRPC"] for seed in range(4)], ("task=MRPC",))
    (sweep.folder).mkdir(parents=True)
    (sweep.folder / SWEEP_FILE).write_text(json.dumps({"schema": 1, **vars(sweep), "outputs": None}))
    for seed, state in enumerate(("done", "failed", "running")):
        entry = replace(ENTRY, key=f"key{seed}", overrides=sweep.jobs[seed], state=state, error="too small")  # type: ignore[index]
        sweep.note(seed, entry)
        Ledger(outputs).write(entry)
    return sweep


def test_a_status_tells_of_every_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = some_sweep(tmp_path)
    assert find_sweeps(tmp_path) == [sweep]
    (status,) = find_status(tmp_path)
    lines = render_status(status).splitlines()
    assert lines[0] == "sweep sweep-1: 4 jobs: 1 done, 1 failed, 1 interrupted, 1 missing"
    assert lines[1:] == ["  failed: seed=1", "    too small", "  interrupted: seed=2", "  missing: seed=3"]
    assert main([str(tmp_path)]) == UNFINISHED
    Ledger(tmp_path).write(replace(ENTRY, state="done"))
    assert [status.title for status in find_status(tmp_path)] == ["sweep sweep-1", "single jobs"]
    assert main([str(tmp_path / "none")]) == MISTAKE
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == MISTAKE
    assert "no job was ever started" in capsys.readouterr().err


def test_a_status_of_done_jobs_is_all_done(tmp_path: Path) -> None:
    Ledger(tmp_path).write(replace(ENTRY, state="done"))
    assert main([str(tmp_path)]) == ALL_DONE


def test_jobs_that_are_the_same_have_one_record(tmp_path: Path) -> None:
    """As of a value that a sweep names twice."""
    entry = replace(ENTRY, state="done", stage="evaluate", folder="runs/one")
    write_record(tmp_path / "runs" / "one" / RECORD_FILE, RECORD)
    assert sweep_records(some_sweep(tmp_path), [entry, replace(entry, key="another")]) == [RECORD]


def test_an_unreadable_sweep_is_left_out(tmp_path: Path) -> None:
    sweep = some_sweep(tmp_path)
    (sweep.folder / SWEEP_FILE).write_text("{")
    assert find_sweeps(tmp_path) == []


@pytest.mark.parametrize(("launcher", "jobs"), [("joblib", 2), ("submitit_local", 2)])
def test_jobs_beside_each_other_lose_nothing_and_do_nothing_twice(
    monkeypatch: pytest.MonkeyPatch, launcher: str, jobs: int
) -> None:
    """The short version of benchmarks/sweeps.py."""
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.partition('_')[0]}_launcher")
    monkeypatch.syspath_prepend(str(CONF.parent / "benchmarks"))
    from sweeps import faults, run_sweep

    tally = run_sweep(launcher, jobs=jobs, at_once=2, twice=False)
    assert tally.code == 0
    assert faults(tally, tally, jobs=jobs) == {"lost": 0, "doubled": 0, "differ": 0}
    assert (tally.made, len(tally.records)) == ({"teachers": 1, "knowledge": 1, "students": jobs}, jobs)


def test_the_entry_type_is_plain_data() -> None:
    assert Entry(**json.loads(json.dumps(vars(ENTRY)))) == ENTRY
