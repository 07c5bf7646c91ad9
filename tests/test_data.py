"""Laws of tasks, sources, tokens and metrics: both layouts give the same examples, and mistakes one clear sentence."""

import csv
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from layouts import CONF, PUBLIC, ROWS, TASKS, expected, read_task, write_hub, write_local
from transformers import BertTokenizerFast

from lobert.data import compute_metrics, fingerprint_examples, load_examples, tokenize
from lobert.data.tokens import sequence_texts
from lobert.errors import LobertError
from lobert.storage.artefacts import Store

ROOT = Path(__file__).parents[1]
REAL_DATA = os.environ.get("LOBERT_DATA_DIR")
FORMS = [(name, form) for name in PUBLIC for form in range(2 if name == "SNLI" else 1)]  # of the local files


@pytest.fixture(autouse=True)
def no_data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LOBERT_DATA_DIR", raising=False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_all_tasks_are_there() -> None:
    glue = {"CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI"}
    assert set(TASKS) == glue | {"SNLI", "RACE", "custom", "demo"}


@pytest.mark.parametrize("name", TASKS)
def test_yaml_describes_a_task(name: str) -> None:
    path = CONF / f"{name}.yaml"
    task, kd = read_task(name), yaml.safe_load(path.read_text())["kd"]
    assert path.read_text().startswith("# ")
    assert task.name == name
    assert kd["temperature"] >= 1
    assert 0 <= kd["alpha"] <= 1
    assert task.num_outputs == (len(task.labels) or 1)
    assert task.main_metric == task.metrics[0]
    assert task.pools or next(iter(task.eval.values())) == ""
    for layout in (task.hub.splits if task.hub else None, task.local.files if task.local else None):
        assert layout is None or tuple(layout) == task.splits


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_hub_and_local_give_the_same_examples(name: str, form: int, tmp_path: Path) -> None:
    task = read_task(name)
    assert task.hub is not None
    folder = str(write_local(task, tmp_path, form=form))
    local = load_examples(replace(task, data_dir=folder), task.splits)
    hub_task = replace(task, hub=replace(task.hub, path=str(write_hub(task, tmp_path / "hub"))))
    hub = load_examples(hub_task, task.splits)
    assert list(local) == list(hub) == list(task.splits)
    for split in local:
        rows = expected(task, split)
        assert local[split][:] == hub[split][:]
        assert local[split].features == hub[split].features
        assert task.is_labelled(split) == (split not in task.test)
        assert fingerprint_examples(local[split]) == fingerprint_examples(hub[split])
        for column, text in enumerate(("text_a", "text_b")[: len(task.text)]):
            assert local[split][text][:] == [row.texts[column] for row in rows]
        assert ("label" in local[split].column_names) == task.is_labelled(split)
        if task.is_labelled(split):
            assert local[split]["label"][:] == pytest.approx([row.label for row in rows])
        named = not task.is_labelled(split) and task.local is not None and task.local.index is not None
        assert local[split].to_dict().get("id") == ([str(row.row + 1) for row in rows] if named else None)
        if task.is_choice:
            assert local[split]["options"][:] == [row.options for row in rows]


def test_splits_without_labels_are_loaded_on_demand(tmp_path: Path) -> None:
    """A run that does not predict needs no test files, and a prediction no others."""
    task = read_task("MNLI", data_dir=str(tmp_path))
    write_local(task, tmp_path)
    for file in (tmp_path / "MNLI").glob("test_*.tsv"):
        file.unlink()
    assert list(load_examples(task)) == ["train", "validation_matched", "validation_mismatched"]
    assert load_examples(task, ["diagnostic"])["diagnostic"].column_names == ["text_a", "text_b", "id"]
    with pytest.raises(LobertError, match=r"test_matched\.tsv"):
        load_examples(task, list(task.test))
    with pytest.raises(LobertError, match="did you mean 'diagnostic'"):
        load_examples(task, ["diagnostics"])


def test_pairs_without_a_label_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    task = read_task("SNLI", data_dir=str(tmp_path))
    write_local(task, tmp_path)
    assert len(load_examples(task)["train"]) == ROWS - 1
    assert f"left out 1 of {ROWS} rows, which have no label ('-')" in caplog.text


def test_folder_of_tasks_of_one_task_or_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = read_task("RTE")
    write_local(task, tmp_path)
    outer = load_examples(replace(task, data_dir=str(tmp_path)))["train"][:]
    assert load_examples(replace(task, data_dir=str(tmp_path / "RTE")))["train"][:] == outer
    monkeypatch.setenv("LOBERT_DATA_DIR", str(tmp_path))
    assert load_examples(task)["train"][:] == outer


