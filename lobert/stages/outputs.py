"""The teacher's logits on whole splits, found or computed: all its students share them."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lobert.checkpoint import load
from lobert.encoders.source import model_key
from lobert.errors import LobertError
from lobert.evaluation import Predictions, predict_splits
from lobert.stages.workspace import Workspace
from lobert.storage.artefacts import make_folder

PREDICTIONS_FILE = "predictions.safetensors"


def teacher_predictions(work: Workspace, teacher: Path) -> Predictions:
    """The teacher's logits on the labelled dev splits."""
    return stored_predictions(work, teacher, work.job.task.eval_splits)


def stored_predictions(work: Workspace, teacher: Path, splits: Sequence[str]) -> Predictions:
    """The teacher's logits on some splits."""
    job = work.job
    recipe = {"teacher": model_key(teacher), "data": {split: work.data.splits[split].fingerprint for split in splits}}
    folder = job.store.path("predictions", f"{job.task.name}_{job.encoder.name}", recipe)
    make_folder(folder, recipe, partial(compute_predictions, work, teacher, splits))
    try:
        return load_file(folder / PREDICTIONS_FILE)
    except (OSError, SafetensorError) as error:
        raise LobertError(f"{folder} cannot be read ({error}): delete it and run again to make it anew") from None


def compute_predictions(work: Workspace, teacher: Path, splits: Sequence[str], folder: Path) -> None:
    """Run the teacher over the splits."""
    model = load(teacher).to(work.job.machine.device)
    save_file(dict(predict_splits(model, work.data, splits)), folder / PREDICTIONS_FILE)
