"""What a W&B run is called, and by what it is found again: group, job type and tags."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from lobert.job import Job
from lobert.launch.sweep import SWEEP_VARIABLE, in_sweep

LONGEST_NAME, LONGEST_TAG = 128, 64  # W&B takes no more characters

JobType = Literal["teacher", "student", "anatomy", "sweep"]
JOB_TYPES: dict[str, JobType] = {"teacher": "teacher", "knowledge": "teacher", "anatomy": "anatomy"}  # by stage


@dataclass(frozen=True)
class Identity:
    """Name, job type, group (the runs of one sweep have the same) and tags of a run."""

    name: str
    job_type: JobType
    group: str | None = None
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name[:LONGEST_NAME])
        object.__setattr__(self, "tags", tuple(dict.fromkeys(tag[:LONGEST_TAG] for tag in self.tags if tag)))


def job_identity(job: Job) -> Identity:
    """That of a job's run. A group that is set goes before the name of the sweep."""
    assert job.wandb is not None
    kind = JOB_TYPES.get(job.stage, "student")
    group = job.wandb.group or sweep_name()
    return Identity(run_name(job, kind), kind, group, (*job_tags(job, kind), *job.wandb.tags))


def run_name(job: Job, kind: JobType) -> str:
    """The job's name; that of a teacher has nothing of a student."""
    if kind == "student":
        return job.name
    what = [kind] if kind == "teacher" else [job.name.removeprefix(f"{job.task.name}_{job.encoder.name}_"), kind]
    return "_".join([job.task.name, job.encoder.name, *what])


def job_tags(job: Job, kind: JobType) -> Iterable[str]:
    """Task, encoder, each of the compressions, and distillation, as far as the job comes to them."""
    yield from (job.task.name, job.encoder.name)
    if kind != "teacher":
        yield from [part.name for part in job.parts] or [job.decomp]
    if kind == "student":
        yield job.kd


def sweep_name() -> str | None:
    """The name of the sweep that this job is one of; None outside of a sweep."""
    return os.environ.get(SWEEP_VARIABLE) or None if in_sweep() else None
