"""The stages of a run: teacher, knowledge, student, each an artefact found by what it was made from, or made."""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import Logger
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lobert.artefacts import Recipe, fingerprint, make_folder, write_atomic
from lobert.checkpoint import load, save_student
from lobert.compression import CompressionReport, GroupReport, compress_model
from lobert.data import TextDataModule, load_examples, tokenize
from lobert.distill.knowledge import LiveTeacher, StoredKnowledge, TeacherOutputs, knowledge_bytes, write_knowledge
from lobert.distill.losses import match_layers
from lobert.encoder import build_classifier, load_tokenizer, model_key, skeleton, tokenizer_key
from lobert.errors import LobertError
from lobert.evaluation import evaluate, every_example
from lobert.finetune import Training
from lobert.job import Job
from lobert.plan import GroupPlan, make_plan
from lobert.progress import track
from lobert.roles import encoder_layers, keep_first_layers
from lobert.student import Student
from lobert.teacher import Teacher
from lobert.trainer import CHECKPOINTS, fit

log = logging.getLogger(__name__)
FACTS_FILE = "lobert.json"  # what was measured while a model was made


@dataclass(frozen=True)
class Workspace:
    """A job with its encoder and tokenized data: what every stage starts from."""

    job: Job
    encoder: Path
    tokenizer: PreTrainedTokenizerBase
    data: TextDataModule

    @cached_property
    def data_key(self) -> dict[str, str]:
        """Fingerprints of the splits that training and scores depend on."""
        return {split: self.data.splits[split].fingerprint for split in ("train", *self.job.task.eval_splits)}

    @cached_property
    def encoder_key(self) -> str:
        return model_key(self.encoder)

    def trained_with(self, training: Training) -> Recipe:
        """What any training depends on beside its start."""
        precision = self.job.machine.resolved_precision
        return {
            "data": self.data_key,
            "metric": self.job.task.main_metric,
            "training": asdict(training),
            "precision": precision,
        }


def prepare(job: Job) -> Workspace:
    """Find the encoder, load and tokenize the task."""
    folder = job.encoder.folder(job.store)
    check_plan(job, folder)
    tokenizer = load_tokenizer(folder)
    examples = load_examples(job.task)
    splits = tokenize(examples, tokenizer, job.task.max_length, job.store, job.task.name, tokenizer_key(folder))
    pad = tokenizer.pad_token_id
    if pad is None:
        raise LobertError(f"the tokenizer of encoder {job.encoder.name} has no padding token: it cannot make batches")
    # The training batches of a data module follow the seed of whoever trains; see `batches_for`.
    data = TextDataModule(
        splits,
        job.task.eval_splits,
        pad,
        job.student.batch_size,
        job.eval_batch_size,
        job.seed,
        job.machine.num_workers,
    )
    return Workspace(job, folder, tokenizer, data)


def check_plan(job: Job, encoder: Path) -> None:
    """Refuse an impossible compression now, and not after a teacher has been trained for it."""
    model = skeleton(encoder)
    if job.layers is not None:
        keep_first_layers(model, job.layers)
    make_plan(model, job.parts, job.evaluation)


def batches_for(work: Workspace, training: Training, seed: int) -> TextDataModule:
    """The data with one training's batch size and order."""
    job, data = work.job, work.data
    return TextDataModule(
        data.splits,
        data.eval_splits,
        data.pad_token_id,
        training.batch_size,
        data.eval_batch_size,
        seed,
        job.machine.num_workers,
    )


# ---- teacher ----


def teacher_recipe(work: Workspace) -> Recipe:
    job = work.job
    return {
        **work.trained_with(job.teacher),
        "encoder": work.encoder_key,
        "labels": job.task.labels,
        "seed": job.teacher_seed,
        "dropout": job.encoder.dropout,
    }


