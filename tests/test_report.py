"""The report: what it draws, its figures and its command."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from report_cases import HOSTILE, SEEDS, TERMS, anatomy, cells, layer_drop, run, write_anatomy, write_curves, write_runs
from test_results import RECORD

from lobert.errors import LobertError
from lobert.report.__main__ import main
from lobert.report.axes import front, logarithmic
from lobert.report.commands import commands
from lobert.report.curveplot import draw_curves
from lobert.report.data import collect
from lobert.report.heatplot import change, words
from lobert.report.page import embed
from lobert.report.payload import payload
from lobert.report.plots import all_figures, pareto_figure, write_plots
from lobert.report.points import conditions, make_points, make_teachers
from lobert.report.series import DARK, LIGHT, MARKERS, draw_series, series_names
from lobert.report.style import MARKS, save_figure
from lobert.report.thinning import MOST_POINTS, run_curves, thin
from lobert.results import Record
from lobert.results.anatomy import columns_of, find_anatomies, read_anatomy, rows_of

# What a chart is made of


@pytest.mark.parametrize(
    ("points", "kept"),
    [
        ([], []),
        ([(1, 1)], [0]),
        ([(1, 5), (2, 4), (3, 7)], [0, 2]),
        ([(2, 4), (2, 6), (1, 1)], [2, 1]),
        ([(1, 5), (2, 5)], [0]),
        ([(3, 9), (1, 9), (2, 3)], [1]),
    ],
)
def test_the_front_is_what_no_other_point_beats(points: list[tuple[float, float]], kept: list[int]) -> None:
    assert front(points) == kept
    for index, (cost, score) in enumerate(points):
        beaten = any(c <= cost and s >= score and (c, s) != (cost, score) for c, s in points)
        assert (index in kept) == (not beaten)


@pytest.mark.parametrize(("values", "log"), [([], False), ([1, 5], False), ([1, 5.1], True), ([0, 9], False)])
def test_a_scale_is_logarithmic_where_it_serves(values: list[float], log: bool) -> None:
    assert logarithmic(values) == log


def test_seeds_are_one_point_with_their_deviation() -> None:
    (point,) = make_points(SEEDS)
    assert (point.score.mean, point.score.deviation, point.score.count) == pytest.approx((72.0, 2.0, 3))
    assert point.x == pytest.approx(
        {"encoder": 50.0, "targets": 24.4, "model": 90.0, "macs": 0.03, "latency": 2.0}, abs=1e-9
    )


def test_other_protocols_are_other_points_and_say_what_differs() -> None:
    points = make_points([*SEEDS, run(epochs=9)])
    notes = {point.record.epochs: point.note for point in points}
    assert notes[3] is None
    assert "epochs 3 / 9" in (notes[9] or "")
    assert len({point.chain for point in points}) == 2


def test_sizes_of_one_compression_are_one_chain() -> None:
    points = make_points([run(keep=0.5), run(keep=0.1), run(keep=0.1, kd="pkd"), layer_drop(1), layer_drop(2)])
    chains = [point.chain for point in points]
    assert sorted(chains.count(chain) for chain in set(chains)) == [1, 2, 2]


def test_latencies_of_other_conditions_are_told_apart_and_not_averaged() -> None:
    other = {**RECORD.latency, "batch": 1} if RECORD.latency else None
    points = make_points([run(keep=0.5), run(keep=0.1, device="gpu"), run(keep=0.2, latency=None), run(keep=0.3)])
    assert (
        sorted(str(point.condition).partition(",")[0] for point in points if point.condition)
        == ["batch 32 × 40 tokens"] * 3
    )
    assert "cpu" in conditions(points)[0]
    assert len(conditions(points)) == 2
    (mixed,) = make_points([run(seed=0), run(seed=1, latency=other)])
    assert (mixed.condition, mixed.x["latency"]) == (None, None)


def test_a_drift_of_the_machine_is_taken_out_of_latencies() -> None:
    assert RECORD.latency
    slow = {**RECORD.latency, "student_ms": 20.0, "teacher_ms": 40.0}
    points = make_points([run(keep=0.5), run(keep=0.3), run(keep=0.1, latency=slow)])
    assert [point.x["latency"] for point in points] == [2.0] * 3


def test_baselines_have_fewer_layers_and_no_share_of_targets() -> None:
    points = make_points([run(), layer_drop(1), layer_drop(5)])
    shares = {point.series: point.x["targets"] for point in points}
    assert shares == {"tucker_4d": pytest.approx(24.4), "not compressed": None, "fewer layers": None}
    assert points[-1].series == "fewer layers"


def test_a_teacher_is_drawn_once_at_its_own_size() -> None:
    (teacher,) = make_teachers(SEEDS)
    assert teacher.score == 80.0
    assert teacher.x == {"encoder": 100.0, "targets": 100.0, "model": 100.0, "macs": 0.12}
    assert list(teacher.milliseconds.values()) == [4.0]


def test_a_series_is_named_by_what_varies() -> None:
    records = [run(), run(objective="loss"), run(decomp="svd"), run(task="RTE"), layer_drop(1), layer_drop(2)]
    assert series_names(records) == [
        *("tucker_4d · weights norm", "tucker_4d · loss norm", "svd", "tucker_4d", "fewer layers", "fewer layers")
    ]
    assert series_names([run(), run(encoder="base")]) == ["tucker_4d · tiny", "tucker_4d · base"]


def test_no_two_of_the_first_42_series_look_alike() -> None:
    drawn = draw_series(f"s{number:02}" for number in range(len(LIGHT) * len(MARKERS)))
    assert len({(one.light, one.marker) for one in drawn.values()}) == 42
    assert len({(one.light, one.lap) for one in drawn.values()}) == 42


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours, by WCAG 2.2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize(("colours", "ground"), [(LIGHT, "#ffffff"), (DARK, "#15181d")])
def test_colours_stand_out_from_the_page(colours: tuple[str, ...], ground: str) -> None:
    assert min(contrast(colour, ground) for colour in colours) > 3  # what WCAG asks of graphics


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([run(overrides=["task=RTE", "seed=0"])], ["python train.py task=RTE seed=0"]),
        ([run(overrides=["decomp=[a,b]"])], ["python train.py 'decomp=[a,b]'"]),
        (
            [run(seed=1, overrides=["a=1", "seed=1"]), run(seed=0, overrides=["a=1"])],
            ["python train.py -m a=1 seed=0,1"],
        ),
        (
            [run(seed=1, overrides=["a=1", "seed=1"]), run(seed=0, overrides=["b=1"])],
            ["python train.py a=1 seed=1", "python train.py b=1"],
        ),
        ([run(overrides=[])], []),
    ],
)
def test_a_command_makes_the_runs_again(records: list[Record], expected: list[str]) -> None:
    assert commands(records) == expected


# Curves and anatomies


@pytest.mark.parametrize("count", [1, MOST_POINTS, MOST_POINTS + 1, 5000])
def test_thinning_keeps_the_ends_and_the_order(count: int) -> None:
    curve = thin([(step, float(step)) for step in range(count)])
    assert len(curve.steps) == min(count, MOST_POINTS)
    assert (curve.steps[0], curve.steps[-1]) == (0, count - 1)
    assert list(curve.steps) == sorted(set(curve.steps)) == list(curve.values)


def test_curves_are_read_by_their_names_without_what_is_no_number(tmp_path: Path) -> None:
    write_curves(tmp_path, 3)
    with (tmp_path / "student" / "metrics.csv").open("a") as file:
        file.write("3,1,train/loss,nan\n3,1,lr,0.1\n")
    curves = run_curves(tmp_path)
    assert list(curves) == list(TERMS)
    assert curves["train/loss"].steps == (0, 1, 2)
    assert run_curves(tmp_path / "none") == {}


@pytest.mark.parametrize(
    "text", ["step,epoch,name,value\n1,0,train/loss\n", "a,b\n1,2\n", "step,epoch,name,value\nx,0,train/loss,1\n"]
)
def test_broken_curves_are_named_and_not_fatal(tmp_path: Path, text: str) -> None:
    root = write_runs(tmp_path, [RECORD], curves=2)
    (root / "runs" / "run0" / "student" / "metrics.csv").write_text(text)
    collection = collect(root)
    assert collection.curves == {}
    assert len(collection.skipped) == 1
    assert "metrics.csv" in collection.skipped[0]


BROKEN = [
    ("{", "no valid anatomy"),
    ("[1]", "schema is not 1"),
    (anatomy(schema=2), "schema is not 1"),
    ({"schema": 1}, "no cells"),
    ({"schema": 1, "cells": cells()}, "it lacks 'task'"),
    (anatomy(cells=[{"layer": 0}]), "a cell lacks 'role'"),
    (anatomy(cells=[]), "no cells"),
    (anatomy(task=3), "'task' is 3"),
    (anatomy(teacher_score="high"), "'teacher_score' is 'high'"),
    (anatomy(cells=cells(role=3)), "'role' is 3"),
    (anatomy(cells=cells(layer="1")), "'layer' is '1'"),
    (anatomy(cells=cells(error=None)), "'error' is None"),
    (anatomy(cells=cells(error=True)), "'error' is True"),
    (anatomy(cells=[*cells(), *cells()]), "same weight"),
    (anatomy(cells=["a"]), "a cell is 'a'"),
    (json.dumps(anatomy()).replace("0.25", "NaN"), "NaN is no number"),
]


@pytest.mark.parametrize(("content", "reason"), BROKEN)
def test_a_broken_anatomy_is_named_with_its_reason(tmp_path: Path, content: Any, reason: str) -> None:
    path = write_anatomy(tmp_path, content)
    with pytest.raises(LobertError, match=r"anatomy\.json") as caught:
        read_anatomy(path)
    assert reason in str(caught.value)
    found, broken = find_anatomies(tmp_path)
    assert (found, len(broken)) == ([], 1)


def test_an_anatomy_is_a_grid_of_its_weights(tmp_path: Path) -> None:
    write_anatomy(tmp_path, anatomy(examples=12), "made")
    write_anatomy(tmp_path, "{", "other.partial")
    (found,), broken = find_anatomies(tmp_path)
    assert broken == []
    assert (rows_of(found), columns_of(found)) == (["0", "1", "pooler"], ["query", "output"])
    assert change(found, found.cells[0]) == pytest.approx(-2.0)
    assert change(found, found.cells[-1]) is None


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [(0.256, False, "0.26"), (-0.04, True, "0.0"), (-1.26, True, "\u22121.3"), (0.5, True, "+0.5")],
)
def test_numbers_in_cells(value: float, signed: bool, text: str) -> None:
    assert words(value, signed) == text


# Figures


def test_figures_are_png_and_pdf_with_embedded_truetype(tmp_path: Path) -> None:
    root = write_runs(tmp_path / "runs", [*SEEDS, layer_drop(1)], curves=5)
    write_anatomy(root, anatomy())
    collection = collect(root)
    before = dict(mpl.rcParams)
    files = write_plots(collection.records, tmp_path / "out", collection.curves_by_record, collection.anatomies)
    assert dict(mpl.rcParams) == before
    assert sorted(tmp_path.joinpath("out").iterdir()) == sorted(files)
    names = {file.stem for file in files}
    assert names >= {
        "pareto-encoder-MRPC",
        "pareto-targets-MRPC",
        "pareto-macs-MRPC",
        "pareto-latency-MRPC",
        "curves-MRPC",
    }
    assert names >= {f"anatomy-{name}-MRPC-tiny-svd-0.25" for name in ("weights", "outputs", "score")}
    for file in files:
        content = file.read_bytes()
        if file.suffix == ".png":
            assert content.startswith(b"\x89PNG\r\n\x1a\n")
        else:
            assert content.startswith(b"%PDF-")
            assert b"/FontFile2" in content  # TrueType, embedded
            assert b"/Type3" not in content


def test_the_same_runs_make_the_same_bytes(tmp_path: Path) -> None:
    for ending in (".png", ".pdf"):
        for name in "ab":
            save_figure(pareto_figure(SEEDS), tmp_path / f"{name}{ending}")
        assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


def test_a_series_looks_the_same_in_the_figures_of_all_tasks() -> None:
    records = [run(decomp="svd"), run(decomp="tt_4d"), run(task="RTE", decomp="tt_4d")]
    figures = dict(all_figures(records, {}, []))
    looks = draw_series(["svd", "tt_4d"])["tt_4d"]
    for task in ("MRPC", "RTE"):
        lines = figures[f"pareto-encoder-{task}"].axes[0].lines
        assert (looks.light, MARKS[looks.marker]) in {(line.get_color(), line.get_marker()) for line in lines}


def test_names_of_files_are_safe_and_their_own(tmp_path: Path) -> None:
    for number, task in enumerate(("a/../b", "a_.._b")):
        write_anatomy(tmp_path / "in", anatomy(task=task, cells=[cells()[-1]]), str(number))
    files = write_plots([], tmp_path / "out", anatomies=collect(tmp_path / "in").anatomies)
    assert len(files) == len(set(files)) == 4
    assert sorted(files) == sorted((tmp_path / "out").iterdir())


def test_a_figure_has_a_panel_per_task_and_one_condition_of_latency(tmp_path: Path) -> None:
    records = [run(), run(keep=0.1, device="gpu"), run(task="RTE"), run(task="RTE", score=None, decomp=HOSTILE)]
    figure = pareto_figure(records)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["MRPC", "RTE"]
    latency = pareto_figure(records, axis="latency")
    markers = [line for line in latency.axes[0].lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in markers] == [[2.0]]
    assert "cpu" in latency.axes[0].get_xlabel()
    for made in (figure, latency, pareto_figure([run(decomp=HOSTILE), run(decomp="_hidden $")]), pareto_figure([])):
        save_figure(made, tmp_path / "a.png")


def test_curves_of_seeds_become_one_line_with_a_band(tmp_path: Path) -> None:
    collection = collect(write_runs(tmp_path, SEEDS, curves=4))
    points = make_points(collection.records)
    looks = draw_series(point.series for point in points)
    figure = draw_curves(points, collection.curves_by_record, looks)
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(TERMS)
    assert [(len(axes.lines), len(axes.collections)) for axes in figure.axes] == [(1, 1)] * 3
    assert draw_curves(points, {}, looks) is None


def test_neither_report_nor_figures_load_torch() -> None:
    code = "import sys, lobert.report.__main__; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], timeout=60, check=False)
    assert done.returncode == 0


# The command


def test_an_empty_folder_gives_one_sentence_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").mkdir()
    for folder in (tmp_path / "runs", tmp_path / "none"):
        assert main([str(folder), "-o", str(tmp_path / "out")]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert len(printed.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_runs(tmp_path, [RECORD])
    (tmp_path / "taken").write_text("")
    assert main([str(tmp_path), "-o", str(tmp_path / "taken")]) == 1
    assert "taken" in capsys.readouterr().err
    assert (tmp_path / "taken").read_text() == ""


def test_the_command_writes_page_and_plots_and_names_what_it_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "in"
    write_anatomy(root, "{")
    write_anatomy(root, anatomy(cells=[cells()[-1]]), "whole")
    assert main([str(root), "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert "anatomy.json" in printed.err
    assert "index.html" in printed.out
    endings = [path.suffix for path in (tmp_path / "out").iterdir()]
    assert sorted(endings) == [".html", ".pdf", ".png"]


def test_embedded_json_is_the_same_and_holds_nothing_that_html_reads() -> None:
    text = embed({"name": HOSTILE})
    assert json.loads(text) == {"name": HOSTILE}
    assert not set(text) & set("<>&\u2028\u2029")


def test_the_data_name_every_group_once_and_what_was_left_out(tmp_path: Path) -> None:
    records = [*SEEDS, run(seed=2, created="2026-01-02"), run(decomp="svd", overrides=[])]
    data = payload(collect(write_runs(tmp_path, records)))
    assert [(point["title"], point["score"][2]) for point in data["points"]] == [
        ("svd · keep 0.25", 1),
        ("tucker_4d · keep 0.25", 3),
    ]
    assert data["points"][0]["commands"] == []
    assert "runs/run4/config.yaml" in data["points"][0]["places"][0]
    assert len(data["table"]["rows"]) == 2
    assert ["ran again" in note for note in data["table"]["notes"]].count(True) == 1
    assert (data["curves"]["groups"], data["anatomies"]) == ([], [])
