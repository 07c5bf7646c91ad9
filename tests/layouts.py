"""Small generated data in the real layouts of every task: GLUE's and SNLI's files, RACE's folders, a stand-in for the
hub. Both tell the same examples; each text carries a word of its label, so that a model can learn something.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from omegaconf import OmegaConf

from lobert.data import Task

CONF = Path(__file__).parents[1] / "conf" / "task"
TASKS = sorted(path.stem for path in CONF.glob("*.yaml"))
PUBLIC = [name for name in TASKS if name not in ("demo", "custom")]  # those with a hub and a local layout
TEXTS = ['a "quoted', "NA", "null", "plain words here", "", "é ünï 雪", " spaces kept ", "'", "1", "None"]
WORDS = ("red", "blue", "green", "white", "black", "brown")
ROWS = 6


def read_task(name: str, /, **changes: Any) -> Task:
    """The task of a file of conf/task, as a job reads it."""
    node: Any = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"), resolve=True)
    del node["kd"]
    return Task(**{**node, **changes})


@dataclass(frozen=True)
class Example:
    """One row of any split; `label` is a class id, a score, or None where annotators did not agree."""

    row: int
    texts: list[str]
    label: float | None
    options: list[str]

    @property
    def text_id(self) -> str:
        """The text that a question of RACE is about: two questions each, in an order that is not that of numbers."""
        return f"{'high' if self.row % 4 < 2 else 'middle'}{(self.row // 2 + 1) * 5}.txt"


def example(task: Task, split: str, row: int) -> Example:
    label: float = round(row * 0.7 % 5, 3) if task.is_regression else row % len(task.labels)
    word = " ".join([WORDS[0]] * round(label)) if task.is_regression else WORDS[int(label)]
    about = row // 2 if task.is_choice else row  # questions of one text share it
    texts = [f"{TEXTS[(about + i) % len(TEXTS)]}{split} {about}" for i in range(len(task.text))]
    texts[-1] += f" {word}"
    options = [f"{word if i == label else WORDS[-1]} {i}" for i in range(len(task.labels))] if task.is_choice else []
    has_none = task.local is not None and task.local.no_label is not None and row % 5 == 4
    return Example(row, texts, None if has_none else label, options)


def examples(task: Task, split: str, rows: int = ROWS) -> list[Example]:
    """The rows of a split as they are written."""
    if not task.is_choice:
        return [example(task, split, row) for row in range(rows)]
    level = split.partition("_")[2]  # middle, high, or both
    return [e for e in (example(task, split, row) for row in range(2 * rows)) if level in e.text_id]


def expected(task: Task, split: str, rows: int = ROWS) -> list[Example]:
    """The rows of a split as they are to be read: labelled, and sorted where the layouts differ in order."""
    kept = [e for e in examples(task, split, rows) if e.label is not None]
    return sorted(kept, key=lambda e: e.text_id) if task.is_choice else kept


# ---- local ----


def write_local(task: Task, root: Path, rows: int = ROWS, form: int = 0) -> Path:
    """The task's files as they are distributed; `form` chooses where there are several."""
    assert task.local is not None
    for split in task.local.files:
        candidates = task.local.candidates(split)
        path = root / task.local.folder / candidates[min(form, len(candidates) - 1)]
        path = path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = task.local.format or path.suffix
        WRITERS[kind](task, split, path, examples(task, split, rows))
    return root


def cells(task: Task, split: str, one: Example) -> dict[str, str]:
    """What the columns of a row hold."""
    layout = task.local
    assert layout is not None
    found = dict(zip(layout.text, one.texts, strict=True))
    found[layout.index or "index"] = str(one.row + 1)  # not what counting from 0 gives
    if one.label is None:
        found[layout.label] = str(layout.no_label)
    elif task.is_labelled(split) or layout.no_label is not None:
        spelled = layout.values or task.labels
        found[layout.label] = str(one.label) if task.is_regression else spelled[int(one.label)]
    return found


