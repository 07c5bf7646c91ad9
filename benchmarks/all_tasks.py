"""Every task in each of its layouts, on small generated data: read, one epoch of a tiny encoder, scored, predicted.

    python benchmarks/all_tasks.py [--rows 400] [--stage predict] [--task RACE SNLI]

The data are written as GLUE, SNLI and RACE are distributed, and as a stand-in for the hub; `custom` in each of its
formats. The layouts of a task hold the same examples, so they must score the same. One epoch teaches so small a model
little; `--set teacher.epochs=10` shows that the words by which each text tells its label can be learned.
"""

import argparse
import csv
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import datasets
import hydra
import torch
from common import header, header_line, say, table

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))  # the tests write the same layouts

from layouts import PUBLIC, TASKS, examples, read_task, write_hub, write_local, write_own  # noqa: E402

from lobert.data import Task  # noqa: E402
from lobert.errors import LobertError  # noqa: E402
from lobert.job import read_job  # noqa: E402
from lobert.paths import conf_dir  # noqa: E402
from lobert.pipeline import run  # noqa: E402
from lobert.stages.teacher import make_teacher  # noqa: E402
from lobert.stages.workspace import Workspace, prepare, read_facts  # noqa: E402

FORMATS = ("a.csv", "a.tsv", "a.jsonl", "a.parquet", "saved")
TITLES = ("task", "layout", "train", "dev", "chance", "metrics", "files")


@dataclass(frozen=True)
class Case:
    """A task in one layout: the settings that name it, and the score of guessing."""

    task: str
    layout: str
    settings: list[str]
    chance: str


def cases(chosen: argparse.Namespace, root: Path) -> Iterator[Case]:
    """Every layout of the chosen tasks, written under `root`."""
    for name in chosen.task:
        task = read_task(name)
        chance = "0.0" if task.main_metric != "accuracy" else f"{100 / max(2, len(task.labels)):.1f}"
        if name == "custom":
            yield from own_cases(chosen, root, chance)
        elif name == "demo":
            yield Case(name, "generated", [f"task.train_examples={chosen.rows}"], chance)
        else:
            for form in range(2 if name == "SNLI" else 1):
                folder = write_local(task, root / f"local{form}", chosen.rows, form)
                yield Case(name, ("local", "local, .txt")[form], [f"task.data_dir='{folder}'"], chance)
            yield Case(name, "hub", [f"task.hub.path='{write_hub(task, root / 'hub' / name, chosen.rows)}'"], chance)


def own_cases(chosen: argparse.Namespace, root: Path, chance: str) -> Iterator[Case]:
    """Data of one's own in each format: the pairs of MRPC; dev is carved out."""
    rows = [
        {"first": one.texts[0], "second": one.texts[1], "label": "same" if one.label else "different"}
        for one in examples(read_task("MRPC"), "train", chosen.rows)
    ]
    (root / "own").mkdir()
    for name in FORMATS:
        path = write_own(root / "own" / name, rows)
        settings = [f"task.own.train='{path}'", f"task.own.test='{path}'", "task.text=[first,second]"]
        yield Case("custom", name, settings, chance)


def cells(case: Case, chosen: argparse.Namespace, outputs: Path) -> list[str]:
    """One line of the table: run the case, and read what came of it."""
    folder = outputs / f"{case.task}-{case.layout}"
    predicts = chosen.stage == "predict" and read_task(case.task).test
    stage = "evaluate" if chosen.stage == "predict" and not predicts else chosen.stage
    settings = [f"task={case.task}", "encoder=tiny", "trainer=cpu", f"stage={stage}", *case.settings]
    settings += [f"output_dir='{folder}'", "teacher.batch_size=8", "teacher.learning_rate=3e-3"]
    settings += ["decomp=svd", "student.epochs=0", *chosen.set]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra.compose("config", settings)
    with redirect_stdout(sys.stderr):  # the summary of every run; here the table alone is on standard output
        run(cfg)
    work = prepare(read_job(cfg))
    metrics = read_facts(make_teacher(work))["metrics"]
    sizes = {split: str(len(tokens)) for split, tokens in work.data.splits.items()}
    dev = " + ".join(sizes[split] for split in work.data.eval_splits)
    told = ", ".join(f"{name} {100 * value:.1f}" for name, value in metrics.items())
    files = checked(work, folder) if predicts else "–"
    return [case.task, case.layout, sizes["train"], dev, case.chance, told, files]


def checked(work: Workspace, folder: Path) -> str:
    """The files of the predictions with their numbers of rows, each looked through by another reader."""
    task, told = work.job.task, []
    for split, file in task.test.items():
        tokens = work.data.splits[split]
        ids = list(map(str, range(len(tokens)) if tokens.ids is None else tokens.ids))
        paths = [path for path in folder.rglob(f"{file}.tsv") if "predictions" in path.parts]
        assert sorted(path.parent.name for path in paths) == ["student", "teacher"], paths
        for path in paths:
            with path.open(encoding="utf-8", newline="") as lines:
                head, *rows = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
            assert head == ["index", "prediction"], path
            assert [row[0] for row in rows] == ids, path
            assert all(answers_well(task, row[1]) for row in rows), path
        told.append(f"{file} {len(ids)}")
    return ", ".join(told)


def answers_well(task: Task, answer: str) -> bool:
    """Whether an answer is one of the classes, or a score inside its range."""
    if not task.is_regression:
        return answer in task.answers
    least, most = task.score_range or (float("-inf"), float("inf"))
    return least <= float(answer) <= most


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Every task in each of its layouts, on generated data.")
    parser.add_argument("--task", nargs="+", default=[*PUBLIC, "custom", "demo"], choices=TASKS, metavar="TASK")
    parser.add_argument("--rows", type=int, default=400, help="of every split; of RACE twice as many")
    parser.add_argument("--stage", default="predict", help="how far each run goes: teacher, evaluate, or predict")
    parser.add_argument("--set", nargs="+", default=[], help="more settings, as for train.py")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    os.environ.pop("LOBERT_DATA_DIR", None)
    logging.disable(logging.INFO)
    print(header_line(header(torch.device("cpu"))))
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"  # where a stand-in of another run is not found
        lines = []
        for case in cases(chosen, Path(folder)):
            lines.append(cells(case, chosen, Path(folder) / "outputs"))
            say("  ".join(lines[-1]))
    print(table(TITLES, lines))


if __name__ == "__main__":
    try:
        main()
    except LobertError as error:
        sys.exit(f"error: {error}")
