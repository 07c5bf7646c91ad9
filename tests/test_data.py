"""Laws of tasks, sources, tokens and metrics: both layouts give the same examples, and mistakes one clear sentence."""

import csv
import json
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
from transformers import BertTokenizerFast

from lobert.artefacts import Store
from lobert.data import Task, compute_metrics, fingerprint_examples, load_examples, tokenize
from lobert.errors import LobertError

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf" / "task"
REAL_DATA = os.environ.get("LOBERT_DATA_DIR")
TASKS = sorted(path.stem for path in CONF.glob("*.yaml"))
GLUE = [name for name in TASKS if name != "demo"]
TEXTS = ['a "quoted', "NA", "null", "plain words here", "", "é ünï 雪", " spaces kept ", "'", "1", "None"]
ROWS = 6


def read_task(name: str, **changes: Any) -> Task:
    node = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    del node["kd"]
    return Task(**{**node, **changes})


def text_of(split: str, column: int, row: int) -> str:
    return f"{TEXTS[(row + column) % len(TEXTS)]}{split}"


def label_of(task: Task, row: int) -> int | float:
    return row * 0.8 if task.is_regression else row % len(task.labels)


def write_local(task: Task, root: Path) -> Path:
    """The task's files as GLUE has them: byte-order mark, tabs, bare quotes, other columns in between."""
    assert task.local is not None
    folder = root / task.local.folder
    folder.mkdir(parents=True, exist_ok=True)
    for split, file in task.local.files.items():
        names = task.local.columns.get(split) or (task.local.index, *task.local.text, task.local.label)
        if not task.is_labelled(split):
            names = tuple(name for name in names if name != task.local.label)
        lines = [] if split in task.local.columns else ["\t".join(names)]
        for row in range(ROWS):
            cells = {name: text_of(split, i, row) for i, name in enumerate(task.local.text)}
            cells[task.local.index] = str(row + 1)
            label = label_of(task, row)
            cells[task.local.label] = str(label) if task.is_regression else task.local.values[int(label)]
            lines.append("\t".join(cells.get(name, "x") for name in names))
        (folder / file).write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return root


def write_hub(task: Task, root: Path) -> Path:
    """A folder that `datasets.load_dataset` reads as it reads the hub: one configuration, a file for each split."""
    assert task.hub is not None
    files = []
    for split in task.hub.splits:
        rows = [
            {name: text_of(split, i, row) for i, name in enumerate(task.hub.text)}
            | {task.hub.label: label_of(task, row) if task.is_labelled(split) else -1, "idx": row + 1}
            for row in range(ROWS)
        ]
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files.append({"split": split, "path": f"{split}.jsonl"})
    card = yaml.safe_dump({"configs": [{"config_name": task.hub.config, "data_files": files}]})
    (root / "README.md").write_text(f"---\n{card}---\n")
    return root


@pytest.fixture(autouse=True)
def no_data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LOBERT_DATA_DIR", raising=False)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_all_tasks_are_there() -> None:
    assert set(TASKS) >= {"CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI", "demo"}


@pytest.mark.parametrize("name", TASKS)
def test_yaml_describes_a_task(name: str) -> None:
    path = CONF / f"{name}.yaml"
    task, kd = read_task(name), yaml.safe_load(path.read_text())["kd"]
    assert path.read_text().startswith("# ")
    assert task.name == name
    assert kd["temperature"] >= 1
    assert 0 <= kd["alpha"] <= 1
    assert task.num_outputs == (1 if task.is_regression else len(task.labels))
    assert task.main_metric == task.metrics[0]
    assert next(iter(task.eval.values())) == ""
    assert len(set(task.eval.values())) == len(task.eval)


@pytest.mark.parametrize("name", GLUE)
def test_hub_and_local_give_the_same_examples(name: str, tmp_path: Path) -> None:
    task = read_task(name)
    assert task.hub is not None
    hub_root = tmp_path / "hub"
    hub_root.mkdir()
    local = load_examples(replace(task, data_dir=str(write_local(task, tmp_path))))
    hub = load_examples(replace(task, hub=replace(task.hub, path=str(write_hub(task, hub_root)))))
    assert list(local) == list(hub) == list(task.hub.splits)
    for split in local:
        assert local[split][:] == hub[split][:]
        assert local[split].features == hub[split].features
        assert local[split]["text_a"][:] == [text_of(split, 0, row) for row in range(ROWS)]
        assert ("label" in local[split].column_names) == task.is_labelled(split)
        assert ("id" in local[split].column_names) == (not task.is_labelled(split)) == (split in task.test)
        assert fingerprint_examples(local[split]) == fingerprint_examples(hub[split])
    labels = [label_of(task, row) for row in range(ROWS)]
    assert local["train"]["label"][:] == pytest.approx(labels)


def test_folder_of_tasks_of_one_task_or_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = read_task("RTE")
    write_local(task, tmp_path)
    outer = load_examples(replace(task, data_dir=str(tmp_path)))["train"][:]
    assert load_examples(replace(task, data_dir=str(tmp_path / "RTE")))["train"][:] == outer
    monkeypatch.setenv("LOBERT_DATA_DIR", str(tmp_path))
    assert load_examples(task)["train"][:] == outer


