"""Test predictions: what stage=predict writes, read by another reader, and the zip of several runs."""

import csv
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import conf_names, one_sentence
from layouts import expected, read_task, write_local, write_own
from test_pipeline import run_here, the_record
from test_results import RECORD
from transformers import AutoTokenizer

import lobert
from lobert.errors import LobertError
from lobert.evaluation import predict
from lobert.predictions import answers, write_answers
from lobert.results import write_record
from lobert.results.glue import GLUE_FILES, filled
from lobert.submission import main

FILES = [(task, split, file) for task in conf_names("task") for split, file in read_task(task).test.items()]


def read_tsv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True))


# ---- the answers of one task ----


def test_the_tasks_write_the_files_that_glue_takes() -> None:
    assert {file for _, _, file in FILES} >= set(GLUE_FILES)
    assert len({file for _, _, file in FILES}) == len(FILES)


@pytest.mark.parametrize(("name", "split", "file"), [case for case in FILES if case[2] in GLUE_FILES])
def test_answers_are_spelled_as_glue_does(name: str, split: str, file: str) -> None:
    task, known = read_task(name), GLUE_FILES[file]
    assert set(task.answers) == set(known.answers)
    assert not task.is_labelled(split)
    if task.is_regression:
        logits = np.array([[-0.3], [0.12345], [2.0], [7.5]])
        assert answers(task, logits) == ["0.000", "0.123", "2.000", "5.000"]
    else:
        assert task.local is not None
        assert answers(task, np.eye(len(task.labels))) == list(task.local.values)


def test_scores_without_a_range_are_not_held_inside_one() -> None:
    assert answers(read_task("STS-B", score_range=None), np.array([[-12.5], [1234567.0]])) == ["-12.5", "1.23457e+06"]


def test_what_cannot_be_an_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LobertError, match="not finite"):
        answers(read_task("RTE"), np.array([[0.0, np.nan]]))
    with pytest.raises(LobertError, match="'7' more than once"):
        write_answers(tmp_path / "RTE.tsv", ["7", "8", "7"], ["a", "b", "c"])
    with pytest.raises(LobertError, match="inside 'b\\\\nc'"):
        write_answers(tmp_path / "RTE.tsv", None, ["a", "b\nc"])
    assert not list(tmp_path.iterdir())


# ---- stage=predict ----

SETTINGS = ["task.train_examples=null", "task.dev_examples=null", "student.epochs=0", "decomp=svd", "teacher.epochs=1"]


def direct(folder: Path, rows: list[dict[str, str]], columns: Sequence[str] = ("sentence1", "sentence2")) -> list[str]:
    """The answers of a saved model to rows of a file, one by one, without LoBERT's tokens, batches or order."""
    model, tokenizer = lobert.load(folder), AutoTokenizer.from_pretrained(folder)
    said = []
    for row in rows:
        inputs = tokenizer(*(row[column] for column in columns), return_tensors="pt")
        with torch.no_grad():
            said.append(model.config.id2label[model(**inputs).logits.argmax().item()])
    return said


def test_a_run_predicts_its_test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_local(read_task("MNLI"), tmp_path / "data")
    settings = ["task=MNLI", *SETTINGS, f"task.data_dir={data}"]
    run_here(tmp_path, *settings)
    before, record = (tmp_path / "artefacts").rglob("recipe.json"), the_record(tmp_path)
    teacher = next(path.parent for path in before if path.parts[-3] == "teacher")
    assert run_here(tmp_path, *settings, "stage=predict") == record.score
    assert the_record(tmp_path) == record
    folder = Path(record.student_path).parent / "predictions"
    sources = {"MNLI-m": "MNLI/test_matched", "MNLI-mm": "MNLI/test_mismatched", "AX": "diagnostic/diagnostic"}
    for file, source in sources.items():
        rows = read_tsv(data / f"{source}.tsv")
        for who, model in (("student", Path(record.student_path)), ("teacher", teacher)):
            text = (folder / who / f"{file}.tsv").read_bytes()
            assert text.startswith(b"index\tprediction\n")
            assert text.endswith(b"\n")
            assert b"\r" not in text
            predicted = read_tsv(folder / who / f"{file}.tsv")
            assert [row["index"] for row in predicted] == [row["index"] for row in rows]
            assert [row["prediction"] for row in predicted] == direct(model, rows)
    assert {path.name for path in folder.rglob("*.tsv")} == {f"{file}.tsv" for file in sources}

    with monkeypatch.context() as patch:
        patch.setattr("lobert.evaluation.predict", None)  # predicting anew would fail
        run_here(tmp_path, *settings, "stage=predict")
    path = data / "MNLI" / "test_matched.tsv"
    path.write_text("\n".join(path.read_text().splitlines()[:-2]) + "\n")
    asked: list[int] = []
    monkeypatch.setattr(
        "lobert.evaluation.predict", lambda model, batches: (asked.append(1), predict(model, batches))[1]
    )
    run_here(tmp_path, *settings, "stage=predict")
    assert len(asked) == 2 * len(sources)
    assert len(read_tsv(folder / "student" / "MNLI-m.tsv")) == len(rows) - 2


