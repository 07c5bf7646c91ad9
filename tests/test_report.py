"""The report: its data, its figures, and its page in a real browser."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from test_results import GROUP, RECORD

from lobert.errors import LobertError
from lobert.report.__main__ import main, write_report
from lobert.report.anatomy import find_anatomies, read_anatomy
from lobert.report.axes import front, logarithmic
from lobert.report.commands import commands
from lobert.report.curveplot import draw_curves
from lobert.report.data import collect
from lobert.report.heatplot import words
from lobert.report.page import embed
from lobert.report.payload import payload
from lobert.report.plots import pareto_figure, write_plots
from lobert.report.points import conditions, make_points, make_teachers
from lobert.report.series import DARK, LIGHT, MARKERS, draw_series, series_names
from lobert.report.style import save_figure
from lobert.report.thinning import MOST_POINTS, run_curves, thin
from lobert.results import Record, write_record

HOSTILE = '</script><b>bold & "quoted" <!-- {{data}} $x$ é \u2028'
TERMS = ("train/labels", "train/loss", "val/accuracy")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def run(**changes: Any) -> Record:
    """A run of MRPC; what is not given is that of the base record."""
    return replace(RECORD, **changes)


def layer_drop(layers: int, **changes: Any) -> Record:
    sizes = {"encoder_parameters": 20_000 * layers, "keep_encoder": 0.2 * layers, "keep_targets": 1.0, "keep": None}
    return run(decomp="none", groups=[], student_layers=layers, **sizes, **changes)


def write_curves(folder: Path, steps: int) -> None:
    rows = [f"{step},0,{name},{1 / (step + place + 1)}" for step in range(steps) for place, name in enumerate(TERMS)]
    (folder / "student").mkdir(parents=True)
    (folder / "student" / "metrics.csv").write_text("\n".join(["step,epoch,name,value", *rows]) + "\n")


def cells(**changes: Any) -> list[dict[str, Any]]:
    layered = [
        {"layer": layer, "role": role, "group": f"{role}s", "error": 0.25 * layer, "output_error": 0.1, "score": 0.78,
         "agreement": 0.9}
        for layer in (0, 1)
        for role in ("query", "output")
    ]  # fmt: skip
    alone = {"layer": None, "role": "pooler", "group": "pooler", "error": 0.5, "output_error": None, "score": None}
    return [*layered, {**alone, "agreement": None, **changes}]


def anatomy(**changes: Any) -> dict[str, Any]:
    return {
        "schema": 1, "task": "MRPC", "encoder": "tiny", "decomp": "svd", "keep": 0.25, "metric": "accuracy",
        "teacher_score": 0.8, "teacher_fingerprint": "ab", "cells": cells(), **changes,
    }  # fmt: skip


def write_anatomy(root: Path, content: Any, name: str = "one") -> Path:
    path = root / "artefacts" / "anatomy" / name / "anatomy.json"
    path.parent.mkdir(parents=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def write_runs(root: Path, records: list[Record], curves: int = 0) -> Path:
    for number, record in enumerate(records):
        write_record(root / "runs" / f"run{number}" / "result.json", record)
        if curves:
            write_curves(root / "runs" / f"run{number}", curves)
    return root


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


SEEDS = [run(seed=seed, score=score) for seed, score in enumerate([0.7, 0.72, 0.74])]


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
    ("{", "not whole"),
    ("[1]", "no anatomy of schema 1"),
    (anatomy(schema=2), "no anatomy of schema 1"),
    ({"schema": 1}, "lacks 'cells'"),
    (anatomy(cells=[]), "no cells"),
    (anatomy(task=3), "'task' is 3"),
    (anatomy(teacher_score="high"), "'teacher_score' is 'high'"),
    (anatomy(cells=cells(role="mouth")), "no role 'mouth'"),
    (anatomy(cells=cells(layer=1)), "'pooler' with layer 1"),
    (anatomy(cells=cells(error=None)), "'error' is None"),
    (anatomy(cells=cells(error=True)), "'error' is True"),
    (anatomy(cells=[*cells(), *cells()]), "same weight"),
    (anatomy(cells=["a"]), "a cell is 'a'"),
    (json.dumps(anatomy()).replace("0.25", "NaN"), "is nan"),
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
    assert set(found.grid()) == {("0", "query"), ("0", "output"), ("1", "query"), ("1", "output"), ("pooler", "pooler")}
    assert found.drop(found.cells[0]) == pytest.approx(-2.0)
    assert found.drop(found.cells[-1]) is None


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
    figure = draw_curves(make_points(collection.records), collection.curves_by_record)
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(TERMS)
    assert [(len(axes.lines), len(axes.collections)) for axes in figure.axes] == [(1, 1)] * 3
    assert draw_curves(make_points(collection.records), {}) is None


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
    assert ["made anew" in sentence for sentence in data["skipped"]] == [True]
    assert (data["curves"]["groups"], data["anatomies"]) == ([], [])


# The page, in a browser


def browser_path() -> str | None:
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = browser_path()
    if path is None:
        pytest.skip("no browser: " + ", ".join(BROWSERS))
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def many_runs() -> list[Record]:
    """200 runs: four tasks, four compressions and fewer layers, five sizes, two seeds; two devices."""
    records = []
    for task in ("MRPC", "RTE", "SST-2", HOSTILE):
        for number, decomp in enumerate(("svd", "tucker_4d", "falcon_4d", f"{HOSTILE}2", "none")):
            for size in range(1, 6):
                share = size / 5.5
                made = run(
                    task=task, decomp=decomp, keep=share, keep_encoder=share, score=0.6 + 0.03 * size - 0.01 * number,
                    device="gpu" if decomp == "svd" else "cpu", overrides=[f"decomp={decomp}"] if number else [],
                    groups=[] if decomp == "none" else [GROUP], student_layers=size if decomp == "none" else 6,
                )  # fmt: skip
                records += [replace(made, seed=seed, score=(made.score or 0) + 0.01 * seed) for seed in (0, 1)]
    return records


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pages of folders with one run, with 200 of them, and with an anatomy alone."""
    root = tmp_path_factory.mktemp("report")
    folders = {
        "one": write_runs(root / "one", [RECORD]),
        "many": write_runs(root / "many", many_runs(), curves=220),
        "anatomy": root / "anatomy",
    }
    for name in ("many", "anatomy"):
        write_anatomy(folders[name], anatomy(task=HOSTILE))
    write_anatomy(folders["many"], "{", "broken")
    for name, folder in folders.items():
        write_report(collect(folder), root / "pages" / name, plots=False)
    return {name: root / "pages" / name / "index.html" for name in folders}


