"""What became of each job: one small file per configuration, in `output_dir/jobs`, and a lock held while it runs.

Nothing here compares times: whether a job still runs is told by its lock, which ends with its process.
"""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from lobert.errors import LobertError
from lobert.storage.artefacts import fingerprint, lock_path, locked, write_atomic

SCHEMA = 1
FOLDER = "jobs"
UNCOUNTED = (
    "output_dir",
    "resume",
    "logger",
    "latency_batch_size",
    "jobs_at_once",
    "optimize",
)  # settings that change no number
State = Literal["waiting", "running", "done", "failed", "interrupted"]
Values = float | tuple[float, ...] | None


@dataclass(frozen=True)
class Outcome:
    """What a job came to: the numbers it returns to a search, and the folder of what it made."""

    values: Values
    folder: Path | None


@dataclass(frozen=True)
class Entry:
    """One job. `key` follows from its configuration; `folder` is relative to the output folder, `started` is UTC."""

    key: str
    stage: str
    overrides: list[str]
    state: State = "waiting"
    folder: str | None = None
    values: float | list[float] | None = None
    error: str | None = None
    bug: bool = False
    host: str = ""
    pid: int = 0
    started: str = ""
    schema: int = SCHEMA

    @property
    def returned(self) -> Values:
        """What the job gave back when it was done."""
        return tuple(self.values) if isinstance(self.values, list) else self.values


@dataclass(frozen=True)
class Ledger:
    """The entries under one output folder."""

    outputs: Path

    def path(self, key: str) -> Path:
        return self.outputs / FOLDER / f"{key}.json"

    def write(self, entry: Entry) -> None:
        """Put the entry in the place of the job's last one."""
        write_atomic(self.path(entry.key), json.dumps(asdict(entry), indent=2) + "\n")

    def read(self, key: str) -> Entry | None:
        """The job's entry, as interrupted where it says that it runs and nobody does; None where there is none."""
        entry = read_entry(self.path(key))
        if entry is None or entry.state not in ("waiting", "running") or self.is_held(key):
            return entry
        entry = read_entry(self.path(key)) or entry  # it may have ended between the two looks
        return replace(entry, state="interrupted") if entry.state in ("waiting", "running") else entry

    def is_held(self, key: str) -> bool:
        """Whether some process runs the job now."""
        path = lock_path(self.path(key))
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                return False
        except Timeout:
            return True

    def all_keys(self) -> list[str]:
        """Of all jobs ever started."""
        return sorted(path.stem for path in (self.outputs / FOLDER).glob("*.json"))

    @contextmanager
    def claimed(self, entry: Entry) -> Iterator[None]:
        """Hold the job: another process that is to run it waits until this one is through."""
        path = self.path(entry.key)
        with locked(path):
            yield
        lock_path(path).unlink(missing_ok=True)

    def finish(self, entry: Entry, outcome: Outcome) -> None:
        """Write down that the job is done."""
        folder = None if outcome.folder is None else os.path.relpath(outcome.folder, self.outputs)
        values = list(outcome.values) if isinstance(outcome.values, tuple) else outcome.values
        self.write(replace(entry, state="done", folder=folder, values=values))


def read_entry(path: Path) -> Entry | None:
    """An entry; None where there is none, or none that can be read: the job then counts as not started."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    names = {field.name for field in fields(Entry)}
    if not isinstance(content, dict) or set(content) != names or content["schema"] != SCHEMA:
        return None
    return Entry(**content) if content["state"] in get_args(State) else None


def open_entry(settings: Mapping[str, Any], overrides: list[str]) -> Entry:
    """The entry of a job that is about to start here."""
    return Entry(
        key=job_key(settings),
        stage=str(settings.get("stage")),
        overrides=overrides,
        host=socket.gethostname(),
        pid=os.getpid(),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def job_key(settings: Mapping[str, Any]) -> str:
    """Names a job by all that its numbers follow from: its settings, the files they name, and LoBERT's version."""
    counted = {name: value for name, value in settings.items() if name not in UNCOUNTED}
    return fingerprint({"settings": counted, "files": named_files(counted), "version": metadata.version("lobert")})


def named_files(settings: Mapping[str, Any]) -> list[list[Any]]:
    """Path, size and time of change of every file that a setting names, or that lies in a folder one names."""
    paths = {Path(word) for word in words(settings) if word and len(word) < 1024}
    task = settings.get("task")
    data, local = (task.get(name) if isinstance(task, Mapping) else None for name in ("data_dir", "local"))
    if (data := data or os.environ.get("LOBERT_DATA_DIR")) and isinstance(local, Mapping):
        paths.add(Path(data) / str(local.get("folder")))
    found = (file for path in paths for file in ([path] if path.is_file() else sorted(path.glob("*"))))
    return sorted([str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in found if file.is_file())


def words(value: Any) -> Iterator[str]:
    """Every text in nested settings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from words(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from words(item)


def check_outputs(outputs: Path) -> None:
    """Raise LobertError where nothing was ever run."""
    if not outputs.is_dir():
        raise LobertError(f"no folder '{outputs}': give the output_dir of the runs")
