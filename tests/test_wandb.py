"""What W&B is given, read back from its own file: identity, curves, best and not last, tables, failures."""

import dataclasses
import json
import signal
import sys
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from cases import CONF, ROOT, one_sentence
from hydra.core.singleton import Singleton
from matplotlib.figure import Figure
from omegaconf import DictConfig
from test_configs import job
from test_pipeline import SMALL, run_here, the_record
from wandbfile import Logged, runs_in

from lobert import cli
from lobert import dashboard as command
from lobert.errors import LobertError
from lobert.job import read_job
from lobert.layers.group import FactorGroup
from lobert.pipeline import run
from lobert.results.record import Record
from lobert.tracking import identity
from lobert.tracking.dashboard import PALETTE, colours, dashboard, save, specification
from lobert.tracking.identity import Identity, job_identity
from lobert.tracking.run import DAMAGE, tracked
from lobert.tracking.settings import WandbSettings
from lobert.tracking.summary import RUN_COLUMNS, curves_by_compression, flat_record
from lobert.tracking.sweep import log_sweep
from lobert.training.finetune import FineTuner

wandb = pytest.importorskip("wandb")
pytest.importorskip("wandb_workspaces")

OFFLINE = ["logger=wandb", "logger.wandb.mode=offline"]
SETTINGS = WandbSettings("lobert", mode="offline", tags=("mine",))


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of one whole run, and then of an anatomy of its teacher."""
    folder = tmp_path_factory.mktemp("tracked")
    run_here(folder, *OFFLINE, "logger.wandb.tags=[mine,demo]", "decomp=[svd,ffn_svd]", "student.epochs=3")
    run_here(folder, *OFFLINE, "stage=anatomy", "decomp=svd", "decomp.keep=0.5", "anatomy_examples=20")
    return folder


@pytest.fixture(scope="module")
def student(outputs: Path) -> Logged:
    return runs_in(outputs)[0]


@pytest.fixture(scope="module")
def anatomy(outputs: Path) -> Logged:
    return runs_in(outputs)[1]


# ---- one run ----


def test_a_run_says_what_it_is(outputs: Path, student: Logged) -> None:
    record = the_record(outputs)
    assert Path(record.student_path).parent.name.startswith(f"{student.name}-")
    assert (student.job_type, student.group, student.exit_code) == ("student", "", 0)
    assert student.tags == ["demo", "tiny", "svd", "ffn_svd", "lobert", "mine"]
    assert student.config["compression"] == "svd+ffn_svd"
    assert (student.config["student"]["epochs"], student.config["task"]["name"]) == (3, "demo")


def test_the_terms_of_the_loss_have_their_curves(student: Logged) -> None:
    for key in ("train/loss", "train/labels", "train/soft_targets", "train/patience", "teacher-train/loss"):
        assert len(student.values(key)) > 2, key
    assert len(student.values("val/accuracy")) == 3
    assert len(student.values("teacher-val/accuracy")) == 2
    assert all("trainer/global_step" in row for row in student.history if "train/loss" in row)


def test_the_summary_is_the_record_flat(outputs: Path, student: Logged) -> None:
    record = the_record(outputs)
    shown = {key: value for key, value in student.summary.items() if key in flat_record(record)}
    assert shown == flat_record(record)
    assert shown["score"] == record.score
    assert shown["student/accuracy"] == record.metrics["accuracy"]
    assert shown["teacher/accuracy"] == record.teacher_metrics["accuracy"]
    assert not [key for key, value in flat_record(record).items() if isinstance(value, list | dict)]
    assert student.values("score") == [record.score]


def test_the_groups_are_a_table(outputs: Path, student: Logged) -> None:
    rows, groups = student.table("groups"), the_record(outputs).groups
    assert [(row["name"], row["parameters"], row["error"]) for row in rows] == [
        (group["name"], group["parameters"], pytest.approx(group["error"])) for group in groups
    ]
    assert rows[0]["shape"] == "32×32"


def test_the_summary_has_the_best_and_not_the_last(tmp_path: Path, student: Logged) -> None:
    with tracked(SETTINGS, Identity("best", "student"), tmp_path, {}) as opened:
        for prefix, shift in (("", 0.0), ("teacher", 0.05)):
            for step, score in enumerate([0.5, 0.9, 0.7]):
                opened.logger(prefix).log_metrics({"val/accuracy": score + shift, "val/f1": 1 - score}, step)
    (logged,) = runs_in(tmp_path)
    assert logged.summary["val/accuracy"] == {"max": 0.9}
    assert logged.summary["val/f1"] == {"max": 0.5}
    assert logged.summary["teacher-val/accuracy"] == {"max": pytest.approx(0.95)}
    assert logged.values("val/accuracy")[-1] == 0.7
    assert student.summary["val/accuracy"] == {"max": max(student.values("val/accuracy"))}


def test_a_failed_job_is_a_failed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: FineTuner, batch: Any, batch_idx: int) -> None:
        raise LobertError("no")

    monkeypatch.setattr(FineTuner, "training_step", failing)
    with pytest.raises(LobertError):
        run_here(tmp_path, *OFFLINE, "stage=teacher")
    (run,) = runs_in(tmp_path)
    assert (run.name, run.job_type, run.exit_code) == ("demo_tiny_teacher", "teacher", 1)
    assert run.tags == ["demo", "tiny"]


def test_an_anatomy_is_a_table_and_a_picture(anatomy: Logged) -> None:
    assert (anatomy.name, anatomy.job_type, anatomy.exit_code) == (
        "demo_tiny_svd@0.5_lobert_seed0_anatomy",
        "anatomy",
        0,
    )
    rows = anatomy.table("anatomy")
    assert sorted((row["role"], row["layer"]) for row in rows) == sorted(
        (role, layer) for role in ("query", "key", "value") for layer in (0, 1)
    )
    assert all(row["drop"] == pytest.approx(100 * (anatomy.summary["teacher_score"] - row["score"])) for row in rows)
    picture = anatomy.folder / "files" / anatomy.values("damage")[0]["path"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_plan_makes_no_run(tmp_path: Path) -> None:
    run_here(tmp_path, *OFFLINE, "stage=plan", "decomp=svd")
    assert not runs_in(tmp_path)


@pytest.mark.parametrize(
    ("error", "words"),
    [(wandb.errors.UsageError("No API key configured."), "No API key configured"),
     (wandb.errors.CommError("no answer"), "no answer"), (ValueError("bad tag"), "bad tag")],
)  # fmt: skip
def test_a_run_that_does_not_start_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def failing(**settings: Any) -> None:
        raise error

    monkeypatch.setattr(wandb, "init", failing)
    with pytest.raises(LobertError, match=words) as caught, tracked(SETTINGS, Identity("a", "student"), tmp_path, {}):
        raise AssertionError("there is no run")
    assert "wandb login" in one_sentence(caught.value)
    assert "logger.wandb.mode=offline" in one_sentence(caught.value)


def test_without_the_library_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with (
        pytest.raises(LobertError, match="pip install") as caught,
        tracked(SETTINGS, Identity("a", "student"), tmp_path, {}),
    ):
        raise AssertionError("there is no run")
    one_sentence(caught.value)


# ---- identities ----


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def application(cfg: DictConfig) -> float | None:
    """As in train.py."""
    return cli.job(run, cfg)


@pytest.mark.parametrize(
    ("stage", "name", "kind", "tags"),
    [("teacher", "RTE_minilm_teacher", "teacher", ("RTE", "minilm")),
     ("knowledge", "RTE_minilm_teacher", "teacher", ("RTE", "minilm")),
     ("anatomy", "RTE_minilm_svd@0.5_pkd_seed3_anatomy", "anatomy", ("RTE", "minilm", "svd")),
     ("student", "RTE_minilm_svd@0.5_pkd_seed3", "student", ("RTE", "minilm", "svd", "pkd")),
     ("evaluate", "RTE_minilm_svd@0.5_pkd_seed3", "student", ("RTE", "minilm", "svd", "pkd"))],
)  # fmt: skip
def test_identities_by_stage(stage: str, name: str, kind: str, tags: tuple[str, ...]) -> None:
    settings = ["task=RTE", "encoder=minilm", "decomp=svd", "decomp.keep=0.5", "kd=pkd", "seed=3", "logger=wandb"]
    one = job_identity(job(*settings, f"stage={stage}", "logger.wandb.tags=[mine]"))
    assert one == Identity(name, kind, None, (*tags, "mine"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sweeping", "named", "setting", "group"),
    [(False, "curve", "null", None), (True, "curve", "null", "curve"), (True, None, "null", None),
     (True, "", "null", None), (True, "curve", "mine", "mine"), (False, "curve", "mine", "mine")],
)  # fmt: skip
def test_the_group_is_that_of_the_setting_or_the_sweep(
    monkeypatch: pytest.MonkeyPatch, sweeping: bool, named: str | None, setting: str, group: str | None
) -> None:
    monkeypatch.setattr(identity, "in_sweep", lambda: sweeping)
    monkeypatch.delenv(identity.SWEEP_VARIABLE, raising=False)
    if named is not None:
        monkeypatch.setenv(identity.SWEEP_VARIABLE, named)
    assert job_identity(job("logger=wandb", f"logger.wandb.group={setting}")).group == group


def test_long_names_and_tags_are_cut_and_tags_are_once() -> None:
    one = Identity("n" * 500, "student", tags=("t" * 100, "a", "a", "", "t" * 80))
    assert (len(one.name), one.tags) == (128, ("t" * 64, "a"))


def test_each_job_of_a_sweep_is_a_run_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process, this one, runs them all; the one in the middle fails."""
    settings = [*SMALL, *OFFLINE, "teacher.epochs=1", "student.epochs=0", "latency_batch_size=0", "decomp=svd"]
    sizes = "decomp.keep=0.5,0.4,0.25"
    original = FactorGroup.set_factors

    def failing(self: FactorGroup, factors: Any) -> None:
        if self.rank == (6,):
            raise LobertError("rank 6 is unlucky")
        original(self, factors)

    monkeypatch.setattr(FactorGroup, "set_factors", failing)
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", *settings, sizes, f"output_dir={tmp_path}"])
    monkeypatch.setenv(identity.SWEEP_VARIABLE, "")  # guard sets it, too
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # guard sets it: so it is put back
    state, on_sigterm = Singleton.get_state(), signal.getsignal(signal.SIGTERM)
    try:
        assert cli.guard(application, CONF) == cli.USER_ERROR
    finally:
        Singleton.set_state(state)
        signal.signal(signal.SIGTERM, on_sigterm)
    runs = {run.name: run for run in runs_in(tmp_path)}
    assert {name: run.exit_code for name, run in runs.items() if name.startswith("demo")} == {
        f"demo_tiny_svd@{keep}_untrained_seed0": code for keep, code in (("0.5", 0), ("0.4", 1), ("0.25", 0))
    }
    sweep = runs.pop(next(name for name in runs if name.startswith("sweep-")))
    assert {(run.group, run.job_type) for run in runs.values()} == {(sweep.name, "student")}
    assert ["score" in run.summary for run in runs.values() if not run.exit_code] == [True, True]
    assert (sweep.group, sweep.job_type, len(sweep.table("runs"))) == (sweep.name, "sweep", 2)


