"""A plan before paying: printed, written, read back and obeyed; a plan that does not fit is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from cases import logits_of, one_sentence, point, random_tensor, tiny_bert, token_batch
from test_pipeline import artefacts, run_here, the_record

from lobert.compression.calibration import Recorder, calibrate
from lobert.compression.compress import compress_model
from lobert.compression.plan import make_plan
from lobert.compression.planfile import file_plan, read_plan, write_plan
from lobert.encoders.roles import encoder_linears, linear_at
from lobert.errors import LobertError
from lobert.stages.plan import leading_share, output_errors

NAMES = ["svd", "tucker_4d", "falcon_vertical", ("tucker_layer", "ffn_svd"), "all_svd", "all_tucker", "pooler_svd"]


NO_NAMES: list[Any] = ["", "a.b", "keys", 5, [1]]


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_comes_back_from_its_file(tmp_path: Path, name: str) -> None:
    plans = make_plan(tiny_bert(), point(name))
    write_plan(tmp_path / "plan.yaml", plans)
    assert read_plan(tmp_path / "plan.yaml", tiny_bert()) == plans


def test_no_plan_is_written_over_another(tmp_path: Path) -> None:
    plans, others = make_plan(tiny_bert(), point("svd")), make_plan(tiny_bert(), point("tucker_4d"))
    first = file_plan(tmp_path, "plan", plans)
    assert file_plan(tmp_path, "plan", plans) == first
    first.write_text(first.read_text() + "# edited\n")
    paths = [file_plan(tmp_path, "plan", wanted) for wanted in (plans, others, plans)]
    assert [path.name for path in (first, *paths)] == ["plan.yaml", "plan-2.yaml", "plan-3.yaml", "plan-2.yaml"]
    assert first.read_text().endswith("# edited\n")
    assert read_plan(paths[1], tiny_bert()) == others


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        write_plan(path, make_plan(tiny_bert(), point("svd")))
        content = yaml.safe_load(path.read_text())
        change(content)
        path.write_text(yaml.safe_dump(content))

    return write


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "cannot be read"),
        (lambda path: path.write_text("groups: [unclosed"), "is no plan"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "is no plan"),
        (lambda path: path.write_text("- a list"), "is no plan"),
        (edited(lambda c: c.pop("groups")), "is no plan"),
        (edited(lambda c: c["groups"].clear()), "has no groups"),
        (edited(lambda c: c["groups"][0].pop("rank")), "damaged in group 'query_0': it lacks 'rank'"),
        (edited(lambda c: c["groups"][0].update(stac="l")), "no entry 'stac' is known: did you mean 'stack'"),
        (edited(lambda c: c["groups"][0].update(rank=[999])), "damaged in group 'query_0'"),
        (edited(lambda c: c["groups"][0].update(shape=[48, 50])), "this model's is"),
        (edited(lambda c: c["groups"][0]["slices"][0].__setitem__(0, "bert.nowhere")), "bert.nowhere"),
        (edited(lambda c: c["groups"][0]["slices"][0].__setitem__(0, "[rows 1/2]")), "addresses no weight"),
        (edited(lambda c: c["groups"].append(c["groups"][0])), "both compress"),
        (edited(lambda c: c["groups"][1].update(name=c["groups"][0]["name"])), "two groups are called 'query_0'"),
        *((edited(lambda c, n=name: c["groups"][0].update(name=n)), "no group can be called") for name in NO_NAMES),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(tmp_path: Path, write: Callable[[Path], None], words: str) -> None:
    write(tmp_path / "plan.yaml")
    with pytest.raises(LobertError, match=words) as caught:
        read_plan(tmp_path / "plan.yaml", tiny_bert())
    one_sentence(caught.value)


def test_a_run_obeys_the_plan_that_was_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No teacher yet: the plan is that of the encoder; the run that reads it has the same groups."""
    assert run_here(tmp_path, "stage=plan", "decomp=[tucker_layer,ffn_svd]") is None
    shown = capsys.readouterr().out
    assert "stage=teacher, then plan again" in shown
    assert "in outputs" not in shown
    assert not (tmp_path / "artefacts" / "teacher").exists()
    assert not (tmp_path / "runs").exists()
    (path,) = (tmp_path / "plans").iterdir()
    run_here(tmp_path, f"decomp.plan='{path}'", "student.epochs=0")
    record = the_record(tmp_path)
    assert record.decomp == path.stem
    for group in record.groups:
        assert f"{group['parameters']:,}" in shown
        assert group["name"] in shown
    for weight in ("attention.self.query", "intermediate.dense"):
        assert f"touches: bert.encoder.layer.*.{weight} (2)\n" in shown