def test_training_subset_is_fixed_and_nested(tmp_path: Path) -> None:
    task = read_task("MRPC", data_dir=str(tmp_path))
    write_local(task, tmp_path)

    def subset(n: int | None) -> list[str]:
        return list(load_examples(replace(task, train_examples=n))["train"]["text_a"])

    assert subset(3) == subset(3)
    assert set(subset(2)) < set(subset(4)) < set(subset(None))
    assert len(load_examples(replace(task, train_examples=2))["validation"]) == ROWS
    with pytest.raises(LobertError, match=f"more than the {ROWS}"):
        subset(ROWS + 1)


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
    ("RTE", edit(lambda text: text + "7\tonly two\n"), rf"dev\.tsv, line {ROWS + 2}: 2 fields where 4"),
    (
        "RTE",
        edit(lambda text: text.replace("\tnot_entailment", "\tmaybe", 1)),
        r"dev\.tsv, line 3: label 'maybe'.*entailment",
    ),
    ("CoLA", edit(lambda text: text.replace("\t1\t", "\t7\t", 1)), r"dev\.tsv, line 2: label '7' is not one of 0, 1"),
    ("STS-B", edit(lambda text: text.replace("\t0.8", "\thigh")), r"dev\.tsv, line 3: label 'high' is not a number"),
    ("STS-B", edit(lambda text: text.replace("\t0.8", "\tnan")), r"dev\.tsv, line 3: label 'nan' is not a number"),
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
        load_examples(task)


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
        (replace(hub, text=("premise", "sentence2")), "no column premise; found sentence1"),
        (replace(hub, config="rta"), "set task.data_dir"),
        (replace(hub, splits=("train", "dev")), "set task.data_dir"),
    ]:
        with pytest.raises(LobertError, match=message) as caught:
            load_examples(replace(task, hub=broken))
        assert "\n" not in str(caught.value)


def test_unknown_label_of_the_hub_is_refused(tmp_path: Path) -> None:
    task = read_task("RTE")
    assert task.hub is not None
    write_hub(task, tmp_path)
    edit(lambda text: text.replace('"label": 1', '"label": 5'))(tmp_path / "train.jsonl")
    with pytest.raises(LobertError, match="row 1: label 5 is none of entailment, not_entailment"):
        load_examples(replace(task, hub=replace(task.hub, path=str(tmp_path))))


def test_no_network_fails_at_once_with_advice(tmp_path: Path) -> None:
    script = (
        "import time, yaml\nfrom lobert.data import Task, load_examples\nfrom lobert.errors import LobertError\n"
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
        ({"eval": {}}, "at least one labelled split"),
        ({"test": {"a": "RTE", "b": "RTE"}}, "a file of its own"),
        ({"score_range": [0, 5]}, "for a regression only"),
        ({"labels": [], "score_range": [5, 0]}, "least and largest"),
        ({"source": "dmo"}, "did you mean 'demo'"),
        ({"local": {"foldr": "RTE"}}, "task.local.foldr is not a known key: did you mean 'folder'"),
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


@pytest.mark.parametrize("name", ["RTE", "CoLA", "STS-B", "MNLI"])
@pytest.mark.parametrize("max_length", [8, 128])
def test_tokens_equal_the_tokenizer_row_by_row(
    name: str, max_length: int, tokenizer: BertTokenizerFast, tmp_path: Path
) -> None:
    task = read_task(name, data_dir=str(tmp_path))
    write_local(task, tmp_path)
    examples = load_examples(task)
    splits = tokenize(examples, tokenizer, max_length, Store(tmp_path / "store"), name, "key")
    for split, data in examples.items():
        tokens = splits[split]
        assert len(tokens) == len(data)
        assert tokens.lengths().max() <= max_length
        for i in range(len(data)):
            texts = [data[i][column] for column in ("text_a", "text_b") if column in data.column_names]
            expected = tokenizer(*texts, truncation=True, max_length=max_length)
            row = tokens[i]
            assert row["index"] == i
            assert row["input_ids"].tolist() == expected["input_ids"]
            assert row["token_type_ids"].tolist() == expected["token_type_ids"]
            assert row.get("label") == data[i].get("label")
        ids = None if tokens.ids is None else tokens.ids.tolist()
        assert ids == (data["id"][:] if "id" in data.column_names else None)


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


@pytest.mark.parametrize("name", GLUE)
def test_real_files_read_as_a_plain_reader_reads_them(name: str) -> None:
    task = read_task(name)
    assert task.local is not None
    folder = Path(REAL_DATA or "") / task.local.folder
    if not REAL_DATA or not folder.is_dir():
        pytest.skip("set LOBERT_DATA_DIR to a folder with GLUE's files")
    examples = load_examples(replace(task, data_dir=REAL_DATA))
    for split, file in task.local.files.items():
        with (folder / file).open(encoding="utf-8-sig") as lines:
            names = task.local.columns.get(split)
            rows = list(csv.DictReader(lines, fieldnames=names, delimiter="\t", quoting=csv.QUOTE_NONE))
        assert examples[split]["text_a"][:] == [row[task.local.text[0]] for row in rows]