@pytest.mark.parametrize(("setting", "split"), [("train_examples", "train"), ("dev_examples", "validation")])
def test_a_subset_is_fixed_and_nested(setting: str, split: str, tmp_path: Path) -> None:
    task = read_task("MRPC", data_dir=str(tmp_path))
    write_local(task, tmp_path)

    def subset(n: int | None) -> list[str]:
        return list(load_examples(replace(task, **{setting: n}))[split]["text_a"])

    assert subset(3) == subset(3)
    assert set(subset(2)) < set(subset(4)) < set(subset(None))
    sizes = {name: len(examples) for name, examples in load_examples(replace(task, **{setting: 2})).items()}
    assert sizes == {"train": ROWS, "validation": ROWS, split: 2}
    with pytest.raises(
        LobertError, match=f"task.{setting}={ROWS + 1} is more than the {ROWS} examples of MRPC's {split}"
    ):
        subset(ROWS + 1)
    assert len(load_examples(replace(task, **{setting: 2}), ["test"])["test"]) == ROWS


def edit(change: Callable[[str], str]) -> Callable[[Path], None]:
    return lambda path: path.write_text(change(path.read_text(encoding="utf-8-sig")))


MISTAKES: list[tuple[str, Callable[[Path], None], str]] = [
    ("RTE", lambda path: path.unlink(), r"no file .*dev\.tsv"),
    ("RTE", edit(lambda text: ""), r"dev\.tsv has no rows"),
    ("RTE", edit(lambda text: text.splitlines()[0] + "\n"), r"dev\.tsv has no rows"),
    (
        "RTE",
        edit(lambda text: text.replace("sentence2", "sentense2")),
        r"no column 'sentence2': did you mean 'sentense2'",
    ),
    ("RTE", edit(lambda text: text + "7\tonly two\n"), rf"dev\.tsv, line {ROWS + 2}: 2 fields where 5"),
    (
        "RTE",
        edit(lambda text: text.replace("\tnot_entailment", "\tmaybe", 1)),
        r"dev\.tsv, line 3: label 'maybe'.*entailment",
    ),
    ("CoLA", edit(lambda text: text.replace("\t1\t", "\t7\t", 1)), r"dev\.tsv, line 2: label '7' is not one of 0, 1"),
    ("STS-B", edit(lambda text: text.replace("\t0.7", "\thigh")), r"dev\.tsv, line 3: label 'high' is not a number"),
    ("STS-B", edit(lambda text: text.replace("\t0.7", "\tnan")), r"dev\.tsv, line 3: the label is missing"),
    ("RTE", lambda path: path.write_bytes(b"index\xff"), r"dev\.tsv is not UTF-8"),
]


