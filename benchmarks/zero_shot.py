"""Scores right after compression, before any training: keeps × objectives × allocations × orders of one teacher.

    python benchmarks/zero_shot.py [--task MRPC] [--keep 0.25 0.1] [--objective weights loss] [--outputs outputs]

The teacher is found in the outputs or fine-tuned into them, as train.py would; so are the calibration statistics. Every
student is that of `train.py student.epochs=0` with the same settings. Beside the score on dev stand the agreement and
the divergence with the teacher, there and on training examples that calibration has not seen ("held out"): to choose
settings by the latter spends nothing of dev.
"""

import argparse
import itertools
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import hydra
import numpy as np
import torch
from common import header, header_line, say, table, timed

from lobert.compression.allocation import Sizing
from lobert.compression.examples import NOISE, Calibration
from lobert.compression.objective import Objective
from lobert.data import ResumableLoader
from lobert.errors import LobertError
from lobert.evaluation import closeness, drawing_order, predict, predict_dev, score_splits, sorted_batches
from lobert.job import Job, read_job
from lobert.paths import conf_dir
from lobert.progress import hush_libraries
from lobert.stages.compress import compress_start
from lobert.stages.outputs import teacher_predictions
from lobert.stages.student import start_recipe, student_start
from lobert.stages.teacher import make_teacher
from lobert.stages.workspace import Workspace, planned, prepare, read_facts

HELD_OUT = 256  # training examples behind those of the calibration


@dataclass(frozen=True)
class Point:
    """One combination of settings."""

    decomp: str
    keep: float | None
    objective: Objective
    allocate: str
    order: str
    examples: int | None
    noise: float
    refit: bool


@dataclass(frozen=True)
class Row:
    """What came of one point; scores in percent, seconds without calibration."""

    point: Point
    kept: float
    scores: dict[str, float]
    retained: float
    agreement: float | None
    divergence: float
    held_out_agreement: float | None
    held_out_divergence: float
    seconds: float


@dataclass(frozen=True)
class Bench:
    """A teacher, and what its students are compared with."""

    work: Workspace
    teacher: Path
    held_out: ResumableLoader
    wanted: np.ndarray  # the teacher's logits on the held-out examples

    @property
    def score(self) -> float:
        return float(read_facts(self.teacher)["metrics"][self.work.job.task.main_metric])


def open_bench(chosen: argparse.Namespace) -> Bench:
    """Task, encoder and teacher, as a run of train.py would have them."""
    folder = [f"task.data_dir='{chosen.data_dir.absolute()}'"] if chosen.data_dir else []
    names = [f"task={chosen.task}", f"encoder={chosen.encoder}", f"output_dir='{chosen.outputs.absolute()}'"]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        work = prepare(read_job(hydra.compose("config", [*names, *folder, *chosen.set])))
    teacher = make_teacher(work)
    loader = behind_calibration(work, max(count or work.job.calibration.examples or 0 for count in chosen.examples))
    model = student_start(work, teacher).to(work.job.machine.device)
    return Bench(work, teacher, loader, predict(model, loader))


def behind_calibration(work: Workspace, examples: int) -> ResumableLoader:
    """Batches of HELD_OUT training examples that come after the calibration's in the order it takes them from."""
    tokens = work.data.splits["train"]
    rows = drawing_order(tokens.lengths())[examples : examples + HELD_OUT]
    if not len(rows):
        raise LobertError(f"{work.job.task.name} has {len(tokens)} training examples: give fewer --examples")
    return sorted_batches(work.data, "train", rows)


def points(chosen: argparse.Namespace) -> Iterator[Point]:
    """All combinations that differ: the norm of the weights has one order and no settings."""
    axes = (chosen.decomp, chosen.keep, chosen.objective, chosen.metric_power, chosen.damping, chosen.temperature)
    seen = set[Point]()
    for decomp, keep, name, power, damping, temperature in itertools.product(*axes):
        for allocate, order, examples, noise in itertools.product(
            chosen.allocate, chosen.order, chosen.examples, chosen.noise
        ):
            plain = name == "weights"
            objective = Objective() if plain else Objective(name, damping, power, temperature)
            way = "parallel" if plain else order
            point = Point(decomp, keep, objective, allocate, way, examples, noise, chosen.refit)
            if point not in seen:
                seen.add(point)
                yield point


