"""One run: config -> data -> teacher -> knowledge -> student -> record."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import nn

from lobert.checkpoint import load
from lobert.compression.compress import BANK, encoder_macs
from lobert.encoders.roles import depth_of, encoder_layers
from lobert.encoders.source import model_key
from lobert.evaluation import closeness, middle_batch, predict_dev, score_splits
from lobert.job import Job, read_job
from lobert.latency import measure_latency
from lobert.launch.ledger import Outcome, Values
from lobert.launch.sweep import in_sweep, task_overrides
from lobert.progress import hush_libraries
from lobert.results.record import RECORD_FILE, Latency, Record, kept_record, ratio, write_record
from lobert.results.summary import print_summary
from lobert.results.surroundings import environment
from lobert.stages.anatomy import check_anatomy, make_anatomy, tell_anatomy
from lobert.stages.knowledge import knowledge_folder, knowledge_recipe, make_knowledge
from lobert.stages.outputs import teacher_predictions
from lobert.stages.plan import show_plan
from lobert.stages.predict import check_test, make_predictions, tell_predictions
from lobert.stages.student import Compressed, make_student, plan_student, read_report, run_folder
from lobert.stages.teacher import folder_of, found_teacher, make_teacher, teacher_recipe, tried
from lobert.stages.workspace import Workspace, prepare, read_facts
from lobert.storage.artefacts import find, process_rank, write_atomic
from lobert.tracking.identity import job_identity
from lobert.tracking.run import TEACHER, WandbRun, tracked

log = logging.getLogger(__name__)


@dataclass
class Clock:
    """Seconds per stage; a stage whose artefact was found has none."""

    seconds: dict[str, float] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str, found: bool = False) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = 0.0 if found else round(time.perf_counter() - start, 2)
        if found:
            self.found.append(name)


def run(cfg: DictConfig) -> Outcome:
    """Run the stages up to `cfg.stage`; returns what `cfg.optimize` names, and the folder of what was made."""
    hush_libraries()
    job, clock = read_job(cfg), Clock()
    check_test(job)
    check_anatomy(job)
    with clock.stage("data"):
        work = prepare(job)
    with curves(job) as wandb:
        return run_stages(work, clock, wandb, OmegaConf.to_yaml(cfg, resolve=True))


def run_stages(work: Workspace, clock: Clock, wandb: WandbRun | None, config: str) -> Outcome:
    """The straight column: each stage finds its artefact or makes it."""
    job = work.job
    if job.stage == "plan":
        show_plan(work)
        return Outcome(None, None)
    found = found_teacher(work)
    with clock.stage("teacher", found=found is not None):
        teacher = found or make_teacher(work, [wandb.logger(TEACHER)] if wandb else [])
    facts = read_facts(teacher)
    log.info("teacher: %s in %s", scores(facts["metrics"]), teacher)
    if job.stage == "anatomy":
        return Outcome(None, show_anatomy(work, teacher, wandb))
    if not job.reaches("knowledge"):
        return Outcome(told(float(facts["metrics"][job.task.main_metric]), wandb), teacher)

    knowledge = None
    if job.distils and job.knowledge == "disk":
        with clock.stage("knowledge", found=find(knowledge_folder(work, teacher), knowledge_recipe(work, teacher))):
            knowledge = make_knowledge(work, teacher)
        log.info("knowledge: in %s", knowledge)
    if not job.reaches("student"):
        return Outcome(None, knowledge)

    compressed = plan_student(work, teacher)
    folder = run_folder(work, compressed)
    made = kept_record(folder / RECORD_FILE, move=process_rank() == 0) if job.reaches("evaluate") else None
    if made is not None and (not job.reaches("predict") or find(folder / "student", compressed.recipe)):
        return finish(work, teacher, made, folder, wandb)
    if process_rank() == 0:
        write_atomic(folder / "config.yaml", config)
    with clock.stage("student", found=find(folder / "student", compressed.recipe)):
        student = make_student(work, teacher, compressed, [wandb.logger()] if wandb else [])
    log.info("student: %s in %s", scores(read_facts(student)["metrics"]), student)
    if not job.reaches("evaluate") or process_rank() > 0:
        return Outcome(told(float(read_facts(student)["metrics"][job.task.main_metric]), wandb), folder)

    record = write_record(folder / RECORD_FILE, evaluate_student(work, teacher, student, compressed, clock))
    return finish(work, teacher, record, folder, wandb)


def show_anatomy(work: Workspace, teacher: Path, wandb: WandbRun | None) -> Path:
    """Measure what each group of the plan does to the teacher, and tell it; returns the folder it is in."""
    path = make_anatomy(work, teacher)
    if process_rank() == 0:
        anatomy = tell_anatomy(path)
        if wandb:
            wandb.tell_anatomy(anatomy)
    return path.parent


def told(score: float, wandb: WandbRun | None) -> float:
    """The score, of which W&B is told."""
    if wandb:
        wandb.tell_score(score)
    return score


def finish(work: Workspace, teacher: Path, record: Record, folder: Path, wandb: WandbRun | None) -> Outcome:
    """Tell the run's results and predict the test splits where they are asked for."""
    tell(record, folder, wandb)
    if work.job.reaches("predict") and process_rank() == 0:
        tell_predictions(work, make_predictions(work, teacher, folder / "student"))
    return Outcome(optimized(record, work.job.optimize), folder)


