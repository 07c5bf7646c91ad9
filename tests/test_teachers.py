"""Teachers that are brought along, their labels matched by name; and the search for the best one trained here."""

import json
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import one_sentence
from layouts import read_task
from test_pipeline import artefacts, curve, run_here, the_record
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertModel

import lobert
from lobert.data.chance import chance_level
from lobert.data.labels import order_of
from lobert.data.metrics import METRICS
from lobert.encoders import source as encoder_module
from lobert.encoders.brought import BroughtTeacher, load_brought
from lobert.errors import LobertError
from lobert.training.candidates import differences, read_candidates
from lobert.training.finetune import FineTuner

LABELS = ("entailment", "neutral", "contradiction")
WORDS = (("the", "a", "an"), ("of", "to", "in"), ("was", "by", "for"))  # each class has its own: anybody learns that
TRAINED = ["task=MNLI", "teacher.epochs=4", "teacher.batch_size=8", "teacher.learning_rate=1e-2"]
MNLI = read_task("MNLI")


def write_easy_mnli(root: Path) -> Path:
    """MNLI's files, with premises whose words tell the class."""
    assert MNLI.local is not None
    (root / "MNLI").mkdir(parents=True)
    for number, file in enumerate(MNLI.local.candidates(split)[0] for split in ("train", *MNLI.eval_splits)):
        draw = random.Random(number)
        rows = [(i, " ".join(draw.choices(WORDS[i % 3], k=4)), LABELS[i % 3]) for i in range(96)]
        lines = [f"{i}\t{text}\tit is\t{label}" for i, text, label in rows]
        (root / "MNLI" / file).write_text("\n".join(["index\tsentence1\tsentence2\tgold_label", *lines]) + "\n")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_easy_mnli(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def good(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that knows the task, as a plain Hugging Face folder."""
    output = tmp_path_factory.mktemp("good")
    score = run_here(
        output, *TRAINED, f"task.data_dir={data}", "task.train_examples=null", "task.dev_examples=null", "stage=teacher"
    )
    assert score is not None
    assert score > 0.95
    (folder,) = artefacts(output, "teacher")
    return folder


def run_brought(output: Path, data: Path, path: Path, *overrides: str) -> float | None:
    settings = [
        f"task.data_dir={data}",
        f"teacher.path={path}",
        "task.train_examples=null",
        "task.dev_examples=null",
        "student.epochs=0",
    ]
    return run_here(output, "task=MNLI", "decomp=svd", *settings, *overrides)


def score_of(folder: Path) -> float:
    return float(json.loads((folder / "lobert.json").read_text())["metrics"]["accuracy"])


def copied(good: Path, folder: Path, change: Callable[[Any], Any] = lambda model: model) -> Path:
    """The teacher as others would hand it on: model and tokenizer, nothing of LoBERT's."""
    model = change(AutoModelForSequenceClassification.from_pretrained(good))
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(good).save_pretrained(folder)
    return folder


def permuted(model: Any, order: Sequence[int], names: Sequence[str]) -> Any:
    """The same classifier with its logits in another order: at place j the class `order[j]`, called `names[j]`."""
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.copy_(parameter[list(order)].clone())
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: i for i, name in enumerate(names)}
    return model


# ---- labels ----

MATCHES = [
    ("neutral contradiction entailment", LABELS, None, [2, 0, 1]),
    ("CONTRADICTION Entailment neutral", LABELS, None, [1, 2, 0]),
    ("contradictory entails neither", LABELS, None, [1, 2, 0]),
    ("LABEL_0 LABEL_1 LABEL_2", LABELS, None, [0, 1, 2]),
    ("0 1 2", LABELS, None, [0, 1, 2]),
    ("LABEL_0 LABEL_1 LABEL_2", LABELS, "contradiction entailment neutral", [1, 2, 0]),
    ("foo bar baz", LABELS, "neutral entailment contradiction", [1, 0, 2]),
    ("not_entailment entailment", ("entailment", "not_entailment"), None, [1, 0]),
    ("POSITIVE NEGATIVE", ("negative", "positive"), None, [1, 0]),
    ("duplicate not_duplicate", ("not_equivalent", "equivalent"), None, [1, 0]),
    ("True False", ("unacceptable", "acceptable"), None, [1, 0]),
    ("different same", ("different", "same"), None, [0, 1]),
]


@pytest.mark.parametrize(("theirs", "ours", "named", "order"), MATCHES)
def test_labels_are_matched_by_what_they_say(
    theirs: str, ours: tuple[str, ...], named: str | None, order: list[int]
) -> None:
    assert order_of(theirs.split(), ours, named.split() if named else None) == order


@pytest.mark.parametrize(
    ("theirs", "named", "words"),
    [
        ("a b", None, "tells 2 classes apart (a, b) and the task has 3"),
        ("foo bar baz", None, "type teacher.labels=[entailment,neutral,contradiction] in the order"),
        ("entailment neutral neutral", None, "are not the task's"),
        ("LABEL_1 LABEL_0 LABEL_2", None, "are not the task's"),
        ("LABEL_0 LABEL_1 LABEL_2", "entailment neutral", "teacher.labels says entailment, neutral"),
        ("entailment neutral contradiction", "yes no maybe", "teacher.labels says yes, no, maybe"),
    ],
)
def test_labels_that_cannot_be_matched_are_refused(theirs: str, named: str | None, words: str) -> None:
    with pytest.raises(LobertError) as caught:
        order_of(theirs.split(), LABELS, named.split() if named else None)
    assert words in one_sentence(caught.value)


# ---- what a brought teacher becomes ----


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ((0, 1, 2), LABELS),
        ((2, 0, 1), ("contradiction", "entailment", "neutral")),
        ((1, 0, 2), ("Neutral", "yes", "contradicts")),
    ],
)
def test_logits_are_put_in_the_order_of_the_task(
    good: Path, tmp_path: Path, order: tuple[int, ...], names: tuple[str, ...]
) -> None:
    folder = copied(good, tmp_path / "theirs", lambda model: permuted(model, order, names))
    model, found = load_brought(folder, BroughtTeacher(str(folder)), MNLI, dropout=0.25)
    assert [order[place] for place in found] == [0, 1, 2]
    inputs = AutoTokenizer.from_pretrained(folder)(["the a", "by in"], return_tensors="pt")
    assert torch.equal(model.eval()(**inputs).logits, lobert.load(good)(**inputs).logits)
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.config.hidden_dropout_prob == 0.25