@pytest.mark.parametrize(("name", "spoil", "message"), MISTAKES)
def test_a_broken_file_is_one_sentence(name: str, spoil: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    task = read_task(name, data_dir=str(tmp_path))
    write_local(task, tmp_path)
    spoil(tmp_path / name / "dev.tsv")
    with pytest.raises(LobertError, match=message) as caught:
        load_examples(task)
    assert "\n" not in str(caught.value)


def test_broken_rows_of_qqp_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task = read_task("QQP", data_dir=str(tmp_path))
    write_local(task, tmp_path)
    edit(lambda text: text + "7\tonly two\n")(tmp_path / "QQP" / "train.tsv")
    assert len(load_examples(task)["train"]) == ROWS
    assert "left out 1" in caplog.text


def test_a_broken_test_row_of_qqp_is_an_error(tmp_path: Path) -> None:
    """A submission needs every row."""
    task = read_task("QQP", data_dir=str(tmp_path))
    write_local(task, tmp_path)
    edit(lambda text: text + "7\tonly two\n")(tmp_path / "QQP" / "test.tsv")
    with pytest.raises(LobertError, match=r"test\.tsv, line \d+: 2 fields"):
        load_examples(task, ["test"])


def test_missing_folder_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(LobertError, match=r"MNLI/dev_matched\.tsv"):
        load_examples(read_task("MNLI", data_dir=str(tmp_path / "nowhere")))
    with pytest.raises(LobertError, match="not on the hub"):
        load_examples(read_task("RTE", hub=None))
    with pytest.raises(LobertError, match="no local files"):
        load_examples(read_task("RTE", local=None, data_dir=str(tmp_path)))


def test_hub_mistakes_are_one_sentence(tmp_path: Path) -> None:
    task = read_task("RTE")
    assert task.hub is not None
    hub = replace(task.hub, path=str(write_hub(task, tmp_path)))
    for broken, message in [
        (replace(hub, text=("premise", "sentence2")), "no column 'premise'.*sentence1"),
        (replace(hub, config="rta"), "set task.data_dir"),
        (replace(hub, splits=("train", "dev")), "no split 'validation' on the hub"),
        (replace(hub, splits={"train": "train", "validation": "dev"}), "split dev.*set task.data_dir"),
    ]:
        with pytest.raises(LobertError, match=message) as caught:
            load_examples(replace(task, hub=broken))
        assert "\n" not in str(caught.value)


def test_unknown_label_of_the_hub_is_refused(tmp_path: Path) -> None:
    task = read_task("RTE")
    assert task.hub is not None
    write_hub(task, tmp_path)
    edit(lambda text: text.replace('"label": 1', '"label": 5'))(tmp_path / "rte_train.jsonl")
    with pytest.raises(LobertError, match="row 1: label '5' is not one of entailment, not_entailment"):
        load_examples(replace(task, hub=replace(task.hub, path=str(tmp_path))))


def test_no_network_fails_at_once_with_advice(tmp_path: Path) -> None:
    script = (
        "import time, yaml\nfrom lobert.errors import LobertError\nfrom lobert.startup import loading\n"
        "with loading():\n    from lobert.data import Task, load_examples\n"
        "node = yaml.safe_load(open('conf/task/RTE.yaml')); del node['kd']\nstart = time.time()\n"
        "try: load_examples(Task(**node))\nexcept LobertError as error: print(time.time() - start, error)\n"
    )
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    environment = {key: value for key, value in environment.items() if key not in ("HF_HUB_OFFLINE", "LOBERT_DATA_DIR")}
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    seconds, message = run.stdout.split(" ", 1)
    assert float(seconds) < 10
    assert "task.data_dir=FOLDER" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": ["acuracy"]}, "did you mean 'accuracy'"),
        ({"metrics": []}, "at least one metric"),
        ({"text": []}, "one or two columns"),
        ({"labels": ["one"]}, "two or more classes"),
        ({"max_length": 2}, "8 or more"),
        ({"train_examples": 0}, "1 or more"),
        ({"dev_examples": 0}, "1 or more"),
        ({"eval": {}}, "at least one labelled split"),
        ({"source": "dmo"}, "did you mean 'demo'"),
        ({"local": {"foldr": "RTE"}}, "task.local.foldr is not a known key: did you mean 'folder'"),
        ({"local": {"folder": "RTE"}}, "task.local is not whole"),
        ({"own": "mine.csv"}, "task.own=mine.csv"),
        ({"own": {"dev_share": 1}}, "task.own.dev_share=1"),
        ({"kind": "multiple_choce"}, "did you mean 'multiple_choice'"),
        ({"kind": "multiple_choice"}, "column of options"),
        ({"metrics": ["pearson"]}, "no labels, as the metrics are those of scores"),
        ({"metrics": ["accuracy", "pearson"]}, "correlations are of scores"),
        ({"metrics": ["f1"], "labels": ["a", "b", "c"]}, "f1 where there are two classes"),
        ({"labels": ["a", "a"]}, "every class once"),
        ({"labels": [False, True]}, "in quotes"),
        ({"labels": []}, "two or more classes"),
        ({"eval": {"validation": "", "test": ""}}, "a suffix of its own"),
        ({"test": {"a": "RTE", "b": "RTE"}}, "a file of its own"),
        ({"test": {"test": "../RTE"}}, "letters, digits"),
        ({"score_range": [0, 5]}, "for a regression only"),
        ({"labels": [], "metrics": ["pearson"], "score_range": [5, 0]}, "least and largest"),
        ({"name": "a/b"}, "letters, digits"),
    ],
)
def test_a_wrong_task_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LobertError, match=message):
        read_task("RTE", **changes)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> BertTokenizerFast:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "plain", "words", "here", "na", "##t"])
    )
    return BertTokenizerFast(vocab=str(path))


@pytest.mark.parametrize("name", ["RTE", "CoLA", "STS-B", "RACE"])
@pytest.mark.parametrize("max_length", [8, 128])
def test_tokens_equal_the_tokenizer_row_by_row(
    name: str, max_length: int, tokenizer: BertTokenizerFast, tmp_path: Path
) -> None:
    task = read_task(name, data_dir=str(tmp_path))
    write_local(task, tmp_path)
    examples = load_examples(task, task.splits)
    splits = tokenize(examples, tokenizer, max_length, Store(tmp_path / "store"), name, "key")
    for split, data in examples.items():
        tokens = splits[split]
        assert len(tokens) == len(data)
        assert tokens.lengths().max() <= max_length
        for i, row in enumerate(data):
            found = tokens[i]
            sequences = [found[key] if task.is_choice else [found[key]] for key in ("input_ids", "token_type_ids")]
            wanted = [tokenizer(*texts, truncation=True, max_length=max_length) for texts in texts_of(row)]
            assert [ids.tolist() for ids in sequences[0]] == [one["input_ids"] for one in wanted]
            assert [types.tolist() for types in sequences[1]] == [one["token_type_ids"] for one in wanted]
            assert found["index"] == i
            assert tokens.lengths()[i] == max(map(len, sequences[0]))
            assert found.get("label") == row.get("label")
        ids = None if tokens.ids is None else tokens.ids.tolist()
        assert ids == (data["id"][:] if "id" in data.column_names else None)