# ---- a sweep ----


def swept(record: Record) -> list[Record]:
    """A made-up sweep: two compressions, two sizes, two seeds of one of them."""
    made = [("svd", 0.9, 0.8, 0), ("svd", 0.7, 0.6, 0), ("svd", 0.7, 0.7, 1), ("tucker_4d", 0.8, 0.75, 0)]
    changes = [{"decomp": d, "keep_encoder": k, "score": s, "seed": seed} for d, k, s, seed in made]
    return [dataclasses.replace(record, **change) for change in changes]


def test_a_sweep_is_summed_up_in_one_run(outputs: Path, tmp_path: Path) -> None:
    figure = Figure(figsize=(2, 2))
    figure.add_subplot().plot([0, 1], [0, 1])
    log_sweep(swept(the_record(outputs)), "curve", SETTINGS, tmp_path, figure)
    (run,) = runs_in(tmp_path)
    assert (run.name, run.group, run.job_type, run.exit_code) == ("curve", "curve", "sweep", 0)
    assert run.tags == ["demo", "svd", "tucker_4d", "mine"]
    rows = run.table("runs")
    assert tuple(rows[0]) == RUN_COLUMNS
    assert [(row["decomp"], row["score"]) for row in rows] == [
        ("svd", 0.8), ("svd", 0.6), ("svd", 0.7), ("tucker_4d", 0.75),
    ]  # fmt: skip
    points = {(row["lineKey"], row["step"]): row["lineVal"] for row in run.table("pareto_table")}
    assert points == {("svd", 0.7): pytest.approx(0.65), ("svd", 0.9): 0.8, ("tucker_4d", 0.8): 0.75}
    assert (run.folder / "files" / run.values("pareto_picture")[0]["path"]).exists()
    assert run.summary["best/demo"] == 0.8


