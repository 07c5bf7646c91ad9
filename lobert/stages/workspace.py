"""What every stage starts from: a job with its encoder and tokenized data; and what every trained model ends as."""

import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lobert.checkpoint import save_student
from lobert.compression.allocation import size_parts
from lobert.compression.heads import joined_as_asked
from lobert.compression.plan import GroupPlan, make_plan
from lobert.compression.planfile import read_plan
from lobert.compression.sequential import chosen_order
from lobert.compression.width import UNWEIGHED, neurons_for, planned_width
from lobert.data import TextData, TokenizedSplit, load_examples, load_task, tokenize
from lobert.encoders.naming import set_roles
from lobert.encoders.roles import keep_first_layers
from lobert.encoders.source import build_classifier, load_tokenizer, model_key, most_tokens, skeleton, tokenizer_key
from lobert.errors import LobertError
from lobert.evaluation import evaluate
from lobert.job import Job
from lobert.storage.artefacts import Recipe, write_atomic
from lobert.training.settings import Training

TOKENS_PER_INPUT, FEWEST_EXAMPLES, MOST_EXAMPLES = 8, 256, 1024  # of a calibration
FACTS_FILE = "lobert.json"  # what was measured while a model was made


@dataclass(frozen=True)
class Workspace:
    """A job with its encoder and tokenized data: what every stage starts from."""

    job: Job
    encoder: Path
    tokenizer: PreTrainedTokenizerBase
    data: TextData

    @cached_property
    def data_key(self) -> dict[str, str]:
        """Fingerprints of the splits that training and scores depend on."""
        return {split: self.data.splits[split].fingerprint for split in ("train", *self.job.task.eval_splits)}

    @cached_property
    def encoder_key(self) -> str:
        return model_key(self.encoder)

    def classifier(self, seed: int) -> PreTrainedModel:
        """The model of this task on the pretrained encoder, with a head drawn from `seed`."""
        task, encoder = self.job.task, self.job.encoder
        model = build_classifier(self.encoder, task.labels, seed, encoder.dropout, task.is_choice)
        set_roles(model, encoder.roles)
        return model

    def trained_with(self, training: Training) -> Recipe:
        """What any training depends on beside its start."""
        precision = self.job.machine.resolved_precision
        return {
            "data": self.data_key,
            "metric": self.job.task.main_metric,
            "training": asdict(training),
            "precision": precision,
        }


def prepare(job: Job) -> Workspace:
    """Find the encoder, load and tokenize the task: train, dev, and the test splits where they are to be predicted."""
    folder = job.brought.folder() if job.brought else job.encoder.folder(job.store)
    check_plan(job, folder)
    tokenizer = load_tokenizer(folder)
    shapes = skeleton(folder)
    check_vocabulary(folder, tokenizer, shapes.config.vocab_size)
    task, examples = load_task(job.task)
    job = replace(job, task=task)  # with the labels of the data
    splits = tokenize(examples, tokenizer, task.max_length, job.store, task.name, tokenizer_key(folder))
    if job.reaches("predict"):  # apart, so that a run that predicts finds the tokens of one that did not
        tests = load_examples(task, list(task.test))
        splits |= tokenize(tests, tokenizer, task.max_length, job.store, task.name, tokenizer_key(folder))
    pad = tokenizer.pad_token_id
    if pad is None:
        raise LobertError(f"the tokenizer of encoder {job.encoder.name} has no padding token: it cannot make batches")
    data = TextData(splits, job.task.eval_splits, pad, job.eval_batch_size, job.machine.num_workers)
    count = calibration_count(job.calibration.examples, splits["train"], most_inputs(shapes))
    return Workspace(replace(job, calibration=replace(job.calibration, examples=count)), folder, tokenizer, data)


def calibration_count(asked: int | None, train: TokenizedSplit, inputs: int) -> int:
    """How many examples of the training split calibration takes for weights of up to so many inputs.

    As many as are asked for, or as have TOKENS_PER_INPUT tokens for each of them: a covariance of `inputs` numbers
    wants a few times as many vectors, whatever the length of the texts they come from.
    """
    if asked is not None:
        return asked
    lengths = train.lengths().astype(float)
    tokens = np.square(lengths).sum() / lengths.sum() * train.width  # of an example, as they are drawn by their lengths
    return min(max(round(TOKENS_PER_INPUT * inputs / tokens), FEWEST_EXAMPLES), MOST_EXAMPLES)


def most_inputs(model: PreTrainedModel) -> int:
    """How many inputs the linear with the most of them has."""
    return max(module.in_features for module in model.modules() if isinstance(module, nn.Linear))


def check_plan(job: Job, encoder: Path) -> None:
    """Refuse an impossible compression now, and not after a teacher has been trained for it."""
    model = skeleton(encoder, job.task.is_choice)
    set_roles(model, job.encoder.roles)
    if job.layers is not None:
        keep_first_layers(model, job.layers)
    check_length(job, model)
    plans = planned(job, model)
    chosen_order(job.order, job.objective, model, plans)
    neurons_for(model, job.parts, plans, job.objective, job.sizing)
    if planned_width(model, plans) is not None and job.objective.name == "weights":
        raise LobertError(f"decomp.plan={job.plan_file} leaves out neurons, and {UNWEIGHED}")


def check_vocabulary(folder: Path, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Refuse a tokenizer whose tokens the model has no embedding for; `rows` is how many it has."""
    if (largest := max(tokenizer.get_vocab().values())) >= rows:
        raise LobertError(
            f"the tokenizer in '{folder}' is not the model's: it has a token {largest} where the model knows {rows}"
        )


def check_length(job: Job, model: PreTrainedModel) -> None:
    """Refuse texts that are longer than the encoder has positions for."""
    most = most_tokens(model)
    if most is not None and job.task.max_length > most:
        raise LobertError(
            f"task.max_length={job.task.max_length} is more than the {most} tokens that encoder "
            f"{job.encoder.name} has positions for: type task.max_length={most} or less"
        )


def planned(job: Job, model: PreTrainedModel) -> list[GroupPlan]:
    """The groups the job asks for: those of its plan file, or of its parts. Looks at shapes only."""
    if job.plan_file is not None:
        return read_plan(job.plan_file, model)
    parts = size_parts(model, job.parts, job.sizing)
    plans = make_plan(model, parts, job.evaluation, job.sizing.budget)
    return joined_as_asked(model, plans, parts, job.sizing)


def finish_model(work: Workspace, model: PreTrainedModel, folder: Path, facts: dict[str, Any]) -> None:
    """Save the model with its facts and its dev scores."""
    metrics = evaluate(model, work.job.task, work.data)
    save_student(model.cpu(), folder, work.tokenizer)
    write_facts(folder, {**facts, "metrics": metrics})


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Keep what was measured while the model in `folder` was made."""
    write_atomic(folder / FACTS_FILE, json.dumps(facts, indent=2) + "\n")


def read_facts(folder: Path) -> dict[str, Any]:
    """What was measured while the model in `folder` was made."""
    path = folder / FACTS_FILE
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LobertError(
            f"{path} cannot be read ({error}): delete the folder {folder} and run again to make it anew"
        ) from None
    assert isinstance(facts, dict)
    return facts
