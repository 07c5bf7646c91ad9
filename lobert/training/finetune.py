"""Fine-tuning, the part that teacher and student share: optimizer, schedule, exact resume, dev scores."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from lobert.data import Task
from lobert.distill.knowledge import Batch, model_inputs
from lobert.errors import LobertError
from lobert.evaluation import score_all
from lobert.training.settings import Training


class FineTuner(pl.LightningModule):
    """Trains a classifier, regressor or chooser of options; subclasses say what the loss is made of."""

    def __init__(self, model: nn.Module, task: Task, training: Training, seed: int) -> None:
        super().__init__()
        self.model, self.task, self.training_settings, self.seed = model, task, training, seed
        self._dev_outputs: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}

    def loss_terms(self, batch: Batch) -> dict[str, tuple[float, Tensor]]:
        """Weight and value (a mean over the batch) of each term of the loss, by its name in the log."""
        raise NotImplementedError

    # ---- training ----

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Dropout is a function of (seed, epoch, batch, process): a resumed run draws the same as a whole one."""
        key = [self.seed, self.current_epoch, batch_idx, self.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        terms = self.loss_terms(batch)
        share = self._share_of_batch(batch, batch_idx)
        loss = torch.stack([weight * value for weight, value in terms.values()]).sum() * share
        if not torch.isfinite(loss):
            raise self._diverged(terms)
        values = {f"train/{name}": value.detach() * share for name, (_, value) in terms.items()}
        self.log_dict(
            {**values, "train/loss": loss.detach()}, sync_dist=self._processes > 1, batch_size=len(batch["index"])
        )
        return loss

    def _diverged(self, terms: Mapping[str, tuple[float, Tensor]]) -> LobertError:
        """What to say of a loss that is not finite: where, of which term, and the likeliest cause."""
        broken = [f"{name} {value.item()}" for name, (_, value) in terms.items() if not torch.isfinite(value)]
        weights = ", ".join(f"{name} {weight:g}" for name, (weight, _) in terms.items())
        said = f"the loss is not finite at step {self.global_step} ({', '.join(broken) or 'the sum of its terms'}): "
        if not_finite := [name for name, weight in self.model.named_parameters() if not torch.isfinite(weight).all()]:
            said += f"the step before has left {not_finite[0]} without finite weights; "
        return LobertError(
            said + self._likely_cause() + (f"; or a term weighs too much ({weights})" * (len(terms) > 1))
        )

    def _likely_cause(self) -> str:
        settings = self.training_settings
        causes = [f"the learning rate, {settings.learning_rate:g}, is probably too high"]
        if settings.gradient_clip == 0:
            causes.append("gradients are not clipped (gradient_clip=0)")
        if "16" in str(self.trainer.precision):
            causes.append(f"{self.trainer.precision} cannot hold it (trainer.precision=32-true may)")
        return "; or ".join(causes)

    def _share_of_batch(self, batch: Batch, batch_idx: int) -> float:
        """Factor that turns the mean over processes, which DDP takes, into the mean over examples."""
        if self._processes == 1:
            return 1.0
        whole = self.trainer.train_dataloader.batch_sampler.global_size(batch_idx)  # type: ignore[union-attr]
        return len(batch["index"]) * self._processes / whole

    @property
    def _processes(self) -> int:
        return self.trainer.world_size

    def configure_optimizers(self) -> Any:
        """AdamW without decay on biases and norms; linear warm-up, then linear decay to zero."""
        settings = self.training_settings
        groups = decay_groups(self.model, settings.weight_decay)
        fused = "mixed" not in str(self.trainer.precision)  # Lightning clips no gradients of a fused optimizer there
        optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=fused)
        total = self._optimizer_steps()
        warmup = max(1, round(settings.warmup * total)) if settings.warmup else 0
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_then_decay(step, warmup, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """By the norm of all gradients; under FSDP each device has a piece of them, and it knows how to add them up."""
        sharded_clip = getattr(self.trainer.strategy.model, "clip_grad_norm_", None)
        if sharded_clip is None:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            sharded_clip(gradient_clip_val)

    def _optimizer_steps(self) -> int:
        """Optimizer steps of the whole training.

        Lightning's own estimate would set up the loader before a checkpoint is read, and a resumed run would then
        start its epoch over.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        settings = self.training_settings
        return math.ceil(len(data.train_dataloader()) / settings.accumulate) * settings.epochs

    # ---- dev scores ----

    def on_validation_epoch_start(self) -> None:
        self._dev_outputs = {split: [] for split in self.task.eval_splits}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        inputs = model_inputs(self.model, batch)
        logits = self.model(**inputs).logits
        if not torch.isfinite(logits).all():  # the last step of an epoch has no loss after it
            raise LobertError(
                f"the model's answers on dev are not finite after step {self.global_step}: {self._likely_cause()}"
            )
        split = self.task.eval_splits[dataloader_idx]
        index, scores, labels = (t.cpu().numpy() for t in (batch["index"], logits.float(), batch["labels"]))
        self._dev_outputs[split].append((index, scores, labels))

    def on_validation_epoch_end(self) -> None:
        predictions, answers = {}, {}
        for split, outputs in self._dev_outputs.items():
            index, logits, labels = (np.concatenate(parts) for parts in zip(*self._gather(outputs), strict=True))
            order = np.argsort(index)
            predictions[split], answers[split] = logits[order], labels[order]
        metrics = score_all(self.task, predictions, answers)
        self.log_dict({f"val/{name}": value for name, value in metrics.items()}, sync_dist=self._processes > 1)

    def _gather(self, outputs: list[Any]) -> list[Any]:
        """The outputs of all processes."""
        if self._processes == 1:
            return outputs
        gathered: list[Any] = [None] * self._processes
        torch.distributed.all_gather_object(gathered, outputs)
        return [item for part in gathered for item in part]


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters with and without weight decay: biases and norm weights have none."""
    spared = {
        id(parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if name == "bias" or "norm" in type(module).__name__.lower()
    }
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) not in spared], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in spared], "weight_decay": 0.0},
    ]


def warmup_then_decay(step: int, warmup: int, total: int) -> float:
    """Share of the learning rate at optimizer step `step`, counted from 0."""
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (total - step) / max(1, total - warmup))