def test_a_picture_may_be_a_file(outputs: Path, tmp_path: Path) -> None:
    Figure(figsize=(1, 1)).savefig(tmp_path / "front.png")
    log_sweep([the_record(outputs)], "one", dataclasses.replace(SETTINGS, group="g"), tmp_path, tmp_path / "front.png")
    (run,) = runs_in(tmp_path)
    assert run.group == "g"
    assert run.values("pareto_picture")


def test_without_records_there_is_no_run(tmp_path: Path) -> None:
    log_sweep([], "none", SETTINGS, tmp_path)
    assert not runs_in(tmp_path)


def test_curves_of_several_tasks_are_told_apart(outputs: Path) -> None:
    first = the_record(outputs)
    records = [first, dataclasses.replace(first, task="RTE"), dataclasses.replace(first, task="MRPC", score=None)]
    assert list(curves_by_compression(records)) == ["RTE svd+ffn_svd", "demo svd+ffn_svd"]


def test_the_columns_are_fields_of_a_record() -> None:
    assert set(RUN_COLUMNS) <= {field.name for field in dataclasses.fields(Record)}


# ---- the dashboard ----


def panels(spec: dict[str, Any]) -> list[dict[str, Any]]:
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    return [panel for section in sections for panel in section["panels"]]


def test_the_dashboard_shows_what_runs_log(student: Logged, anatomy: Logged) -> None:
    """Every key of a panel or a column is one that a run has, in its history, its summary or its configuration."""
    spec = specification(dashboard("me", "lobert"))
    found = panels(spec)
    lines = [
        key for panel in found if panel["viewType"] == "Run History Line Plot" for key in panel["config"]["metrics"]
    ]
    others = {"val/f1", "val/matthews", "val/pearson", "val/spearman"}  # of other tasks
    others |= {f"teacher-{key}" for key in others}
    assert {"train/patience", "val/accuracy", "teacher-train/loss"} <= set(lines) <= student.keys() | others
    axes = {
        panel["config"][axis] for panel in found if panel["viewType"] == "Scatter Plot" for axis in ("xAxis", "yAxis")
    }
    columns = spec["spec"]["section"]["runSets"][0]["runFeed"]["columnOrder"]
    assert {"summary:keep_encoder", "summary:score"} <= axes
    for key in {*axes, *columns} - {"run:displayName"}:
        where, _, name = key.partition(":")
        assert name in (student.summary if where == "summary" else student.config), key
    pictures = [key for panel in found if panel["viewType"] == "Media Browser" for key in panel["config"]["mediaKeys"]]
    assert pictures == ["pareto_picture", *DAMAGE.values()]
    assert {*DAMAGE.values(), "anatomy"} <= anatomy.keys()
    assert '"anatomy"' in json.dumps(found)


