"""The test predictions of a run, of its student and of its teacher, as the files that GLUE takes of its own tasks."""

import logging
import shutil
from functools import partial
from pathlib import Path

from lobert.checkpoint import load
from lobert.encoders.source import model_key
from lobert.errors import LobertError
from lobert.evaluation import Predictions, predict_splits
from lobert.job import Job
from lobert.predictions import answers, write_answers
from lobert.stages.outputs import stored_predictions
from lobert.stages.workspace import Workspace
from lobert.storage.artefacts import Recipe, make_folder, read_recipe

log = logging.getLogger(__name__)

PREDICTIONS = "predictions"


def check_test(job: Job) -> None:
    """Refuse to predict where there is nothing to predict, before anything is trained for it."""
    if job.reaches("predict") and not job.task.test:
        name = job.task.name
        raise LobertError(f"task {name} has no test split to predict: leave stage=predict out, or set task.test")


def make_predictions(work: Workspace, teacher: Path, student: Path) -> Path:
    """The folder `predictions` beside the student, with a folder of files each for student and teacher."""
    folder, recipe = student.parent / PREDICTIONS, predictions_recipe(work, teacher, student)
    if read_recipe(folder) not in (None, recipe):
        shutil.rmtree(folder)  # of other test files: those that are asked for now take its place
    make_folder(folder, recipe, partial(write_predictions, work, teacher, student))
    return folder


def predictions_recipe(work: Workspace, teacher: Path, student: Path) -> Recipe:
    return {
        "teacher": model_key(teacher),
        "student": model_key(student),
        "test": {split: work.data.splits[split].fingerprint for split in work.job.task.test},
        "files": dict(work.job.task.test),
        "answers": list(work.job.task.answers),
    }


def write_predictions(work: Workspace, teacher: Path, student: Path, folder: Path) -> None:
    """Run both models over the test splits and write their answers."""
    splits = list(work.job.task.test)
    model = load(student).to(work.job.machine.device)
    write_files(work, predict_splits(model, work.data, splits), folder / "student")
    write_files(work, stored_predictions(work, teacher, splits), folder / "teacher")


def write_files(work: Workspace, predictions: Predictions, folder: Path) -> None:
    """A file for each split, from its logits."""
    for split, file in work.job.task.test.items():
        ids = work.data.splits[split].ids
        write_answers(
            folder / f"{file}.tsv", None if ids is None else ids.tolist(), answers(work.job.task, predictions[split])
        )


def tell_predictions(work: Workspace, folder: Path) -> None:
    """Say what was predicted, where it is, and that nothing was scored."""
    counts = ", ".join(f"{len(work.data.splits[split]):,} of {file}" for split, file in work.job.task.test.items())
    log.info("predictions: %s, by student and teacher, in %s", counts, folder)
    log.info("predictions: labels of test examples are hidden, or not read, so nothing is scored on them")