class Visit:
    """A page in the browser, and what went wrong on it."""

    def __init__(self, browser: Any, path: Path, width: int = 1200, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.troubles: list[str] = []
        self.page.on("console", lambda message: self.troubles.append(message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("request", lambda request: self._requested(request.url, path))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("#notes h3")

    def _requested(self, url: str, path: Path) -> None:
        if url != path.as_uri() and not url.startswith("data:"):
            self.troubles.append(f"request of {url}")

    def texts(self, selector: str) -> list[str]:
        return list(self.page.eval_on_selector_all(selector, "found => found.map(element => element.textContent)"))

    def count(self, selector: str) -> int:
        return len(self.texts(selector))

    def series(self) -> set[str]:
        """The series of the points in the chart."""
        return set(self.page.eval_on_selector_all(".point", "found => found.map(one => one.dataset.series)"))

    def press(self, section: str, name: str) -> None:
        self.page.locator(f"#{section} button", has_text=re.compile(f"^{re.escape(name)}$")).first.click()

    def __enter__(self) -> "Visit":
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()
        if error[0] is None:
            assert self.troubles == []


@pytest.mark.parametrize("name", ["one", "many", "anatomy"])
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1200, "light")])
def test_a_page_has_no_errors_no_requests_and_no_overflow(
    browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    with Visit(browser, pages[name], width, scheme) as visit:
        for task in visit.texts("#pareto .controls .choice:first-child button")[:4] if name == "many" else []:
            visit.press("pareto", task)
            visit.press("pareto", "latency")
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
        assert visit.count("b") == 0
        assert visit.page.is_visible("h1")


def test_a_page_of_200_runs_stays_small(pages: dict[str, Path]) -> None:
    assert pages["many"].stat().st_size < 3_000_000


def test_dark_mode_is_another_ground_and_other_colours(browser: Any, pages: dict[str, Path]) -> None:
    seen = []
    for scheme in ("light", "dark"):
        with Visit(browser, pages["one"], scheme=scheme) as visit:
            look = "getComputedStyle(document.querySelector('{}')).{}"
            seen.append(visit.page.evaluate(look.format("body", "backgroundColor")))
            seen.append(visit.page.evaluate(look.format(".legend path", "fill")))
    assert seen[0] == "rgb(255, 255, 255)"
    assert len(set(seen)) == 4


def test_hover_focus_and_click_show_the_run_and_its_command(browser: Any, pages: dict[str, Path]) -> None:
    with Visit(browser, pages["one"]) as visit:
        page = visit.page
        assert visit.texts(".details code") == []
        page.hover(".point", force=True)
        assert visit.texts(".details .command code") == ["python train.py task=MRPC decomp=tucker_4d"]
        assert "75.0 (1 seed)" in visit.texts("#pareto .tip")[0]
        assert page.is_visible("#pareto .tip")
        assert "runs/run0" in visit.texts(".details td code")
        page.click(".command button")
        page.wait_for_function("document.querySelector('.command button').textContent !== 'Copy'")
    with Visit(browser, pages["one"]) as visit:
        visit.page.focus(".point")
        assert visit.texts(".details .command code") == ["python train.py task=MRPC decomp=tucker_4d"]
        visit.page.keyboard.press("Enter")
        assert visit.count(".point.pinned") == 1
        visit.page.keyboard.press("Escape")
        assert visit.count(".point.pinned") == 0


def test_points_are_hollow_or_have_bars_and_can_be_hidden(browser: Any, pages: dict[str, Path]) -> None:
    with Visit(browser, pages["many"]) as visit:
        visit.press("pareto", "MRPC")
        before = visit.count(".point")
        assert before == visit.count(".point .whisker") == 25
        visit.press("pareto", "svd")
        assert visit.count(".point") == before - 5
        assert visit.count('.point[data-series="svd"]') == 0
        visit.press("pareto", "svd")
        assert visit.count(".point") == before
        visit.press("pareto", "targets")
        assert visit.count(".point") == 20
        assert visit.count("#pareto .star") == 1
    with Visit(browser, pages["one"]) as visit:
        assert visit.count(".whisker") == 0
        assert any("Hollow: one seed only (1 of 1)" in text for text in visit.texts("#pareto .note"))


def test_latencies_of_two_devices_are_never_in_one_chart(browser: Any, pages: dict[str, Path]) -> None:
    with Visit(browser, pages["many"]) as visit:
        page = visit.page
        visit.press("pareto", "MRPC")
        visit.press("pareto", "latency")
        first = visit.series()
        assert "cpu" in visit.texts("#pareto .warning")[0]
        page.select_option("#pareto select", index=1)
        second = visit.series()
        assert second == {"svd"}
        assert not first & second
        assert "gpu" in visit.texts("#pareto .warning")[0]


def test_hostile_names_stay_text(browser: Any, pages: dict[str, Path]) -> None:
    with Visit(browser, pages["many"]) as visit:
        assert HOSTILE in visit.texts("#pareto .controls button")
        visit.press("pareto", HOSTILE)
        assert f"{HOSTILE}2" in visit.texts("#pareto .legend button")
        visit.page.hover(f'.point[data-series="{(HOSTILE + "2").replace(chr(34), chr(92) + chr(34))}"]', force=True)
        assert HOSTILE in visit.texts(".details h3")[0]
        assert "train.py -m 'decomp=</script>" in visit.texts(".details .command code")[0]
        assert visit.page.evaluate("document.querySelectorAll('script').length") == 2


def test_the_table_is_sorted_and_narrowed(browser: Any, pages: dict[str, Path]) -> None:
    with Visit(browser, pages["many"]) as visit:
        heads = visit.texts("#table thead button")
        column = next(number for number, head in enumerate(heads) if head == "student")

        def scores() -> list[float]:
            return [float(text.split()[0]) for text in visit.texts(f"#table tbody td:nth-child({column + 1})")]

        assert len(scores()) == 100
        visit.page.click(f"#table thead th:nth-child({column + 1}) button")
        assert scores() == sorted(scores(), reverse=True)
        visit.page.click(f"#table thead th:nth-child({column + 1}) button")
        assert scores() == sorted(scores())
        visit.page.fill("#table input", "RTE tucker")
        assert len(scores()) == 5
        assert visit.count("#table td.best") == 0
        visit.page.fill("#table input", "rte")
        assert visit.count("#table td.best") == 1


def test_curves_are_drawn_by_loss_term_and_compared(browser: Any, pages: dict[str, Path]) -> None:
    with Visit(browser, pages["many"]) as visit:
        assert visit.texts("#curves figcaption") == list(TERMS)
        assert visit.count("#curves .chart .curve") == 6  # two seeds each
        visit.page.select_option("#curves select >> nth=1", index=5)
        assert visit.count("#curves .chart .curve") == 12
        assert any(f"at most {MOST_POINTS}" in text for text in visit.texts("#curves p"))
    with Visit(browser, pages["one"]) as visit:
        assert "student.epochs" in visit.texts("#curves p")[0]
        assert "stage=anatomy" in visit.texts("#anatomy code")[0]


def test_the_anatomy_has_three_maps_with_numbers(browser: Any, pages: dict[str, Path]) -> None:
    with Visit(browser, pages["anatomy"]) as visit:
        for name, expected in (("error", "0.25"), ("output_error", "0.10"), ("drop", "\u22122.0")):
            texts = visit.texts(f'#anatomy [data-map="{name}"] [data-cell] text')
            assert len(texts) == 5
            assert texts[2] == expected
        assert visit.texts('#anatomy [data-map="drop"] [data-cell] text')[4] == "–"
        visit.page.hover('#anatomy [data-map="drop"] [data-cell="0"] rect')
        assert "78.0" in " ".join(visit.texts('#anatomy [data-map="drop"] .tip'))
        assert visit.count("#anatomy .near") == 2  # both weights of the group
        assert "No run has a score" in visit.texts("#pareto p")[0]


def test_the_page_says_what_it_is_made_from(browser: Any, pages: dict[str, Path]) -> None:
    with Visit(browser, pages["many"]) as visit:
        assert "200 runs in 100 groups" in visit.texts("#about")[0]
        assert any("broken" in text for text in visit.texts("#notes li"))
        assert any("gpu" in text for text in visit.texts("#notes li"))