def pickled(model: Any, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


def test_weights_of_the_old_kind_are_read_as_tensors(good: Path, tmp_path: Path) -> None:
    folder = copied(good, tmp_path / "theirs")
    pickled(lobert.load(good), folder)
    model, _ = load_brought(BroughtTeacher(str(folder)).folder(), BroughtTeacher(str(folder)), MNLI, None)
    wanted = lobert.load(good).state_dict()
    assert all(torch.equal(wanted[name], value) for name, value in model.state_dict().items())
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    with pytest.raises(LobertError, match="cannot be read"):
        load_brought(folder, BroughtTeacher(str(folder)), MNLI, None)


def test_a_compressed_teacher_is_multiplied_out(good: Path, tmp_path: Path) -> None:
    folder = copied(good, tmp_path / "theirs")
    model = lobert.load(folder)
    lobert.compress(model, "all_svd", keep=0.5)
    model.save_pretrained(folder)
    dense, _ = load_brought(folder, BroughtTeacher(str(folder)), MNLI, None)
    inputs = AutoTokenizer.from_pretrained(folder)(["the a", "by in"], return_tensors="pt")
    assert torch.allclose(dense.eval()(**inputs).logits, model(**inputs).logits, atol=1e-5)
    assert type(dense.bert.encoder.layer[0].attention.self.query) is torch.nn.Linear


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def drop_tokenizer(folder: Path) -> None:
    for pattern in ("tokenizer*", "vocab*", "special_tokens_map.json"):
        for path in folder.glob(pattern):
            path.unlink()


def save_bare(folder: Path) -> None:
    BertModel.from_pretrained(folder).save_pretrained(folder)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


SPOILED: list[tuple[Callable[[Path], Any], str]] = [
    (lambda folder: (folder / "model.safetensors").unlink(), "no weights: there is no model.safetensors"),
    (cut, "cannot be read"),
    (drop_tokenizer, "has no tokenizer"),
    (save_bare, "no finished classifier, it lacks classifier.bias: type encoder.path=... in place of teacher.path"),
    (lambda folder: (folder / "config.json").unlink(), "teacher.path="),
    (lambda folder: (folder / "config.json").write_text("{"), "not readable JSON"),
    (partial(edit_config, id2label={"0": "no", "1": "yes"}, label2id={"no": 0, "yes": 1}), "cannot be read"),
    (
        partial(edit_config, id2label={"0": "a", "1": "b", "2": "c"}),
        "teacher.labels=[entailment,neutral,contradiction]",
    ),
]


@pytest.mark.parametrize(("spoil", "words"), SPOILED)
def test_a_folder_that_is_no_teacher_is_one_sentence(
    good: Path, tmp_path: Path, spoil: Callable[[Path], Any], words: str
) -> None:
    folder = copied(good, tmp_path / "theirs")
    spoil(folder)
    brought = BroughtTeacher(str(folder))
    with pytest.raises(LobertError) as caught:
        load_brought(brought.folder(), brought, MNLI, None)
    assert words in one_sentence(caught.value)
    assert str(folder) in str(caught.value) or "teacher.labels" in str(caught.value)


@pytest.mark.parametrize("task", ["RTE", "STS-B"])
def test_a_teacher_of_another_task_is_refused(good: Path, task: str) -> None:
    with pytest.raises(LobertError, match=r"3 classes apart .* another task"):
        load_brought(good, BroughtTeacher(str(good)), read_task(task), None)


def test_a_hub_name_is_fetched_with_weights_of_either_kind(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = copied(good, tmp_path / "theirs"), []
    (folder / "model.safetensors").unlink()

    def stand_in(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, "pytorch_model.bin" in allow_patterns))
        if "pytorch_model.bin" in allow_patterns:
            torch.save(lobert.load(good).state_dict(), folder / "pytorch_model.bin")
        return str(folder)

    monkeypatch.setattr(encoder_module, "snapshot_download", stand_in)
    teacher = BroughtTeacher("somebody/bert-MNLI")
    assert (teacher.folder(), teacher.name) == (folder, "bert-MNLI")
    assert asked == [("somebody/bert-MNLI", False), ("somebody/bert-MNLI", True)]


# ---- through the pipeline ----


def test_a_brought_teacher_is_measured_and_its_student_follows_it(good: Path, data: Path, tmp_path: Path) -> None:
    """The encoder setting names another one, and only its training settings count."""
    order, names = (2, 0, 1), ("contradiction", "entailment", "neutral")
    folder = copied(good, tmp_path / "my teacher=1", lambda model: permuted(model, order, names))
    run_brought(tmp_path / "out", data, f'"{folder}"', "encoder=bert_base")  # type: ignore[arg-type]
    record = the_record(tmp_path / "out")
    assert record.teacher_score == pytest.approx(score_of(good))
    assert (record.encoder, record.teacher_search) == ("my-teacher-1", [])
    assert record.student_layers == 2
    tokens = AutoTokenizer.from_pretrained(record.student_path)("the it")["input_ids"]
    assert tokens == AutoTokenizer.from_pretrained(good)("the it")["input_ids"]
    copied(good, folder, lambda model: permuted(model, (1, 0, 2), ("neutral", "entailment", "contradiction")))
    run_brought(tmp_path / "out", data, f'"{folder}"', "stage=teacher")  # type: ignore[arg-type]
    assert len(artefacts(tmp_path / "out", "teacher")) == 2


def test_a_teacher_at_chance_is_refused_unless_it_is_forced(good: Path, data: Path, tmp_path: Path) -> None:
    """Its labels say nothing and stand in another order: the sentence names the order by which it was trained."""
    names = ("LABEL_0", "LABEL_1", "LABEL_2")
    folder = copied(good, tmp_path / "theirs", lambda model: permuted(model, (2, 0, 1), names))
    with pytest.raises(LobertError, match=r"chance is 33\.3 ± 4\.8; with its classes in another order") as caught:
        run_brought(tmp_path / "out", data, folder, "stage=teacher")
    way = one_sentence(caught.value).partition("type ")[2]
    assert way == "teacher.labels=[contradiction,entailment,neutral]"
    assert run_brought(tmp_path / "out", data, folder, "stage=teacher", way) == pytest.approx(score_of(good))
    forced = run_brought(tmp_path / "out", data, folder, "stage=teacher", "teacher.force=true")
    assert forced is not None
    assert forced < 0.4

    def untrained(model: Any) -> Any:
        torch.nn.init.zeros_(model.classifier.weight)
        return model

    folder = copied(good, tmp_path / "untrained", untrained)
    with pytest.raises(LobertError, match=r"type teacher\.force=true"):
        run_brought(tmp_path / "out", data, folder, "stage=teacher")


def add_token(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["unheard"])
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (add_token, "is not the model's: it has a token"),
        (partial(edit_config, id2label={"0": "a", "1": "b", "2": "c"}), "which are not the task's"),
        (partial(edit_config, model_type="gpt2"), "gpt2"),
    ],
)
def test_a_refused_teacher_leaves_nothing(
    good: Path, data: Path, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    folder = copied(good, tmp_path / "theirs")
    spoil(folder)
    with pytest.raises(LobertError) as caught:
        run_brought(tmp_path / "out", data, folder, "stage=teacher")
    assert words in one_sentence(caught.value)
    assert not (tmp_path / "out" / "artefacts" / "teacher").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["decomp.init=pretrained"], "the student is made from the teacher"),
        (["teacher.learning_rate=[1e-3,1e-4]"], "no teacher.learning_rate to search"),
        (["teacher.labels=yes"], "give a list of class names"),
        (["teacher.path=null", "teacher.force=true"], "type teacher.path=... too"),
        (["teacher.path=null", "teacher.labels=[a,b]"], "type teacher.path=... too"),
        (["teacher.path=./nowhere"], "teacher.path=./nowhere: there is no such folder"),
        (["teacher.path=no/such"], "teacher.path=no/such is neither a folder here nor"),
        (["teacher.force=maybe"], "teacher.force=maybe"),
    ],
    ids=str,
)
def test_settings_that_contradict_are_refused(data: Path, tmp_path: Path, overrides: list[str], words: str) -> None:
    with pytest.raises(LobertError) as caught:
        run_brought(tmp_path, data, Path("x"), *overrides)
    assert words in one_sentence(caught.value)
    assert not (tmp_path / "artefacts" / "teacher").exists()


