"""The examples of a calibration: how many, and with how many of their tokens exchanged.

A fine-tuned teacher knows its training texts by heart: what it makes of them is the same sure answer every time, as it
is not of the texts that come later. With a part of their tokens exchanged it has not seen them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lobert.distill.knowledge import Batch
from lobert.errors import LobertError

NOISE = 0.15


@dataclass(frozen=True)
class Calibration:
    """What calibration looks at. Raises LobertError for a share that is none.

    Attributes:
        examples: how many of the training split; None for as many as the weights ask for.
        noise: share of their tokens that are exchanged for others of theirs.
    """

    examples: int | None = None
    noise: float = NOISE

    def __post_init__(self) -> None:
        if isinstance(self.noise, bool) or not isinstance(self.noise, int | float) or not 0 <= self.noise <= 1:
            raise LobertError(f"decomp.calibration_noise={self.noise} will not do: give a share from 0 to 1")


def checked_batches(data: Iterable[Batch] | None, vocabulary: int) -> list[Batch]:
    """The batches of a caller's data. Raises LobertError for what is none: it says which batch, and what it lacks."""
    wanted = "give a list of batches, each {'input_ids': [B, T], 'attention_mask': [B, T]}"
    if isinstance(data, str | Mapping) or not isinstance(data, Iterable | None):
        raise LobertError(f"data= is a {type(data).__name__}: {wanted}")
    batches = list(data or ())
    for number, batch in enumerate(batches):
        if (lack := lacking(batch, vocabulary)) is not None:
            raise LobertError(f"batch {number} of data= {lack}: {wanted}")
    return batches


def lacking(batch: object, vocabulary: int) -> str | None:
    """What a batch has not, in words; None where all is there."""
    if not isinstance(batch, Mapping):
        return f"is a {type(batch).__name__}"
    for name in ("input_ids", "attention_mask"):
        if not isinstance(batch.get(name), Tensor) or batch[name].dim() < 2:
            return f"has no tensor [B, T] '{name}'"
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if ids.shape != mask.shape:
        return f"has {list(ids.shape)} tokens and an attention_mask {list(mask.shape)}"
    if ids.is_floating_point() or (ids.numel() and not 0 <= ids.min() <= ids.max() < vocabulary):
        return f"has other tokens than the {vocabulary:,} of the model"
    return None


def noisy(batches: Sequence[Batch], noise: float) -> list[Batch]:
    """The batches with every token exchanged with probability `noise`, the same way every time.

    What takes its place is drawn from the tokens of all batches, so that frequent ones stay frequent. Tokens that every
    text has, as [CLS] and [SEP], stay where they are and are not drawn.
    """
    random, fixed = torch.Generator().manual_seed(0), common_tokens(batches)
    words = [batch["input_ids"][are_words(batch, fixed)].cpu() for batch in batches]
    return [{**batch, "input_ids": exchanged(batch, fixed, torch.cat(words), noise, random)} for batch in batches]


def common_tokens(batches: Sequence[Batch]) -> Tensor:
    """The ids that every text of the batches has."""
    found: set[int] | None = None
    for batch in batches:
        texts, real = (batch[name].flatten(0, -2) for name in ("input_ids", "attention_mask"))
        for text, inside in zip(texts, real.bool(), strict=True):
            here = set(text[inside].tolist())
            found = here if found is None else found & here
    return torch.tensor(sorted(found or ()), dtype=torch.long)


def are_words(batch: Batch, fixed: Tensor) -> Tensor:
    """Which tokens are real and none of the `fixed`, in the shape of `input_ids`."""
    ids = batch["input_ids"]
    return batch["attention_mask"].bool() & ~torch.isin(ids, fixed.to(ids))


def exchanged(batch: Batch, fixed: Tensor, words: Tensor, noise: float, random: torch.Generator) -> Tensor:
    """The `input_ids` with some of the words replaced, text by text: how they are batched makes no difference."""
    ids, changeable = batch["input_ids"].clone(), are_words(batch, fixed)
    for text, inside in zip(ids.flatten(0, -2), changeable.flatten(0, -2), strict=True):
        places = inside.nonzero().flatten()
        chosen = torch.rand(len(places), generator=random) < noise
        drawn = torch.randint(max(1, len(words)), (len(places),), generator=random)
        text[places[chosen.to(places.device)]] = words[drawn[chosen]].to(text)
    return ids