def teacher_folder(work: Workspace) -> Path:
    """Where the teacher is, or will be."""
    job = work.job
    return job.store.path("teacher", f"{job.task.name}_{job.encoder.name}", teacher_recipe(work))


def make_teacher(work: Workspace, loggers: Sequence[Logger] = ()) -> Path:
    """The folder of the fine-tuned teacher, found or trained."""
    folder = teacher_folder(work)
    build = partial(train_teacher, work, loggers)
    make_folder(folder, teacher_recipe(work), build, resume=work.job.resume, together=True)
    return folder


def train_teacher(work: Workspace, loggers: Sequence[Logger], folder: Path) -> None:
    """Fine-tune the encoder on the labels and save the best epoch."""
    job = work.job
    log.info("teacher: fine-tuning %s on %s", job.encoder.name, job.task.name)
    pl.seed_everything(job.teacher_seed, verbose=False)
    model = build_classifier(work.encoder, job.task.labels, job.teacher_seed, job.encoder.dropout)
    module = Teacher(model, job.task, job.teacher, job.teacher_seed)
    fit(module, batches_for(work, job.teacher, job.teacher_seed), job.machine, folder, loggers)
    if module.global_rank == 0:
        finish_model(work, model, folder, {})


def finish_model(work: Workspace, model: PreTrainedModel, folder: Path, facts: dict[str, Any]) -> None:
    """Score the trained model, save it with its facts, and drop the checkpoints it no longer needs."""
    metrics = evaluate(model, work.job.task, work.data)
    model.cpu()
    save_student(model, folder, work.tokenizer)
    write_atomic(folder / FACTS_FILE, json.dumps({**facts, "metrics": metrics}, indent=2) + "\n")
    for checkpoint in (folder / CHECKPOINTS).glob("*"):
        checkpoint.unlink()
    (folder / CHECKPOINTS).rmdir()


def read_facts(folder: Path) -> dict[str, Any]:
    """What was measured while the model in `folder` was made."""
    path = folder / FACTS_FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LobertError(
            f"{path} cannot be read ({error}): delete the folder {folder} and run again to make it anew"
        ) from None
    assert isinstance(facts, dict)
    return facts


# ---- knowledge ----


def knowledge_recipe(work: Workspace, teacher: Path) -> Recipe:
    return {"teacher": model_key(teacher), "data": work.data_key}


def knowledge_folder(work: Workspace, teacher: Path) -> Path:
    """Where the teacher's outputs are, or will be."""
    job = work.job
    return job.store.path("knowledge", f"{job.task.name}_{job.encoder.name}", knowledge_recipe(work, teacher))


def make_knowledge(work: Workspace, teacher: Path) -> Path:
    """The folder of the teacher's outputs for train and dev, found or written."""
    folder = knowledge_folder(work, teacher)
    make_folder(folder, knowledge_recipe(work, teacher), partial(compute_knowledge, work, teacher))
    return folder


def compute_knowledge(work: Workspace, teacher: Path, folder: Path) -> None:
    """Run the teacher over train and dev."""
    model = load(teacher)
    splits = ("train", *work.job.task.eval_splits)
    sizes = {split: len(work.data.splits[split]) for split in splits}
    layers, hidden = len(encoder_layers(model)), model.config.hidden_size
    size = knowledge_bytes(sum(sizes.values()), layers, hidden, work.job.task.num_outputs)
    log.info(
        "knowledge: logits and [CLS] vectors of %d layers for %d examples, %s",
        layers,
        sum(sizes.values()),
        readable(size),
    )
    model.to(work.job.machine.device)
    for split in splits:
        batches = every_example(work.data, split)
        write_knowledge(
            model, track(batches, f"teacher's outputs on {split}", len(batches)), sizes[split], folder, split
        )


