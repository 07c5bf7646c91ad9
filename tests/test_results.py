"""Records and the tables made from them."""

import csv
import io
import json
import subprocess
import sys
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from lobert.errors import LobertError
from lobert.results import (
    Group,
    Record,
    as_csv,
    as_markdown,
    as_text,
    environment,
    find_records,
    print_summary,
    ratio,
    read_record,
    write_record,
)
from lobert.results.__main__ import main
from lobert.results.record import BrokenRecord, checksum, kept_record

GROUP = Group(
    name="attention",
    factorization="tucker",
    rank=[2, 2, 24, 24],
    shape=[3, 2, 64, 64],
    parameters=6_000,
    dense_parameters=24_576,
    macs=7_000,
    dense_macs=24_576,
    error=0.25,
    objective_error=0.2,
    evaluation="factors",
)

RECORD = Record(
    task="MRPC",
    encoder="tiny",
    decomp="tucker_4d",
    kd="lobert",
    seed=0,
    init="teacher",
    student_layers=2,
    metric="accuracy",
    score=0.75,
    teacher_score=0.8,
    zero_shot_score=0.5,
    retention=0.9375,
    metrics={"accuracy": 0.75, "f1": 0.7},
    teacher_metrics={"accuracy": 0.8, "f1": 0.875},
    zero_shot_metrics={"accuracy": 0.5, "f1": 0.4},
    agreement=0.8,
    divergence=0.125,
    zero_shot_agreement=0.5,
    zero_shot_divergence=0.75,
    objective="weights",
    allocate="uniform",
    order="parallel",
    budget="parameters",
    refit_head=False,
    scope="targets",
    keep=0.25,
    keep_targets=0.244,
    keep_encoder=0.5,
    keep_model=0.9,
    parameters=1_800_000,
    teacher_parameters=2_000_000,
    encoder_parameters=50_000,
    teacher_encoder_parameters=100_000,
    macs_per_token=30_000,
    teacher_macs_per_token=120_000,
    error=0.25,
    groups=[GROUP],
    seconds={"teacher": 0.0, "student": 12.5},
    found=["teacher"],
    epochs=3,
    batch_size=32,
    learning_rate=3e-5,
    alpha=0.5,
    temperature=2.0,
    beta=None,
    normalize=True,
    max_length=128,
    train_examples=3668,
    precision="32-true",
    teacher={"epochs": 3, "seed": 0},
    data={"train": "aa", "validation": "bb"},
    latency={
        "student_ms": 2.0,
        "teacher_ms": 4.0,
        "student_spread_ms": 0.1,
        "teacher_spread_ms": 0.2,
        "ratio": 0.5,
        "batch": 32,
        "length": 40,
        "rounds": 9,
    },
    overrides=["task=MRPC", "decomp=tucker_4d"],
    versions={"torch": "2", "lobert": None},
    device="cpu",
    commit=None,
    config_hash="0123456789ab",
    teacher_fingerprint="ba9876543210",
    student_path="outputs/student",
    created="2026-01-01T00:00:00+00:00",
)


def saved(folder: Path, *records: Record) -> Path:
    for number, record in enumerate(records):
        write_record(folder / f"run{number}" / "result.json", record)
    return folder


VARIANTS = [
    RECORD,
    replace(RECORD, keep=None, teacher_score=None, retention=None, error=None, normalize=None),
    replace(RECORD, groups=[], found=[], commit="abc-dirty"),
    replace(RECORD, score=1, groups=[{**GROUP, "rank": 8}], latency=None),
]


