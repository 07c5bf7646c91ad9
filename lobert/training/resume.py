"""Checkpoints from which training goes on exactly: written whole, between two optimizer steps, checked when read."""

import logging
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback

from lobert.signals import StopRequest
from lobert.storage.artefacts import process_rank, replacing, set_aside

log = logging.getLogger(__name__)
SAVE_EVERY = 600.0  # seconds of training that a killed process loses at most


class WholeCheckpoints(TorchCheckpointIO):
    """Writes beside the old checkpoint, then takes its place: a kill or a power cut leaves the old one or the new.

    Lightning's own writes into the system's temporary folder, and copies from there where that is another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with replacing(Path(path)) as file:
            torch.save(checkpoint, file)


def damaged(path: Path) -> bool:
    """Whether a checkpoint is cut short or changed: torch keeps a checksum of each tensor, and does not look at it."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is not None
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError):
        return True


def sound_checkpoint(last: Path, *others: Path) -> Path | None:
    """`last`, if training can go on from it and from the `others` that are there; damaged, all start anew."""
    if not last.exists():
        return None
    broken = [path for path in (last, *others) if path.exists() and damaged(path)]
    if not broken:
        return last
    if process_rank() == 0:
        log.warning("%s is damaged: this training starts anew, and the file is kept as %s", *put_away(broken, last))
    return None


def put_away(broken: list[Path], last: Path) -> tuple[Path, Path]:
    """Move damaged checkpoints aside; without them `last` is of no use either. The first one and its new place."""
    places = [set_aside(path) for path in broken]
    last.unlink(missing_ok=True)
    return broken[0], places[0]


class ExactStop(Callback):
    """Saves `path` and stops where a signal asks for it, and saves it every so many seconds, always between two steps.

    A step is an optimizer's: of accumulated batches, gradients in between would be lost. After the last step of an
    epoch, and during its validation, what is saved resumes with the whole validation. All processes stop at the same
    step, whichever of them the signal has reached.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.request = StopRequest(quiet=process_rank() > 0)
        self._next_save = 0.0  # by a clock that nobody sets
        self._saved = 0  # the signal for which the checkpoint is on disk

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Only here has Lightning installed its own handlers."""
        self._next_save = time.monotonic() + SAVE_EVERY
        self.request.listen()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        whole_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if whole_step and batch_idx + 1 < trainer.num_training_batches:
            self._save_if_asked(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._stop_if_saved()  # not before: the step that was saved is logged only after its end

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._save_if_asked(trainer)
        self._stop_if_saved()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.validating:
            rewind_validation(checkpoint["loops"]["fit_loop"])

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        move_paths(checkpoint["callbacks"], self.path.parent.resolve())

    def _save_if_asked(self, trainer: pl.Trainer) -> None:
        signum, due = agreed(trainer, self.request.signum, time.monotonic() >= self._next_save)
        if signum or due:
            trainer.save_checkpoint(self.path)
            self._next_save = time.monotonic() + SAVE_EVERY
        if signum:
            self._saved = self.request.signum = signum

    def _stop_if_saved(self) -> None:
        if self._saved:
            self.request.honour()


def agreed(trainer: pl.Trainer, signum: int, due: bool) -> tuple[int, bool]:
    """What any of the processes was asked for; one says so, all do it."""
    if trainer.world_size == 1:
        return signum, due
    mine = torch.tensor([signum, int(due)], device=trainer.strategy.root_device)
    signum, due = trainer.strategy.reduce(mine, reduce_op="max").tolist()
    return signum, bool(due)


def rewind_validation(loops: dict[str, Any]) -> None:
    """Have a resumed run begin the validation in which it was saved, as after a stop in its first batch."""
    progress = loops["epoch_loop.val_loop.batch_progress"]
    for count in (progress["total"], progress["current"]):
        count |= {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    progress["is_last_batch"] = False


def move_paths(callbacks: Mapping[str, Any], folder: Path) -> None:
    """Let the states of Lightning's checkpoint callbacks speak of `folder`: the outputs may have been moved since."""
    for state in callbacks.values():
        if "best_model_path" not in state:
            continue
        for name in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[name] = str(folder / Path(state[name]).name) if state[name] else state[name]
        state["best_k_models"] = {str(folder / Path(p).name): score for p, score in state["best_k_models"].items()}
        state["dirpath"] = str(folder)
