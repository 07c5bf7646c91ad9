"""Does a run survive being killed? Kills a small pipeline at random moments, runs it again until it ends, compares.

    python benchmarks/kill.py --kills 100 --seed 0            # kill -9
    python benchmarks/kill.py --kills 50 --signal term        # SIGTERM; int is Ctrl-C

The pipeline is whole: tokens, teacher, knowledge, calibration, student, record, on generated data. A trial starts in
an empty folder; it is run and killed, again and again, each time at a moment drawn uniformly from the seconds of an
undisturbed run, until one run ends before its moment comes. Its record and the student's weights must then equal the
undisturbed run's bit by bit, and nothing may have been found damaged on the way. Libraries are imported once, in a
parent that forks; `--processes` more kills are of whole `python train.py` processes.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import hydra

from lobert.startup import loading

with loading():
    from lobert.pipeline import run
from lobert.progress import hush_libraries
from lobert.signals import exit_code, raise_on_sigterm

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = [
    "task=custom", "task.name=letters", "task.text=[text]", "encoder=tiny", "trainer=cpu", "teacher.epochs=3",
    "teacher.learning_rate=5e-3", "decomp=svd", "decomp.keep=0.5", "decomp.objective=loss", "decomp.allocate=greedy",
    "decomp.calibration_examples=64", "student.epochs=3", "student.accumulate=2", "student.learning_rate=5e-3",
    "latency_batch_size=8",
]  # fmt: skip
EXAMPLES = {"train": 256, "dev": 128}
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}
VOLATILE = {"seconds", "found", "latency", "created", "student_path", "overrides", "checksum"}  # not what was computed
STAGES = [  # newest first: what is on disk when the kill falls, and what it then fell in
    ("after the record", "runs/*/result.json"),
    ("record", "runs/*/student"),
    ("student: saving", "runs/*/student.partial/model.safetensors"),
    ("student: training", "runs/*/student.partial/checkpoints"),
    ("calibration", "artefacts/calibration/*.partial"),
    ("student: compressing", "runs/*/student.partial"),
    ("knowledge", "artefacts/knowledge/*.partial"),
    ("teacher: done", "artefacts/teacher/*[!l]"),
    ("teacher: saving", "artefacts/teacher/*.partial/model.safetensors"),
    ("teacher: training", "artefacts/teacher/*.partial/checkpoints"),
    ("teacher: starting", "artefacts/teacher/*.partial"),
    ("data: done", "artefacts/tokens/*[!l]"),
    ("data", "artefacts/*"),
]
FIRST = "before anything"


@dataclass
class Tally:
    """What has happened so far."""

    stages: Counter[str] = field(default_factory=Counter)
    trials: int = 0
    wrong: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.stages.total()


Start = Callable[[Path], int]  # starts a run that writes into a folder; its process id


def write_examples(folder: Path) -> None:
    """Letters, and whether they come early enough in the alphabet: the score changes from epoch to epoch."""
    draw = random.Random(0)
    for split, count in EXAMPLES.items():
        texts = [draw.choices("abcdefghij", k=6) for _ in range(count)]
        lines = [f"{' '.join(text)},{'early' if sorted(text)[3] < 'e' else 'late'}" for text in texts]
        (folder / f"{split}.csv").write_text("\n".join(["text,label", *lines]) + "\n")


def settings(output: Path) -> list[str]:
    """What a run into a folder is told."""
    files = [f"task.own.{split}={output.parent / split}.csv" for split in EXAMPLES]
    return [*SETTINGS, *files, f"output_dir={output}"]


def forked(output: Path) -> int:
    """A run in a child that has everything imported."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise_on_sigterm()
        redirect(output)
        with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            run(hydra.compose("config", settings(output)))
        code = 0
    except KeyboardInterrupt as stop:
        code = exit_code(stop)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def redirect(output: Path) -> None:
    """Have everything that is said go into a file beside the output."""
    log = os.open(log_of(output), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(log, stream)


def spawned(output: Path) -> int:
    """A run as a user starts it."""
    command = [sys.executable, str(ROOT / "train.py"), *settings(output)]
    with log_of(output).open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=output.parent).pid


def log_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.log")


