"""The command line of `train.py`, tried on a stand-in application in a process of its own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from commands import forked

from lobert.cli import INTERRUPTED, normalize_arguments
from lobert.launch.ending import BUG, USER_ERROR

APPLICATION = """
import signal, sys, time
from pathlib import Path
import hydra
from lobert import cli
from lobert.errors import LobertError
from lobert.launch.ledger import Outcome

CONF = Path(__file__).with_name("conf")
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started with Ctrl-C ignored

def run(cfg):
    print("ran", cfg.task.name, cfg.decomp.name, cfg.seed, flush=True)
    match cfg.seed:
        case 1: raise LobertError("seed 1 is unlucky")
        case 2: raise KeyError("a bug")
        case 3: cfg.no_such_key
        case 4: time.sleep(60)
        case 5:
            try: raise KeyboardInterrupt
            except KeyboardInterrupt: sys.exit(1)
    return Outcome(0.5, None)

@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def main(cfg):
    return cli.job(run, cfg)

if __name__ == "__main__":
    sys.exit(cli.guard(main, CONF))
"""

CONFIGURATION = {
    "config.yaml": """
        defaults: [{task: MRPC}, {decomp: svd}, _self_, {experiment: null}]
        seed: 0
        stage: evaluate
        output_dir: ${oc.env:OUTPUTS}
        hydra:
          run: {dir: runs}
          sweep: {dir: runs, subdir: "${hydra.job.num}"}
          output_subdir: null
          callbacks: {sweep: {_target_: lobert.launch.sweep.Announce}}
    """,
    "task/MRPC.yaml": "name: MRPC",
    "task/SST-2.yaml": "name: SST-2",
    "decomp/svd.yaml": "{name: svd, keep: 0.5, attention: {rank: null}}",
    "decomp/tucker_4d.yaml": "{name: tucker_4d, keep: 0.5, attention: {rank: null}}",
    "experiment/demo.yaml": "# @package _global_\nseed: 6",
    "experiment/broken.yaml": "# @package _global_\nseed: [6",
}


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("application")
    for name, text in CONFIGURATION.items():
        path = folder / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    script = folder / "train.py"
    script.write_text(APPLICATION)
    return script


ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}


def environment(application: Path) -> dict[str, str]:
    """Of one command, with an output folder of its own."""
    return ENVIRONMENT | {"OUTPUTS": tempfile.mkdtemp(dir=application.parent)}


def call(application: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command, folder = [sys.executable, str(application), *arguments], application.parent
    return subprocess.run(
        command, cwd=folder, env=environment(application), capture_output=True, text=True, timeout=120, check=False
    )


MISTAKES = [
    (["decomp.kep=0.5"], ["no setting 'decomp.kep'", "did you mean 'decomp.keep'?", "decomp.attention"]),
    (["decomp.attention.rnk=8"], ["did you mean 'decomp.attention.rank'?"]),
    (["tsk=MRPC"], ["no setting 'tsk'", "did you mean 'task'?", "experiment"]),
    (["experimnt=demo"], ["did you mean 'experiment'?"]),
    (["keep=0.5"], ["did you mean 'decomp.keep'?"]),
    (["seed.x=1"], ["nothing to set inside 'seed'"]),
    (["decomp.attention.rank.x=1"], ["inside 'decomp.attention.rank'", "another decomp", "svd, tucker_4d"]),
    (["decomp=tucker_4"], ["no decomp 'tucker_4'", "did you mean 'tucker_4d'?", "svd"]),
    (["decomp=[svd,tuker_4d]"], ["no decomp 'tuker_4d'", "did you mean 'tucker_4d'?"]),
    (["decomp=svd,tucker_4d"], ["add -m", "decomp=[svd,tucker_4d]"]),
    (["decomp"], ["'decomp' is not a setting", "key=value"]),
    (["decomp.keep=[0.5"], ["'decomp.keep=[0.5'", "brackets"]),
    (["decomp.name=a=b"], ["""decomp.name="a=b\""""]),
    (["+decomp.keep=0.5"], ["already at 'decomp.keep'"]),
    (["~decomp.kep"], ["'decomp.kep' does not exist"]),
    (["seed=${sed}"], ["'seed'", "'sed' not found"]),
    (["seed=???"], ["setting 'seed'", "Missing mandatory value"]),
    (["experiment=broken"], ["broken.yaml, line"]),
    (["--config-name=confg"], ["no configuration 'confg'", "did you mean 'config'?"]),
    (["seed=1"], ["seed 1 is unlucky"]),
    (["-m", "decomp.kep=0.5,0.1"], ["did you mean 'decomp.keep'?"]),
    (["-m", "decomp=svd,tucker_4"], ["did you mean 'tucker_4d'?"]),
    (["-m", "seed=interval(0,1)"], ["INTERVAL_SWEEP"]),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=lambda value: " ".join(value))
