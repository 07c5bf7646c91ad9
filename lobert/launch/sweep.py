"""A sweep: which jobs it has, what became of them, and what stands at its end."""

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from lobert.errors import LobertError
from lobert.launch.ledger import Entry, Ledger
from lobert.storage.artefacts import fingerprint, write_atomic

FOLDER, SWEEP_FILE = "sweeps", "sweep.json"
SWEEP_VARIABLE = "LOBERT_SWEEP"  # name of the sweep that a job belongs to, for processes on any machine
RANKS = ("RANK", "SLURM_PROCID", "LOCAL_RANK")  # of a process in a distributed run, as its launcher sets them
APART = ("output_dir", "logger", "resume", "jobs_at_once")  # settings that make no other sweep
SCHEMA = 1
LONG_NUMBER = re.compile(r"\d+\.\d{6,}(e-?\d+)?")
RANGE = re.compile(r"=(interval|choice|range|tag|shuffle|sort)\(")


@dataclass(frozen=True)
class Sweep:
    """The jobs of one `-m` command, under `outputs/sweeps/name`. The same command is the same sweep.

    `jobs` has the settings of each, in order; None where a search decides on them as it goes. `shared` are those that
    are the same in all jobs.
    """

    outputs: Path
    name: str
    jobs: list[list[str]] | None
    shared: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        return self.outputs / FOLDER / self.name

    def forget(self) -> None:
        """Take back that the sweep was written down: it was refused before any of its jobs began."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def note(self, number: int, entry: Entry) -> None:
        """Write down which configuration a job of the sweep turned out to be."""
        content = {"number": number, "overrides": entry.overrides, "key": entry.key}
        write_atomic(self.folder / "jobs" / f"{number:05d}.json", json.dumps(content) + "\n")

    def entries(self) -> list[Entry]:
        """What became of each job that was ever started; the last start counts."""
        ledger, entries = Ledger(self.outputs), []
        for path in sorted((self.folder / "jobs").glob("*.json")):
            content = json.loads(path.read_text(encoding="utf-8"))
            entry = ledger.read(content["key"])
            if entry is not None:
                entries.append(Entry(**{**vars(entry), "overrides": content["overrides"]}))
        return entries

    def missing(self, entries: Sequence[Entry]) -> list[list[str]]:
        """The settings of the jobs that were never started."""
        started = {tuple(entry.overrides) for entry in entries}
        return [job for job in self.jobs or () if tuple(job) not in started]

    def short(self, overrides: Sequence[str]) -> str:
        """The settings of one job, without those that all jobs share, and numbers as short as people write them."""
        own = [word for word in overrides if word not in self.shared] or overrides
        return " ".join(LONG_NUMBER.sub(lambda number: f"{float(number[0]):.4g}", word) for word in own)


class Announce(Callback):
    """Hydra's word that a sweep begins: gives it its name and writes its jobs down."""

    sweep: Sweep | None = None  # the one that this process has started
    wandb: Mapping[str, Any] | None = None  # how its jobs log to W&B, if they do

    @classmethod
    def begin(cls) -> None:
        """Forget the sweep of an earlier command of this process."""
        cls.sweep = cls.wandb = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        sweep = read_command(config)
        Announce.sweep, Announce.wandb = sweep, plain_settings(config, "logger.wandb")
        os.environ[SWEEP_VARIABLE] = sweep.name
        content = {
            "schema": SCHEMA,
            "name": sweep.name,
            "command": sys.argv,
            "jobs": sweep.jobs,
            "shared": sweep.shared,
        }
        try:
            write_atomic(sweep.folder / SWEEP_FILE, json.dumps(content, indent=1) + "\n")
        except LobertError:  # Hydra, who would only warn of this one, meets the same trouble in a moment
            Announce.begin()
            return
        if "BasicLauncher" not in config.hydra.launcher._target_:  # which has every job say that it starts
            count = "a search" if sweep.jobs is None else f"{len(sweep.jobs)} jobs"
            line = f"sweep {sweep.name}: {count}; python -m lobert.status {sweep.outputs} tells how far it is"
            print(line, file=sys.stderr, flush=True)