def ends_within(child: int, seconds: float) -> bool:
    """Wait for a child, but not longer; whether it has ended, without collecting it."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return True
        time.sleep(min(left, 0.005))
    return False


def code_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def stage_of(output: Path) -> str:
    """In which stage a run was, by what it has left on disk."""
    return next((name for name, pattern in STAGES if any(output.glob(pattern))), FIRST)


def trial(start: Start, output: Path, moments: Callable[[], float], signum: int, tally: Tally, most: int) -> None:
    """Run into an empty folder and kill, until a run ends; after `most` kills in all none are killed any more."""
    while True:
        child = start(output)
        if ends_within(child, moments() if tally.kills < most else float("inf")):
            break
        stage = stage_of(output)
        os.kill(child, signum)
        code = code_of(child)
        if code == 0:  # it had just ended, or was done before it could stop
            return
        tally.stages[stage] += 1
        if code not in (-signal.SIGKILL, 128 + signum, -signum):
            tally.wrong.append(f"{output.name}: ended with {code} after signal {signum}: see {log_of(output)}")
            return
    if code := code_of(child):
        tally.wrong.append(f"{output.name}: ended with {code}: see {log_of(output)}")


def results(output: Path) -> dict[str, object]:
    """The numbers of the record, and the files of teacher and student: weights, scores, curves."""
    (path,) = output.glob("runs/*/result.json")
    record = {name: value for name, value in json.loads(path.read_text()).items() if name not in VOLATILE}
    models = [path.with_name("student"), *output.glob("artefacts/teacher/*")]
    return record | {f"{m.name}/{file.name}": file.read_bytes() for m in models for file in m.iterdir()}


def compare(output: Path, whole: Path, tally: Tally) -> None:
    """Note what differs from the undisturbed run."""
    if any(said.startswith(f"{output.name}:") for said in tally.wrong):
        return
    mine, its = results(output), results(whole)
    for name in sorted(mine.keys() | its.keys()):
        if mine.get(name) != its.get(name):
            tally.wrong.append(f"{output.name}: another {name} than the undisturbed run in {whole}")
    leftovers = [path for path in output.rglob("*") if ".partial" in path.name or ".broken" in path.name]
    leftovers += list(output.rglob("checkpoints"))
    if leftovers:
        tally.wrong.append(f"{output.name}: left over: {leftovers[0]}")
    if "damaged" in log_of(output).read_text():
        tally.wrong.append(f"{output.name}: found something damaged: see {log_of(output)}")


def campaign(start: Start, folder: Path, kills: int, signum: int, seed: int) -> Tally:
    """As many trials as it takes to kill so often, each compared with an undisturbed run."""
    draw, tally, whole = random.Random(seed), Tally(), folder / f"{start.__name__}-undisturbed"
    began = time.monotonic()
    if code := code_of(start(whole)):
        raise SystemExit(f"the undisturbed run ended with {code}: see {log_of(whole)}")
    duration = time.monotonic() - began
    print(f"{start.__name__}: an undisturbed run takes {duration:.1f} s", file=sys.stderr)
    while tally.kills < kills and not tally.wrong:
        tally.trials += 1
        output = folder / f"{start.__name__}-{tally.trials}"
        trial(start, output, lambda: draw.uniform(0, duration), signum, tally, kills)
        compare(output, whole, tally)
        print(f"\r{tally.kills} kills, {tally.trials} trials", end="", file=sys.stderr)
    print(file=sys.stderr)
    return tally


def show(tally: Tally, how: str, seconds: float) -> None:
    """The tally, by stage."""
    for name in [FIRST, *(name for name, _ in reversed(STAGES))]:
        if tally.stages[name]:
            print(f"{name:24}{tally.stages[name]:>5}")
    same = "all" if not tally.wrong else "not all"
    print(f"{tally.kills} kills ({how}) in {tally.trials} trials, {seconds:.0f} s; {same} ended as the undisturbed run")
    for said in tally.wrong:
        print(f"  {said}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="in forked runs (100)")
    parser.add_argument("--processes", type=int, default=0, help="kills of whole train.py processes (0)")
    parser.add_argument("--signal", choices=SIGNALS, default="kill")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder, wrong = Path(tempfile.mkdtemp(prefix="lobert-kill-")), False
    hush_libraries()
    write_examples(folder)
    for start, kills in ((forked, options.kills), (spawned, options.processes)):
        if kills:
            began = time.monotonic()
            tally = campaign(start, folder, kills, SIGNALS[options.signal], options.seed)
            show(tally, f"{options.signal}, {start.__name__}", time.monotonic() - began)
            wrong = wrong or bool(tally.wrong)
    if not wrong:
        subprocess.run(["rm", "-rf", str(folder)], check=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
