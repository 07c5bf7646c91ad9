"""Token ids of a task's splits, made once and read from disk by memory map."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from rich.console import Console
from rich.progress import Progress
from transformers import PreTrainedTokenizerBase

from lobert.artefacts import Store, fingerprint
from lobert.data.sources import fingerprint_examples

CHUNK = 1000  # rows given to the tokenizer at once
BAR_FROM = 20_000  # rows; fewer take a second or two
FIELDS = ("input_ids", "token_type_ids", "offsets", "labels", "ids")


@dataclass(frozen=True)
class TokenizedSplit:
    """One split as flat arrays; row i is `input_ids[offsets[i]:offsets[i + 1]]`, special tokens included.

    Attributes:
        name: of the split.
        input_ids: `[tokens]` int32.
        token_type_ids: `[tokens]` int8, or None where the tokenizer has none.
        offsets: `[rows + 1]` int64.
        labels: `[rows]` int64 class ids or float32 scores, or None where they are hidden.
        fingerprint: of the examples, the tokenizer and the maximum length.
        ids: `[rows]` strings by which a submission names the examples, or None where they have none.
    """

    name: str
    input_ids: np.ndarray
    token_type_ids: np.ndarray | None
    offsets: np.ndarray
    labels: np.ndarray | None
    fingerprint: str
    ids: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def lengths(self) -> np.ndarray:
        """Tokens of each row, `[rows]`."""
        return np.diff(self.offsets)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Row i: index, input_ids and, where there are any, token_type_ids and label."""
        span = slice(self.offsets[i], self.offsets[i + 1])
        row: dict[str, Any] = {"index": i, "input_ids": self.input_ids[span]}
        if self.token_type_ids is not None:
            row["token_type_ids"] = self.token_type_ids[span]
        if self.labels is not None:
            row["label"] = self.labels[i]
        return row


def tokenize(
    examples: Mapping[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    store: Store,
    name: str,
    tokenizer_key: str,
) -> dict[str, TokenizedSplit]:
    """Tokenize all splits, or find them in `store` under kind "tokens".

    Args:
        examples: splits with columns text_a, (text_b), (label), (id).
        max_length: tokens kept of a text or pair; the longer text of a pair is cut first.
        name: of the artefact's folder; the task's name.
        tokenizer_key: content hash of the tokenizer.
    """
    recipes = {
        split: {"examples": fingerprint_examples(data), "tokenizer": tokenizer_key, "max_length": max_length}
        for split, data in examples.items()
    }

    def build(folder: Path) -> None:
        total = sum(map(len, examples.values()))
        quiet = total < BAR_FROM or not sys.stderr.isatty()
        with Progress(console=Console(stderr=True), transient=True, disable=quiet) as progress:
            bar = progress.add_task(f"Tokenizing {name}", total=total)
            for split, data in examples.items():
                for field, array in _arrays(data, tokenizer, max_length, lambda n: progress.advance(bar, n)).items():
                    np.save(folder / f"{split}.{field}.npy", array, allow_pickle=False)

    folder = store.make("tokens", name, recipes, build)
    return {split: _load(folder, split, fingerprint(recipe, length=16)) for split, recipe in recipes.items()}


def _chunks(data: Dataset) -> Iterator[dict[str, list[Any]]]:
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]


def _arrays(data: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, advance: Any) -> dict[str, np.ndarray]:
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    lengths: list[int] = []
    for chunk in _chunks(data):
        texts = [chunk[column] for column in ("text_a", "text_b") if column in chunk]
        encoded = tokenizer(*texts, truncation="longest_first", max_length=max_length, return_attention_mask=False)
        lengths += map(len, encoded["input_ids"])
        ids.append(np.concatenate(encoded["input_ids"]).astype(np.int32))
        if "token_type_ids" in encoded:
            types.append(np.concatenate(encoded["token_type_ids"]).astype(np.int8))
        advance(len(texts[0]))
    arrays = {"input_ids": np.concatenate(ids), "offsets": np.cumsum([0, *lengths], dtype=np.int64)}
    if types:
        arrays["token_type_ids"] = np.concatenate(types)
    if "label" in data.column_names:
        arrays["labels"] = np.asarray(data["label"][:])
        arrays["labels"] = arrays["labels"].astype(np.int64 if arrays["labels"].dtype.kind == "i" else np.float32)
    if "id" in data.column_names:
        arrays["ids"] = np.asarray(data["id"][:], dtype=np.str_)
    return arrays


def _load(folder: Path, split: str, key: str) -> TokenizedSplit:
    paths = {field: folder / f"{split}.{field}.npy" for field in FIELDS}
    arrays: dict[str, Any] = {
        field: np.load(path, mmap_mode="r", allow_pickle=False) if path.exists() else None
        for field, path in paths.items()
    }
    return TokenizedSplit(name=split, fingerprint=key, **arrays)
