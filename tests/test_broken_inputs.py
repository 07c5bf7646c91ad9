"""Broken inputs: none ends in a traceback, none in a wrong result, each is answered in one sentence that says where.

And odd ones that are not broken: they load as what they say.
"""

import gzip
import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
import yaml
from cases import CONF, one_sentence, point, tiny_bert
from commands import forked
from datasets import Dataset
from layouts import read_task, write_local
from safetensors.torch import load_file, save_file

from lobert import cli
from lobert.compression.plan import make_plan
from lobert.compression.planfile import read_plan, write_plan
from lobert.data import load_examples, tokenize
from lobert.data.tokens import shorten
from lobert.encoders.source import EncoderSource, build_classifier, load_tokenizer, skeleton, tiny_vocabulary
from lobert.errors import LobertError
from lobert.pipeline import run
from lobert.storage.artefacts import Store

OWN = ["task=custom", "encoder=tiny", "trainer=cpu"]
Spoil = Callable[[Path], object]


def rows(*lines: str, head: str = "text,label") -> bytes:
    """A CSV file of two good rows, and these."""
    return "\n".join([head, "good one,yes", "bad one,no", *lines, ""]).encode()


def objects(*lines: str) -> bytes:
    """A JSON lines file of two good rows, and these."""
    return "\n".join(['{"text": "good", "label": "yes"}', '{"text": "bad", "label": "no"}', *lines, ""]).encode()


def parquet(**columns: list[Any]) -> bytes:
    file = io.BytesIO()
    Dataset.from_dict(columns).to_parquet(file)
    return file.getvalue()


def arrow(**columns: list[Any]) -> Spoil:
    return lambda path: Dataset.from_dict(columns).save_to_disk(path)


def cut_arrow(path: Path) -> None:
    arrow(text=["a", "b"] * 400, label=[0, 1] * 400)(path)
    for file in path.glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:500])


GOOD_PARQUET = parquet(text=["a", "b"], label=["x", "y"])
SCORES: dict[str, Any] = {"metrics": ["pearson"]}
NAMED: dict[str, Any] = {"labels": ["no", "yes"]}

