"""How good a student is on dev, and how near to its teacher; kept with its facts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from lobert.evaluation import Closeness, closeness, predict_dev, score_splits
from lobert.stages.outputs import teacher_predictions
from lobert.stages.workspace import Workspace


@dataclass(frozen=True)
class Scores:
    """The metrics of all labelled dev splits, and how near the answers are to the teacher's."""

    metrics: Mapping[str, float]
    closeness: Closeness

    def facts(self, prefix: str = "") -> dict[str, Any]:
        """As they are written down."""
        return {f"{prefix}metrics": self.metrics, f"{prefix}closeness": asdict(self.closeness)}


def score_student(work: Workspace, teacher: Path, model: PreTrainedModel) -> Scores:
    """Run the model over dev, on the job's device."""
    predictions = predict_dev(model.to(work.job.machine.device), work.data)
    metrics = score_splits(work.job.task, work.data, predictions)
    return Scores(metrics, closeness(teacher_predictions(work, teacher), predictions))


def kept_scores(facts: Mapping[str, Any]) -> Scores | None:
    """The scores among a student's facts; None where it was made before they were kept."""
    if "closeness" not in facts:
        return None
    return Scores(facts["metrics"], Closeness(**facts["closeness"]))
