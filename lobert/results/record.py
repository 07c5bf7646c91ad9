"""The record of a run: `result.json`, flat, with stable keys, from which every table is made."""

import json
import math
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, TypedDict, get_args, get_origin, get_type_hints, is_typeddict

from lobert.artefacts import write_atomic
from lobert.errors import LobertError

if TYPE_CHECKING:
    import torch  # tables are made without loading it

SCHEMA = 4
RECORD_FILE = "result.json"
LIBRARIES = ("torch", "pytorch-lightning", "transformers", "hydra-core", "tensorly", "lobert")

Number = float | None  # None where there is no number, as in the correlation of constant predictions


class Group(TypedDict):
    """One group of weights that share factors; `evaluation` says how its product is computed."""

    name: str
    factorization: str
    rank: int | list[int]
    shape: list[int]
    parameters: int
    dense_parameters: int
    macs: int
    dense_macs: int
    error: Number
    objective_error: Number
    evaluation: str


class Latency(TypedDict):
    """Milliseconds of one forward pass: medians, and the spread between the quartiles; `ratio` is the median over the
    pairs of student to teacher, `batch` counts examples and `length` tokens, padding and all.
    """

    student_ms: float
    teacher_ms: float
    student_spread_ms: float
    teacher_spread_ms: float
    ratio: float
    batch: int
    length: int
    rounds: int


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a run was asked, what it made, and what that scored.

    Scores are fractions; `keep_*` are the shares of parameters that stay, `macs_per_token` counts multiply-adds,
    `error` is the relative reconstruction error over all groups, `seconds` go by stage (0 for a stage
    named in `found`, whose artefact was on disk), `created` is UTC in ISO 8601.
    """

    task: str
    encoder: str
    decomp: str
    kd: str
    seed: int
    init: str  # teacher | pretrained
    student_layers: int

    metric: str  # the main one, of which the scores are
    score: Number
    teacher_score: Number
    zero_shot_score: Number  # after compression, before training
    retention: Number  # score / teacher_score
    metrics: Mapping[str, Number]
    teacher_metrics: Mapping[str, Number]
    zero_shot_metrics: Mapping[str, Number]

    agreement: Number  # share of dev examples on which student and teacher say the same; None for a regression
    divergence: Number  # mean KL(teacher || student) on dev, in nats; of scores the mean squared difference
    zero_shot_agreement: Number
    zero_shot_divergence: Number

    objective: str  # weights | activations | fisher | loss
    allocate: str  # uniform | greedy
    order: str  # parallel | sequential
    budget: str  # what keep is a share of, and greedy spends: parameters | macs
    refit_head: bool
    scope: str  # where: targets | encoder | model
    keep: Number  # as asked; None where ranks were given
    keep_targets: Number
    keep_encoder: Number
    keep_model: Number
    parameters: int
    teacher_parameters: int
    encoder_parameters: int
    teacher_encoder_parameters: int
    macs_per_token: int
    teacher_macs_per_token: int
    error: Number
    groups: list[Group]

    seconds: dict[str, float]
    found: list[str]
    epochs: int
    batch_size: int
    learning_rate: float
    alpha: Number
    temperature: Number
    beta: Number
    normalize: bool | None
    max_length: int
    train_examples: int
    precision: str  # of the training
    teacher: Mapping[str, Any]  # the settings it was trained with and its seed, or the path it was brought from
    data: Mapping[str, str]  # fingerprint of the tokens of each split that numbers depend on

    latency: Latency | None  # None where it was not measured
    overrides: list[str]  # of the command line that made the run; none where it was not started by one

    versions: dict[str, str | None]
    device: str
    commit: str | None
    config_hash: str
    teacher_fingerprint: str | None
    student_path: str
    created: str
    teacher_search: list[dict[str, Number]] = field(default_factory=list)  # settings and dev score of each one tried
    schema: int = SCHEMA


def ratio(part: Number, whole: Number) -> Number:
    """`part / whole`, or None where either is missing or the whole is zero."""
    return part / whole if part is not None and whole else None


def write_record(path: Path, record: Record) -> None:
    """Write the record so that readers see all of it or none; a number that is not finite is written as null."""
    text = json.dumps(_finite(asdict(record)), indent=2, sort_keys=True, allow_nan=False)
    write_atomic(path, text + "\n")


def read_record(path: Path) -> Record:
    """Read a record.

    Raises:
        LobertError: the file is missing, broken or no record of this schema; the sentence names file and reason.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LobertError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise LobertError(f"{path} is not whole: {error}; remove it and run the command again") from error
    return _validated(content, path)


