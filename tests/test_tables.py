"""Tables over seeds, their marks and notes, pivots, filters and LaTeX."""

import csv
import io
import statistics
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from test_results import RECORD, saved

from lobert.errors import LobertError
from lobert.results import Record, as_csv, as_latex, as_markdown, as_text
from lobert.results.__main__ import main
from lobert.results.columns import BY_KEY
from lobert.results.grid import Grid, csv_of, latex_of, markdown_of, text_of
from lobert.results.pivot import pivot_grid
from lobert.results.table import run_grid

Rows = list[dict[str, str]]


def run(decomp: str = "svd", keep: float = 0.5, seed: int = 0, score: float = 0.7, **changes: Any) -> Record:
    return replace(RECORD, decomp=decomp, keep=keep, keep_targets=keep, seed=seed, score=score, **changes)


SCORES = {("svd", 0.5): (0.7, 0.72, 0.8), ("tucker_4d", 0.5): (0.6, 0.61, 0.62), ("svd", 0.1): (0.5, 0.5, 0.5)}
SWEEP = [run(d, k, seed, score) for (d, k), found in SCORES.items() for seed, score in enumerate(found)]


def csv_rows(grid: Grid) -> Rows:
    return list(csv.DictReader(io.StringIO(csv_of(grid))))


def lines_with(text: str, word: str) -> list[str]:
    return [line for line in text.splitlines() if word in line]


def test_runs_of_several_seeds_are_one_row_with_mean_and_deviation() -> None:
    rows = csv_rows(run_grid(SWEEP, complete=True))
    assert [(row["decomp"], float(row["keep"])) for row in rows] == [("svd", 0.5), ("svd", 0.1), ("tucker_4d", 0.5)]
    for row in rows:
        found = SCORES[row["decomp"], float(row["keep"])]
        assert float(row["score"]) == pytest.approx(statistics.fmean(found))
        assert float(row["score_deviation"]) == pytest.approx(statistics.stdev(found))
        assert (row["n"], row["seeds"]) == ("3", "0 1 2")
    assert "74.0 ± 5.3" in as_text(SWEEP)


def test_each_run_has_a_row_of_its_own_where_that_is_asked_for_or_all_seeds_are_single() -> None:
    assert len(csv_rows(run_grid(SWEEP, each=True, complete=True))) == len(SWEEP)
    single = [record for record in SWEEP if record.seed == 0]
    assert [row["seed"] for row in csv_rows(run_grid(single, complete=True))] == ["0"] * 3
    assert "±" not in as_text(single)
    assert "*" in as_text(single)
    assert "*" not in text_of(run_grid(SWEEP, each=True))  # no seed is better than another


@pytest.mark.parametrize(
    ("records", "marked"),
    [(SWEEP, False), (SWEEP[:1], True), ([run(train_examples=10_000)], False), ([*SWEEP, run("cp_4d")], True)],
)
@pytest.mark.parametrize("write", [as_text, as_markdown, as_latex, lambda records: text_of(pivot_grid(records))])
def test_a_single_seed_of_a_small_task_is_marked_and_told_why(records: Any, marked: bool, write: Any) -> None:
    assert ("†" in write(records) or r"\textdagger" in write(records)) == marked
    assert ("five points" in write(records)) == marked


def test_the_best_of_each_size_is_marked_ties_too() -> None:
    records = [run("a", score=0.70004), run("b", score=0.70001), run("c", score=0.69), run("a", 0.1, score=0.5)]
    assert [line.split()[0] for line in lines_with(as_text(records), "*")] == ["a", "b", "*"]
    assert [line[2] for line in lines_with(as_markdown(records), "**")] == ["a", "b"]
    assert as_latex(records).count(r"\textbf{70.0}") == 2


@pytest.mark.parametrize("changes", [{"score": 0.7}, {"score": 0.9, "epochs": 5}, {"score": 0.9, "task": "RTE"}])
def test_there_is_no_best_among_what_looks_alike_or_cannot_be_compared(changes: dict[str, Any]) -> None:
    assert "*" not in as_text([run("a"), run("b", **changes)])


def test_rows_of_another_protocol_are_marked_and_what_differs_is_told() -> None:
    records = [*SWEEP, *(run("tucker_4d", 0.1, seed, 0.9, epochs=5) for seed in range(3))]
    for text in (as_text(records), text_of(pivot_grid(records))):
        assert "90.0 ± 0.0a" in text
        assert lines_with(text, "epochs") == ["a not the protocol of the rest (theirs / here): epochs 3 / 5"]
    assert "epochs" not in as_text(SWEEP)