@pytest.mark.parametrize("record", VARIANTS)
def test_reading_gives_what_was_written(tmp_path: Path, record: Record) -> None:
    path = tmp_path / "a" / "result.json"
    write_record(path, record)
    assert read_record(path) == record
    assert set(json.loads(path.read_text())) == {field.name for field in fields(Record)} | {"checksum"}
    assert [child.name for child in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_null(tmp_path: Path, number: float) -> None:
    path = tmp_path / "result.json"
    write_record(path, replace(RECORD, score=number, metrics={"accuracy": number}, groups=[{**GROUP, "error": number}]))
    record = read_record(path)
    assert record.score is None
    assert record.metrics == {"accuracy": None}
    assert record.groups[0]["error"] is None


def changed(**changes: Any) -> str:
    """The text of a record with other fields, as if it had been written so; without a field where that is `...`."""
    content = {field.name: getattr(RECORD, field.name) for field in fields(Record)} | changes
    content = {key: value for key, value in content.items() if value is not ...}
    return json.dumps(content | {"checksum": checksum(content)} | {k: v for k, v in changes.items() if k == "checksum"})


OLD = "schema 2, and this version reads schema 4; run its command again, which sets this file aside"
BROKEN = [
    ("", "not whole"),
    (changed()[:200], "not whole"),
    ("[" * 100_000, "not whole"),
    (changed(score=float("nan")), "not whole: NaN is no number"),
    ("[1, 2]", "not the record"),
    ('{"accuracy": 0.5}', "not the record"),
    (changed(schema="four"), "schema 'four'"),
    (changed(schema=2, budget=...), OLD),
    (changed(score=...), "lacks score"),
    (changed(seed="0"), "'seed' is '0'"),
    (changed(seed=True), "'seed' is True"),
    (changed(score="high"), "'score' is 'high'"),
    (changed(metrics={"accuracy": "high"}), "'metrics'"),
    (changed(found="teacher"), "'found'"),
    (changed(groups=[{"name": "attention"}]), "'groups'"),
    (changed(normalize=1), "'normalize' is 1"),
    (changed().replace('"score": 0.75', '"score": 0.85'), "was changed after it was written"),
    (changed().replace('"seed": 0', '"seed": 1'), "was changed after it was written"),
    (changed().replace('"rank": [2', '"rank": [3'), "was changed after it was written"),
    (changed(checksum="0" * 16), "was changed after it was written"),
    (changed(checksum=None), "was changed after it was written"),
    (
        json.dumps(json.loads(changed()) | {"checksum": ...}, default=lambda _: 1).replace('"checksum"', '"sum"'),
        "lacks",
    ),
]


@pytest.mark.parametrize(("text", "reason"), BROKEN)
def test_a_broken_record_is_named_with_its_reason(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(BrokenRecord, match=r"result\.json") as caught:
        read_record(path)
    assert reason in str(caught.value)


def test_a_flipped_bit_never_becomes_another_number(tmp_path: Path) -> None:
    path = write_and_read(tmp_path / "result.json")
    text = path.read_bytes()
    start = text.index(b'"learning_rate": ') + len('"learning_rate": ')
    refused = 0
    for place, bit in product(range(start, text.index(b",", start)), range(8)):
        path.write_bytes(text[:place] + bytes([text[place] ^ (1 << bit)]) + text[place + 1 :])
        try:
            assert read_record(path) == RECORD  # 3E-05 is 3e-05
        except BrokenRecord:
            refused += 1
    assert refused == 39


def write_and_read(path: Path) -> Path:
    assert write_record(path, RECORD) == RECORD
    return path


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "newer.json").write_text(changed(schema=99))
    for name in ("result.json", "folder.json", "none.json", "newer.json"):
        with pytest.raises(LobertError, match=name):
            read_record(tmp_path / name)


def test_a_whole_record_is_never_written_over(tmp_path: Path) -> None:
    path = write_and_read(tmp_path / "result.json")
    before = path.read_bytes()
    assert write_record(path, replace(RECORD, score=0.1)) == RECORD
    assert path.read_bytes() == before


ASIDE = [
    ("", "result.broken.json"),
    (changed(schema=3), "result.schema3.json"),
    (changed().replace("0.75", "0.7"), "result.broken.json"),
]


@pytest.mark.parametrize(("text", "name"), ASIDE)
def test_a_broken_record_is_set_aside_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, name: str
) -> None:
    path = tmp_path / "result.json"
    names = [name, name.replace(".json", "-2.json")]
    for aside in names:
        path.write_text(text)
        assert kept_record(path, move=False) is None
        assert path.exists()
        assert kept_record(path) is None
        assert f"set aside as {aside}" in caplog.text
    assert {child.name: child.read_text() for child in tmp_path.iterdir()} == dict.fromkeys(names, text)
    assert write_record(path, RECORD) == RECORD == kept_record(path)
    assert find_records(tmp_path) == ([RECORD], [])


def test_a_folder_in_place_of_a_record_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.mkdir()
    assert write_record(path, RECORD) == RECORD
    assert (tmp_path / "result.broken.json").is_dir()


def test_a_record_of_a_newer_version_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(changed(schema=99))
    with pytest.raises(LobertError, match="update LoBERT"):
        write_record(path, RECORD)
    assert path.read_text() == changed(schema=99)


def test_records_are_found_and_broken_ones_reported(tmp_path: Path) -> None:
    saved(tmp_path, RECORD, replace(RECORD, seed=1))
    (tmp_path / "run0" / "deeper").mkdir()
    (tmp_path / "run0" / "deeper" / "result.json").write_text("{")
    records, broken = find_records(tmp_path)
    assert [record.seed for record in records] == [0, 1]
    assert len(broken) == 1
    assert "deeper" in broken[0]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LobertError, match="none"):
        find_records(tmp_path / "none")


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [(1, 2, 0.5), (0.0, 2.0, 0.0), (1.0, 0.0, None), (None, 1.0, None), (1.0, None, None)],
)
def test_a_ratio_exists_where_both_numbers_do(part: Any, whole: Any, expected: float | None) -> None:
    assert ratio(part, whole) == expected


def test_the_environment_fills_a_record(tmp_path: Path) -> None:
    record = replace(RECORD, **environment(torch.device("cpu")))
    write_record(tmp_path / "result.json", record)
    assert read_record(tmp_path / "result.json") == record
    assert record.versions["torch"] == torch.__version__
    assert record.device != ""


RUNS = [
    replace(RECORD, task="RTE", decomp="svd"),
    replace(RECORD, decomp="tucker_4d", keep=0.1, keep_targets=0.1),
    replace(RECORD, decomp="svd", seed=1),
    replace(RECORD, decomp="tucker_4d", keep=0.5, keep_targets=0.5, teacher_score=None, retention=None),
]


