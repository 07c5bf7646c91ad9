"""One run: config -> data -> teacher -> knowledge -> student -> record."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from lobert.job import Job, read_job
from lobert.launch.ledger import Outcome, Values
from lobert.launch.sweep import in_sweep
from lobert.progress import hush_libraries
from lobert.results.record import RECORD_FILE, Record, kept_record, write_record
from lobert.results.summary import print_summary
from lobert.stages.anatomy import check_anatomy, make_anatomy, tell_anatomy
from lobert.stages.clock import Clock
from lobert.stages.evaluate import evaluate_student
from lobert.stages.knowledge import knowledge_folder, knowledge_recipe, make_knowledge
from lobert.stages.plan import show_plan
from lobert.stages.predict import check_test, make_predictions, tell_predictions
from lobert.stages.student import make_student, plan_student, run_folder
from lobert.stages.teacher import found_teacher, make_teacher
from lobert.stages.workspace import Workspace, prepare, read_facts
from lobert.storage.artefacts import find, process_rank, write_atomic
from lobert.tracking.identity import job_identity
from lobert.tracking.run import TEACHER, WandbRun, tracked

log = logging.getLogger(__name__)


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
