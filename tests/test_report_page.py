"""The page of the report, in a real browser; skipped where there is none."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_cases import HOSTILE, TERMS, anatomy, run, write_anatomy, write_runs
from test_results import GROUP, RECORD

from lobert.report.__main__ import write_report
from lobert.report.data import collect
from lobert.report.thinning import MOST_POINTS
from lobert.results import Record

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


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
        page.wait_for_selector(".command button >> text=/Copied|Selected/")
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
        assert visit.count("#table td.best") == 5  # svd is the best at each size


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