def test_data_of_ones_own_are_predicted_by_their_names_and_spellings(tmp_path: Path) -> None:
    rows = [
        {"key": f"k{i}", "text": word, "stars": stars} for i, (word, stars) in enumerate([("a", "-1"), ("b", "1")] * 9)
    ]
    train, test = (write_own(tmp_path / name, part) for name, part in (("train.csv", rows), ("test.csv", rows[:5])))
    settings = ["task=custom", "task.name=reviews", "task.labels=[bad,good]", "task.own.values=[-1,1]"]
    settings += [f"task.own.train={train}", f"task.own.test={test}", "task.own.label=stars", "task.own.index=key"]
    run_here(tmp_path / "out", *SETTINGS, *settings, "stage=predict")
    model = Path(the_record(tmp_path / "out").student_path)
    predicted = read_tsv(model.parent / "predictions" / "student" / "reviews.tsv")
    assert [row["index"] for row in predicted] == [f"k{i}" for i in range(5)]
    said = [{"bad": "-1", "good": "1"}[label] for label in direct(model, rows[:5], ["text"])]
    assert [row["prediction"] for row in predicted] == said


def test_examples_without_an_index_are_numbered(tmp_path: Path) -> None:
    data, snli = write_local(read_task("SNLI"), tmp_path / "data"), read_task("SNLI")
    run_here(tmp_path / "out", "task=SNLI", *SETTINGS, f"task.data_dir={data}", "stage=predict")
    model = Path(the_record(tmp_path / "out").student_path)
    predicted = read_tsv(model.parent / "predictions" / "student" / "SNLI.tsv")
    rows = [dict(zip(("sentence1", "sentence2"), one.texts, strict=True)) for one in expected(snli, "test")]
    assert [row["index"] for row in predicted] == [str(i) for i in range(len(rows))]
    assert [row["prediction"] for row in predicted] == direct(model, rows)


def test_a_test_file_that_is_missing_is_missed_before_anything_is_trained(tmp_path: Path) -> None:
    data = write_local(read_task("MNLI"), tmp_path / "data")
    (data / "diagnostic" / "diagnostic.tsv").unlink()
    settings = ["task=MNLI", *SETTINGS, f"task.data_dir={data}", "stage=predict"]
    with pytest.raises(LobertError, match=r"diagnostic\.tsv: put it there, or .*'~task\.test\.diagnostic'") as caught:
        run_here(tmp_path, *settings)
    one_sentence(caught.value)
    assert not (tmp_path / "artefacts" / "teacher").exists()


@pytest.mark.parametrize(
    ("override", "sentence"), [("task.max_length=32", "no test split to predict"), ("+task.test.tset=X", "'tset'")]
)
def test_nothing_to_predict_is_said_before_anything_is_trained(tmp_path: Path, override: str, sentence: str) -> None:
    with pytest.raises(LobertError, match=sentence):
        run_here(tmp_path, "stage=predict", override)
    assert not (tmp_path / "artefacts" / "teacher").exists()


# ---- python -m lobert.submission ----


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """391 thousand questions of Quora take seconds to check: a thousandth of them here."""
    monkeypatch.setitem(GLUE_FILES, "QQP", replace(GLUE_FILES["QQP"], rows=391))


def predicted(folder: Path, number: int, *names: str, **settings: object) -> Path:
    """A run with files of full length, whose first answer tells it from others."""
    run = folder / f"run{number}"
    write_record(run / "result.json", replace(RECORD, **settings))
    for who in ("student", "teacher"):
        (run / "predictions" / who).mkdir(parents=True)
        for name in names:
            rows = filled(name).splitlines()
            other = [answer for answer in GLUE_FILES[name].answers if answer != GLUE_FILES[name].filler]
            if who == "student" and number and other:
                rows[number] = f"{number - 1}\t{other[0]}"
            (run / "predictions" / who / f"{name}.tsv").write_text("\n".join(rows) + "\n")
    return run