def plain_settings(config: DictConfig, key: str) -> Mapping[str, Any] | None:
    """The settings under a key as plain data; None where there are none."""
    found = OmegaConf.select(config, key)
    plain: Any = None if found is None else OmegaConf.to_container(found, resolve=True)
    return plain


def read_command(config: DictConfig) -> Sweep:
    """The sweep that the composed configuration of a `-m` command asks for."""
    hydra = config.hydra
    asked = [f"{key}={value}" for key, value in (OmegaConf.to_container(hydra.sweeper).get("params") or {}).items()]  # type: ignore[union-attr]
    asked += unresolved(hydra.overrides.task)
    jobs = expand(asked) if "BasicSweeper" in hydra.sweeper._target_ else None
    counted = [
        [word for word in job if word.partition("=")[0].partition(".")[0] not in APART] for job in jobs or [asked]
    ]
    preset = next((word.partition("=")[2] for word in asked if word.startswith("sweep=")), "sweep")
    return Sweep(
        Path(config.output_dir), f"{preset}-{fingerprint(counted, length=8)}", jobs, shared_settings(jobs, asked)
    )


def shared_settings(jobs: list[list[str]] | None, asked: list[str]) -> tuple[str, ...]:
    """What all jobs have in common; of a search, the settings that are no range of values."""
    if jobs is None:
        return tuple(word for word in asked if not RANGE.search(word))
    return tuple(sorted(set.intersection(*map(set, jobs)))) if len(jobs) > 1 else ()


def expand(asked: list[str]) -> list[list[str]] | None:
    """The settings of each job, as Hydra's own sweeper makes them; None where it will refuse them itself."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    try:
        (batch,) = BasicSweeper.split_arguments(parser.parse_overrides(asked), max_batch_size=None)
    except HydraException:
        return None
    return [list(job) for job in batch]


def read_sweep(path: Path) -> Sweep | None:
    """A sweep that was written down in `outputs/sweeps/name/sweep.json`; None where that cannot be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return (
            Sweep(path.parents[2], content["name"], content["jobs"], tuple(content["shared"]))
            if content["schema"] == SCHEMA
            else None
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def find_sweeps(outputs: Path) -> list[Sweep]:
    """All sweeps under an output folder, by name."""
    read = (read_sweep(path) for path in sorted((outputs / FOLDER).glob(f"*/{SWEEP_FILE}")))
    return [sweep for sweep in read if sweep is not None]


def current_sweep(cfg: DictConfig | Mapping[str, Any]) -> Sweep | None:
    """The sweep that this job belongs to, wherever it runs."""
    name = os.environ.get(SWEEP_VARIABLE)
    if not in_sweep() or name is None:
        return None
    outputs = Path(cfg["output_dir"])
    return read_sweep(outputs / FOLDER / name / SWEEP_FILE) or Sweep(outputs, name, None)


def task_overrides() -> list[str]:
    """The settings on the command line of this job; none where it was not started by one."""
    if not HydraConfig.initialized():
        return []
    return unresolved(HydraConfig.get().overrides.task)


def unresolved(words: Any) -> list[str]:
    """Settings as they were typed, `${...}` and all."""
    plain: Any = OmegaConf.to_container(words, resolve=False)
    return [str(word) for word in plain]


def in_sweep() -> bool:
    """Whether this job is one of several."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def is_follower() -> bool:
    """Whether another process of the same distributed run keeps the books."""
    return int(next((os.environ[name] for name in RANKS if os.environ.get(name, "").isdecimal()), 0)) > 0


def wait_for_others(sweep: Sweep) -> None:
    """Wait until none of the sweep's jobs runs: a launcher may have given up on the rest when one of them died."""
    while any(entry.state in ("waiting", "running") for entry in sweep.entries()):
        time.sleep(1)
