"""Many small jobs at once, and what a sweep costs beside its jobs one by one.

    python benchmarks/sweeps.py [--jobs 64] [--at-once 2] [--launchers basic joblib submitit_local] [--single 4]

Each launcher runs the same jobs of the `tiny` encoder in an empty folder. Afterwards everything is counted: records,
teachers and knowledge that were made, students that were trained. `lost` jobs have no record, `doubled` work was done
more than once, `differ` counts records whose numbers are not those of the first launcher. `again` is the same command
once more, when all is done.

`one` is a command for one job in an empty folder, `warm` one that finds the teacher and its outputs there; the ratios
are the sweep's seconds to those of as many such commands.
"""

import argparse
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import header, header_line, say, table

from lobert.results.record import Record, find_records

ROOT = Path(__file__).parents[1]
SMALL = [
    "task=demo",
    "encoder=tiny",
    "trainer=cpu",
    "task.train_examples=96",
    "task.dev_examples=96",
    "teacher.epochs=2",
    "student.epochs=1",
]
KEEPS = (0.5, 0.4, 0.3, 0.2)
LAUNCHERS = {
    "basic": [],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs={at_once}"],
    "submitit_local": ["hydra/launcher=submitit_local", "jobs_at_once={at_once}"],
}
MADE = {"teachers": "teacher: fine-tuning", "knowledge": "knowledge: logits", "students": "before training"}
COMPARED = ("score", "teacher_score", "zero_shot_score", "divergence", "error", "parameters")


@dataclass(frozen=True)
class Tally:
    """What one launcher did with the jobs."""

    launcher: str
    seconds: float
    again: float
    code: int
    records: list[Record]
    made: dict[str, int]  # how often each kind of work was done


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables; 1 where work was lost, doubled or came out different."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=64)
    parser.add_argument("--at-once", type=int, default=2)
    parser.add_argument("--launchers", nargs="+", choices=LAUNCHERS, default=list(LAUNCHERS))
    parser.add_argument("--single", type=int, default=4, help="single commands that are timed; 0: none")
    chosen = parser.parse_args(arguments)
    tallies = [run_sweep(launcher, chosen.jobs, chosen.at_once) for launcher in chosen.launchers]
    import torch  # late: the header is the only thing here that needs it

    print(header_line(header(torch.device("cpu"))))
    print(tally_table(tallies, chosen.jobs))
    if chosen.single:
        print(f"\n{overhead_table(tallies, chosen.jobs, chosen.single)}")
    return int(any(sum(faults(tally, tallies[0], chosen.jobs).values()) + tally.code for tally in tallies))


def run_sweep(launcher: str, jobs: int, at_once: int, twice: bool = True) -> Tally:
    """Run all jobs in an empty folder, then, if `twice`, the same command again."""
    with tempfile.TemporaryDirectory() as folder:
        how = [word.format(at_once=at_once) for word in LAUNCHERS[launcher]]
        seeds = -(-jobs // len(KEEPS))
        keeps = ",".join(map(str, KEEPS[: min(jobs, len(KEEPS))]))
        words = ["-m", f"decomp.keep={keeps}", f"seed=range({seeds})", "decomp=svd", *how]
        say(f"{launcher}: {jobs} jobs")
        seconds, code, said = command(folder, *words)
        said += "".join(path.read_text() for path in Path(folder).rglob("*_log.err"))
        again, code_again, _ = command(folder, *words) if twice else (math.nan, 0, "")
        records, broken = find_records(Path(folder))
        assert not broken, broken
        made = {kind: len(re.findall(re.escape(mark), said)) for kind, mark in MADE.items()}
        return Tally(launcher, seconds, again, code + code_again, records, made)


def command(folder: str, *words: str) -> tuple[float, int, str]:
    """Seconds, exit code and standard error of one `python train.py`."""
    settings = [*SMALL, f"output_dir={folder}", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    line = [sys.executable, str(ROOT / "train.py"), *settings]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    return time.perf_counter() - start, done.returncode, done.stderr


def faults(tally: Tally, first: Tally, jobs: int) -> dict[str, int]:
    """How many jobs were lost, how much work was done twice, how many records differ from the first launcher's."""
    expected = {numbers(record) for record in first.records}
    return {
        "lost": jobs - len({(record.seed, record.keep) for record in tally.records}),
        "doubled": sum(max(0, tally.made[kind] - {"students": jobs}.get(kind, 1)) for kind in MADE),
        "differ": sum(numbers(record) not in expected for record in tally.records),
    }


def numbers(record: Record) -> tuple[object, ...]:
    return (record.seed, record.keep, *(getattr(record, name) for name in COMPARED))


def tally_table(tallies: Sequence[Tally], jobs: int) -> str:
    titles = ["launcher", "seconds", "again", "records", *MADE, "lost", "doubled", "differ", "exit code"]
    rows = [
        [
            tally.launcher,
            f"{tally.seconds:.1f}",
            f"{tally.again:.1f}",
            str(len(tally.records)),
            *(str(tally.made[kind]) for kind in MADE),
            *(str(count) for count in faults(tally, tallies[0], jobs).values()),
            str(tally.code),
        ]
        for tally in tallies
    ]
    return table(titles, rows)


def overhead_table(tallies: Sequence[Tally], jobs: int, count: int) -> str:
    """Seconds of single commands, and those of each sweep to as many of them."""
    cold, warm = [], []
    for seed in range(count):
        with tempfile.TemporaryDirectory() as folder:
            say(f"single command {seed + 1} of {count}")
            cold.append(command(folder, "decomp=svd", "decomp.keep=0.5", f"seed={seed}")[0])
            warm.append(command(folder, "decomp=svd", "decomp.keep=0.4", f"seed={seed}")[0])
    one, found = sorted(cold)[count // 2], sorted(warm)[count // 2]
    rows = [
        [
            t.launcher,
            f"{t.seconds:.1f}",
            f"{one:.1f}",
            f"{found:.1f}",
            *(f"{t.seconds / (jobs * s):.2f}" for s in (one, found)),
        ]
        for t in tallies
    ]
    return table(["launcher", "sweep s", "one s", "warm s", "sweep / (N × one)", "sweep / (N × warm)"], rows)


if __name__ == "__main__":
    sys.exit(main())