@pytest.mark.parametrize("grid", [run_grid, pivot_grid])
def test_one_row_never_holds_two_protocols(grid: Any) -> None:
    records = [*SWEEP, *(replace(record, score=0.9, learning_rate=1.0) for record in SWEEP)]
    rows = csv_rows(grid(records, complete=True))
    students = [row for row in rows if row["decomp"] != "teacher"]
    assert sorted(row["protocol"] for row in students) == [""] * 3 + ["learning_rate 3e-05 / 1"] * 3
    column = "score" if "score" in rows[0] else "MRPC"
    assert all((float(row[column]) == pytest.approx(0.9)) == bool(row["protocol"]) for row in students)


def test_many_protocols_are_told_in_columns() -> None:
    grid = [run(learning_rate=rate, beta=beta) for rate, beta in product((1e-5, 2e-5, 5e-5), (10.0, 100.0, 500.0))]
    text = as_text(grid)
    assert "compare only rows of a task that agree in learning_rate, beta" in text
    assert len(lines_with(text, "2e-05")) == 3
    assert "not the protocol" not in text


def test_a_seed_that_ran_twice_is_named_and_counts_once() -> None:
    again = replace(SWEEP[0], score=0.1, created="2026-03-01T00:00:00+00:00")
    text = as_text([*SWEEP, again])
    assert "svd keep 0.5 lobert seed 0 ran again: that of 2026-03-01" in text
    assert csv_rows(run_grid([*SWEEP, again], complete=True))[0]["n"] == "3"


def timed(device: str, batch: int = 32, **changes: Any) -> Record:
    assert RECORD.latency is not None
    return run(device=device, latency={**RECORD.latency, "batch": batch}, **changes)


def test_how_time_was_taken_is_told_and_times_of_two_machines_are_not_averaged() -> None:
    told = "a batch of 32 examples of 40 tokens on slow"
    assert told in as_text([timed("slow"), timed("slow", seed=1)])
    mixed = as_text([timed("slow"), timed("fast", 8, seed=1)])
    assert told in mixed
    assert "a batch of 8 examples of 40 tokens on fast" in mixed
    assert "not timed alike" in mixed
    rows = [csv_rows(run_grid([timed("slow"), timed(device, seed=1)], complete=True))[0] for device in ("slow", "fast")]
    assert [row["student_ms"] for row in rows] == ["2.0", ""]


def test_a_pivot_has_a_row_for_each_method_and_size_and_the_teachers_above() -> None:
    tasks = [replace(record, task=task) for record in SWEEP for task in ("RTE", "MRPC")]
    lacking = [r for r in tasks if (r.task, r.decomp) != ("RTE", "tucker_4d")]
    rows = csv_rows(pivot_grid(lacking))
    assert [(row["decomp"], row["keep"]) for row in rows] == [
        ("teacher", ""),
        ("svd", "0.5"),
        ("tucker_4d", "0.5"),
        ("svd", "0.1"),
    ]
    assert float(rows[0]["average"]) == pytest.approx(RECORD.teacher_score)
    assert float(rows[1]["average"]) == float(rows[1]["MRPC"]) == pytest.approx(statistics.fmean(SCORES["svd", 0.5]))
    assert (rows[2]["RTE"], rows[2]["average"]) == ("", "")
    assert rows[1]["MRPC_n"] == "3"


def test_a_teacher_of_another_protocol_has_a_row_of_its_own() -> None:
    other = run("cp_4d", teacher={"epochs": 9}, teacher_fingerprint="x", teacher_score=0.95)
    rows = csv_rows(pivot_grid([*SWEEP, other]))
    assert [row["MRPC"] for row in rows if row["decomp"] == "teacher"] == ["0.8", "0.95"]


def test_a_pivot_loses_no_group_of_given_ranks() -> None:
    groups = [[{**RECORD.groups[0], "rank": rank}] for rank in (7, 8)]
    records = [replace(RECORD, keep=None, groups=some, score=0.1 * n) for n, some in enumerate(groups, 1)]
    assert sorted(row["MRPC"] for row in csv_rows(pivot_grid(records))[1:]) == ["0.1", "0.2"]


@pytest.mark.parametrize("count", [1, 3, 36, 200])
def test_a_table_is_readable_whatever_its_length(count: int) -> None:
    methods, sizes = ("svd", "tucker_layer", "all_svd", "ffn_svd+tucker_4d"), [0.01 * k for k in range(1, 18)]
    records = [run(d, k, seed) for d, k, seed in product(methods, sizes, range(3))][:count]
    assert len(records) == count
    for text in (as_text(records), text_of(pivot_grid(records), 160)):
        assert max(map(len, text.splitlines())) <= 160
        assert "…" not in text
    assert len(csv_rows(run_grid(records, each=True, complete=True))) == count


