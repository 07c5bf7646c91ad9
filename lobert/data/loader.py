"""Batches of similar length, in an order that is a function of seed and epoch, dealt to processes, resumable."""

import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lobert.data.tokens import TokenizedSplit
from lobert.errors import LobertError
from lobert.signals import outlast

CHUNK_BATCHES = 50  # batches among which rows are sorted by length: little padding, still well mixed


class LengthGroupedBatchSampler:
    """Row numbers of each batch of one process.

    `batch_size` is that of all processes together: rank r takes rows r, r + world_size, … of a global batch, so that
    any number of processes sees the same global batches. A last batch with fewer rows than processes joins the one
    before.

    Args:
        lengths: `[rows]` tokens of each row.
        shuffle: False gives every row once, sorted by length.

    Raises:
        LobertError: fewer rows or a smaller batch than processes.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
    ) -> None:
        if min(batch_size, len(lengths)) < world_size:
            raise LobertError(
                f"{world_size} processes cannot share batches of {batch_size} out of {len(lengths)} rows: "
                "give a larger batch size or fewer devices"
            )
        self.lengths, self.batch_size, self.seed = lengths, batch_size, seed
        self.rank, self.world_size, self.shuffle = rank, world_size, shuffle
        self.sampler = self  # where Lightning looks for `set_epoch`
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of this epoch."""
        self._batches = self._shuffled(epoch) if self.shuffle else self._cut(np.argsort(self.lengths, kind="stable"))

    def _cut(self, rows: np.ndarray) -> list[np.ndarray]:
        """Global batches of consecutive rows."""
        starts = list(range(self.batch_size, len(rows), self.batch_size))
        if starts and len(rows) - starts[-1] < self.world_size:
            starts.pop()
        return np.split(rows, starts)

    def _shuffled(self, epoch: int) -> list[np.ndarray]:
        random = np.random.default_rng([self.seed, epoch])
        rows = random.permutation(len(self.lengths))
        chunk = CHUNK_BATCHES * self.batch_size
        parts = (rows[start : start + chunk] for start in range(0, len(rows), chunk))
        grouped = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in parts])
        batches = self._cut(grouped)
        return [batches[i] for i in random.permutation(len(batches))]

    def global_size(self, batch_idx: int) -> int:
        """Rows of a batch of this epoch over all processes."""
        return len(self._batches[batch_idx])

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._batches:
            yield batch[self.rank :: self.world_size].tolist()


def _sequences(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[np.ndarray], tuple[int, ...]]:
    """All sequences of some rows, and the shape they are arranged in: `(rows,)` or `(rows, options)`."""
    if isinstance(rows[0][key], list):
        return [sequence for row in rows for sequence in row[key]], (len(rows), len(rows[0][key]))
    return [row[key] for row in rows], (len(rows),)


def _padded(sequences: Sequence[np.ndarray], value: int, width: int) -> Tensor:
    out = np.full((len(sequences), width), value, dtype=np.int64)
    for line, sequence in zip(out, sequences, strict=True):
        line[: len(sequence)] = sequence
    return torch.from_numpy(out)


def collate(rows: Sequence[Mapping[str, Any]], pad_token_id: int, pad_to: int | None = None) -> dict[str, Tensor]:
    """One batch out of rows of a `TokenizedSplit`, padded to its own longest sequence, or to `pad_to`.

    Returns:
        input_ids, attention_mask and, where the rows have them, token_type_ids, `[batch, width]` long, or in multiple
        choice `[batch, options, width]`; index `[batch]` long; labels `[batch]` long (classes) or float (scores), where
        the rows have them.
    """
    ids, shape = _sequences(rows, "input_ids")
    lengths = torch.tensor([len(sequence) for sequence in ids])
    width = pad_to or int(lengths.max())
    batch = {
        "input_ids": _padded(ids, pad_token_id, width).view(*shape, width),
        "attention_mask": (torch.arange(width) < lengths[:, None]).long().view(*shape, width),
        "index": torch.tensor([row["index"] for row in rows]),
    }
    if "token_type_ids" in rows[0]:
        types, _ = _sequences(rows, "token_type_ids")
        batch["token_type_ids"] = _padded(types, 0, width).view(*shape, width)
    if "label" in rows[0]:
        batch["labels"] = torch.from_numpy(np.stack([row["label"] for row in rows]))
    return batch


class ResumableLoader:
    """Batches of a split in the sampler's order; a loaded state makes the next pass start in the middle.

    The order of a pass is the sampler's at its first batch, because Lightning makes the iterator before it
    sets the epoch.

    Args:
        progress: number of batches of this epoch that have been trained on, for `state_dict`. The loader itself cannot
            know: a batch handed out may be lost in an exception, or be done when a callback saves.
    """

    def __init__(
        self,
        split: TokenizedSplit,
        batch_sampler: LengthGroupedBatchSampler | Sequence[list[int]],
        pad_token_id: int,
        num_workers: int = 0,
        progress: Callable[[], int] = int,
    ) -> None:
        self.split, self.batch_sampler = split, batch_sampler
        self.pad_token_id, self.num_workers, self.progress = pad_token_id, num_workers, progress
        self._start = 0
        self._pass: weakref.ref[Generator[dict[str, Tensor], None, None]] | None = None

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        start, self._start = self._start, 0
        batches = self._batches(start)
        self._pass = weakref.ref(batches)  # a strong one would keep the loading processes of a pass that nobody ends
        return batches

    def close(self) -> None:
        """End the pass that is under way, and the processes that load for it."""
        batches = self._pass() if self._pass is not None else None
        if batches is not None:
            batches.close()

    def _batches(self, start: int) -> Generator[dict[str, Tensor], None, None]:
        yield from DataLoader(
            self.split,  # type: ignore[arg-type]  # has __len__ and __getitem__, all that a map-style data set needs
            batch_sampler=list(self.batch_sampler)[start:],
            collate_fn=partial(collate, pad_token_id=self.pad_token_id),
            num_workers=self.num_workers,
            worker_init_fn=outlast,
            generator=torch.Generator(),  # else each pass would draw from the global random state
        )

    def state_dict(self) -> dict[str, int]:
        """Where in the epoch training stands."""
        return {"batch": self.progress(), "batches": len(self)}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Start the next pass at the saved batch.

        Raises:
            LobertError: the epoch then had another number of batches.
        """
        if state["batches"] != len(self):
            raise LobertError(
                f"the checkpoint was made with {state['batches']} batches in an epoch, this run has {len(self)}: "
                "resume with the same data and batch size, or start anew"
            )
        self._start = state["batch"]


@dataclass(frozen=True)
class TextData:
    """The tokenized splits of one task, and how they are batched where no model is trained.

    Attributes:
        splits: "train" and those of `eval_splits` among them.
        eval_splits: dev splits, the main one first.
        eval_batch_size: sequences of a batch over all processes: one for each option of a row.
        num_workers: processes that load batches.
    """

    splits: Mapping[str, TokenizedSplit]
    eval_splits: Sequence[str]
    pad_token_id: int
    eval_batch_size: int
    num_workers: int = 0

    def eval_rows(self, split: str) -> int:
        """Rows of an evaluation batch of a split."""
        return max(1, self.eval_batch_size // self.splits[split].width)
