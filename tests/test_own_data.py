"""Laws of data of the user's own: every format tells the same examples; labels, dev split and metric as asked for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from layouts import read_task, write_own

from lobert.data import Task, load_examples
from lobert.data.sources import load_task
from lobert.errors import LobertError

ROWS = [
    {"question": 'He said "yes", twice', "answer": "é ünï 雪 🙂", "same": "no"},
    {"question": "", "answer": "an empty question", "same": "yes"},
    {"question": "it's NA", "answer": "null", "same": "yes"},
    {"question": "x" * 200_000, "answer": " spaces kept ", "same": "no"},
    {"question": "عربي עברית", "answer": "twice", "same": "no"},
    {"question": "عربي עברית", "answer": "twice", "same": "no"},
]
LABELS = [0, 1, 1, 0, 0, 0]


def own_task(text: tuple[str, ...] = ("question", "answer"), **changes: Any) -> Task:
    """task=custom with the column names of ROWS; `own` may be given by key."""
    own = {"label": "same", **changes.pop("own", {})}
    return read_task("custom", text=text, own=own, **changes)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "saved"])
def test_every_format_tells_the_same_examples(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path = write_own(tmp_path / name, ROWS)
    task, found = load_task(own_task(own={"train": path, "dev": path}))
    assert found["train"]["text_a"][:] == [row["question"] for row in ROWS]
    assert found["validation"]["text_b"][:] == [row["answer"] for row in ROWS]
    assert found["train"]["label"][:] == LABELS
    assert task.labels == ("no", "yes")
    assert "labels no, yes (from the data)" in caplog.text


def test_a_quoted_field_of_a_csv_file_may_hold_lines(tmp_path: Path) -> None:
    rows = [{"text": f'two\nlines, {i} "quoted"\tand a tab', "label": i % 2} for i in range(3)]
    path = write_own(tmp_path / "a.csv", rows)
    found = load_examples(read_task("custom", own={"train": path, "dev": path}))
    assert found["train"]["text_a"][:] == [row["text"] for row in rows]


@pytest.mark.parametrize(
    ("values", "labels", "ids"),
    [
        ([10, 9, 10], ("9", "10"), [1, 0, 1]),
        ([1.0, 0.0, 1.0], ("0", "1"), [1, 0, 1]),
        ([True, False, True], ("false", "true"), [1, 0, 1]),
        (["b", " a ", "b"], ("a", "b"), [1, 0, 1]),
    ],
)
def test_labels_of_the_data_are_sorted(
    values: list[Any], labels: tuple[str, ...], ids: list[int], tmp_path: Path
) -> None:
    path = write_own(tmp_path / "a.jsonl", [{"text": "x", "label": value} for value in values])
    task, found = load_task(read_task("custom", own={"train": path, "dev": path}))
    assert (task.labels, found["train"]["label"][:]) == (labels, ids)


def test_labels_have_the_order_and_the_names_of_the_config(tmp_path: Path) -> None:
    path = write_own(tmp_path / "a.csv", ROWS)
    own = {"train": path, "dev": path}
    assert load_examples(own_task(labels=["yes", "no"], own=own))["train"]["label"][:] == [1 - i for i in LABELS]
    named = own_task(labels=["different", "alike"], own={**own, "values": ["no", "yes"]})
    assert load_examples(named)["train"]["label"][:] == LABELS
    assert named.answers == ("no", "yes")


def test_a_saved_data_set_keeps_its_class_names_and_splits(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["zebra", "ant", "bee"])})
    parts = {name: Dataset.from_dict({"text": [name] * 3, "label": [2, 0, 0]}, features) for name in ("train", "test")}
    saved = DatasetDict({**parts, "validation": parts["train"].select([0])})
    saved.save_to_disk(tmp_path / "saved")
    task = read_task("custom", own={"train": str(tmp_path / "saved"), "test": str(tmp_path / "saved")})
    task, found = load_task(task, ["train", "validation", "test"])
    assert task.labels == ("zebra", "ant", "bee")
    assert [found[name]["label"][:] for name in ("train", "validation")] == [[2, 0, 0], [2]]
    assert found["test"].to_dict() == {"text_a": ["test"] * 3}


def test_dev_is_carved_out_by_a_fixed_seed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    rows = [{"text": f"text {i}", "label": i % 3} for i in range(50)]
    task = read_task("custom", own={"train": write_own(tmp_path / "a.csv", rows), "dev_share": 0.2})
    first, again = load_examples(task), load_examples(task)
    train, dev = (first[split]["text_a"][:] for split in ("train", "validation"))
    assert len(dev) == 10
    assert sorted(train + dev) == sorted(row["text"] for row in rows)
    assert [first[split][:] for split in first] == [again[split][:] for split in again]
    assert load_examples(task, ["validation"])["validation"][:] == first["validation"][:]
    assert load_examples(replace(task, train_examples=5))["validation"][:] == first["validation"][:]
    assert "10 of 50 training examples are dev" in caplog.text


def test_scores_and_ids(tmp_path: Path) -> None:
    rows = [{"text": "x", "stars": f"{i}.50", "key": f"k{i}"} for i in range(4)]
    path = write_own(tmp_path / "a.tsv", rows)
    task = read_task("custom", metrics=["spearman"], own={"train": path, "dev": path, "test": path, "label": "stars"})
    assert task.is_regression
    assert load_examples(task)["train"]["label"][:] == [0.5, 1.5, 2.5, 3.5]
    named = replace(task, own=replace(task.own, index="key"))  # type: ignore[type-var]
    assert load_examples(named, ["test"])["test"]["id"][:] == ["k0", "k1", "k2", "k3"]


def test_a_multiple_choice_of_ones_own(tmp_path: Path) -> None:
    rows = [
        {"text": "x", "choices": ["p", "q", "r"], "right": "B"},
        {"text": "y", "choices": ["s", "t", "u"], "right": "C"},
    ]
    path = write_own(tmp_path / "a.jsonl", rows)
    own = {"train": path, "dev": path, "label": "right", "options": "choices"}
    found = load_examples(read_task("custom", kind="multiple_choice", labels=["A", "B", "C"], own=own))["train"]
    assert found[:] == {"text_a": ["x", "y"], "options": [row["choices"] for row in rows], "label": [1, 2]}
    assert found.features["options"] == datasets.List(Value("string"), length=3)


def test_rows_without_a_label_are_left_out_where_asked(tmp_path: Path) -> None:
    path = write_own(tmp_path / "a.csv", [{"text": "x", "label": label} for label in ("a", "?", "b", "a")])
    own = {"train": path, "dev": path, "no_label": "?"}
    assert load_examples(read_task("custom", own=own))["train"]["label"][:] == [0, 1, 0]
    three = load_task(read_task("custom", own={**own, "no_label": None}))[0]
    assert three.labels == ("?", "a", "b")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "task.own.train=FILE"),
        ({"own": {"train": "a.xlsx"}}, "no data format ends in '.xlsx'"),
        ({"own": {"train": "nowhere.csv"}}, "no file nowhere.csv"),
        ({"own": {"trian": "a.csv"}}, "did you mean 'train'"),
    ],
)
def test_what_is_missing_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LobertError, match=message):
        load_examples(read_task("custom", **changes))
