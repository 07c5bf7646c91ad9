"""The record of a run: `result.json`, flat, with stable keys, from which every table is made."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, TypedDict, get_type_hints

from lobert.errors import LobertError
from lobert.results.checks import finite, fits, no_number
from lobert.storage.artefacts import fingerprint, write_atomic

log = logging.getLogger(__name__)

SCHEMA = 4
RECORD_FILE = "result.json"
ANEW = "run its command again, which sets this file aside and makes the record anew"

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


class BrokenRecord(LobertError):
    """What is there is no record that this version can show; `why` is one word, for the name it is set aside under."""

    def __init__(self, sentence: str, why: str = "broken") -> None:
        super().__init__(f"{sentence}; {ANEW}")
        self.why = why


def write_record(path: Path, record: Record) -> Record:
    """Write the record so that readers see all of it or none, with a checksum; returns the record that is there then.

    A whole record that is there already stays, whatever it says; a broken one is set aside. A number that is not
    finite is written as null.
    """
    if (there := kept_record(path)) is not None:
        return there
    content = finite(asdict(record))
    text = json.dumps({**content, "checksum": checksum(content)}, indent=2, sort_keys=True, allow_nan=False)
    write_atomic(path, text + "\n")
    return read_record(path)


def kept_record(path: Path, move: bool = True) -> Record | None:
    """The record at `path`; None where there is none, or a broken one, which is moved aside and told.

    `move` is False in those processes of a run that write nothing.

    Raises:
        LobertError: the file cannot be read, or was written by a newer version.
    """
    if not path.exists():
        return None
    try:
        return read_record(path)
    except BrokenRecord as error:
        if move:
            log.warning(
                "%s; set aside as %s, and made anew",
                str(error).partition(f"; {ANEW}")[0],
                set_aside(path, error.why).name,
            )
        return None


def set_aside(path: Path, why: str) -> Path:
    """Give a file the name that says why it is not used, numbered where that is taken; nothing is deleted."""
    names = (f"{path.stem}.{why}{number}{path.suffix}" for number in ["", *(f"-{n}" for n in range(2, 1000))])
    aside = next(other for name in names if not (other := path.with_name(name)).exists())
    return path.rename(aside)


def checksum(content: Mapping[str, Any]) -> str:
    """Digest of all that a record says, whatever the order and the spaces it is written with."""
    return fingerprint({name: value for name, value in content.items() if name != "checksum"}, length=16)


def read_record(path: Path) -> Record:
    """Read a record.

    Raises:
        BrokenRecord: what is there is cut short, was changed, or is no record of this schema.
        LobertError: there is no file, it cannot be read, or a newer version wrote it; all sentences name the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=no_number)
    except IsADirectoryError:
        raise BrokenRecord(f"{path} is a folder and not the record of a run") from None
    except OSError as error:
        raise LobertError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BrokenRecord(f"{path} is not whole: {error}") from error
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


def _validated(content: Any, path: Path) -> Record:
    if not isinstance(content, dict) or "schema" not in content:
        raise BrokenRecord(f"{path} is not the record of a LoBERT run: it has no 'schema'")
    if content["schema"] != SCHEMA:
        _refuse_schema(content["schema"], path)
    hints = get_type_hints(Record)
    if missing := [name for name in (*(f.name for f in fields(Record)), "checksum") if name not in content]:
        raise BrokenRecord(f"{path} is not a whole record: it lacks {', '.join(missing)}")
    if wrong := [name for name, kind in hints.items() if not fits(content[name], kind)]:
        raise BrokenRecord(f"{path} is not a valid record: '{wrong[0]}' is {content[wrong[0]]!r}")
    if content["checksum"] != checksum(content):
        raise BrokenRecord(f"{path} was changed after it was written: its checksum does not fit what it says")
    return Record(**{name: content[name] for name in hints})


def _refuse_schema(schema: Any, path: Path) -> NoReturn:
    if type(schema) is int and schema > SCHEMA:
        raise LobertError(
            f"{path} has schema {schema}, of a newer LoBERT, and this one reads schema {SCHEMA}: update LoBERT, or "
            "give runs of this version an output_dir of their own"
        )
    older = type(schema) is int
    sentence = f"{path} has schema {schema!r}, and this version reads schema {SCHEMA}"
    raise BrokenRecord(sentence, f"schema{schema}" if older else "broken")