def find_records(folder: Path) -> tuple[list[Record], list[str]]:
    """Every readable record under `folder`, sorted by path, and one sentence for each that is not.

    Raises:
        LobertError: the folder does not exist.
    """
    runs, broken = find_runs(folder)
    return list(runs.values()), broken


def find_runs(folder: Path) -> tuple[dict[Path, Record], list[str]]:
    """As `find_records`, each record under the folder of its run."""
    if not folder.is_dir():
        raise LobertError(f"no folder '{folder}': give the output_dir of the runs")
    runs, broken = {}, []
    for path in sorted(folder.rglob(RECORD_FILE)):
        try:
            runs[path.parent] = read_record(path)
        except LobertError as error:
            broken.append(str(error))
    return runs, broken


def environment(device: "torch.device") -> dict[str, Any]:
    """The fields `versions`, `device` and `commit` of a record made now, by a run on `device`."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    return {
        "versions": versions | {name: _version(name) for name in LIBRARIES},
        "device": _device_name(device),
        "commit": _commit(Path(__file__).resolve().parents[2]),
    }


def _validated(content: Any, path: Path) -> Record:
    if not isinstance(content, dict) or "schema" not in content:
        raise LobertError(f"{path} is not the record of a LoBERT run: it has no 'schema'")
    if content["schema"] != SCHEMA:
        raise LobertError(
            f"{path} has schema {content['schema']!r}, and this version reads schema {SCHEMA}: remove it and run "
            "the command again to have it made anew"
        )
    hints = get_type_hints(Record)
    content = {"teacher_search": [], **content}  # that of the records made before there was a search
    if missing := [f.name for f in fields(Record) if f.name not in content]:
        raise LobertError(f"{path} is not a whole record: it lacks {', '.join(missing)}")
    if wrong := [name for name, kind in hints.items() if not _fits(content[name], kind)]:
        raise LobertError(f"{path} is not a valid record: '{wrong[0]}' is {content[wrong[0]]!r}")
    return Record(**{name: content[name] for name in hints})


def _fits(value: Any, kind: Any) -> bool:
    """Whether a JSON value has the annotated type; whole numbers pass as floats, truth values only as themselves."""
    inner = get_args(kind)
    if kind is Any:
        return True
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in inner)
    if is_typeddict(kind):
        hints = get_type_hints(kind)
        return isinstance(value, dict) and all(name in value and _fits(value[name], hints[name]) for name in hints)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if get_origin(kind) in (dict, Mapping):
        return isinstance(value, dict) and all(_fits(item, inner[1]) for item in value.values())
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _device_name(device: "torch.device") -> str:
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, threads: {torch.get_num_threads()}"


def _processor() -> str:
    table = Path("/proc/cpuinfo")
    lines = table.read_text(encoding="utf-8").splitlines() if table.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _commit(root: Path) -> str | None:
    """Commit of the checkout at `root`, with `-dirty` where tracked files differ; None outside a checkout."""
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return None  # installed, perhaps inside some other project's repository
    commit = _git(root, "rev-parse", "HEAD")
    return f"{commit}-dirty" if commit and _git(root, "status", "--porcelain", "--untracked-files=no") else commit


def _git(root: Path, *arguments: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