def write_tsv(task: Task, split: str, path: Path, rows: list[Example]) -> None:
    """Byte-order mark, tabs, bare quotes, other columns in between."""
    assert task.local is not None
    header = task.local.columns.get(split)
    names = header or ("origin", *cells(task, split, rows[0]))
    lines = [] if header else ["\t".join(names)]
    lines += ["\t".join(cells(task, split, one).get(name, "x") for name in names) for one in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8-sig")


def write_jsonl(task: Task, split: str, path: Path, rows: list[Example]) -> None:
    path.write_text("".join(json.dumps({**cells(task, split, one), "pairID": "x"}) + "\n" for one in rows))


def write_race(task: Task, split: str, folder: Path, rows: list[Example]) -> None:
    """One file for each text, in the folders of its level."""
    level = "" if "_" in split else "level"
    for text_id in {one.text_id for one in rows}:
        questions = [one for one in rows if one.text_id == text_id]
        name = text_id.removeprefix("high").removeprefix("middle")
        path = folder / (text_id.removesuffix(name) if level else "") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "article": questions[0].texts[0],
            "questions": [one.texts[1] for one in questions],
            "options": [one.options for one in questions],
            "answers": [task.labels[int(one.label or 0)] for one in questions],
            "id": text_id,
        }
        path.write_text(json.dumps(content))


WRITERS: dict[str, Callable[[Task, str, Path, list[Example]], None]] = {
    ".tsv": write_tsv,
    ".txt": write_tsv,
    ".jsonl": write_jsonl,
    "race": write_race,
}


# ---- hub ----


def write_hub(task: Task, root: Path, rows: int = ROWS) -> Path:
    """A folder that `datasets.load_dataset` reads as it reads the hub: configurations, a file for each split."""
    assert task.hub is not None
    root.mkdir(parents=True, exist_ok=True)
    files: dict[str, list[dict[str, str]]] = {}
    for split in task.hub.splits:
        config, name = task.hub.place(split)
        path = f"{config}_{name}.jsonl"
        files.setdefault(str(config), []).append({"split": name, "path": path})
        found = examples(task, split, rows)
        if task.hub.sort:
            found = sorted(found, key=lambda one: one.row // 2, reverse=True)  # the hub's order of texts is its own
        (root / path).write_text("".join(json.dumps(hub_row(task, split, one)) + "\n" for one in found))
    card = yaml.safe_dump({"configs": [{"config_name": name, "data_files": made} for name, made in files.items()]})
    (root / "README.md").write_text(f"---\n{card}---\n")
    return root


def hub_row(task: Task, split: str, one: Example) -> dict[str, Any]:
    layout = task.hub
    assert layout is not None
    label: Any = one.label
    if one.label is None or not (task.is_labelled(split) or layout.no_label is not None or task.is_choice):
        label = -1
    elif task.is_choice:
        label = task.labels[int(one.label)]
    options = {layout.options: one.options} if layout.options else {}
    named = {"example_id": one.text_id} if task.is_choice else {"idx": one.row + 1}
    return {**dict(zip(layout.text, one.texts, strict=True)), **options, layout.label: label, **named}


# ---- files of the user's own ----


def quoted(value: Any) -> str:
    return '"' + str(value).replace('"', '""') + '"'


def write_own(path: Path, rows: list[dict[str, Any]]) -> str:
    """The rows in the format that the ending names; a folder saved by `datasets` where there is none."""
    names = list(rows[0])
    match path.suffix:
        case ".csv":
            lines = [",".join(map(quoted, line)) for line in (names, *(row.values() for row in rows))]
            path.write_bytes(("\ufeff" + "\r\n".join(lines) + "\r\n").encode())
        case ".tsv":
            lines = ["\t".join(map(str, line)) for line in (names, *(row.values() for row in rows))]
            path.write_text("\n".join(lines) + "\n")
        case ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        case ".parquet":
            Dataset.from_list(rows).to_parquet(path)
        case _:
            Dataset.from_list(rows).save_to_disk(path)
    return str(path)
