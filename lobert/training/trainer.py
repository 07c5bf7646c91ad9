"""One Lightning fit: machine, checkpoints, curves, resume, and the best epoch's weights at the end."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from lobert.data import TextData
from lobert.errors import LobertError
from lobert.progress import hush_lightning, interactive
from lobert.signals import kept_handlers
from lobert.training.curvefile import CurveFile
from lobert.training.datamodule import TextDataModule
from lobert.training.finetune import FineTuner
from lobert.training.resume import ExactStop, WholeCheckpoints, damaged, put_away, sound_checkpoint
from lobert.training.settings import CHECKPOINTS, Machine

log = logging.getLogger(__name__)
LOG_EVERY, POINTS_PER_EPOCH = 50, 20  # curves have a point every 50 steps, and at least about 20 an epoch


class EpochLines(Callback):
    """One line of the log per epoch."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        scores = {name: value.item() for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        text = ", ".join(f"{name.removeprefix('val/')} {100 * value:.1f}" for name, value in scores.items())
        loss = trainer.callback_metrics.get("train/loss")  # none where the run goes on after the last step
        told = "" if loss is None else f"loss {loss.item():.4f}, "
        log.info("  epoch %d/%d: %sdev %s", trainer.current_epoch + 1, trainer.max_epochs, told, text)


def fit(module: FineTuner, data: TextData, machine: Machine, folder: Path, loggers: Sequence[Logger] = ()) -> float:
    """Train `module` in `folder`, from its last checkpoint if there is one; the best epoch is left in `module.model`.

    Epochs are ranked by the task's main dev metric, which is returned of the best one. A signal stops it between two
    steps, saved (`ExactStop`).

    Raises:
        LobertError: the machine is not there, or the best epoch's checkpoint is damaged.
        KeyboardInterrupt: of Ctrl-C, or as `Terminated` of SIGTERM.
    """
    hush_lightning()
    pl.seed_everything(module.seed, verbose=False)
    loaders = TextDataModule(data, module.training_settings.batch_size, module.seed)
    checkpoints = folder / CHECKPOINTS
    last = checkpoints / "last.ckpt"
    best = ModelCheckpoint(
        checkpoints, "best", monitor=f"val/{module.task.main_metric}", mode="max", save_weights_only=True,
        enable_version_counter=False,
    )  # fmt: skip
    every_epoch = ModelCheckpoint(checkpoints, "last", save_top_k=1, enable_version_counter=False)
    stop = ExactStop(last)
    callbacks = [best, every_epoch, stop, EpochLines()]
    bars = [RichProgressBar()] if interactive() else []
    steps = len(data.splits["train"]) // loaders.batch_size
    log_every = min(max(1, steps // POINTS_PER_EPOCH), LOG_EVERY)
    trainer = make_trainer(module, machine, [*callbacks, *bars], [CurveFile(folder), *loggers], log_every)
    go_on_from = sound_checkpoint(last, checkpoints / "best.ckpt")
    whole = copy.deepcopy(module.model) if machine.shards else module.model
    with kept_handlers():
        run_fit(trainer, module, loaders, go_on_from)
    module.model = whole  # FSDP has cut the weights of the other one into flat pieces
    stop.request.honour()  # it came too late to stop between two steps
    load_best(module, Path(best.best_model_path), last)
    assert best.best_model_score is not None
    return best.best_model_score.item()


def run_fit(trainer: pl.Trainer, module: FineTuner, data: TextDataModule, checkpoint: Path | None) -> None:
    """Lightning's fit; an interruption leaves it as the exception that it was, and not as an exit."""
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            raise end.__context__ from None
        raise
    finally:
        close_loaders(trainer)


def close_loaders(trainer: pl.Trainer) -> None:
    """End the processes that load data: those of an interrupted fit would hold up the end of this one."""
    for loader in (trainer.train_dataloader, *(trainer.val_dataloaders or ())):
        if loader is not None:
            loader.close()


def load_best(module: FineTuner, best: Path, last: Path) -> None:
    """Give the module the weights of its best epoch."""
    if damaged(best):
        put_away([best], last)
        raise LobertError(f"{best} is damaged: run the same command again, which trains this model anew")
    module.load_state_dict(torch.load(best, weights_only=True, map_location="cpu")["state_dict"])


def make_trainer(
    module: FineTuner, machine: Machine, callbacks: list[Callback], loggers: list[Logger], log_every: int
) -> pl.Trainer:
    """The Trainer of one fit."""
    settings = module.training_settings
    try:
        return pl.Trainer(
            accelerator=machine.accelerator,
            devices=machine.devices,
            num_nodes=machine.num_nodes,
            strategy=machine.strategy,
            precision=machine.resolved_precision,  # type: ignore[arg-type]
            max_epochs=settings.epochs,
            accumulate_grad_batches=settings.accumulate,
            gradient_clip_val=settings.gradient_clip or None,
            callbacks=callbacks,
            logger=loggers,
            log_every_n_steps=log_every,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            plugins=[WholeCheckpoints()],
            enable_model_summary=False,
            enable_progress_bar=interactive(),
        )
    except (ValueError, RuntimeError, MisconfigurationException) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        sentence = " ".join(str(error).split())
        raise LobertError(
            f"this machine cannot run trainer.accelerator={machine.accelerator}, devices={machine.devices}: {sentence}"
        ) from None
