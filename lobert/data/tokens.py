"""Token ids of a task's splits, made once and read from disk by memory map."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from rich.console import Console
from rich.progress import Progress
from transformers import PreTrainedTokenizerBase

from lobert.data.sources import fingerprint_examples
from lobert.storage.artefacts import Store, fingerprint

CHUNK = 1000  # rows given to the tokenizer at once
LONG = 50  # characters for each token that can be kept, beyond which a text is shortened first
BAR_FROM = 20_000  # rows; fewer take a second or two
FIELDS = ("input_ids", "token_type_ids", "offsets", "labels", "ids")


@dataclass(frozen=True)
class TokenizedSplit:
    """One split as flat arrays; sequence i is `input_ids[offsets[i]:offsets[i + 1]]`, special tokens included.

    A row is one sequence, or in multiple choice so many in turn as there are options.

    Attributes:
        name: of the split.
        input_ids: `[tokens]` int32.
        token_type_ids: `[tokens]` int8, or None where the tokenizer has none.
        offsets: `[sequences + 1]` int64.
        labels: `[rows]` int64 class ids or float32 scores, or None where they are hidden.
        fingerprint: of the examples, the tokenizer and the maximum length.
        ids: `[rows]` strings by which a submission names the examples, or None where they have none.
        options: sequences of a row of a multiple choice; None where a row is one sequence.
    """

    name: str
    input_ids: np.ndarray
    token_type_ids: np.ndarray | None
    offsets: np.ndarray
    labels: np.ndarray | None
    fingerprint: str
    ids: np.ndarray | None = None
    options: int | None = None

    @property
    def width(self) -> int:
        """Sequences of a row."""
        return self.options or 1

    def __len__(self) -> int:
        return (len(self.offsets) - 1) // self.width

    def lengths(self) -> np.ndarray:
        """Tokens of the longest sequence of each row, `[rows]`."""
        return np.diff(self.offsets).reshape(-1, self.width).max(axis=1)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Row i: index, input_ids and, where there are any, token_type_ids and label.

        The ids are an array, or in multiple choice a list of one array for each option.
        """
        row: dict[str, Any] = {"index": i, "input_ids": self._sequences(self.input_ids, i)}
        if self.token_type_ids is not None:
            row["token_type_ids"] = self._sequences(self.token_type_ids, i)
        if self.labels is not None:
            row["label"] = self.labels[i]
        return row

    def _sequences(self, array: np.ndarray, i: int) -> np.ndarray | list[np.ndarray]:
        bounds = self.offsets[i * self.width : (i + 1) * self.width + 1]
        spans = [array[start:end] for start, end in pairwise(bounds)]
        return spans[0] if self.options is None else spans


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
        examples: splits with columns text_a, (text_b), (options), (label), (id).
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
    return {
        split: replace(_load(folder, split, fingerprint(recipe, length=16)), options=_options(examples[split]))
        for split, recipe in recipes.items()
    }


def _options(data: Dataset) -> int | None:
    """Options of every row of a multiple choice."""
    return data.features["options"].length if "options" in data.column_names else None


def sequence_texts(chunk: Mapping[str, list[Any]]) -> list[list[str]]:
    """First and, for pairs, second texts of the sequences of some rows.

    In multiple choice there is one sequence for each option: text_a, then text_b and the option (Radford et al. 2018,
    section 3.3).
    """
    texts = [chunk[column] for column in ("text_a", "text_b") if column in chunk]
    if "options" not in chunk:
        return texts
    first = [text for text, options in zip(texts[0], chunk["options"], strict=True) for _ in options]
    questions = texts[1] if len(texts) == 2 else [""] * len(texts[0])
    pairs = zip(questions, chunk["options"], strict=True)
    return [first, [f"{question} {option}".lstrip() for question, options in pairs for option in options]]


def _chunks(data: Dataset) -> Iterator[dict[str, list[Any]]]:
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]


def shorten(text: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
    """The start of a very long text, twice as many tokens as can be kept.

    Where both texts of a pair are cut, the tokenizers library makes all pairs of their remaining pieces, too, whose
    number grows with the product of the lengths: two texts of 100,000 characters took all memory.
    """
    if len(text) <= LONG * max_length or not tokenizer.is_fast:
        return text
    settings = {"truncation": True, "add_special_tokens": False, "return_offsets_mapping": True}
    spans = tokenizer(text, max_length=2 * max_length, **settings)["offset_mapping"]
    return text[: spans[-1][1]] if spans else text


def _arrays(data: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, advance: Any) -> dict[str, np.ndarray]:
    ids: list[np.ndarray] = []
    types: list[np.ndarray] = []
    lengths: list[int] = []
    for chunk in _chunks(data):
        texts = [[shorten(text, tokenizer, max_length) for text in column] for column in sequence_texts(chunk)]
        encoded = tokenizer(*texts, truncation="longest_first", max_length=max_length, return_attention_mask=False)
        lengths += map(len, encoded["input_ids"])
        ids.append(np.concatenate(encoded["input_ids"]).astype(np.int32))
        if "token_type_ids" in encoded:
            types.append(np.concatenate(encoded["token_type_ids"]).astype(np.int8))
        advance(len(chunk["text_a"]))
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
