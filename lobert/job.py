"""A job: everything one run was asked for, read once from the composed configuration into typed values."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from omegaconf import DictConfig, OmegaConf

from lobert.compression.allocation import Sizing, chosen_allocation
from lobert.compression.examples import Calibration
from lobert.compression.grouping import Part
from lobert.compression.objective import Objective
from lobert.compression.points import decomp_name, parts_from_settings
from lobert.compression.sequential import Order
from lobert.data import Task
from lobert.encoders.brought import BroughtTeacher, read_brought
from lobert.encoders.source import EncoderSource
from lobert.errors import LobertError, suggest
from lobert.launch.ledger import UNCOUNTED
from lobert.layers.ways import Evaluation
from lobert.results.record import Number, Record
from lobert.storage.artefacts import Store, fingerprint
from lobert.tracking.settings import WandbSettings
from lobert.training.candidates import Candidate, read_candidates, read_training
from lobert.training.settings import Distillation, Machine, Training

STAGES = ("plan", "anatomy", "teacher", "knowledge", "student", "evaluate", "predict")
CHOICES = {
    "stage": STAGES,
    "knowledge": ("disk", "live"),
    "decomp.init": ("teacher", "pretrained"),
    "decomp.evaluation": get_args(Evaluation),
    "decomp.order": get_args(Order),
    "resume": ("True", "False"),
    "decomp.refit_head": ("True", "False"),
    "teacher.force": ("True", "False"),
}
WHOLE_NUMBERS = {  # and their least value
    "eval_batch_size": 1,
    "latency_batch_size": 0,
    "anatomy_examples": 1,
    "seed": 0,
    "student.layers": 1,
    "decomp.calibration_examples": 1,
    "jobs_at_once": 1,
}
ELSEWHERE = (*UNCOUNTED, "stage", "anatomy_examples")  # settings that change no number of a student


@dataclass(frozen=True)
class Job:
    """One run. `settings` is the whole configuration as plain data, for the record."""

    task: Task
    encoder: EncoderSource
    parts: list[Part]
    plan_file: Path | None
    evaluation: Evaluation
    sizing: Sizing
    objective: Objective
    order: Order
    calibration: Calibration
    refit_head: bool
    init: str
    layers: int | None
    distillation: Distillation
    kd: str
    knowledge: str
    candidates: list[Candidate]
    brought: BroughtTeacher | None
    student: Training
    machine: Machine
    wandb: WandbSettings | None
    eval_batch_size: int
    latency_batch_size: int  # 0: latency is not measured
    optimize: tuple[str, ...]
    anatomy_examples: int | None  # of the dev splits, for stage=anatomy; None: all
    stage: str
    seed: int
    resume: bool
    store: Store
    runs: Path
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Readable name of the run, for folders and W&B."""
        how: list[str] = [] if self.objective.name == "weights" else [self.objective.name]
        how += [] if self.sizing.allocate == "uniform" else [self.sizing.allocate]
        how += [] if self.order == "auto" else [self.order]
        how += [] if self.sizing.budget == "parameters" else [self.sizing.budget]
        how += ["refit"] if self.refit_head else []
        decomp = decomp_name(self.parts) if self.plan_file is None else self.decomp
        parts = [self.task.name, self.encoder.name, decomp, *how, self.kd, f"seed{self.seed}"]
        return "_".join(parts)

    @property
    def decomp(self) -> str:
        """Name of the compression, without its size."""
        if self.plan_file is not None:
            return self.plan_file.stem
        return "+".join(part.title for part in self.parts) or "none"

    @property
    def config_hash(self) -> str:
        """Hash of the settings that numbers depend on."""
        return fingerprint({name: value for name, value in self.settings.items() if name not in ELSEWHERE})

    @property
    def distils(self) -> bool:
        """Whether the student learns from its teacher's outputs at all."""
        return self.student.epochs > 0 and self.distillation.needs_teacher

    def reaches(self, stage: str) -> bool:
        """Whether the job goes on to this stage."""
        return STAGES.index(self.stage) >= STAGES.index(stage)


