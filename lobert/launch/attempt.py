"""One job from its start to its entry in the ledger: skipped where it is done, at its turn where it is one of many."""

import logging
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from lobert.errors import LobertError, first_line
from lobert.launch.ledger import Entry, Ledger, Outcome, Values, open_entry
from lobert.launch.sentences import SETTING_ERRORS, explain_job
from lobert.launch.slots import plan_sharing, shared, this_machine
from lobert.launch.sweep import Sweep, current_sweep, task_overrides
from lobert.results.record import RECORD_FILE, read_record
from lobert.storage.artefacts import fingerprint

log = logging.getLogger(__name__)
LASTING = ("teacher", "knowledge", "student", "evaluate")  # stages that leave something which is not made again
Run = Callable[[DictConfig], Outcome]


@dataclass(frozen=True)
class Attempt:
    """A job that is about to run; `sweep` is None for a single one."""

    run: Run
    cfg: DictConfig
    ledger: Ledger
    entry: Entry
    sweep: Sweep | None

    def go(self) -> Values:
        """Run the job, or in a sweep skip it where it is done already, and write down what becomes of it.

        In a sweep a failure is said and None returned: an exception would end the sweep of some launchers and be lost
        between the processes of others. The failure of a single run is raised.
        """
        if self.sweep is None:
            with self.ledger.claimed(self.entry):
                return self.made()
        self.sweep.note(HydraConfig.get().job.num, self.entry)
        if self.is_done():
            return self.found()
        with self.ledger.claimed(self.entry):
            if self.is_done():  # another process made it while this one waited
                return self.found()
            self.ledger.write(self.entry)
            sharing = plan_sharing(*self.share())
            with shared(sharing):
                if sharing is not None:
                    mark_lines(f"[{HydraConfig.get().job.num + 1}] ")
                log.info("%s", self.title)
                return self.made()

    def made(self) -> Values:
        """Run the job and write down how it ends."""
        self.ledger.write(replace(self.entry, state="running"))
        try:
            outcome = self.run(self.cfg)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if is_interruption(error):
                self.ledger.write(replace(self.entry, state="interrupted"))
                raise
            self.failed(error)
            return None
        self.ledger.finish(self.entry, outcome)
        return outcome.values

    def failed(self, error: BaseException) -> None:
        """Write the failure down, and say it; raise it where the job is alone."""
        sentence = explain_job(error) if isinstance(error, Exception) else None
        reason = sentence or f"{type(error).__name__}: {first_line(error)}"
        self.ledger.write(replace(self.entry, state="failed", error=reason, bug=sentence is None))
        if self.sweep is None:
            raise error
        if sentence is None:
            traceback.print_exception(error)
        print(f"error: {self.title}: {reason}", file=sys.stderr, flush=True)

    def is_done(self) -> bool:
        """Whether the job was done before and what it made is still there."""
        entry = self.ledger.read(self.entry.key)
        if entry is None or entry.state != "done" or entry.folder is None or entry.stage not in LASTING:
            return False
        folder = self.ledger.outputs / entry.folder
        if entry.stage != "evaluate":
            return folder.exists()
        try:
            return bool(read_record(folder / RECORD_FILE))
        except LobertError:
            return False

    def found(self) -> Values:
        """What the job returned when it was done."""
        entry = self.ledger.read(self.entry.key)
        assert entry is not None
        log.info("%s: done already, in %s", self.title, self.ledger.outputs / (entry.folder or ""))
        return entry.returned

    def share(self) -> tuple[dict[str, Any], Any, int | None, bool]:
        """What decides on the job's share of this machine."""
        launcher: Any = OmegaConf.to_container(HydraConfig.get().launcher)
        uses_gpu = OmegaConf.select(self.cfg, "trainer.accelerator") in ("auto", "gpu", "cuda")
        return launcher, this_machine(), self.cfg.get("jobs_at_once"), uses_gpu

    @property
    def title(self) -> str:
        """Number and settings of a job, those that all jobs of its sweep share left out."""
        if self.sweep is None:
            return " ".join(self.entry.overrides)
        of = f" of {len(self.sweep.jobs)}" if self.sweep.jobs else ""
        return f"job {HydraConfig.get().job.num + 1}{of} ({self.sweep.short(self.entry.overrides)})"


def open_attempt(run: Run, cfg: DictConfig) -> Attempt:
    """The attempt at the job that Hydra has composed."""
    overrides = task_overrides()
    try:
        settings: Any = OmegaConf.to_container(cfg, resolve=True)
    except SETTING_ERRORS:  # the job itself will say which setting it is
        settings = {"stage": None, "unreadable": fingerprint(overrides)}
    return Attempt(run, cfg, Ledger(Path(cfg.output_dir)), open_entry(settings, overrides), current_sweep(cfg))


def mark_lines(mark: str) -> None:
    """Begin every line of the log so, where the lines of several jobs come in between each other."""
    for handler in logging.getLogger("lobert").handlers:
        handler.setFormatter(logging.Formatter(f"{mark}%(message)s"))


def is_interruption(error: BaseException) -> bool:
    """Whether it is a Ctrl-C, or the exit that Lightning makes of one."""
    stop = error.__context__ if isinstance(error, SystemExit) else error
    return isinstance(stop, KeyboardInterrupt)