def csv_rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_rows_are_sorted_by_task_compression_and_share() -> None:
    rows = csv_rows(as_csv(RUNS))
    order = [("MRPC", "svd"), ("MRPC", "tucker_4d"), ("MRPC", "tucker_4d"), ("RTE", "svd")]
    assert [(row["task"], row["decomp"]) for row in rows] == order
    assert [row["keep_targets"] for row in rows[1:3]] == ["0.5", "0.1"]


def test_csv_holds_the_values_of_the_record() -> None:
    row = csv_rows(as_csv([RECORD]))[0]
    shared = row.keys() & {field.name for field in fields(Record)}
    values = {key: getattr(RECORD, key) for key in shared}
    assert {key: row[key] for key in shared} == {k: "" if value is None else str(value) for k, value in values.items()}
    assert float(row["macs_ratio"]) == RECORD.macs_per_token / RECORD.teacher_macs_per_token
    assert float(row["student_seconds"]) == RECORD.seconds["student"]


def test_a_missing_number_is_empty_in_csv_and_a_dash_elsewhere() -> None:
    lacking = [replace(RECORD, error=None), replace(RECORD, decomp="svd")]
    assert [row["error"] for row in csv_rows(as_csv(lacking))] == ["0.25", ""]
    assert "–" in as_text(lacking)
    assert "| – |" in as_markdown(lacking)
    assert "–" not in as_text([RECORD])


def test_a_column_without_any_number_is_left_out() -> None:
    lacking = [replace(RECORD, error=None, latency=None)]
    assert "error" not in as_text(lacking)
    assert "ms" not in as_text(lacking).split()
    assert csv_rows(as_csv(lacking))[0]["error"] == csv_rows(as_csv(lacking))[0]["student_ms"] == ""


def test_markdown_is_one_rectangle() -> None:
    lines = [line for line in as_markdown(RUNS).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(RUNS)
    assert len({line.count("|") for line in lines}) == 1
    assert "| 75.0<sup>†</sup> |" in lines[-1]


def test_text_tells_what_runs_share_once_and_never_cuts_a_number() -> None:
    long = "a_rather_long_name_of_a_joined_compression+ffn_svd"
    text = as_text([*RUNS, replace(RECORD, decomp=long)])
    shared = [
        "encoder tiny",
        "objective weights",
        "allocate uniform",
        "order parallel",
        "budget parameters",
        "kd lobert",
        "metric accuracy",
    ]
    assert text.splitlines()[0] == " · ".join(shared)
    assert text.count("tiny") == 1
    assert long in text
    assert "…" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def summary(record: Record) -> str:
    console = Console(file=io.StringIO(), width=100)
    with console.capture() as capture:
        print_summary(record, Path("outputs/run/result.json"), console)
    return capture.get()


def test_the_summary_tells_scores_sizes_times_and_places() -> None:
    told = [
        "teacher 4.0 ms, student 2.0 ms, 2.00× as fast; batch 32, length 40",
        "MRPC",
        "f1",
        "80.0",
        "75.0",
        "1,800,000",
        "24.4 %",
        "25.0 %",
        "4.00×",
        "student 12.5",
    ]
    text = summary(RECORD)
    assert [word for word in [*told, "outputs/run/result.json", "outputs/student"] if word not in text] == []


@pytest.mark.parametrize("record", VARIANTS)
def test_the_summary_fits_100_columns_and_says_what_was_found(record: Record) -> None:
    text = summary(record)
    assert max(map(len, text.splitlines())) <= 100
    assert ("teacher found" in text) == ("teacher" in record.found)
    assert ("latency" in text) == (record.latency is not None)


@pytest.mark.parametrize(
    ("arguments", "tasks"), [([], ["MRPC", "RTE"]), (["--task", "mrpc"], ["MRPC"]), (["--task=RTE"], ["RTE"])]
)
def test_the_command_selects_by_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], tasks: list[str]
) -> None:
    saved(tmp_path, RECORD, replace(RECORD, task="RTE"))
    assert main([str(tmp_path), "--format=csv", *arguments]) == 0
    assert [row["task"] for row in csv_rows(capsys.readouterr().out)] == tasks


@pytest.mark.parametrize("form", ["text", "markdown", "csv", "latex"])
def test_the_command_writes_to_a_file_what_it_would_print(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    saved(tmp_path, *RUNS)
    (tmp_path / "result.json").write_text("{")
    assert main([str(tmp_path), f"--format={form}"]) == 0
    printed = capsys.readouterr()
    assert "result.json" in printed.err
    assert main([str(tmp_path), f"--format={form}", f"--output={tmp_path / 'table'}"]) == 0
    assert (tmp_path / "table").read_text() == printed.out
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("arguments", [["--task=CoLA"], []])
def test_the_command_fails_with_one_sentence_where_there_is_nothing(tmp_path: Path, arguments: list[str]) -> None:
    folder = saved(tmp_path, RECORD) if arguments else tmp_path
    command = [sys.executable, "-m", "lobert.results", str(folder), *arguments]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