def read_job(cfg: DictConfig) -> Job:
    """Check the configuration and read it into types. Raises LobertError for the first value that will not do."""
    settings: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    check_choices(settings)
    if settings["student"]["epochs"] == 0:
        settings["kd"] = {**settings["kd"], "name": "untrained"}
    student, decomp, kd = (dict(settings[name]) for name in ("student", "decomp", "kd"))
    plan_file = plan_from(decomp)
    check_start(decomp)
    task = {name: value for name, value in settings["task"].items() if name != "kd"}
    brought = read_brought(settings)
    encoder = {name: value for name, value in settings["encoder"].items() if name not in ("teacher", "student")}
    encoder |= brought.encoder_settings if brought else {}
    wandb = settings["logger"]["wandb"]
    outputs = Path(settings["output_dir"])
    parts = [] if plan_file else parts_from_settings(decomp)
    objective = Objective(*(decomp[name] for name in ("objective", "damping", "metric_power", "temperature")))
    allocate = chosen_allocation(decomp["allocate"], objective, parts)
    return Job(
        task=Task(**task),
        encoder=EncoderSource(**encoder),
        parts=parts,
        plan_file=plan_file,
        evaluation=decomp["evaluation"],
        sizing=Sizing(decomp["keep"], decomp["scope"], allocate, decomp["budget"]),
        objective=objective,
        order=decomp["order"],
        calibration=Calibration(decomp["calibration_examples"], decomp["calibration_noise"]),
        refit_head=decomp["refit_head"],
        init=decomp["init"],
        layers=student.pop("layers"),
        kd=kd.pop("name"),
        distillation=distillation(kd),
        knowledge=settings["knowledge"],
        candidates=read_candidates(settings["teacher"]),
        brought=brought,
        student=read_training("student", student),
        machine=Machine(**settings["trainer"]),
        wandb=WandbSettings(**wandb) if wandb else None,
        eval_batch_size=settings["eval_batch_size"],
        latency_batch_size=settings["latency_batch_size"],
        optimize=read_optimized(settings["optimize"]),
        anatomy_examples=settings["anatomy_examples"],
        stage=settings["stage"],
        seed=settings["seed"],
        resume=settings["resume"],
        store=Store(outputs / "artefacts"),
        runs=outputs / "runs",
        settings=settings,
    )


def check_start(decomp: Mapping[str, Any]) -> None:
    """Refuse what needs a trained head where the student starts from an encoder that has none."""
    if decomp["init"] == "teacher":
        return
    needs = [f"decomp.objective={name}" for name in ("fisher", "loss") if decomp["objective"] == name]
    needs += ["decomp.refit_head=true"] if decomp["refit_head"] else []
    needs += ["decomp.allocate=greedy"] if decomp["allocate"] == "greedy" and decomp["objective"] != "weights" else []
    if needs:
        raise LobertError(
            f"{needs[0]} needs a fine-tuned start: with decomp.init=pretrained the head is random, "
            "so leave that out or type decomp.objective=weights"
        )


def plan_from(decomp: Mapping[str, Any]) -> Path | None:
    """The plan file, if there is one; LobertError where settings would contradict it."""
    if decomp["plan"] is None:
        return None
    usual = {
        "keep": None,
        "rank": None,
        "scope": "targets",
        "allocate": "auto",
        "budget": "parameters",
        "neurons": None,
        "heads": None,
    }
    for name, other in usual.items():
        if decomp[name] != other:
            raise LobertError(f"decomp.plan holds every rank already: leave out decomp.{name}={decomp[name]}")
    return Path(decomp["plan"])


def check_choices(settings: Mapping[str, Any]) -> None:
    """Refuse a word that is none of the possible ones, and a number that is not whole."""
    for key, choices in CHOICES.items():
        value = setting(settings, key)
        if str(value) not in choices:
            raise LobertError(f"{key}={value} is not known: {suggest(str(value), choices)}")
    for key, least in WHOLE_NUMBERS.items():
        value = setting(settings, key)
        if value is not None and (type(value) is not int or value < least):
            raise LobertError(f"{key}={value} will not do: give a whole number, {least} or more")


def read_optimized(names: str | list[str]) -> tuple[str, ...]:
    """The numbers of a record that a search is told; LobertError for one that no record has."""
    numbers = [name for name, kind in get_type_hints(Record).items() if kind in (int, float, Number)]
    chosen = (names,) if isinstance(names, str) else tuple(names or ())
    for name in chosen or ("nothing",):
        if name not in numbers:
            raise LobertError(f"optimize={name} is no number of a record: {suggest(str(name), numbers)}")
    return chosen


def setting(settings: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key."""
    value: Any = settings
    for name in key.split("."):
        value = value[name]
    return value


def distillation(settings: Mapping[str, Any]) -> Distillation:
    """The weights of the distillation terms."""
    try:
        return Distillation(**settings)
    except TypeError:
        listed = ", ".join(f"{name}={value}" for name, value in settings.items())
        raise LobertError(f"kd has a setting that is not a number: {listed}") from None
