"""The last stage: the student as a user would load it, sized and timed beside its teacher, in one record."""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lobert.checkpoint import load
from lobert.compression.compress import encoder_macs
from lobert.encoders.roles import depth_of, encoder_layers
from lobert.encoders.source import model_key
from lobert.evaluation import middle_batch
from lobert.job import Job
from lobert.latency import measure_latency
from lobert.launch.sweep import task_overrides
from lobert.layers.factored import FactoredLinear
from lobert.results.record import Latency, Record, ratio
from lobert.results.surroundings import environment
from lobert.stages.clock import Clock
from lobert.stages.scores import kept_scores, score_student
from lobert.stages.student import Compressed, read_report
from lobert.stages.teacher import folder_of, teacher_recipe, tried
from lobert.stages.workspace import Workspace, read_facts


def evaluate_student(work: Workspace, teacher: Path, student: Path, compressed: Compressed, clock: Clock) -> Record:
    """Load the student from its folder as a user would, and put everything known about the run together."""
    job = work.job
    facts, report, metric = read_facts(student), read_report(read_facts(student)), job.task.main_metric
    dense, model = load(teacher, job.encoder.roles), load(student)
    scores = kept_scores(facts) or score_student(work, teacher, model)
    with clock.stage("latency"):
        latency = timed(work, dense, model.to(job.machine.device))
    metrics, near, teacher_metrics = scores.metrics, scores.closeness, read_facts(teacher)["metrics"]
    zero_shot_metrics = facts["zero_shot_metrics"]
    return Record(
        **settings(job),
        metric=metric,
        score=metrics[metric],
        teacher_score=teacher_metrics[metric],
        zero_shot_score=zero_shot_metrics[metric],
        retention=ratio(metrics[metric], teacher_metrics[metric]),
        metrics=metrics,
        teacher_metrics=teacher_metrics,
        zero_shot_metrics=zero_shot_metrics,
        agreement=near.agreement,
        divergence=near.divergence,
        **{f"zero_shot_{name}": value for name, value in facts["zero_shot_closeness"].items()},
        order=compressed.recipe.get("order", "parallel"),
        keep_targets=report.keep,
        error=report.error,
        groups=[{name: value for name, value in asdict(group).items() if name != "norm"} for group in report.groups],  # type: ignore[misc]
        **sizes(dense, model),
        latency=latency,
        seconds=clock.seconds,
        found=clock.found,
        train_examples=len(work.data.splits["train"]),
        teacher=taught(work, teacher),
        data=work.data_key,
        **environment(torch.device(job.machine.device)),
        teacher_fingerprint=model_key(teacher),
        teacher_search=tried(work),
        student_path=str(student),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def settings(job: Job) -> dict[str, Any]:
    """What was asked for, as it stands in the record."""
    return {
        "task": job.task.name,
        "encoder": job.encoder.name,
        "decomp": job.decomp,
        "kd": job.kd,
        "seed": job.seed,
        "init": job.init,
        "keep": job.sizing.keep,
        "scope": job.sizing.scope,
        "allocate": job.sizing.allocate,
        "budget": job.sizing.budget,
        "objective": job.objective.name,
        "refit_head": job.refit_head,
        "epochs": job.student.epochs,
        "batch_size": job.student.batch_size,
        "learning_rate": job.student.learning_rate,
        **{name: value for name, value in asdict(job.distillation).items() if name != "class_mean"},
        "max_length": job.task.max_length,
        "precision": job.machine.resolved_precision,
        "overrides": [word for word in task_overrides() if not word.startswith("sweep=")],
        "config_hash": job.config_hash,
    }


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


def sizes(teacher: PreTrainedModel, student: PreTrainedModel) -> dict[str, Any]:
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


def encoder_parameters(model: PreTrainedModel) -> int:
    """Parameters of the transformer layers and of the factors that stand in for their weights."""
    layers = encoder_layers(model)
    groups = {id(layer.group): layer.group for layer in layers.modules() if isinstance(layer, FactoredLinear)}
    return parameters(layers) + sum(parameters(group) for group in groups.values())