def test_a_mistake_gets_one_sentence(application: Path, arguments: list[str], said: list[str]) -> None:
    done = call(application, *arguments)
    assert done.returncode == USER_ERROR
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert [part for part in said if part not in lines[0]] == []


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["task=sst2"], ["ran SST-2 svd 0"]),
        (["experiment=demo"], ["ran MRPC svd 6"]),
        (["-m", "task=mrpc,sst-2", "decomp=svd,tucker_4d"], ["ran SST-2 tucker_4d 0", "ran MRPC svd 0"]),
    ],
)
def test_what_is_right_runs_and_says_nothing(application: Path, arguments: list[str], lines: list[str]) -> None:
    done = call(application, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(lines) <= set(done.stdout.splitlines())


@pytest.mark.parametrize(("seed", "raised"), [(2, "KeyError"), (3, "ConfigAttributeError")])
def test_a_bug_keeps_its_traceback(application: Path, seed: int, raised: str) -> None:
    done = call(application, f"seed={seed}")
    assert done.returncode == BUG
    assert "Traceback" in done.stderr
    assert raised in done.stderr


@pytest.mark.parametrize(("seeds", "code"), [("1,0,6", USER_ERROR), ("2,1,0", BUG), ("1,2,0", BUG)])
def test_a_failed_job_does_not_stop_the_sweep(application: Path, seeds: str, code: int) -> None:
    done = call(application, "-m", f"seed={seeds}")
    assert done.returncode == code
    ran = [line.rpartition(" ")[2] for line in done.stdout.splitlines() if line.startswith("ran")]
    assert ran == seeds.split(",")
    failed = [seed for seed in seeds.split(",") if seed in "12"]
    assert f"3 jobs: {3 - len(failed)} done, {len(failed)} failed" in done.stderr
    told = [line.strip() for line in done.stderr.splitlines() if line.startswith("  failed")]
    assert told == [f"failed: seed={seed}" for seed in failed]
    assert ("Traceback" in done.stderr) == ("2" in failed)


@pytest.mark.parametrize("mode", [["seed=4"], ["-m", "seed=4,0"]], ids=["single", "sweep"])
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, 143)], ids=["int", "term"])
def test_an_interruption_is_told_as_such(application: Path, mode: list[str], signum: int, code: int) -> None:
    command = [sys.executable, str(application), *mode]
    with subprocess.Popen(
        command,
        cwd=application.parent,
        env=environment(application),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("ran"):
            assert process.poll() is None
        time.sleep(0.1)
        process.send_signal(signum)
        others, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert "ran" not in others  # no further job of the sweep begins
    assert "run the same command again" in said
    assert "Traceback" not in said


def test_an_interruption_that_lightning_turned_into_an_exit_is_one(application: Path) -> None:
    done = call(application, "-m", "seed=5,0")
    assert done.returncode == INTERRUPTED
    assert "ran MRPC svd 0" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["decomp=tucker_4"], "did you mean 'tucker_4d'?"),
        (["stage=teacher"], "leave out stage=teacher"),
    ],
)
def test_a_mistake_in_a_plan_gets_one_sentence(tmp_path: Path, arguments: list[str], said: str) -> None:
    done = forked("lobert.plan", "task=demo", "encoder=tiny", f"output_dir={tmp_path}", *arguments, folder=tmp_path)
    assert done.returncode == USER_ERROR
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_plan_is_shown_without_naming_the_stage(tmp_path: Path) -> None:
    settings = ["task=demo", "encoder=tiny", "trainer=cpu", f"output_dir={tmp_path}", "decomp=svd"]
    done = forked("lobert.plan", *settings, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "plans").iterdir()
    assert done.stdout.splitlines()[-1] == f"plan: {path}"
    assert not (tmp_path / "runs").exists()


def test_the_multirun_flag_may_stand_anywhere(application: Path) -> None:
    conf = application.parent / "conf"
    assert normalize_arguments(["task=mrpc", "-m", "seed=1,2"], conf) == ["-m", "task=MRPC", "seed=1,2"]


@pytest.mark.parametrize(
    ("argument", "normalized"),
    [
        ("task=mrpc", "task=MRPC"),
        ("task=sst2,MRPC", "task=SST-2,MRPC"),
        ("task=Sst_2, mrpc", "task=SST-2,MRPC"),
        ("task=nope", "task=nope"),
        ("decomp=mrpc", "decomp=mrpc"),
        ("task", "task"),
        ("-m", "-m"),
        ("a=b=c", "a=b=c"),
    ],
)
def test_task_names_are_spelled_as_glue_does(application: Path, argument: str, normalized: str) -> None:
    assert normalize_arguments([argument], application.parent / "conf") == [normalized]