# ---- chance ----


@pytest.mark.parametrize("metric", METRICS)
def test_guessing_is_at_chance_and_knowing_is_not(metric: str) -> None:
    """Constant answers never pass; answers that ignore the examples pass by one standard error in about 16 %."""
    draw = np.random.default_rng(0)
    regression = metric in ("pearson", "spearman")
    labels = draw.random(200) if regression else (draw.random(200) < 0.7).astype(int)
    level, error = chance_level(metric, labels, 0 if regression else 2)
    constants = [np.full(200, value) for value in (0, 1)]
    assert level == max(0.0, *(METRICS[metric](constant, labels) for constant in constants))
    guesses = [draw.permutation(labels) for _ in range(100)]
    assert np.mean([METRICS[metric](guess, labels) > level + error for guess in guesses]) < 0.22
    assert METRICS[metric](labels, labels) > level + error


def test_the_error_of_chance_is_that_of_a_share() -> None:
    labels = np.array([1] * 279 + [0] * 129)  # MRPC's dev split
    level, error = chance_level("accuracy", labels, 2)
    assert (round(100 * level, 1), round(100 * error, 1)) == (68.4, 2.3)


# ---- search ----

TEACHER = {"path": None, "labels": None, "force": False, "epochs": 3, "learning_rate": 1e-4, "seed": 0}