def test_where_there_is_no_room_the_least_columns_go_and_are_named() -> None:
    narrow = as_text(SWEEP, 60)
    assert max(map(len, narrow.splitlines())) <= 60
    assert "74.0 ± 5.3" in narrow
    assert "no room in 60 characters for error, divergence" in " ".join(narrow.split())


HOSTILE = "50%_of & #1 {x} ~ ^ $ \\ [red]|*x*\x1b[31m"


def test_words_of_a_record_are_only_words() -> None:
    records = [run(HOSTILE), run("svd")]
    assert "[red]|*x*" in as_text(records)
    assert "\x1b" not in as_text(records) + as_markdown(records) + as_latex(records)
    row = next(line for line in as_markdown(records).splitlines() if "red" in line)
    assert row.count("|") - row.count("\\|") == as_markdown([run()]).splitlines()[2].count("|")
    line = next(line for line in as_latex(records).splitlines() if "red" in line)
    assert line.startswith(r"50\%\_of \& \#1 \{x\} \textasciitilde{} \textasciicircum{} \$ \textbackslash{} {[}red{]}")


def test_latex_is_a_booktabs_table_of_equal_rows() -> None:
    for text in (latex_of(pivot_grid(SWEEP)), as_latex(SWEEP)):
        lines = text.splitlines()
        assert [text.count(rule) for rule in (r"\toprule", r"\bottomrule")] == [1, 1]
        columns = len(next(line for line in lines if "tabular" in line).split("{")[-1].rstrip("}"))
        rows = [line for line in lines if line.endswith(r"\\")]
        assert {line.replace(r"\&", "").count("&") + 1 for line in rows} == {columns}
        assert text.count("{") == text.count("}")
        assert text.isascii()


FILTERS = [
    (["decomp=svd"], {"svd"}, {0.5, 0.1}),
    (["keep=0.10"], {"svd"}, {0.1}),
    (["keep=.5,0.1", "decomp=tucker_4d"], {"tucker_4d"}, {0.5}),
    (["--where", "decomp=SVD", "keep=0.5"], {"svd"}, {0.5}),
    (["seed=0,2", "--task=mrpc"], {"svd", "tucker_4d"}, {0.5, 0.1}),
]


@pytest.mark.parametrize(("words", "decomps", "keeps"), FILTERS)
def test_the_command_chooses_by_key_and_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], decomps: set[str], keeps: set[float]
) -> None:
    folder = saved(tmp_path, *SWEEP)
    assert main([*words, str(folder), "--format=csv", str(folder / "run0")]) == 0  # one folder inside the other
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["decomp"] for row in rows} == decomps
    assert {float(row["keep"]) for row in rows} == keeps


MISTAKES = [
    (["decmp=svd"], "did you mean 'decomp'?"),
    (["decomp=svdd"], "did you mean 'svd'?"),
    (["keep=0.3"], "no run has keep=0.3: choices: 0.1, 0.5"),
    (["keep=0.1", "decomp=tucker_4d"], "no run has all of keep=0.1 decomp=tucker_4d"),
    (["--where", "decomp"], "type key=value"),
    (["groups=1"], "runs have no 'groups'"),
    (["--columns=score,paramters"], "did you mean 'parameters'?"),
    (["--pivot", "--each"], "leave out --each"),
    (["--pivot", "--value=decomp"], "holds words"),
    (["--pivot", "--value=scor"], "did you mean 'score'?"),
    (["nowhere"], "no folder 'nowhere'"),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES)
def test_a_mistake_gets_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], sentence: str
) -> None:
    assert main([str(saved(tmp_path, *SWEEP)), *words]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert sentence in printed.err
    assert len(printed.err.splitlines()) == 1


def test_a_table_is_not_written_where_a_folder_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(saved(tmp_path, *SWEEP)), "-o", str(tmp_path / "run0")]) == 1
    assert "cannot write" in capsys.readouterr().err


def test_columns_are_shown_as_they_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(saved(tmp_path, *SWEEP)), "--columns=parameters,retention,encoder", "--format=csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [*rows[0]] == ["encoder", "decomp", "n", "keep_targets", "parameters", "retention", "retention_deviation"]


@pytest.mark.parametrize("name", sorted(BY_KEY))
def test_every_column_can_be_shown(name: str) -> None:
    grid = run_grid(SWEEP, names=[name])
    assert all(len(row) == len(grid.heads) for row in grid.rows)
    assert name in [head.key for head in grid.heads] or name == "seed"
    assert markdown_of(grid).count("\n| ") >= 4


@pytest.mark.parametrize("write", [as_text, as_csv, lambda records: text_of(pivot_grid(records))])
def test_a_table_of_nothing_is_refused(write: Any) -> None:
    with pytest.raises(LobertError, match="no run"):
        write([])
