"""The W&B dashboard of a project, by W&B's own workspaces library: built here, sent only when it is saved."""

import json
from collections.abc import Mapping
from typing import Any

from lobert.data.metrics import METRICS
from lobert.errors import LobertError, first_line
from lobert.tracking.run import STEP, TEACHER
from lobert.tracking.summary import SCORE
from lobert.tracking.sweep import CURVES, PICTURE, TABLE

TITLE = "LoBERT"
LOSSES = ("loss", "labels", "soft_targets", "patience")  # as a student logs them, below train/
COLUMNS = (
    "run:displayName",
    *(f"config:{name}" for name in ("compression", "seed")),
    *(f"summary:{name}" for name in (SCORE, "teacher_score", "zero_shot_score", "retention")),
    *(f"summary:{name}" for name in ("keep_targets", "keep_encoder", "keep_model", "macs_per_token", "latency/ratio")),
)
# Told apart by colour-blind eyes, too (Okabe and Ito, 2008).
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C6D31", "#000000")


def workspaces() -> tuple[Any, Any, Any]:
    """The modules of W&B's library: workspaces, the panels of reports, `wandb` itself. LobertError without them."""
    try:
        import wandb
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as workspaces
    except ImportError:
        raise LobertError("the dashboard needs wandb and wandb-workspaces: type pip install 'lobert[wandb]'") from None
    return workspaces, panels, wandb


def dashboard(entity: str, project: str, task: str | None = None, compressions: Mapping[str, str] | None = None) -> Any:
    """The workspace of a project, not yet sent: size and score, loss terms, dev scores, anatomy, runs.

    Args:
        task: show only runs that have this tag.
        compressions: of the runs that are there already, by their ids; each compression gets a colour of its own.
    """
    ws, wr, _ = workspaces()
    sections = {
        "Score against size": size_panels(wr),
        "Loss terms": loss_panels(wr),
        "Dev scores": dev_panels(wr),
        "Anatomy of the damage": damage_panels(wr),
        "Runs": [wr.WeavePanelSummaryTable(table_name=TABLE), wr.RunComparer(diff_only=True)],
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name=TITLE if task is None else f"{TITLE} {task}",
        sections=[ws.Section(name=name, panels=panels, is_open=True) for name, panels in sections.items()],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=[ws.Tags().isin([task])] if task else [],
            pinned_columns=list(COLUMNS),
            run_settings={run: ws.RunSettings(color=colour) for run, colour in colours(compressions or {}).items()},
        ),
    )


def colours(compressions: Mapping[str, str]) -> dict[str, str]:
    """A colour for each run, by its compression; the same for the same set of compressions."""
    names = sorted(set(compressions.values()))
    return {run: PALETTE[names.index(name) % len(PALETTE)] for run, name in compressions.items()}


def size_panels(wr: Any) -> list[Any]:
    """Score against size: of every run a point; of a sweep a line for each compression, in a colour of its own."""
    legend = "${config:compression} ${summary:score}"
    points = {"keep_encoder": "share of the encoder", "macs_per_token": "multiply-adds", "latency/ratio": "latency"}
    lines = wr.CustomChart(
        query={"summaryTable": {"tableKey": f"{CURVES}_table"}},
        chart_name="wandb/lineseries/v0",
        chart_fields={"step": "step", "lineKey": "lineKey", "lineVal": "lineVal"},
        chart_strings={"title": "sweeps: score against the share of the encoder", "xname": "keep_encoder"},
    )
    scatters = [
        wr.ScatterPlot(
            title=f"score against {what}",
            x=wr.SummaryMetric(name),
            y=wr.SummaryMetric(SCORE),
            legend_template=legend,
        )
        for name, what in points.items()
    ]
    return [scatters[0], lines, *scatters[1:], wr.MediaBrowser(title="Pareto front", media_keys=[PICTURE])]


def loss_panels(wr: Any) -> list[Any]:
    """Each term of the student's loss, and the teacher's loss."""
    keys = [*(f"train/{term}" for term in LOSSES), f"{TEACHER}-train/loss"]
    return [wr.LinePlot(title=key, x=STEP, y=[key]) for key in keys]


def dev_panels(wr: Any) -> list[Any]:
    """Each metric on dev by epoch, of student and teacher."""
    return [wr.LinePlot(title=name, x=STEP, y=[f"val/{name}", f"{TEACHER}-val/{name}"]) for name in METRICS]


def damage_panels(wr: Any) -> list[Any]:
    """The heat maps of stage=anatomy, and their numbers."""
    return [
        wr.MediaBrowser(title="damage", media_keys=["damage", "damage_weights", "damage_outputs"]),
        wr.WeavePanelSummaryTable(table_name="anatomy"),
    ]


def specification(workspace: Any) -> dict[str, Any]:
    """What saving the workspace would send, as plain data."""
    view = workspace._to_model()  # the library has no public name for it
    content = view.model_dump(by_alias=True, exclude_none=True, exclude={"id", "name"})
    return dict(json.loads(json.dumps(content)))


def save(entity: str, project: str, task: str | None = None) -> str:
    """Make the dashboard at W&B, coloured by the compressions of the runs that are there, and return its address.

    Raises LobertError without a login, a network, or the project.
    """
    _, _, wandb = workspaces()
    try:
        runs = wandb.Api().runs(f"{entity}/{project}")
        found = {run.id: str(run.config["compression"]) for run in runs if "compression" in run.config}
        return str(dashboard(entity, project, task, found).save().url)
    except wandb.errors.UsageError as error:
        raise LobertError(
            f"W&B knows no account here ({first_line(error)}): type wandb login; --print needs none"
        ) from None
    except (wandb.errors.Error, ValueError, OSError) as error:
        raise LobertError(
            f"W&B cannot be asked for {entity}/{project} ({first_line(error)}): check name and network; --print "
            "needs neither"
        ) from None