def test_lists_give_every_combination() -> None:
    found = read_candidates({**TEACHER, "epochs": [1, 2], "learning_rate": [1e-3, 1e-4], "seed": [5]})
    pairs = [(one.training.epochs, one.training.learning_rate) for one in found]
    assert pairs == [(1, 1e-3), (1, 1e-4), (2, 1e-3), (2, 1e-4)]
    assert {one.seed for one in found} == {5}
    assert differences(found)[1] == {"epochs": 1, "learning_rate": 1e-4}
    assert differences(read_candidates(TEACHER)) == [{}]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": []}, "teacher.epochs=[] will not do"),
        ({"epochs": [1, 1]}, "a list of different ones"),
        ({"epochs": [1, 0]}, "teacher.epochs=0"),
        ({"learning_rate": [1e-3, -1.0]}, "teacher.learning_rate=-1.0"),
        ({"learning_rate": [1e-3, "fast"]}, "not a number"),
        ({"seed": [0, -1]}, "teacher.seed=-1"),
    ],
)
def test_a_wrong_list_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(LobertError) as caught:
        read_candidates({**TEACHER, **changes})
    assert words in one_sentence(caught.value)


def test_a_search_goes_on_where_it_stopped_and_keeps_the_best(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [
        "task=MNLI",
        f"task.data_dir={data}",
        "task.train_examples=null",
        "task.dev_examples=null",
        "student.epochs=0",
    ]
    settings += ["teacher.epochs=1", "teacher.batch_size=8", "teacher.learning_rate=[1e-6,2e-2]"]
    step, steps = FineTuner.training_step, []

    def failing_step(self: FineTuner, batch: Any, batch_idx: int) -> torch.Tensor:
        steps.append(self.training_settings.learning_rate)
        if len(steps) == 15:  # of 12 for each teacher
            raise KeyError("interrupted")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(FineTuner, "training_step", failing_step)
    with pytest.raises(KeyError):
        run_here(tmp_path, *settings)
    score = run_here(tmp_path, *settings)
    assert steps == [1e-6] * 12 + [2e-2] * 3 + [2e-2] * 12  # a crash within an epoch has it trained anew
    record = the_record(tmp_path)
    assert [row["learning_rate"] for row in record.teacher_search] == [1e-6, 2e-2]
    scores = [row["score"] for row in record.teacher_search]
    assert record.teacher_score == max(scores) == scores[1] > scores[0]
    assert score is not None
    (search,) = artefacts(tmp_path, "search")
    written = json.loads((search / "search.json").read_text())
    assert written["tried"] == record.teacher_search
    chosen = tmp_path / "artefacts" / "teacher" / written["chosen"]
    assert score_of(chosen) == record.teacher_score
    assert curve(chosen / "metrics.csv", "val/accuracy")
    monkeypatch.setattr(FineTuner, "training_step", None)  # training again would fail
    found = run_here(tmp_path, *settings[:-1], "teacher.learning_rate=2e-2", "stage=teacher")
    assert found == record.teacher_score
