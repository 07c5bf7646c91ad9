"""The student: a compressed classifier, trained on labels, on the teacher's outputs and on its hidden states."""

from dataclasses import dataclass

from torch import Tensor, nn

from lobert.data import Task
from lobert.distill.knowledge import Batch, TeacherOutputs, forward
from lobert.distill.losses import LayerMatching, hard_label_loss, patience_loss, score_loss, soft_target_loss
from lobert.errors import LobertError
from lobert.training.finetune import FineTuner, Training


@dataclass(frozen=True)
class Distillation:
    """`(1 - alpha) labels + alpha soft targets + beta patience`, as the original weighs them.

    Attributes:
        temperature: of the soft targets; scores (regression) have none.
        normalize: scale [CLS] vectors to unit length before they are compared.
        class_mean: average the soft-target loss over the classes too, as the original does.
    """

    alpha: float
    temperature: float
    beta: float
    normalize: bool
    class_mean: bool

    def __post_init__(self) -> None:
        for name, wrong, want in (
            ("kd.alpha", not 0 <= self.alpha <= 1, "a share from 0 to 1"),
            ("kd.temperature", not self.temperature > 0, "a number above 0"),
            ("kd.beta", self.beta < 0, "0 or more"),
        ):
            if wrong:
                raise LobertError(f"{name}={getattr(self, name.removeprefix('kd.'))} will not do: give {want}")

    @property
    def needs_teacher(self) -> bool:
        return self.alpha > 0 or self.beta > 0


class Student(FineTuner):
    """Trains with the terms `labels`, `soft_targets` and `patience`; terms of weight zero are not computed."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        training: Training,
        seed: int,
        distillation: Distillation,
        teacher: TeacherOutputs | None,
        matching: LayerMatching = (),
    ) -> None:
        super().__init__(model, task, training, seed)
        self.distillation, self.teacher, self.matching = distillation, teacher, matching

    def loss_terms(self, batch: Batch) -> dict[str, tuple[float, Tensor]]:
        kd = self.distillation
        mine = forward(self.model, batch)
        terms = {"labels": (1 - kd.alpha, hard_label_loss(mine.logits, batch["labels"]))}
        if self.teacher is None:
            return terms
        theirs = self.teacher(batch)
        if kd.alpha > 0:
            terms["soft_targets"] = (kd.alpha, self._soft_targets(mine.logits, theirs.logits))
        if kd.beta > 0:
            terms["patience"] = (kd.beta, patience_loss(mine.cls, theirs.cls, self.matching, kd.normalize))
        return terms

    def _soft_targets(self, mine: Tensor, theirs: Tensor) -> Tensor:
        if self.task.is_regression:
            return score_loss(mine, theirs)
        return soft_target_loss(mine, theirs, self.distillation.temperature, self.distillation.class_mean)