def job_of(bench: Bench, point: Point) -> Job:
    """The job of train.py with the settings of a point."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        parts = read_job(
            hydra.compose("config", [f"decomp={point.decomp}", f"decomp.keep={point.keep or 'null'}"])
        ).parts
    return replace(
        bench.work.job,
        parts=parts,
        sizing=Sizing(point.keep, allocate=point.allocate),  # type: ignore[arg-type]
        objective=point.objective,
        order=point.order,
        calibration=Calibration(point.examples or bench.work.job.calibration.examples, point.noise),
        refit_head=point.refit,
    )


def measure(bench: Bench, point: Point) -> Row:
    """Compress the teacher as the point says, and compare."""
    work = replace(bench.work, job=job_of(bench, point))
    job, start = work.job, start_recipe(work, bench.teacher)
    calibrate_first(work, bench, start)
    model = student_start(work, bench.teacher)
    device = torch.device(job.machine.device)
    seconds, report = timed(lambda: compress_start(work, model, planned(job, model), start), device)
    predictions = predict_dev(model.to(device), work.data)
    scores = score_splits(job.task, work.data, predictions)
    near = closeness(teacher_predictions(work, bench.teacher), predictions)
    apart = closeness({"": bench.wanted}, {"": predict(model, bench.held_out)})
    return Row(
        point=point,
        kept=report.keep,
        scores=scores,
        retained=scores[job.task.main_metric] / bench.score,
        agreement=near.agreement,
        divergence=near.divergence,
        held_out_agreement=apart.agreement,
        held_out_divergence=apart.divergence,
        seconds=seconds,
    )


def calibrate_first(work: Workspace, bench: Bench, start: dict[str, object]) -> None:
    """Have the statistics on disk, so that every point pays the same for them: nothing."""
    from lobert.stages.calibration import make_statistics

    make_statistics(work, start, student_start(work, bench.teacher))


# ---- report ----

TITLES = (
    "decomp", "keep %", "objective", "allocate", "order", "scores", "retained %",
    "agree %", "KL", "held out: agree %", "KL", "seconds",
)  # fmt: skip


def cells(row: Row) -> list[str]:
    """One line of the table."""
    point = row.point
    return [
        point.decomp,
        f"{100 * row.kept:.1f}",
        story(point),
        point.allocate,
        point.order,
        " / ".join(f"{100 * value:.1f}" for value in row.scores.values()),
        f"{100 * row.retained:.1f}",
        percent(row.agreement),
        f"{row.divergence:.4f}",
        percent(row.held_out_agreement),
        f"{row.held_out_divergence:.4f}",
        f"{row.seconds:.1f}",
    ]


def story(point: Point) -> str:
    """The objective, with those of its settings that are not the usual ones."""
    usual, goal = Objective(), point.objective
    settings = {"power": "metric_power", "damping": "damping", "temperature": "temperature"}
    told = [
        f"{short} {getattr(goal, name):g}"
        for short, name in settings.items()
        if getattr(goal, name) != getattr(usual, name)
    ]
    told += [f"{point.examples} examples"] if point.examples else []
    told += [f"noise {point.noise:g}"] if point.noise != NOISE else []
    told += ["refit"] if point.refit else []
    return ", ".join([goal.name, *told])


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Scores right after compression.")
    usual = Objective()
    parser.add_argument("--task", default="MRPC")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--data-dir", type=Path, help="GLUE's files; without it LOBERT_DATA_DIR, else the hub")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="where teachers and statistics are kept")
    parser.add_argument("--set", nargs="+", default=[], help="more settings, as for train.py: teacher.epochs=4")
    parser.add_argument("--decomp", nargs="+", default=["all_svd"])
    parser.add_argument("--keep", nargs="+", type=float, default=[0.5, 0.25, 0.15, 0.1, 0.05])
    parser.add_argument("--default-size", action="store_true", help="the default rank of each decomp instead of --keep")
    parser.add_argument("--objective", nargs="+", default=["weights", "fisher", "activations", "loss"])
    parser.add_argument("--allocate", nargs="+", default=["uniform", "greedy"])
    parser.add_argument("--order", nargs="+", default=["parallel", "sequential"])
    parser.add_argument("--metric-power", nargs="+", type=float, default=[usual.metric_power])
    parser.add_argument("--damping", nargs="+", type=float, default=[usual.damping])
    parser.add_argument("--temperature", nargs="+", type=float, default=[usual.temperature])
    parser.add_argument("--examples", nargs="+", type=int, default=[None], help="of the calibration")
    parser.add_argument("--noise", nargs="+", type=float, default=[NOISE], help="of the calibration")
    parser.add_argument("--refit", action="store_true", help="the head, in closed form")
    parser.add_argument("--output", type=Path, help="append every row to this file as a line of JSON, too")
    chosen = parser.parse_args()
    if chosen.default_size:
        chosen.keep = [None]
    return chosen


def main() -> None:
    chosen = arguments()
    hush_libraries()
    logging.disable(logging.INFO)
    bench = open_bench(chosen)
    job, facts = bench.work.job, header(torch.device(bench.work.job.machine.device))
    print(header_line(facts))
    metrics = read_facts(bench.teacher)["metrics"]
    print(
        f"{job.task.name}, {job.encoder.name}: teacher " + ", ".join(f"{k} {100 * v:.1f}" for k, v in metrics.items())
    )
    lines = []
    for point in points(chosen):
        row = measure(bench, point)
        lines.append(cells(row))
        say("  ".join(lines[-1]))
        if chosen.output:
            with chosen.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**facts, "task": job.task.name, "teacher": metrics, **asdict(row)}) + "\n")
    print(table(TITLES, lines))


if __name__ == "__main__":
    try:
        main()
    except LobertError as error:
        sys.exit(f"error: {error}")