def test_the_lines_of_a_sweep_are_asked_for_as_wandb_itself_does(outputs: Path, tmp_path: Path) -> None:
    log_sweep(swept(the_record(outputs)), "curve", SETTINGS, tmp_path)
    own = runs_in(tmp_path)[0].config["_wandb"]["visualize"]["pareto"]["panel_config"]
    (mine,) = (
        panel["config"] for panel in panels(specification(dashboard("me", "lobert"))) if panel["viewType"] == "Vega2"
    )
    assert [mine[key] for key in ("panelDefId", "fieldSettings", "transform")] == [
        own[key] for key in ("panelDefId", "fieldSettings", "transform")
    ]
    asked = [
        str(content["userQuery"]).count("{'name': 'tableKey', 'value': 'pareto_table'}") for content in (mine, own)
    ]
    assert asked == [1, 1]


def test_the_library_reads_the_dashboard_back() -> None:
    """As it would from the server."""
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces.workspaces.internal import View

    made = dashboard("me", "lobert")
    read = ws.Workspace._from_model(View.model_validate_json(made._to_model().model_dump_json(by_alias=True)))
    assert [(s.name, [type(p).__name__ for p in s.panels]) for s in read.sections] == [
        (s.name, [type(p).__name__ for p in s.panels]) for s in made.sections
    ]
    assert read.runset_settings.pinned_columns == made.runset_settings.pinned_columns


def test_a_task_and_its_colours() -> None:
    spec = specification(dashboard("me", "lobert", "RTE", {"one": "svd", "two": "tucker_4d", "three": "svd"}))
    section = spec["spec"]["section"]
    assert spec["displayName"] == "LoBERT RTE"
    assert "RTE" in json.dumps(section["runSets"][0]["filters"])
    assert section["customRunColors"] == {"one": PALETTE[0], "two": PALETTE[1], "three": PALETTE[0]}
    assert len(set(colours({str(i): f"name{i}" for i in range(len(PALETTE))}).values())) == len(PALETTE)


class Account:
    """Stands for W&B's server."""

    def runs(self, path: str) -> list[Any]:
        assert path == "me/lobert"
        return [
            type("Run", (), {"id": "one", "config": {"compression": "svd"}}),
            type("Run", (), {"id": "two", "config": {}}),
        ]