# name of the file, what it holds (None: nothing is there), changes of the task, the sentence
FILES: list[tuple[str, bytes | Spoil | None, dict[str, Any], str]] = [
    # not the file it should be
    ("a.csv", None, {}, r"no file .*a\.csv"),
    ("a.csv", lambda path: path.mkdir(), {}, r"a\.csv is a folder, but none saved by datasets"),
    ("a.csv", gzip.compress(rows(), mtime=0), {}, r"a\.csv is compressed by gzip"),
    ("a.csv", b"PK\x03\x04rest", {}, r"a\.csv is a zip archive or a spreadsheet"),
    ("a.csv", rows().decode().encode("utf-16"), {}, r"a\.csv is text in UTF-16"),
    ("a.csv", rows("schön,yes").decode().encode("latin-1"), {}, r"a\.csv is not UTF-8 at line 4"),
    ("a.csv", GOOD_PARQUET, {}, r"a\.csv is a Parquet table"),
    ("a.csv", b"<!DOCTYPE html><html>404</html>", {}, r"a\.csv is a web page"),
    ("a.csv", b"version https://git-lfs.github.com/spec/v1\n", {}, r"a\.csv is only a pointer of Git LFS"),
    ("a.csv", rows("x\0y,yes"), {}, r"a\.csv, line 4: there is a null byte"),
    ("a.pkl", pickle.dumps([1]), {}, r"no data format ends in '\.pkl': .*csv, jsonl, parquet"),
    ("a.json", b"[]", {}, r"no data format ends in '\.json': did you mean 'jsonl'"),
    ("a.parquet", rows(), {}, r"a\.parquet is no whole Parquet file"),
    ("a.parquet", GOOD_PARQUET[: len(GOOD_PARQUET) // 2], {}, r"a\.parquet is no whole Parquet file"),
    ("saved", cut_arrow, {}, r"saved cannot be read"),
    # nothing in it
    ("a.csv", b"", {}, r"a\.csv has no rows"),
    ("a.csv", b"\n\n\n", {}, r"a\.csv has no rows"),
    ("a.csv", b"text,label\n", {}, r"a\.csv has no rows"),
    ("a.tsv", b"text\tlabel", {}, r"a\.tsv has no rows"),
    ("a.jsonl", b"\n", {}, r"a\.jsonl has no rows"),
    ("a.parquet", parquet(text=[], label=[]), {}, r"a\.parquet has no rows"),
    ("saved", arrow(text=[], label=[]), {}, r"saved (has no rows|cannot be read)"),
    # columns and fields
    ("a.csv", rows(head="text,labels"), {}, r"a\.csv has no column 'label': did you mean 'labels'"),
    ("a.csv", rows(head="label,label"), {}, r"a\.csv has no column 'text'"),
    ("a.csv", rows(head="text,label").replace(b",", b";"), {}, r"a\.csv has no column 'text'.*text;label"),
    ("a.csv", b"text,label,text\na,b,c\n", {}, r"a\.csv has 2 columns 'text'"),
    ("a.jsonl", objects().replace(b"text", b"txt"), {}, r"a\.jsonl has no column 'text': did you mean 'txt'"),
    ("a.parquet", parquet(txt=["a"], label=["b"]), {}, r"a\.parquet has no column 'text'"),
    ("saved", arrow(text=["a"], lable=["b"]), {}, r"saved has no column 'label': did you mean 'lable'"),
    ("a.csv", rows("only text"), {}, r"a\.csv, line 4: 1 fields where 2 are expected"),
    ("a.csv", rows("a, comma,yes"), {}, r"a\.csv, line 4: 3 fields where 2 are expected"),
    ("a.tsv", rows("a\ttab,yes").replace(b",", b"\t"), {}, r"a\.tsv, line 4: 3 fields where 2 are expected"),
    ("a.tsv", rows("cut in ha").replace(b",", b"\t"), {}, r"a\.tsv, line 4: 1 fields where 2"),
    ("a.csv", rows('"cut in ha'), {}, r"a\.csv, line 4: unexpected end of data: is a quote missing"),
    ("a.csv", rows('"a" quote,yes'), {}, r"a\.csv, line 4: .*is a quote missing"),
    ("a.jsonl", objects('{"text": "cut in ha'), {}, r"a\.jsonl, line 3: this is no JSON"),
    ("a.jsonl", objects('["text", "label"]'), {}, r"a\.jsonl, line 3: this is no JSON object"),
    ("a.jsonl", b"[" * 100_000, {}, r"a\.jsonl, line 1: this is no JSON"),
    ("a.jsonl", b'[\n{"text": "pretty", "label": 1}\n]\n', {}, r"a\.jsonl, line 1: this is no JSON"),
    ("a.jsonl", objects('{"text": "no label"}'), {}, r"a\.jsonl, line 3: there is no 'label'"),
    # texts
    ("a.jsonl", objects('{"text": null, "label": "no"}'), {}, r"a\.jsonl, line 3: 'text' is missing"),
    ("a.jsonl", objects('{"text": 7, "label": "no"}'), {}, r"a\.jsonl, line 3: 'text' is 7, not text"),
    ("a.jsonl", objects('{"text": ["a"], "label": "no"}'), {}, r"a\.jsonl, line 3: 'text' is \['a'\], not text"),
    ("a.jsonl", objects('{"text": "\\ud83d", "label": "no"}'), {}, r"a\.jsonl, line 3: 'text' holds half of a surr"),
    ("a.parquet", parquet(text=["a", None], label=["x", "y"]), {}, r"a\.parquet, row 2: 'text' is missing"),
    # labels
    ("a.csv", rows("x,"), {}, r"a\.csv, line 4: the label is missing"),
    ("a.csv", rows("x,"), NAMED, r"a\.csv, line 4: the label is missing"),
    ("a.csv", rows("x,maybe"), NAMED, r"a\.csv, line 4: label 'maybe' is not one of no, yes"),
    ("a.jsonl", objects('{"text": "x", "label": null}'), NAMED, r"a\.jsonl, line 3: the label is missing"),
    ("a.parquet", parquet(text=["a", "b"], label=[1.0, float("nan")]), {}, r"a\.parquet, row 2: the label is missing"),
    ("saved", arrow(text=["a", "b"], label=["x", None]), {}, r"saved, row 2: the label is missing"),
    ("a.csv", rows(), SCORES, r"a\.csv, line 2: label 'yes' is not a number"),
    ("a.csv", b"text,label\nx,1.5\ny,nan\n", SCORES, r"a\.csv, line 3: the label is missing"),
    ("a.csv", b"text,label\nx,1.5\ny,inf\n", SCORES, r"a\.csv, line 3: label 'inf' is not a number"),
    ("a.csv", b"text,label\nx,1.5\ny,1e300\n", SCORES, r"a\.csv, line 3: label '1e300' is not a number"),
    ("a.csv", b'text,label\nx,"1,5"\n', SCORES, r"a\.csv, line 2: label '1,5' is not a number"),
    ("a.jsonl", b'{"text": "x", "label": true}\n', SCORES, r"a\.jsonl, line 1: label 'true' is not a number"),
    ("a.csv", b"text,label\nx,yes\ny,yes\n", {}, r"'label' has 1 different labels: is it the right column"),
    ("a.csv", b"text,label\n" + b"".join(b"x,%d\n" % i for i in range(300)), {}, r"'label' has 300 different labels"),
    ("a.csv", rows("x,maybe"), {"metrics": ["f1"]}, r"metrics=\('f1',\) will not do"),
    ("a.csv", b"text,label\nx,yes\n", NAMED, r"1 examples are too few to set some apart for dev"),
]  # fmt: skip


def place(path: Path, content: bytes | Spoil | None) -> str:
    """Put the content at the path."""
    if callable(content):
        content(path)
    elif content is not None:
        path.write_bytes(content)
    return str(path)


def refusal(broken: Callable[[], object], message: str) -> None:
    with pytest.raises(LobertError, match=message) as caught:
        broken()
    assert len(one_sentence(caught.value)) < 500


@pytest.mark.parametrize(("name", "content", "changes", "message"), FILES)
def test_a_broken_file(name: str, content: Any, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    own = {"train": place(tmp_path / name, content)}
    refusal(lambda: load_examples(read_task("custom", own=own, **changes)), message)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_broken_second_file(split: str, tmp_path: Path) -> None:
    """Labels that only dev has are unknown, not new; a missing test file is missed when it is asked for."""
    own = {"train": place(tmp_path / "a.csv", rows()), "dev": place(tmp_path / "dev.csv", rows("x,maybe"))}
    if split == "dev":
        refusal(lambda: load_examples(read_task("custom", own=own)), r"dev\.csv, line 4: label 'maybe' is not one of")
    else:
        refusal(lambda: load_examples(read_task("custom", own=own), ["test"]), "type task.own.test=FILE")


def edit_json(change: Callable[[dict[str, Any]], object]) -> Spoil:
    def spoil(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return spoil


RACE = [
    (lambda path: path.write_text(path.read_text()[:40]), r"dev/high/5\.txt, line 1: this is no JSON"),
    (edit_json(lambda text: text.pop("article")), r"5\.txt has no column 'article'"),
    (edit_json(lambda text: text["answers"].pop()), r"5\.txt: 'questions', 'options' and 'answers' must be lists"),
    (edit_json(lambda text: text.update(options=None)), r"5\.txt: 'questions', 'options' and 'answers' must be lists"),
    (edit_json(lambda text: text["options"][1].pop()), r"5\.txt, question 2: .* 3 options where 4 options"),
    (edit_json(lambda text: text["options"][1].insert(0, None)), r"5\.txt, question 2: .* 5 options where 4 options"),
    (edit_json(lambda text: text["options"].__setitem__(0, ["a", "b", 3, "d"])), r"question 1: .* is 3, not text"),
    (edit_json(lambda text: text["answers"].__setitem__(0, "E")), r"question 1: label 'E' is not one of A, B, C, D"),
    (edit_json(lambda text: text["questions"].__setitem__(0, None)), r"question 1: 'question' is missing"),
    (lambda path: [file.unlink() for file in path.parent.glob("*.txt")], r"dev/high has no texts"),
]


@pytest.mark.parametrize(("spoil", "message"), RACE)
def test_a_broken_text_of_race(spoil: Spoil, message: str, tmp_path: Path) -> None:
    task = read_task("RACE", data_dir=str(tmp_path))
    write_local(task, tmp_path)
    spoil(tmp_path / "RACE" / "dev" / "high" / "5.txt")
    refusal(lambda: load_examples(task), message)


# ---- plans ----

PLANS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda plan: None, "no plan as stage=plan writes it"),
    (lambda plan: [plan], "no plan as stage=plan writes it"),
    (lambda plan: {"groups": None}, "no plan as stage=plan writes it"),
    (lambda plan: {"groups": ["query"]}, "p.yaml"),
    (lambda plan: {"groups": [{**plan["groups"][0], "factorization": "svdd"}]}, "did you mean 'svd'"),
    (lambda plan: {"groups": [{**plan["groups"][0], "rank": [1000]}]}, "p.yaml"),
    (lambda plan: {"groups": [{**plan["groups"][0], "rank": ["many"]}]}, "p.yaml"),
    (lambda plan: {"groups": [{**plan["groups"][0], "shape": [7, 7]}]}, "p.yaml"),
    (lambda plan: {"groups": [{**plan["groups"][0], "slices": [["bert.nowhere", []]]}]}, "no module 'bert.nowhere'"),
    (lambda plan: {"groups": [{k: v for k, v in plan["groups"][0].items() if k != "slices"}]}, "p.yaml"),
    (lambda plan: {"groups": [plan["groups"][0], plan["groups"][0]]}, "twice|both|more than one|overlap"),
]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a good plan file holds."""
    path = tmp_path_factory.mktemp("plan") / "p.yaml"
    write_plan(path, make_plan(tiny_bert(), point("svd")))
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize(("change", "message"), PLANS)
def test_a_broken_plan(change: Callable[[Any], Any], message: str, plan: Any, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump(change(plan)))
    refusal(lambda: read_plan(path, tiny_bert()), message)


@pytest.mark.parametrize("content", [b"", b"groups: [", b"\xff\xfe", b"!!python/object/apply:os.getcwd []", None])
def test_a_plan_that_is_none(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    place(path, content if content is not None else lambda path: path.mkdir())
    refusal(lambda: read_plan(path, tiny_bert()), "p.yaml")


# ---- encoders ----

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 16}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return EncoderSource("tiny", config=SIZES).folder(Store(tmp_path_factory.mktemp("encoder")))


def write(file: str, content: bytes) -> Spoil:
    return lambda folder: (folder / file).write_bytes(content)


def config(**changes: Any) -> Spoil:
    return lambda folder: edit_json(lambda settings: settings.update(changes))(folder / "config.json")


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Spoil:
    def spoil(folder: Path) -> None:
        content = load_file(folder / "model.safetensors")
        change(content)
        save_file(content, folder / "model.safetensors", {"format": "pt"})

    return spoil


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


WEIGHT = "encoder.layer.1.output.dense.weight"
ENCODERS: list[tuple[Spoil, str]] = [
    (lambda folder: (folder / "config.json").unlink(), "without config.json"),
    (write("config.json", b""), "is not a valid JSON"),
    (write("config.json", b"{"), "is not a valid JSON"),
    (write("config.json", b"\xff\xfe{\0}\0"), "is not a valid JSON"),
    (write("config.json", b"[]"), "model_type"),
    (write("config.json", b"{}"), "model_type"),
    (config(model_type="brt"), "brt"),
    (config(num_attention_heads=5), "multiple of the number of attention heads"),
    (config(hidden_size="wide"), "hidden_size"),
    (config(hidden_size=-1), "negative"),
    (config(hidden_size=32), r"as \[16\], and its config.json as \[32\]"),
    (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
    (pickled, "model.safetensors"),
    (write("model.safetensors", b""), "header"),
    (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]), "deserializing"),
    (tensors(lambda content: content.pop(WEIGHT)), f"lacks the weights 'bert.{WEIGHT}'"),
    (tensors(lambda content: content.update({WEIGHT: torch.zeros(3, 3)})), rf"'bert.{WEIGHT}' as \[3, 3\]"),
    (no_tokenizer, "there is no tokenizer in"),
    (write("tokenizer.json", b"{"), "the tokenizer in"),
    (write("tokenizer.json", b"{}"), "the tokenizer in"),
    (write("tokenizer_config.json", b"[]"), "the tokenizer in"),
]


@pytest.mark.parametrize(("spoil", "message"), ENCODERS)
def test_a_broken_encoder(spoil: Spoil, message: str, encoder: Path, tmp_path: Path) -> None:
    for path in encoder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    spoil(tmp_path)

    def use() -> None:
        folder = EncoderSource("mine", path=str(tmp_path)).folder(Store(tmp_path))
        skeleton(folder)
        load_tokenizer(folder)
        build_classifier(folder, ["no", "yes"], 0)

    refusal(use, message)


# ---- through the command line ----


SETTINGS = [
    (["task.own.train=nowhere.csv"], "no file nowhere.csv"),
    (["task.own.train=null"], "task.own.train=FILE"),
    (["task.own.dev_share=2"], "task.own.dev_share=2"),
    (["task.text=[text,label,text]"], "one or two columns"),
    (["task.text=[txt]"], "no column 'txt': did you mean 'text'"),
    (["task.labels=[yes]"], "two or more classes"),
    (["task.labels=[yes,maybe]"], "line 3: label 'no' is not one of yes, maybe"),
    (["task.metrics=[acuracy]"], "did you mean 'accuracy'"),
    (["task.metrics=[pearson]"], "label 'yes' is not a number"),
    (["task.max_length=600"], "more than the 512 tokens"),
    (["task.name=a/b"], "letters, digits"),
    (["task.train_examples=1000"], "more than the"),
]


@pytest.mark.parametrize(("settings", "sentence"), SETTINGS)
def test_a_broken_setting(settings: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    good = place(tmp_path / "good.csv", rows(*["x,yes"] * 20))
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("config", [*OWN, f"output_dir={tmp_path / 'out'}", f"task.own.train={good}", *settings])
    with pytest.raises(SystemExit) as caught:
        cli.job(run, cfg)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert sentence in line
    assert caught.value.code == cli.USER_ERROR
    assert not list((tmp_path / "out").glob("artefacts/teacher/*"))


def test_train_py_answers_a_broken_file_with_its_line(tmp_path: Path) -> None:
    broken = [place(tmp_path / "a.csv", rows("x,")), place(tmp_path / "b.csv", rows('"cut'))]
    settings = [*OWN, f"task.own.train={','.join(broken)}", f"output_dir={tmp_path / 'out'}"]
    done = forked("train.py", "-m", *settings, folder=tmp_path)
    assert done.returncode == cli.USER_ERROR, done.stderr
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("error: job")]
    assert ["line 4: the label is missing" in said[0], "is a quote missing" in said[1]] == [True, True]
    assert not list((tmp_path / "out").glob("artefacts/t*"))


# ---- odd, and right ----

ODD: list[tuple[str, bytes, list[str]]] = [
    ("a.csv", b"\xef\xbb\xbftext,label\na,x\nb,y\n", ["a", "b"]),  # a byte-order mark
    ("a.csv", b"text,label\r\na,x\r\nb,y\r\n", ["a", "b"]),  # Windows
    ("a.tsv", b"text\tlabel\r\na\tx\r\nb\ty\r\n", ["a", "b"]),
    ("a.tsv", b"text\tlabel\ra\tx\rb\ty\r", ["a", "b"]),  # the first Macintosh
    ("a.csv", b"text,label\na,x\nb,y", ["a", "b"]),  # no last line end
    ("a.csv", b"text,label\n\na,x\n\nb,y\n\n\n", ["a", "b"]),  # empty lines
    ("a.tsv", b"text\tlabel\na\tx\nb\ty\n\n\n", ["a", "b"]),
    ("a.csv", b"text,label,\na,x,\nb,y,\n", ["a", "b"]),  # as spreadsheets write it
    ("A.CSV", b"text,label\na,x\nb,y\n", ["a", "b"]),
    ("a.csv", b"id,text,label\n1,a,x\n1,b,y\n", ["a", "b"]),  # an id twice
    ("a.csv", b"label,text\nx, \ny,\n", [" ", ""]),  # nothing to read
    ("a.csv", b'text,label\n"a\tb",x\n"say ""b""",y\n', ["a\tb", 'say "b"']),
    ("a.tsv", b'text\tlabel\n"a\tx\nb"\ty\n', ['"a', 'b"']),  # quotes are text
    ("a.jsonl", '{"text": "a\u2028b", "label": "x"}\r\n{"text": "雪🙂", "label": "y"}'.encode(), ["a\u2028b", "雪🙂"]),
    ("a.jsonl", b'{"text": "a\\tb\\n", "label": "x"}\n{"text": "\\u0000", "label": "y"}\n', ["a\tb\n", "\0"]),
    ("a.csv", b"text,label\n" + b"long " * 20_000 + b",x\nb,y\n", ["long " * 20_000, "b"]),
]


@pytest.mark.parametrize(("name", "content", "texts"), ODD)
def test_an_odd_file_loads_as_what_it_says(name: str, content: bytes, texts: list[str], tmp_path: Path) -> None:
    path = place(tmp_path / name, content)
    found = load_examples(read_task("custom", own={"train": path, "dev": path}))["train"]
    assert found[:] == {"text_a": texts, "label": [0, 1]}


def test_a_cut_that_cannot_be_seen_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = {"train": place(tmp_path / "a.csv", rows("x,yes")[:-1]), "dev": place(tmp_path / "b.csv", rows())}
    load_examples(read_task("custom", own=own))
    assert [record.message for record in caplog.records if "no line end" in record.message] == [
        f"{own['train']}: the last line has no line end; if the file was cut short, get it again"
    ]


def test_odd_texts_become_tokens(encoder: Path, tmp_path: Path) -> None:
    texts = ["", " ", "\t\n", "\0", "x " * 50_000, "雪🙂", "عربي", '"', "\u200b\ufeff"]
    data = {"train": Dataset.from_dict({"text_a": texts, "text_b": texts[::-1], "label": [0] * len(texts)})}
    split = tokenize(data, load_tokenizer(encoder), 32, Store(tmp_path), "odd", "key")["train"]
    assert len(split) == len(texts)
    assert split.lengths().max() <= 32
    assert split.input_ids.max() < len(tiny_vocabulary())
    assert split.lengths().min() >= 3  # the special tokens of a pair


@pytest.mark.parametrize(
    "text", ["ab cde " * 20_000, "x" * 100_000, "x" * 5_000 + " y" * 50_000, " " * 99_999, "雪 " * 50_000]
)
def test_a_long_text_is_cut_where_the_tokenizer_cuts_it(text: str, encoder: Path) -> None:
    tokenizer = load_tokenizer(encoder)
    whole = tokenizer(text, truncation=True, max_length=32)["input_ids"]
    short = shorten(text, tokenizer, 32)
    assert len(short) < len(text) or not text.strip() or " " not in text
    assert tokenizer(short, truncation=True, max_length=32)["input_ids"] == whole
