"""Which records a table is of: those that have the values that were typed."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from lobert.errors import LobertError, suggest
from lobert.results.record import Number, Record, find_runs

KINDS = (str, int, float, bool, Number, str | None, bool | None)
KEYS = tuple(name for name, kind in get_type_hints(Record).items() if kind in KINDS and name != "schema")


def read_folders(folders: Iterable[Path]) -> tuple[list[Record], list[str]]:
    """The records under several folders, one inside the other perhaps, and a sentence for each that is broken."""
    runs: dict[Path, Record] = {}
    broken: dict[str, None] = {}
    for folder in folders:
        found, sentences = find_runs(folder)
        runs |= {path.resolve(): record for path, record in found.items()}
        broken |= dict.fromkeys(sentences)
    return list(runs.values()), list(broken)


def read_filters(words: Iterable[str]) -> dict[str, list[str]]:
    """`key=a,b` as the key and its possible values; LobertError for a key that no record has."""
    filters: dict[str, list[str]] = {}
    for word in words:
        key, sign, values = word.partition("=")
        if not sign or not values:
            raise LobertError(f"'{word}' says nothing: type key=value, several values with commas, as in keep=0.5,0.25")
        if key not in KEYS:
            raise LobertError(f"runs have no '{key}': {suggest(key, KEYS)}")
        filters.setdefault(key, []).extend(value.strip() for value in values.split(","))
    return filters


def select(records: Sequence[Record], filters: Mapping[str, Sequence[str]]) -> list[Record]:
    """The records that have one of the values for each key; LobertError where a value is nowhere, or none has all."""
    for key, values in filters.items():
        there = {_spelled(getattr(record, key)) for record in records}
        for value in values:
            if not any(same(getattr(record, key), value) for record in records):
                hint = suggest(value, there) if _number(value) is None else f"choices: {', '.join(sorted(there))}"
                raise LobertError(f"no run has {key}={value}: {hint}")
    chosen = [record for record in records if all(_has(record, key, values) for key, values in filters.items())]
    if not chosen:
        asked = " ".join(f"{key}={','.join(values)}" for key, values in filters.items())
        raise LobertError(f"no run has all of {asked}: leave one out")
    return chosen


def same(value: Any, typed: str) -> bool:
    """Whether a value is what was typed: numbers by their value, words in any case and with or without hyphens."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value == _number(typed)
    return _fold(_spelled(value)) == _fold(typed)


def _has(record: Record, key: str, values: Iterable[str]) -> bool:
    return any(same(getattr(record, key), value) for value in values)


def _number(typed: str) -> float | None:
    try:
        return float(typed)
    except ValueError:
        return None


def _spelled(value: Any) -> str:
    return "null" if value is None else str(value)


def _fold(word: str) -> str:
    return word.lower().replace("-", "")