def readable(size: int) -> str:
    """Bytes in a unit that people read."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.3g} {units[0]}"


# ---- student ----


@dataclass(frozen=True)
class Compressed:
    """A student before training: the model, its plan, and what is known of it."""

    plans: list[GroupPlan]
    recipe: Recipe


def plan_student(work: Workspace, teacher: Path) -> Compressed:
    """The plan of the student and all it depends on; looks at shapes only."""
    job = work.job
    plans = make_plan(student_start(work, teacher), job.parts, job.evaluation)
    recipe = {
        **work.trained_with(job.student),
        "teacher": model_key(teacher),
        "start": "teacher" if job.init == "teacher" else work.encoder_key,
        "layers": job.layers,
        "plan": [{**plan.to_dict(), "evaluation": "auto"} for plan in plans],
        "distillation": asdict(job.distillation),
        "knowledge": job.knowledge if job.distillation.needs_teacher else None,
        "seed": job.seed,
        "dropout": job.encoder.dropout,
    }
    return Compressed(plans, json.loads(json.dumps(recipe)))


def run_folder(work: Workspace, compressed: Compressed) -> Path:
    """Folder of the run: it follows from what the student is made from."""
    return work.job.runs / f"{work.job.name}-{fingerprint(compressed.recipe, length=8)}"


def student_start(work: Workspace, teacher: Path) -> PreTrainedModel:
    """The dense model a student starts from: the teacher or the pretrained encoder; all or its first layers."""
    job = work.job
    if job.init == "teacher":
        model = load(teacher)
    else:
        model = build_classifier(work.encoder, job.task.labels, job.seed, job.encoder.dropout)
    if job.layers is not None:
        keep_first_layers(model, job.layers)
    return model


def make_student(work: Workspace, teacher: Path, compressed: Compressed, loggers: Sequence[Logger] = ()) -> Path:
    """The folder of the trained student, found or made; needs the knowledge where it distils from disk."""
    folder = run_folder(work, compressed) / "student"
    build = partial(train_student, work, teacher, compressed, loggers)
    make_folder(folder, compressed.recipe, build, resume=work.job.resume, together=True)
    return folder


def train_student(
    work: Workspace, teacher: Path, compressed: Compressed, loggers: Sequence[Logger], folder: Path
) -> None:
    """Compress, score before training, distil, and save the best epoch."""
    job = work.job
    pl.seed_everything(job.seed, verbose=False)
    model = student_start(work, teacher)
    report = compress_model(model, compressed.plans, lambda plans: track(plans, "factorizing", len(plans)))
    model.to(job.machine.device)
    zero_shot = evaluate(model, job.task, work.data)
    log.info("student: %s", story(report, zero_shot, job))
    matching = match_layers(len(encoder_layers(model)), len(encoder_layers(load(teacher))))
    outputs = teacher_outputs(work, teacher)
    module = Student(model, job.task, job.student, job.seed, job.distillation, outputs, matching)
    fit(module, batches_for(work, job.student, job.seed), job.machine, folder, loggers)
    if module.global_rank == 0:
        groups = [asdict(group) for group in report.groups]
        finish_model(work, model, folder, {"zero_shot_metrics": zero_shot, "groups": groups})


def story(report: CompressionReport, zero_shot: dict[str, float], job: Job) -> str:
    """One line about a student before training."""
    score = 100 * zero_shot[job.task.main_metric]
    kept = f"{report.keep:.1%} of the compressed weights stay, error {report.error:.4f}"
    return f"{kept}, {job.task.main_metric} {score:.1f} before training"


def teacher_outputs(work: Workspace, teacher: Path) -> TeacherOutputs | None:
    """Where the student hears its teacher: from disk, live, or not at all."""
    job = work.job
    if not job.distillation.needs_teacher:
        return None
    if job.knowledge == "live":
        return LiveTeacher(load(teacher))
    return StoredKnowledge(make_knowledge(work, teacher), "train")


def read_report(facts: dict[str, Any]) -> CompressionReport:
    """The compression report that was saved with a student."""
    return CompressionReport([GroupReport(**group) for group in facts["groups"]])
