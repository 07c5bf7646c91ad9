"""What the teacher says of each example: logits and the [CLS] vector of every layer, from disk or computed live."""

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from lobert.errors import LobertError

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Outputs:
    """`logits [B, C]` and `cls [B, L + 1, d]`, the first token after the embeddings and after every layer.

    In multiple choice with K options, `logits [B, K]` and `cls [B, K, L + 1, d]`.
    """

    logits: Tensor
    cls: Tensor


class TeacherOutputs(Protocol):
    """Gives the teacher's outputs for the examples of a batch of the training split."""

    def __call__(self, batch: Batch) -> Outputs: ...


def model_inputs(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """What a transformers model reads of a batch.

    Token types, which a tokenizer may give to any model, only where it tells several apart: DistilBERT, MPNet and
    ModernBERT have none, RoBERTa has one.
    """
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if has_token_types(model) else [])]
    return {name: batch[name] for name in names if name in batch}


def has_token_types(model: nn.Module) -> bool:
    """Whether the model tells the first text from the second one by more than their order."""
    kinds = getattr(getattr(model, "config", None), "type_vocab_size", 2)
    return kinds > 1 and "token_type_ids" in forward_arguments(type(model).forward)


@cache
def forward_arguments(function: Callable[..., Any]) -> frozenset[str]:
    """Names of the arguments of a model's forward pass."""
    return frozenset(inspect.signature(function).parameters)


def token_mask(batch: Batch) -> Tensor:
    """Which tokens are real, `[sequences, T]`, as the layers of the encoder see them: options one after another."""
    return batch["attention_mask"].flatten(0, -2).bool()


def forward(model: nn.Module, batch: Batch) -> Outputs:
    """Run a classifier, or a chooser of options, on a batch."""
    result = model(**model_inputs(model, batch), output_hidden_states=True)
    cls = torch.stack([hidden[:, 0] for hidden in result.hidden_states], dim=1)  # [sequences, L + 1, d]
    return Outputs(result.logits, cls.unflatten(0, batch["input_ids"].shape[:-1]))


class LiveTeacher:
    """Runs the teacher on each batch. Not a module itself, so no checkpoint and no optimizer sees the teacher."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> Outputs:
        self.model.to(batch["input_ids"].device)
        return forward(self.model, batch)


class StoredKnowledge:
    """Teacher outputs of one split, memory-mapped in half precision and read by example, so any order is free."""

    def __init__(self, folder: Path, split: str) -> None:
        self.logits, self.cls = (open_array(folder / f"{split}.{name}.npy") for name in ("logits", "cls"))

    def __len__(self) -> int:
        return len(self.logits)

    def __call__(self, batch: Batch) -> Outputs:
        rows = batch["index"].cpu().numpy()
        device = batch["input_ids"].device
        logits, cls = (
            torch.from_numpy(np.asarray(array[rows], np.float32)).to(device) for array in (self.logits, self.cls)
        )
        return Outputs(logits, cls)


def open_array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise LobertError(f"{path} cannot be read ({error}): delete its folder and run again to make it anew") from None


@torch.no_grad()
def write_knowledge(model: nn.Module, batches: Iterable[Batch], count: int, folder: Path, split: str) -> None:
    """Write the teacher's outputs for the `count` examples that `batches` go through, each example once."""
    model.eval()
    device = next(model.parameters()).device
    arrays: dict[str, np.memmap] = {}
    for batch in batches:
        outputs = forward(model, {name: tensor.to(device) for name, tensor in batch.items()})
        rows = batch["index"].numpy()
        for name, values in (("logits", outputs.logits), ("cls", outputs.cls)):
            with np.errstate(over="ignore"):  # what does not fit becomes infinite, and is refused below
                half = values.float().cpu().numpy().astype(np.float16)
            if not np.isfinite(half).all():
                raise LobertError(
                    "the teacher's outputs are not finite: train another teacher (teacher.learning_rate=... lower)"
                )
            if name not in arrays:
                arrays[name] = new_array(folder / f"{split}.{name}.npy", (count, *values.shape[1:]))
            arrays[name][rows] = half
    for array in arrays.values():
        array.flush()


def new_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    """A file of zeros, memory-mapped. OSError where the disk has no room for it.

    The room is taken now: a mapped page that finds none when it is written ends the process with a bus error.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def knowledge_bytes(examples: int, layers: int, hidden: int, outputs: int, options: int = 1) -> int:
    """Size on disk of the knowledge of so many examples, of so many sequences each."""
    return 2 * examples * (outputs + options * (layers + 1) * hidden)
