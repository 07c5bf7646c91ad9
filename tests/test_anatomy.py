"""Laws of the anatomy: every weight once, a dense group does nothing, one compressed alone touches nothing else."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cases import one_sentence, point, tiny_bert
from test_pipeline import artefacts, run_here

import lobert
from lobert.compression.compress import compress_model
from lobert.compression.grouping import Part
from lobert.compression.plan import make_plan
from lobert.encoders.roles import find_weights, matrix_at, places_of_weights
from lobert.errors import LobertError
from lobert.layers.blocks import Block
from lobert.results.anatomy import ANATOMY_FILE, Anatomy, Cell, drop, drops_table, read_anatomy, write_anatomy
from lobert.stages import anatomy as stage
from lobert.stages.anatomy import place_of, together
from lobert.storage.artefacts import RECIPE_FILE

FORM = {"schema", "task", "encoder", "decomp", "keep", "objective", "metric", "teacher_score", "teacher_fingerprint"}
FORM |= {"examples", "dev_examples", "cells"}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher and its calibration, which all runs here share."""
    folder = tmp_path_factory.mktemp("anatomy")
    run_here(folder, "stage=teacher")
    return folder


def examine(folder: Path, *overrides: str) -> Anatomy:
    """The anatomy that the run makes, or finds where it has made none."""
    before = set(artefacts(folder, "anatomy")) if (folder / "artefacts" / "anatomy").exists() else set()
    assert run_here(folder, "stage=anatomy", *overrides) is None
    (made,) = set(artefacts(folder, "anatomy")) - before
    return read_anatomy(made / ANATOMY_FILE)


# ---- which groups go together ----

CUT = Part("cut", ["query", "output"], ["layer"], "tucker", "full", cut=True)


@pytest.mark.parametrize(
    "name",
    ["svd", "tucker_4d", "falcon_vertical", ("tucker_layer", "ffn_svd"), "all_tucker", "embeddings_svd", "cut"],
    ids=str,
)
def test_every_group_and_every_weight_is_in_one_unit(name: Any) -> None:
    parts = [CUT] if name == "cut" else point(name)
    model = tiny_bert()
    plans, places = make_plan(model, parts), places_of_weights(model)
    units = together(plans, places)
    held = [place for weights, _ in units for place in weights]
    assert sorted(map(str, held)) == sorted({str(p) for part in parts for p in find_weights(model, list(part.roles))})
    assert sorted(p.name for _, members in units for p in members) == sorted(plan.name for plan in plans)
    assert len(units) == (2 if name == "cut" else len(plans))  # the blocks of the FFN's output go together


def test_a_weight_without_a_role_is_refused() -> None:
    with pytest.raises(LobertError, match=r"'classifier' of the plan is the weight of no role") as caught:
        place_of(Block("classifier"), places_of_weights(tiny_bert()))
    one_sentence(caught.value)


@pytest.mark.parametrize(
    ("whole", "part", "held"),
    [("a", "a", True), ("a", "b", False), ("a", "a[rows 2/3]", True), ("a[rows 2/3]", "a[rows 2/3]", True),
     ("a[rows 2/3]", "a[rows 3/6]", True), ("a[rows 2/3]", "a[rows 5/6]", False), ("a[rows 1/3]", "a", False),
     ("a[rows 1/3]", "a[columns 1/3]", False), ("a[rows 1/3]", "a[rows 1/2]", False)],
)  # fmt: skip
def test_a_block_holds_its_parts(whole: str, part: str, held: bool) -> None:
    assert Block.parse(whole).holds(Block.parse(part)) == held


# ---- the measurement ----


