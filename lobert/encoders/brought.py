"""A teacher that somebody else fine-tuned: where it is, whether it is whole, and its classes in the task's order."""

import logging
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, PreTrainedModel

from lobert.checkpoint import load, merge, read_config
from lobert.compression.refit import head_of
from lobert.data import Task
from lobert.data.labels import is_numbered, order_of
from lobert.encoders.roles import chooses_options, own_config
from lobert.encoders.source import (
    MODEL_FILES,
    auto_class,
    classifier_settings,
    has_vocabulary,
    local_or_hub,
    set_dropout,
)
from lobert.errors import LobertError, first_line
from lobert.storage.artefacts import hash_files

log = logging.getLogger(__name__)
PICKLED = "pytorch_model.bin"  # read as tensors only, never as code


@dataclass(frozen=True)
class BroughtTeacher:
    """A sequence classifier of transformers, from a folder or the hub.

    Attributes:
        labels: the task's class names in the order of the teacher's logits, where its own names do not say.
        force: take it even where its dev score is no better than chance.
    """

    path: str
    labels: tuple[str, ...] | None = None
    force: bool = False

    @property
    def name(self) -> str:
        """Its last name, fit for a folder's."""
        return re.sub(r"[^\w.-]+", "-", Path(self.path).expanduser().resolve().name)

    @property
    def encoder_settings(self) -> dict[str, Any]:
        """What its encoder is: the student is made from the teacher, so the encoder follows it."""
        return {"name": self.name, "path": self.path, "package": None, "config": None}

    def folder(self) -> Path:
        """The local folder with config, weights and tokenizer; LobertError where one of them cannot be had."""
        folder = local_or_hub(self.path, "teacher.path", other_weights=PICKLED)
        if not weights_in(folder):
            raise LobertError(f"the teacher in '{folder}' has no weights: there is no model.safetensors in it")
        if not has_vocabulary(folder):
            raise LobertError(
                f"the teacher in '{folder}' has no tokenizer, by which the student must read as it does: "
                "save it there with tokenizer.save_pretrained(...)"
            )
        return folder


def read_brought(settings: Mapping[str, Any]) -> BroughtTeacher | None:
    """The teacher that `teacher.path` names, if any; LobertError where other settings contradict it."""
    teacher = settings["teacher"]
    if teacher["path"] is None:
        for name in ("labels", "force"):
            if teacher[name]:
                raise LobertError(f"teacher.{name} is for a teacher that is brought along: type teacher.path=... too")
        return None
    if lists := [name for name, value in teacher.items() if name != "labels" and isinstance(value, list)]:
        raise LobertError(f"teacher.path names a finished teacher, so there is no teacher.{lists[0]} to search")
    if settings["decomp"]["init"] == "pretrained":
        raise LobertError("decomp.init=pretrained will not do with teacher.path: the student is made from the teacher")
    labels = teacher["labels"]
    if labels is not None and not isinstance(labels, list):
        raise LobertError(f"teacher.labels={labels} will not do: give a list of class names")
    return BroughtTeacher(str(teacher["path"]), None if labels is None else tuple(map(str, labels)), teacher["force"])


def weights_in(folder: Path) -> bool:
    return (folder / PICKLED).exists() or any(folder.glob("*.safetensors"))


def brought_key(folder: Path) -> str:
    """Content hash of config, weights and tokenizer."""
    return hash_files(folder, (*MODEL_FILES, PICKLED))


def load_brought(
    folder: Path, brought: BroughtTeacher, task: Task, dropout: float | None
) -> tuple[PreTrainedModel, list[int]]:
    """The dense classifier in `folder`, its logits put in the order of the task's classes, and that order.

    Raises LobertError where it cannot be read, has no head, or tells other classes apart than the task.
    """
    if read_config(folder).get("lobert") is not None:
        log.info("teacher: is compressed, so its factors are multiplied out")
        model = merge(load(folder))
        if not type(model).__name__.endswith("ForSequenceClassification") and not chooses_options(model):
            raise LobertError(headless(folder))
    else:
        model = load_classifier(folder, task.is_choice)
    if task.is_choice != chooses_options(model):
        raise LobertError(f"the teacher in '{folder}' is a {type(model).__name__}: it is a teacher of another task")
    order = teacher_order(model, task, brought.labels)
    arrange(model, order, task)
    config = own_config(model)
    config.update(classifier_settings(task.labels))
    if dropout is not None:
        set_dropout(config, dropout)
    return model, order


def load_classifier(folder: Path, chooses: bool) -> PreTrainedModel:
    """A sequence classifier or multiple-choice model whose head the folder holds, in single precision."""
    safe = any(folder.glob("*.safetensors"))
    how: dict[str, Any] = {"local_files_only": True, "dtype": torch.float32}
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        model, info = auto_class(chooses).from_pretrained(
            folder, config=config, use_safetensors=safe, weights_only=True, output_loading_info=True, **how
        )
    except (OSError, ValueError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise LobertError(f"the teacher in '{folder}' cannot be read: {first_line(error)}") from None
    if info["missing_keys"]:
        raise LobertError(headless(folder, sorted(info["missing_keys"])[0]))
    return model


def headless(folder: Path, missing: str = "the head of a classifier") -> str:
    return (
        f"the model in '{folder}' is no finished classifier, it lacks {missing}: "
        "type encoder.path=... in place of teacher.path=... to have it fine-tuned"
    )


@torch.no_grad()
def arrange(model: PreTrainedModel, order: list[int], task: Task) -> None:
    """Put the rows of the last layer in the order of the task's classes, so that all that follows is right."""
    if order == sorted(order):
        return
    try:
        head = head_of(model)
    except LobertError:
        raise LobertError("the teacher's classes stand in another order, and its last layer is not linear") from None
    for parameter in head.parameters():
        parameter.copy_(parameter[order].clone())
    log.info("teacher: its logits are put in the order %s", ", ".join(task.labels))


def teacher_order(model: PreTrainedModel, task: Task, named: tuple[str, ...] | None) -> list[int]:
    """The place in the teacher's logits of each class of the task; [0] for a score, and options stand as they are."""
    if task.is_choice and named is not None:
        raise LobertError(
            f"teacher.labels names classes, and {task.name} asks for one of several options: leave it out"
        )
    if task.is_choice:
        return list(range(task.num_outputs))
    count = model.config.num_labels
    names = [str(model.config.id2label.get(i, f"LABEL_{i}")) for i in range(count)]
    if task.is_regression and count == 1 and named is None:
        return [0]
    if task.is_regression and named is not None:
        raise LobertError(f"teacher.labels names classes, and {task.name} asks for a score: leave it out")
    order = order_of(names, task.labels, named)
    if named is None and is_numbered(names):
        log.info("teacher: its classes have numbers for names, so they are taken in the task's order")
    return order