def optimized(record: Record, names: tuple[str, ...]) -> Values:
    """The numbers of a record that a search is told; one is a plain number."""
    values = tuple(getattr(record, name) for name in names)
    return values[0] if len(values) == 1 else values


def evaluate_student(work: Workspace, teacher: Path, student: Path, compressed: Compressed, clock: Clock) -> Record:
    """Load the student from its folder as a user would, score it, and put everything known about the run together."""
    job = work.job
    dense = load(teacher, job.encoder.roles)
    with clock.stage("evaluate"):
        model = load(student).to(job.machine.device)
        predictions = predict_dev(model, work.data)
        metrics = score_splits(job.task, work.data, predictions)
        near = closeness(teacher_predictions(work, teacher), predictions)
    with clock.stage("latency"):
        latency = timed(work, dense, model)
    teacher_facts, facts = read_facts(teacher), read_facts(student)
    report = read_report(facts)
    metric = job.task.main_metric
    return Record(
        task=job.task.name,
        encoder=job.encoder.name,
        decomp=job.decomp,
        kd=job.kd,
        seed=job.seed,
        init=job.init,
        metric=metric,
        score=metrics[metric],
        teacher_score=teacher_facts["metrics"][metric],
        zero_shot_score=facts["zero_shot_metrics"][metric],
        retention=ratio(metrics[metric], teacher_facts["metrics"][metric]),
        metrics=metrics,
        teacher_metrics=teacher_facts["metrics"],
        zero_shot_metrics=facts["zero_shot_metrics"],
        agreement=near.agreement,
        divergence=near.divergence,
        **{f"zero_shot_{name}": value for name, value in facts["zero_shot_closeness"].items()},
        keep=job.sizing.keep,
        scope=job.sizing.scope,
        allocate=job.sizing.allocate,
        budget=job.sizing.budget,
        objective=job.objective.name,
        order=compressed.recipe.get("order", "parallel"),
        refit_head=job.refit_head,
        keep_targets=report.keep,
        error=report.error,
        groups=[{name: value for name, value in asdict(group).items() if name != "norm"} for group in report.groups],  # type: ignore[misc]
        **sizes(dense, model),
        latency=latency,
        seconds=clock.seconds,
        found=clock.found,
        epochs=job.student.epochs,
        batch_size=job.student.batch_size,
        learning_rate=job.student.learning_rate,
        **{name: value for name, value in asdict(job.distillation).items() if name != "class_mean"},
        max_length=job.task.max_length,
        train_examples=len(work.data.splits["train"]),
        precision=job.machine.resolved_precision,
        teacher=taught(work, teacher),
        data=work.data_key,
        overrides=[word for word in task_overrides() if not word.startswith("sweep=")],
        **environment(torch.device(job.machine.device)),
        config_hash=job.config_hash,
        teacher_fingerprint=model_key(teacher),
        teacher_search=tried(work),
        student_path=str(student),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def timed(work: Workspace, teacher: nn.Module, student: nn.Module) -> Latency | None:
    """Milliseconds of both on dev examples of middle length; None where the job asks for none."""
    size = work.job.latency_batch_size
    if size == 0:
        return None
    batch = middle_batch(work.data, work.job.task.main_splits[0], size)
    return measure_latency(teacher, student, batch)


def taught(work: Workspace, teacher: Path) -> dict[str, Any]:
    """What made the teacher what it is: the settings of its training and its seed, or where it was brought from."""
    job = work.job
    if job.brought:
        return {"path": job.brought.path}
    chosen = next(c for c in job.candidates if folder_of(work, teacher_recipe(work, c)) == teacher)
    return {**asdict(chosen.training), "seed": chosen.seed}


def sizes(teacher: nn.Module, student: nn.Module) -> dict[str, Any]:
    """Parameters and multiply-adds of both, and the shares that stay; the encoder is the transformer layers."""
    counts = {"": parameters(student), "teacher_": parameters(teacher)}
    encoder = {"": encoder_parameters(student), "teacher_": encoder_parameters(teacher)}
    return {
        **{f"{who}parameters": count for who, count in counts.items()},
        **{f"{who}encoder_parameters": count for who, count in encoder.items()},
        "keep_model": counts[""] / counts["teacher_"],
        "keep_encoder": encoder[""] / encoder["teacher_"],
        "macs_per_token": encoder_macs(student),
        "teacher_macs_per_token": encoder_macs(teacher),
        "student_layers": depth_of(student),
    }


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def encoder_parameters(model: nn.Module) -> int:
    """Parameters of the transformer layers and of the factors that stand in for their weights."""
    bank = getattr(model, BANK, None)
    return parameters(encoder_layers(model)) + (parameters(bank) if bank is not None else 0)


def scores(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {100 * value:.1f}" for name, value in metrics.items())


def tell(record: Record, folder: Path, wandb: WandbRun | None) -> None:
    """Print the run's summary, in a sweep one line of it, and give it to W&B."""
    if in_sweep():
        log.info("record: %s in %s", scores({record.metric: record.score or 0.0}), folder / RECORD_FILE)
    else:
        print_summary(record, folder / RECORD_FILE, Console())
    if wandb:
        wandb.tell_record(record)


@contextmanager
def curves(job: Job) -> Iterator[WandbRun | None]:
    """The job's W&B run, if it asks for one and makes anything."""
    if job.wandb is None or job.stage == "plan" or process_rank() > 0:
        yield None
        return
    config = {**job.settings, "compression": job.decomp}
    with tracked(job.wandb, job_identity(job), job.runs.parent, config) as run:
        yield run