def texts_of(row: dict[str, Any]) -> list[list[str]]:
    """The texts of the sequences of a row."""
    if "options" in row:
        return [[row["text_a"], f"{row['text_b']} {option}"] for option in row["options"]]
    return [[row[column] for column in ("text_a", "text_b") if column in row]]


def test_options_without_a_question_stand_alone() -> None:
    chunk = {"text_a": ["x", "y"], "options": [["1", "2"], ["3", "4"]]}
    assert sequence_texts(chunk) == [["x", "x", "y", "y"], ["1", "2", "3", "4"]]


def test_tokens_are_made_once_and_mapped_from_disk(
    tokenizer: BertTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = read_task("RTE", data_dir=str(tmp_path))
    write_local(task, tmp_path)
    examples, store = load_examples(task), Store(tmp_path / "store")
    first = tokenize(examples, tokenizer, 16, store, "RTE", "key")
    other = [tokenize(examples, tokenizer, *args) for args in ((32, store, "RTE", "key"), (16, store, "RTE", "key2"))]
    monkeypatch.setattr("lobert.data.tokens._arrays", None)  # a second making would fail
    again = tokenize(examples, tokenizer, 16, store, "RTE", "key")
    assert isinstance(again["train"].input_ids, np.memmap)
    assert again["train"].fingerprint == first["train"].fingerprint
    prints = {splits[split].fingerprint for splits in (first, *other) for split in splits}
    assert len(prints) == 3 * len(first)


METRIC_CASES = [
    ("accuracy", [0, 1, 1, 0], [0, 1, 0, 0], 0.75),
    ("f1", [0, 1, 1, 0], [0, 1, 0, 0], 2 / 3),
    ("f1", [0, 0], [0, 0], 0.0),
    ("matthews", [1, 0, 1, 0], [0, 1, 0, 1], -1.0),
    ("matthews", [1, 1, 1, 1], [0, 1, 0, 1], 0.0),
    ("pearson", [1.0, 2.0, 3.0], [10.0, 20.0, 30.0], 1.0),
    ("pearson", [2.0, 2.0, 2.0], [1.0, 2.0, 3.0], 0.0),
    ("spearman", [1.0, 8.0, 9.0], [3.0, 2.0, 1.0], -1.0),
    ("spearman", [2.0, 2.0, 2.0], [1.0, 2.0, 3.0], 0.0),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("name", "predictions", "labels", "expected"), METRIC_CASES)
def test_metric(name: str, predictions: list[float], labels: list[float], expected: float) -> None:
    assert compute_metrics([name], np.array(predictions), np.array(labels)) == {name: pytest.approx(expected)}


@pytest.mark.parametrize(
    ("names", "predictions", "labels", "message"),
    [
        (["acc"], [0], [0], "did you mean 'accuracy'"),
        (["pearson"], [float("nan"), 1.0], [0.0, 1.0], "1 of 2 predictions are not finite"),
        (["accuracy"], [0, 1], [0], "as many predictions as labels"),
        (["accuracy"], [], [], "at least one"),
    ],
)
def test_metric_mistakes(names: list[str], predictions: list[float], labels: list[float], message: str) -> None:
    with pytest.raises(LobertError, match=message):
        compute_metrics(names, np.array(predictions), np.array(labels))


@pytest.mark.parametrize("name", PUBLIC)
def test_real_files_read_as_a_plain_reader_reads_them(name: str) -> None:
    task = read_task(name)
    assert task.local is not None
    folder = Path(REAL_DATA or "") / task.local.folder
    if not REAL_DATA or not folder.is_dir():
        pytest.skip("set LOBERT_DATA_DIR to a folder with GLUE's files")
    examples = load_examples(replace(task, data_dir=REAL_DATA), task.splits)
    for split, file in task.local.files.items():
        assert isinstance(file, str)
        with (folder / file).open(encoding="utf-8-sig") as lines:
            names = task.local.columns.get(split)
            rows = list(csv.DictReader(lines, fieldnames=names, delimiter="\t", quoting=csv.QUOTE_NONE))
        assert examples[split]["text_a"][:] == [row[task.local.text[0]] for row in rows]
