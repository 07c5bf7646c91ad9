"""Laws of conf/: every file composes and is read, and a wrong value is answered in one sentence."""

import itertools
import re
from typing import Any

import hydra
import pytest
from cases import ALIASES, CONF, CONF_COUNTS, POINTS, compose, conf_names, exists, one_sentence, point, tiny_bert
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from lobert.cli import explain
from lobert.compression.grouping import Part
from lobert.compression.plan import make_plan
from lobert.compression.points import named_parts, parts_from_settings
from lobert.errors import LobertError
from lobert.factorizations import FACTORIZATIONS
from lobert.job import Job, read_job

FILES = [(folder, name) for folder in CONF_COUNTS for name in conf_names(folder)]
GROUPINGS, METHODS = conf_names("decomp/grouping"), conf_names("decomp/factorization")


def yaml_file(folder: str, name: str) -> DictConfig:
    return OmegaConf.load(CONF / "decomp" / folder / f"{name}.yaml")  # type: ignore[return-value]


def job(*overrides: str) -> Job:
    return read_job(compose(*overrides))


def refusal(config: DictConfig) -> str:
    with pytest.raises(LobertError) as caught:
        read_job(config)
    return one_sentence(caught.value)


@pytest.mark.parametrize("folder", CONF_COUNTS)
def test_every_file_is_counted(folder: str) -> None:
    assert len(conf_names(folder)) == CONF_COUNTS[folder]


@pytest.mark.parametrize(("folder", "name"), FILES)
def test_every_file_composes_and_is_read(folder: str, name: str) -> None:
    read = job(f"{folder}={name}")
    named = {"task": read.task.name, "encoder": read.encoder.name, "kd": read.kd}
    assert named.get(folder, name) == name
    assert read.name.startswith(f"{read.task.name}_{read.encoder.name}_")
    assert "=" not in read.name


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF)))
def test_every_file_says_what_it_is(path: object) -> None:
    lines = path.read_text().splitlines()  # type: ignore[attr-defined]
    described = [line for line in lines if line.startswith("# ") and "@package" not in line]
    assert described or "grouping" in str(path) or "factorization" in str(path)


@pytest.mark.parametrize("name", conf_names("experiment"))
def test_an_experiment_gives_its_command(name: str) -> None:
    commands = re.findall(
        r"^# python train.py experiment=(\w+)", (CONF / "experiment" / f"{name}.yaml").read_text(), re.M
    )
    assert commands == [name]


def free_part(grouping: str, method: str) -> Part:
    """One pair of the axes, from files that are composed once each: that is slow."""
    config = compose("decomp=free", f"decomp/grouping={grouping}")
    settings: Any = OmegaConf.to_container(OmegaConf.masked_copy(config.decomp, ["free"]))
    (part,) = parts_from_settings({"free": {**settings["free"], **yaml_file("factorization", method)}})
    return part


@pytest.mark.parametrize(
    ("grouping", "method"),
    sorted({*zip(GROUPINGS, itertools.cycle(METHODS)), *zip(itertools.cycle(GROUPINGS), METHODS)}),
)
def test_the_axes_of_a_free_choice_do_not_mix(grouping: str, method: str) -> None:
    read = job("decomp=free", f"decomp/grouping={grouping}", f"decomp/factorization={method}")
    assert read.parts == [free_part(grouping, method)]


@pytest.mark.parametrize(("grouping", "method"), itertools.product(GROUPINGS, METHODS))
def test_groupings_and_factorizations_join_freely(grouping: str, method: str) -> None:
    """Each pair is planned, and keeps at most half, or is refused in a sentence: a stack is what decides."""
    part = free_part(grouping, method)
    assert (part.factorization, part.stack) == (method, yaml_file("grouping", grouping)["stack"])
    assert method in part.name
    if exists(FACTORIZATIONS[method], part.letters):
        plans = make_plan(tiny_bert(), [part])
        assert 0 < 2 * sum(plan.parameters for plan in plans) <= sum(plan.dense_parameters for plan in plans)
    else:
        with pytest.raises(LobertError, match=method.removeprefix("pivoted_")) as caught:
            make_plan(tiny_bert(), [part])
        one_sentence(caught.value)


def test_an_axis_of_a_named_point_can_be_changed() -> None:
    read = job("decomp=svd", "decomp/factorization@decomp.attention=tucker")
    assert [part.factorization for part in read.parts] == ["tucker"]


def test_a_single_role_or_mode_needs_no_brackets() -> None:
    plain, bracketed = (
        job("decomp=free", f"decomp.free.roles={roles}", f"decomp.free.stack={stack}").parts
        for roles, stack in (("query", "layer"), ("[query]", "[layer]"))
    )
    assert plain == bracketed


def test_a_free_choice_stands_beside_a_named_point() -> None:
    read = job("decomp=[svd,free]", "decomp/grouping=ffn_vertical", "decomp/factorization=cp", "decomp.free.keep=0.1")
    assert [(part.name, part.keep) for part in read.parts] == [
        ("svd", None),
        ("intermediate_output_by_layer_cp", 0.1),
    ]


@pytest.mark.parametrize("axis", ["decomp/grouping=qkv_layer", "decomp/factorization=cp"])
def test_an_axis_beside_a_named_point_is_answered_with_the_free_one(axis: str) -> None:
    with pytest.raises(HydraException) as caught:
        compose("decomp=svd", axis)
    assert f"type decomp=free {axis.partition('=')[0]}=... as well" in str(explain(caught.value, CONF))


@pytest.mark.parametrize("method", METHODS)
def test_every_factorization_is_used_by_a_point(method: str) -> None:
    used = {point(name)[0].factorization for name in POINTS if name != "free"}
    assert {method, method.removeprefix("pivoted_")} & used