def test_what_is_saved_is_what_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from wandb_workspaces.workspaces import interface, internal

    sent: list[dict[str, Any]] = []

    def execute(api: Any, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        sent.append(variables)
        return {"upsertView": {"view": {"name": "nw-abc-v", "id": "42"}}}

    monkeypatch.setattr(wandb, "Api", Account)
    monkeypatch.setattr(internal, "execute_graphql", execute)
    monkeypatch.setattr(interface, "get_app_url", lambda api: "https://wandb.example")
    assert command.main(["me/lobert"]) == 0
    assert "dashboard: https://wandb.example/me/lobert" in capsys.readouterr().out
    assert command.main(["me/lobert", "--print"]) == 0
    printed = json.loads(capsys.readouterr().out)
    (variables,) = sent
    spec = json.loads(variables["spec"])
    assert spec["section"].pop("customRunColors") == {"one": PALETTE[0]}
    assert printed["spec"]["section"].pop("customRunColors") == {}
    for view in (spec, printed["spec"]):
        for panel in panels({"spec": view}):
            del panel["__id__"]  # drawn anew
    assert spec == printed["spec"]
    assert (variables["entityName"], variables["projectName"], variables["displayName"]) == ("me", "lobert", "LoBERT")


@pytest.mark.parametrize(
    ("error", "words"),
    [(wandb.errors.UsageError("No API key configured. Use `wandb login` to log in."), "wandb login"),
     (wandb.errors.CommError("no answer from the server"), "no answer"),
     (ValueError("Could not find project lobert"), "Could not find project")],
)  # fmt: skip
def test_no_login_no_network_and_no_project_are_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, words: str
) -> None:
    def failing() -> None:
        raise error

    monkeypatch.setattr(wandb, "Api", failing)
    with pytest.raises(LobertError, match=words) as caught:
        save("me", "lobert")
    one_sentence(caught.value)
    assert command.main(["me/lobert"]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("path", ["lobert", "me/", "/lobert", "me/lobert/runs"])
def test_a_path_that_is_none_is_answered(capsys: pytest.CaptureFixture[str], path: str) -> None:
    assert command.main([path, "--print"]) == 2
    assert "ENTITY/PROJECT" in capsys.readouterr().err


def test_the_dashboard_without_its_library(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert command.main(["me/lobert", "--print"]) == 2
    assert "pip install 'lobert[wandb]'" in capsys.readouterr().err


# ---- a search by W&B ----

SEARCH = yaml.safe_load((ROOT / "wandb_sweep.yaml").read_text())
BOUNDED = ("uniform", "q_uniform", "log_uniform_values")


def test_the_search_has_the_form_of_wandb() -> None:
    """As in the JSON schema of the package `sweeps`."""
    from wandb.sdk.launch.sweeps.utils import load_sweep_config

    assert load_sweep_config(str(ROOT / "wandb_sweep.yaml")) == SEARCH
    assert SEARCH.keys() == {"name", "project", "program", "method", "metric", "parameters", "command"}
    assert SEARCH["method"] in ("bayes", "random", "grid")
    assert SEARCH["parameters"].keys() == {"decomp.keep", "kd.temperature", "kd.beta", "student.learning_rate"}
    assert (ROOT / SEARCH["program"]).exists()
    for parameter in SEARCH["parameters"].values():
        assert parameter["distribution"] in BOUNDED
        assert parameter["min"] < parameter["max"]
        assert ("q" in parameter) == parameter["distribution"].startswith("q_")


@pytest.mark.parametrize("end", ["min", "max"])
def test_the_search_runs_a_command_that_hydra_reads(end: str) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    values = {name: {"value": parameter[end]} for name, parameter in SEARCH["parameters"].items()}
    arguments = create_sweep_command_args({"args": values})["args_no_hyphens"]
    words = create_sweep_command(list(SEARCH["command"]))
    assert words[:3] == ["${env}", "${interpreter}", "${program}"]
    overrides = [word for part in words[3:] for word in (arguments if part == "${args_no_hyphens}" else [part])]
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        read = read_job(hydra.compose("config", overrides))
    assert read.wandb is not None
    assert read.sizing.keep == values["decomp.keep"]["value"]
    assert read.student.learning_rate == values["student.learning_rate"]["value"]
    assert (read.distillation.temperature, read.distillation.beta) == tuple(
        values[name]["value"] for name in ("kd.temperature", "kd.beta")
    )


def test_the_search_looks_at_a_number_that_runs_log(student: Logged) -> None:
    assert SEARCH["metric"] == {"name": "score", "goal": "maximize"}
    assert student.values(SEARCH["metric"]["name"])