def test_an_allocated_plan_is_shown_with_its_final_ranks_and_errors_in_the_outputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan of the weights that comes after it finds the moments of the inputs, the run the loss's."""
    run_here(tmp_path, "stage=teacher")
    engine = ["decomp=all_svd", "decomp.objective=loss", "decomp.allocate=greedy", "decomp.keep=0.3"]
    run_here(tmp_path, "stage=plan", *engine)
    (path,) = (tmp_path / "plans").iterdir()
    run_here(tmp_path, "stage=plan", "decomp=[embeddings_svd,svd]")
    assert capsys.readouterr().out.count("in outputs") == 2
    run_here(tmp_path, f"decomp.plan='{path}'", "decomp.objective=loss", "student.epochs=0")
    assert 0.29 < the_record(tmp_path).keep_targets <= 0.3
    assert len(artefacts(tmp_path, "calibration")) == 2


SIZES = ["decomp.keep=0.5", "decomp.rank=3", "decomp.allocate=greedy", "decomp.budget=macs"]


@pytest.mark.parametrize("setting", SIZES)
def test_a_plan_and_a_size_contradict_each_other(tmp_path: Path, setting: str) -> None:
    with pytest.raises(LobertError, match="holds every rank already") as caught:
        run_here(tmp_path, "decomp.plan=plan.yaml", setting)
    one_sentence(caught.value)


def test_the_loss_has_no_plan_without_a_teacher(tmp_path: Path) -> None:
    with pytest.raises(LobertError, match="stage=teacher first"):
        run_here(tmp_path, "stage=plan", "decomp.objective=loss")


@pytest.mark.parametrize(
    "needs",
    [["decomp.objective=loss"], ["decomp.refit_head=true"], ["decomp.objective=activations", "decomp.allocate=greedy"]],
)
def test_a_random_head_has_no_loss(tmp_path: Path, needs: list[str]) -> None:
    with pytest.raises(LobertError, match="needs a fine-tuned start") as caught:
        run_here(tmp_path, "decomp.init=pretrained", *needs)
    one_sentence(caught.value)


@pytest.mark.parametrize("name", ["svd", "tucker_4d"])
def test_errors_in_the_outputs_are_those_of_the_tokens(name: str) -> None:
    """Of all slices together: the outputs' distance from those of the dense layers, means aside."""
    dense, model, batch = tiny_bert(), tiny_bert(), token_batch()
    statistics, plans = (
        calibrate(dense, encoder_linears(dense), [batch], gradients=False),
        make_plan(dense, point(name)),
    )
    compress_model(model, plans)
    errors = output_errors(dense, model, plans, statistics)
    recorder = Recorder({block.path: linear_at(dense, block.path) for plan in plans for block, _ in plan.slices})
    logits_of(dense, batch)
    recorder.remove()
    for plan in plans:
        lost = whole = 0.0
        for block, _ in plan.slices:
            x = recorder.inputs[block.path][0][batch["attention_mask"].bool()]
            outputs = [model_.get_submodule(block.path)(x) for model_ in (dense, model)]
            wanted, found = (y - y.mean(0) for y in outputs)
            lost += (wanted - found).square().sum().item()
            whole += wanted.square().sum().item()
        assert errors[plan.name] == pytest.approx((lost / whole) ** 0.5, rel=1e-4)


def test_what_slices_have_in_common() -> None:
    base = random_tensor((12, 18))
    same = base.repeat(4, 1, 1)
    assert leading_share(same) == pytest.approx(1.0)
    apart = same * 0
    for index in range(4):
        apart[index, index] = 1.0
    assert leading_share(apart) == pytest.approx(0.25)


def test_compressing_by_a_plan_file_is_compressing_by_its_settings(tmp_path: Path) -> None:
    write_plan(tmp_path / "plan.yaml", make_plan(tiny_bert(), point("falcon_layer")))
    models = tiny_bert(), tiny_bert()
    compress_model(models[0], read_plan(tmp_path / "plan.yaml", models[0]))
    compress_model(models[1], make_plan(models[1], point("falcon_layer")))
    assert logits_of(models[0]).equal(logits_of(models[1]))