# ---- decomp ----


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_an_alias_is_its_original(alias: str, name: str) -> None:
    assert point(alias) == point(name)


@pytest.mark.parametrize("name", POINTS)
def test_a_point_has_its_own_name_and_one_part(name: str) -> None:
    assert [part.name for part in point(name)] == [name if name != "free" else "query_key_value_by_role_layer_tucker"]


def test_points_can_be_read_inside_another_hydra_application() -> None:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        assert named_parts("svd") == point("svd")
        assert hydra.compose("config").decomp.attention.name == "falcon_4d"


def test_no_decomp_has_no_parts() -> None:
    assert point("none") == []


def test_a_list_of_points_has_the_parts_of_both() -> None:
    assert [part.name for part in job("decomp=[tucker_4d,ffn_svd]").parts] == ["tucker_4d", "ffn_svd"]
    assert point(("tucker_4d", "ffn_svd")) == point("tucker_4d") + point("ffn_svd")


@pytest.mark.parametrize(
    ("overrides", "keeps", "ranks"),
    [
        (["decomp=svd"], [None], [None]),
        (["decomp=svd", "decomp.keep=0.5"], [0.5], [None]),
        (["decomp=svd", "decomp.keep=1"], [1], [None]),
        (["decomp=svd", "decomp.rank=64"], [None], [64]),
        (["decomp=svd", "decomp.rank=full"], [None], ["full"]),
        (["decomp=tucker_4d", "decomp.rank=[2,8,96,96]"], [None], [[2, 8, 96, 96]]),
        (["decomp=tucker_4d", "decomp.attention.rank=[2,8,1/2,1/2]"], [None], [[2, 8, "1/2", "1/2"]]),
        (["decomp=[svd,ffn_svd]", "decomp.keep=0.5"], [0.5, 0.5], [None, None]),
        (["decomp=[svd,ffn_svd]", "decomp.keep=0.5", "decomp.ffn.keep=0.25"], [0.5, 0.25], [None, None]),
        (["decomp=[svd,ffn_svd]", "decomp.ffn.rank=9"], [None, None], [None, 9]),
    ],
    ids=str,
)
def test_sizes_reach_the_parts(overrides: list[str], keeps: list[object], ranks: list[object]) -> None:
    parts = job(*overrides).parts
    assert [part.keep for part in parts] == keeps
    assert [part.rank for part in parts] == ranks


# ---- mistakes ----


@pytest.mark.parametrize(
    "setting",
    [
        "decomp.keep=0",
        "decomp.keep=1.5",
        "decomp.keep=-1",
        "decomp.keep=half",
        "decomp.evaluation=foo",
        "decomp.init=foo",
        "decomp.scope=foo",
        "decomp.scope=model",
        "decomp.allocate=foo",
        "decomp.budget=foo",
        "decomp.budget=macs",
        "decomp.objective=foo",
        "decomp.damping=0",
        "decomp.damping=much",
        "decomp.metric_power=2",
        "decomp.temperature=0",
        "decomp.calibration_examples=0",
        "decomp.calibration_noise=2",
        "decomp.refit_head=foo",
        "kd.alpha=2",
        "kd.alpha=-0.1",
        "kd.alpha=half",
        "kd.temperature=0",
        "kd.beta=-1",
        "stage=foo",
        "knowledge=foo",
        "teacher.epochs=0",
        "teacher.epochs=many",
        "teacher.learning_rate=0",
        "student.epochs=-1",
        "student.batch_size=0",
        "student.accumulate=0",
        "student.weight_decay=-1",
        "student.warmup=1",
        "student.gradient_clip=-1",
        "student.layers=two",
        "eval_batch_size=0",
        "encoder.roles.query=3",
        "task.max_length=1",
        "task.train_examples=0",
        "task.dev_examples=0",
        "trainer.accelerator=foo",
        "trainer.num_nodes=0",
        "trainer.num_workers=-1",
    ],
)
def test_a_wrong_value_is_answered_with_its_setting(setting: str) -> None:
    assert setting.partition("=")[0].rpartition(".")[2] in refusal(
        OmegaConf.merge(compose(), OmegaConf.from_dotlist([setting]))
    )


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["decomp=[tucker_4d,ffn_svd]", "decomp.rank=1"], "decomp.attention.rank or decomp.ffn.rank"),
        (["decomp=none", "decomp.rank=1"], "decomp.rank=1"),
        (["decomp=none", "decomp.keep=2"], "keep=2"),
        (["decomp=svd", "decomp.keep=0.5", "decomp.rank=4"], "keep=0.5 and rank=4"),
        (["decomp=svd", "decomp.attention.keep=0.5", "decomp.rank=4"], "keep=0.5 and rank=4"),
        (["decomp=svd", "decomp.attention.stack=[rolle]"], "did you mean 'role'"),
        (["stage=studnt"], "did you mean 'student'"),
        (["knowledge=dsk"], "did you mean 'disk'"),
        (["task.metrics=[acuracy]"], "accuracy"),
        (["logger=wandb", "logger.wandb.mode=ofline"], "did you mean 'offline'"),
    ],
    ids=str,
)
def test_a_wrong_combination_is_answered_with_a_way_out(overrides: list[str], words: str) -> None:
    assert words in refusal(compose(*overrides))


def test_a_gpu_asked_for_in_vain_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert job("trainer=auto").machine.device == "cpu"
    with pytest.raises(LobertError) as caught:
        _ = job("trainer=gpu").machine.device
    assert "trainer=cpu" in one_sentence(caught.value)
