"""The teacher: a classifier fine-tuned on the labels alone."""

from torch import Tensor

from lobert.distill.knowledge import Batch, model_inputs
from lobert.distill.losses import hard_label_loss
from lobert.training.finetune import FineTuner


class Teacher(FineTuner):
    """Cross-entropy on class ids, or squared error on scores."""

    def loss_terms(self, batch: Batch) -> dict[str, tuple[float, Tensor]]:
        logits = self.model(**model_inputs(self.model, batch)).logits
        return {"labels": (1.0, hard_label_loss(logits, batch["labels"]))}