@pytest.mark.usefixtures("short")
def test_a_zip_of_eleven_files_without_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = list(GLUE_FILES)[:5]
    predicted(tmp_path / "runs", 1, *half)
    predicted(tmp_path / "runs", 2, *(set(GLUE_FILES) - set(half)), task="RTE")
    output = tmp_path / "new" / "submission.zip"
    assert main([str(tmp_path / "runs"), "-o", str(output)]) == 0
    with zipfile.ZipFile(output) as bundle:
        assert sorted(bundle.namelist()) == sorted(f"{name}.tsv" for name in GLUE_FILES)
        assert bundle.testzip() is None
        for name, known in GLUE_FILES.items():
            run = "run1" if name in half else "run2"
            content = bundle.read(f"{name}.tsv")
            assert content == (tmp_path / "runs" / run / "predictions" / "student" / f"{name}.tsv").read_bytes()
            rows = list(csv.reader(content.decode().splitlines(), delimiter="\t"))
            assert [row[0] for row in rows[1:]] == [str(i) for i in range(known.rows)]
    assert "11 files of the students, 0 filled" in capsys.readouterr().out


SMALL = ["RTE", "WNLI"]
WAYS = [  # (arguments, exit code, words)
    ([], 2, "there is none for CoLA, SST-2"),
    (["--fill"], 2, "RTE.tsv is in 2 runs: choose by decomp=svd or tucker_4d, seed=0 or 1"),
    (["--fill", "seed=0"], 0, "2 files of the students, 9 filled"),
    (["seed=1", "--fill", "DECOMP=SVD"], 2, "not chosen by 'DECOMP': did you mean 'decomp'"),
    (["seed=1", "--fill", "decomp=SVD", "keep=0.250"], 0, "CoLA.tsv: filled, '1' throughout"),
    (["--teacher", "--fill"], 0, "2 files of the teachers, 9 filled"),
    (["decomp=svt"], 2, "no run has decomp=svt: did you mean 'svd'"),
    (["keep=a", "--fill"], 2, "no run has keep=a"),
    (["--teacher", "--fill", "-o", "."], 2, "is a folder: name the zip"),
]


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(("arguments", "code", "words"), WAYS, ids=str)
def test_ways_to_choose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    predicted(tmp_path / "runs", 1, *SMALL)
    predicted(tmp_path / "runs", 2, *SMALL, seed=1, decomp="svd")
    if not arguments:
        (tmp_path / "runs" / "run2" / "result.json").unlink()
    assert main([str(tmp_path / "runs"), "-o", str(tmp_path / "x.zip"), *arguments]) == code
    said = capsys.readouterr()
    assert words in (said.err if code else said.out)
    assert (tmp_path / "x.zip").exists() == (code == 0)
    if code:
        one_sentence(Exception(said.err.strip()))


BROKEN = [
    (lambda rows: rows[:-1], "145 answers where GLUE's WNLI has 146"),
    (lambda rows: ["id\tlabel", *rows[1:]], "does not begin with index<TAB>prediction"),
    (lambda rows: [*rows[:3], "7\t1", *rows[4:]], "line 4: '7 1' is no answer to example 2"),
    (lambda rows: [*rows[:3], "2\tentailment", *rows[4:]], "line 4: '2 entailment'"),
    (lambda rows: [*rows[:3], "2", *rows[4:]], "line 4"),
    (lambda rows: [], "does not begin"),
    (lambda rows: [*rows[:-1], "145\t\udcff"], "cannot be read"),
]


@pytest.mark.parametrize(("spoil", "words"), BROKEN)
def test_a_file_that_glue_would_refuse_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: object, words: str
) -> None:
    path = predicted(tmp_path, 1, "WNLI") / "predictions" / "student" / "WNLI.tsv"
    rows = spoil(path.read_text().splitlines())  # type: ignore[operator]
    path.write_text("".join(f"{row}\n" for row in rows), errors="surrogateescape")
    assert main([str(tmp_path), "--fill", "-o", str(tmp_path / "x.zip")]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.glob("*x.zip*"))


@pytest.mark.parametrize(("words", "names"), [("none of the 1 runs has predictions", ()), ("no finished run", None)])
def test_nothing_to_zip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, names: tuple[str, ...] | None
) -> None:
    if names is not None:
        predicted(tmp_path, 1, *names)
    assert main([str(tmp_path), "--fill", "-o", str(tmp_path / "x.zip")]) == 2
    assert words in capsys.readouterr().err


def test_a_score_out_of_range_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = predicted(tmp_path, 1, "STS-B") / "predictions" / "student" / "STS-B.tsv"
    path.write_text(path.read_text().replace("\n3\t2.500", "\n3\t5.001"))
    assert main([str(tmp_path), "--fill", "-o", str(tmp_path / "x.zip")]) == 2
    assert "line 5: '3 5.001'" in capsys.readouterr().err
