"""The student: a compressed classifier, trained on labels, on the teacher's outputs and on its hidden states."""

from torch import Tensor, nn

from lobert.data import Task
from lobert.distill.knowledge import Batch, TeacherOutputs, forward
from lobert.distill.losses import LayerMatching, hard_label_loss, patience_loss, score_loss, soft_target_loss
from lobert.training.finetune import FineTuner
from lobert.training.settings import Distillation, Training


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