def test_cells_cover_every_targeted_weight_once(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read = examine(outputs, "decomp=[tucker_layer,ffn_svd,pooler_svd,embeddings_svd]", "anatomy_examples=40")
    places = [(cell.role, cell.layer) for cell in read.cells]
    inside = [(role, layer) for role in ("query", "key", "value", "intermediate", "output") for layer in (0, 1)]
    assert sorted(map(str, places)) == sorted(map(str, [*inside, ("pooler", None), ("word_embeddings", None)]))
    assert all(cell.error > 0 for cell in read.cells)
    assert [cell.role for cell in read.cells if cell.output_error is None] == ["word_embeddings"]
    assert all(cell.output_error is None or 0 < cell.output_error < 1 for cell in read.cells)
    assert len({cell.group for cell in read.cells}) == 2 + 4 + 1 + 1
    for group in {cell.group for cell in read.cells}:  # a stack has one score
        assert len({(c.score, c.agreement, c.divergence) for c in read.cells if c.group == group}) == 1
    assert (read.examples, read.dev_examples) == (40, 96)
    (folder,) = artefacts(outputs, "anatomy")
    assert json.loads((folder / ANATOMY_FILE).read_text()).keys() == FORM
    assert {path.name for path in folder.iterdir()} == {ANATOMY_FILE, "recipe.json"}
    shown = capsys.readouterr().out
    assert "40 of 96 dev examples" in shown
    assert f"anatomy: {folder / ANATOMY_FILE}" in shown


def test_it_is_found_the_second_time(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = examine(outputs, "decomp=tucker_4d", "anatomy_examples=30")
    made = artefacts(outputs, "anatomy")

    def no_compression(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("it is there: nothing is to be compressed")

    monkeypatch.setattr(stage, "compress_model", no_compression)
    assert run_here(outputs, "stage=anatomy", "decomp=tucker_4d", "anatomy_examples=30", "seed=5") is None
    assert artefacts(outputs, "anatomy") == made
    with pytest.raises(AssertionError, match="nothing is to be compressed"):
        run_here(outputs, "stage=anatomy", "decomp=tucker_4d", "anatomy_examples=31")
    assert len(first.cells) == 6


def test_a_dense_group_has_no_error_and_the_teachers_score(outputs: Path, tmp_path: Path) -> None:
    run_here(outputs, "stage=plan", "decomp=svd", "decomp.keep=0.2")
    (path,) = (outputs / "plans").iterdir()
    plan = yaml.safe_load(path.read_text())
    for group in plan["groups"]:
        if group["name"] in ("query_1", "value_0"):
            group |= {"factorization": "dense", "rank": []}
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump(plan))
    read = examine(outputs, f"decomp.plan='{tmp_path / 'mixed.yaml'}'", "anatomy_examples=null")
    (teacher,) = artefacts(outputs, "teacher")
    assert read.examples == read.dev_examples == 96
    assert read.teacher_score == json.loads((teacher / "lobert.json").read_text())["metrics"]["accuracy"]
    dense = {cell.group: cell for cell in read.cells if cell.group in ("query_1", "value_0")}
    assert len(dense) == 2
    for cell in read.cells:
        if cell.group in dense:
            assert (cell.error, cell.output_error, cell.score) == (0, 0, read.teacher_score)
            assert (cell.agreement, cell.divergence) == (1, 0)
        else:
            assert cell.error > 0.1
            assert cell.divergence is not None
            assert cell.divergence > 0


@pytest.mark.parametrize("objective", ["weights", "loss"])
def test_a_group_compressed_alone_changes_its_own_weights_only(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, objective: str
) -> None:
    """In the norm of the loss also its own biases, which make up for the mean."""
    models: dict[str, Any] = {}
    original = stage.compressed_alone

    def kept(intact: stage.Intact, job: Any, plans: Any) -> Any:
        models[plans[0].name] = lobert.merge(original(intact, job, plans))
        return original(intact, job, plans)

    monkeypatch.setattr(stage, "compressed_alone", kept)
    settings = ["decomp=[tucker_layer,ffn_svd]", "decomp.keep=0.4", "anatomy_examples=20", "decomp.allocate=greedy"]
    read = examine(outputs, *settings, f"decomp.objective={objective}")
    teacher = lobert.load(artefacts(outputs, "teacher")[0])
    places = {place: block for block, place in places_of_weights(teacher).items()}
    assert len(models) == 6
    for name, model in models.items():
        own = {places[cell.role, cell.layer].path for cell in read.cells if cell.group == name}
        changed = {k for k, tensor in model.state_dict().items() if not torch.equal(tensor, teacher.state_dict()[k])}
        assert {key.rpartition(".")[0] for key in changed} <= own
        assert any(key.endswith(".bias") for key in changed) <= (objective == "loss")
        for cell in (cell for cell in read.cells if cell.group == name):
            before, after = (matrix_at(m, places[cell.role, cell.layer]) for m in (teacher, model))
            assert cell.error == pytest.approx(((before - after).norm() / before.norm()).item(), abs=1e-5)


def test_errors_in_the_outputs_are_those_of_the_outputs(outputs: Path) -> None:
    """With what calibration sees: the relative error of the centred outputs over all tokens."""
    teacher = lobert.load(artefacts(outputs, "teacher")[0])
    path = "bert.encoder.layer.0.intermediate.dense"
    weight = teacher.get_submodule(path).weight.detach()
    compressed = lobert.load(artefacts(outputs, "teacher")[0])
    plans = [plan for plan in make_plan(compressed, point("ffn_svd")) if plan.name == "intermediate_0"]
    compress_model(compressed, plans)
    lost = (weight - compressed.get_submodule(path).weight).double()
    read = examine(outputs, "decomp=ffn_svd", "anatomy_examples=10")
    (folder,) = (kept for kept in artefacts(outputs, "calibration") if norm_of(kept) == "activations")
    covariance = stage_statistics(folder, Block(path))
    expected = ((lost @ covariance * lost).sum() / (weight.double() @ covariance * weight).sum()).sqrt().item()
    (cell,) = (cell for cell in read.cells if (cell.role, cell.layer) == ("intermediate", 0))
    assert cell.output_error == pytest.approx(expected, rel=1e-4)


def norm_of(calibration: Path) -> str:
    """What the statistics in a folder are for."""
    return str(json.loads((calibration / RECIPE_FILE).read_text())["recipe"]["norm"])


def stage_statistics(folder: Path, block: Block) -> torch.Tensor:
    from lobert.compression.statistics import load_statistics

    return load_statistics(folder).covariance(block)


def test_an_interrupted_measurement_goes_on(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["decomp=falcon_layer", "anatomy_examples=25"]
    calls: list[str] = []
    original = stage.compressed_alone

    def failing(intact: stage.Intact, job: Any, plans: Any) -> Any:
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(plans[0].name)
        return original(intact, job, plans)

    monkeypatch.setattr(stage, "compressed_alone", failing)
    with pytest.raises(KeyboardInterrupt):
        run_here(outputs, "stage=anatomy", *settings)
    (partial,) = (path for path in artefacts(outputs, "anatomy") if path.match("*falcon*.partial"))
    assert not (partial / ANATOMY_FILE).exists()
    monkeypatch.setattr(stage, "compressed_alone", lambda *a: (calls.append("again"), original(*a))[1])
    read = examine(outputs, *settings)
    assert calls[1:] == ["again"]  # the second group, and not the first
    assert len(read.cells) == 6


@pytest.mark.parametrize(
    ("overrides", "words"),
    [(["decomp.init=pretrained"], "decomp.init=pretrained"), (["student.layers=1"], "student.layers=1"),
     (["decomp=none"], "decomp=none"), (["anatomy_examples=0"], "anatomy_examples=0")],
)  # fmt: skip
def test_what_cannot_be_examined_is_refused(tmp_path: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(LobertError, match=words) as caught:
        run_here(tmp_path, "stage=anatomy", *overrides)
    one_sentence(caught.value)
    assert not (tmp_path / "artefacts" / "teacher").exists()


# ---- its file and its table ----

SAMPLE = Anatomy(
    task="RTE", encoder="tiny", decomp="svd", keep=0.25, objective="weights", metric="accuracy", teacher_score=0.75,
    teacher_fingerprint="abc", examples=100, dev_examples=277,
    cells=[
        Cell(1, "query", "query_1", 0.5, 0.25, 0.625, 0.9, 0.02),
        Cell(0, "value", "value_0", 0.5, 0.25, 0.8, 0.9, 0.02),
        Cell(0, "query", "query_0", 0.5, 0.25, 0.7500001, 0.9, 0.02),
        Cell(None, "word_embeddings", "word_embeddings", 0.5, None, None, None, 0.1),
    ],
)  # fmt: skip


def test_it_comes_back_from_its_file(tmp_path: Path) -> None:
    write_anatomy(tmp_path / ANATOMY_FILE, SAMPLE)
    assert read_anatomy(tmp_path / ANATOMY_FILE) == SAMPLE


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "[]",
        '{"schema": 2}',
        '{"schema": 1}',
        '{"schema": 1, "cells": [3]}',
        '{"schema": 1, "cells": [{"layer": 0}]}',
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    (tmp_path / ANATOMY_FILE).write_text(damage)
    with pytest.raises(LobertError, match=ANATOMY_FILE) as caught:
        read_anatomy(tmp_path / ANATOMY_FILE)
    one_sentence(caught.value)


def test_the_table_shows_points_lost_by_layer_and_role() -> None:
    lines = [line.split() for line in drops_table(SAMPLE).splitlines()]
    assert lines[1] == ["layer", "query", "value", "word", "embeddings"]
    assert lines[3:] == [["–"], ["0", "0.0", "-5.0"], ["1", "12.5"]]
    assert drop(SAMPLE, SAMPLE.cells[0]) == 12.5
    assert drop(SAMPLE, dataclasses.replace(SAMPLE.cells[0], score=None)) is None
