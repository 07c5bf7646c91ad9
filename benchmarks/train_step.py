"""Training speed with LoBERT's batches and stored knowledge, beside batches padded to 128 tokens and a live teacher.

    python benchmarks/train_step.py [--task MRPC] [--data-dir FOLDER] [--encoder minilm] [--decomp svd] [--batches 12]

Both sides train one and the same model on the same examples, in turn, so that a drift of the machine cancels:
"lobert" pads each length-grouped batch to its own longest row and reads the teacher's outputs from disk; "padded" pads
every row to 128 tokens and runs the teacher on each batch. A step is what FineTuner and its Trainer do, written
out here: collating, `loss_terms`, backward, clipping, AdamW; without logging, schedule, checkpoints and dev scores.

The teacher is a freshly built classifier, not a trained one: the time of a step does not depend on its weights. Its
outputs are written before for the examples of the measured batches alone; the seconds of that are printed, not counted.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import hydra
import torch
from common import header, header_line, say, table, timed
from torch import nn

from lobert.checkpoint import load, save_student
from lobert.compression.compress import compress_model
from lobert.compression.plan import make_plan
from lobert.data import LengthGroupedBatchSampler
from lobert.data.loader import collate
from lobert.distill.knowledge import LiveTeacher, StoredKnowledge, write_knowledge
from lobert.distill.losses import match_layers
from lobert.encoders.roles import encoder_layers
from lobert.errors import LobertError
from lobert.job import read_job
from lobert.paths import conf_dir
from lobert.progress import hush_libraries
from lobert.stages.workspace import Workspace, prepare
from lobert.startup import keep_freed_memory
from lobert.training.finetune import FineTuner, decay_groups
from lobert.training.student import Student
from lobert.training.teacher import Teacher

LENGTH = 128  # to which the original pads
WARM_UP = 2  # batches of each side that are not counted
Rows = Sequence[int]
Step = Callable[[Rows], int]  # trains on these examples and returns the tokens it went through, padding included


@dataclass(frozen=True)
class Comparison:
    """Examples and seconds of each batch, of both sides; tokens with padding."""

    name: str
    examples: list[int]
    lobert: list[float]
    padded: list[float]
    lobert_tokens: list[int]
    padded_tokens: list[int]

    @property
    def overall(self) -> float:
        """How many times faster all batches together went."""
        return sum(self.padded) / sum(self.lobert)


def workspace(chosen: argparse.Namespace, outputs: str) -> Workspace:
    """Task, encoder and tokens, as a run of train.py would have them."""
    overrides = [f"{name}={getattr(chosen, name)}" for name in ("task", "encoder", "decomp")]
    folder = [f"task.data_dir='{chosen.data_dir.absolute()}'"] if chosen.data_dir else []
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra.compose("config", [*overrides, *folder, f"output_dir='{outputs}'"])
    return prepare(read_job(cfg))


def batches_of(work: Workspace, count: int) -> list[Rows]:
    """The first batches of the student's first epoch, as row numbers."""
    job, train = work.job, work.data.splits["train"]
    batches: list[Rows] = list(LengthGroupedBatchSampler(train.lengths(), job.student.batch_size, job.seed))
    if len(batches) < count:
        raise LobertError(f"{job.task.name} has {len(batches)} batches, {WARM_UP} for warming up: give fewer --batches")
    return batches[:count]


def save_teacher(work: Workspace, folder: Path) -> None:
    """A classifier on the encoder, untrained."""
    model = work.classifier(work.job.candidates[0].seed)
    save_student(model, folder, work.tokenizer)


def store_knowledge(work: Workspace, teacher: Path, batches: Sequence[Rows], folder: Path) -> float:
    """Write the teacher's outputs for these batches; returns the seconds."""
    train, device = work.data.splits["train"], torch.device(work.job.machine.device)
    model = load(teacher).to(device)
    folder.mkdir()
    loaded = (collate([train[row] for row in rows], work.data.pad_token_id) for rows in batches)
    return timed(lambda: write_knowledge(model, loaded, len(train), folder, "train"), device)[0]


# ---- the two comparisons ----


def compare_fine_tuning(work: Workspace, teacher: Path, batches: Sequence[Rows]) -> Comparison:
    """The teacher's training: only the padding differs."""
    job = work.job
    module = Teacher(load(teacher), job.task, job.candidates[0].training, job.candidates[0].seed)
    optimizer = ready(work, module)
    sides = [partial(train_step, work, module, optimizer, pad_to) for pad_to in (None, LENGTH)]
    return compare("fine-tuning", sides, batches, work)


def compare_distillation(work: Workspace, teacher: Path, knowledge: Path, batches: Sequence[Rows]) -> Comparison:
    """The student's training: padding and where the teacher's outputs come from."""
    job, model = work.job, load(teacher)
    matching = match_layers(*[len(encoder_layers(model))] * 2)
    compress_model(model, make_plan(model, job.parts, job.evaluation))
    new = partial(Student, model, job.task, job.student, job.seed, job.distillation, matching=matching)
    stored, live = new(teacher=StoredKnowledge(knowledge, "train")), new(teacher=LiveTeacher(load(teacher)))
    optimizer = ready(work, stored)
    sides = [partial(train_step, work, stored, optimizer, None), partial(train_step, work, live, optimizer, LENGTH)]
    return compare("distillation", sides, batches, work)


def ready(work: Workspace, module: FineTuner) -> torch.optim.Optimizer:
    """Bring the model into training mode, onto its device; its optimizer, the one FineTuner configures."""
    module.model.to(work.job.machine.device).train()
    settings = module.training_settings
    groups = decay_groups(module.model, settings.weight_decay)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def train_step(
    work: Workspace, module: FineTuner, optimizer: torch.optim.Optimizer, pad_to: int | None, rows: Rows
) -> int:
    """One optimizer step on these examples; returns the tokens of the batch."""
    train, machine = work.data.splits["train"], work.job.machine
    batch = collate([train[row] for row in rows], work.data.pad_token_id, pad_to)
    batch = {name: tensor.to(machine.device) for name, tensor in batch.items()}
    mixed = machine.resolved_precision == "bf16-mixed"
    with torch.autocast(machine.device, torch.bfloat16, enabled=mixed):
        loss = torch.stack([weight * value for weight, value in module.loss_terms(batch).values()]).sum()
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(module.model.parameters(), module.training_settings.gradient_clip)
    optimizer.step()
    if not torch.isfinite(loss):
        raise LobertError(f"the loss is {loss.item()}: nothing can be said of the speed of broken training")
    return batch["input_ids"].numel()


def compare(name: str, sides: Sequence[Step], batches: Sequence[Rows], work: Workspace) -> Comparison:
    """Both sides on each batch in turn; the first WARM_UP batches are not counted."""
    device = torch.device(work.job.machine.device)
    say(f"{name}: {len(batches)} batches on each side")
    pairs = [[timed(partial(side, rows), device) for side in sides] for rows in batches][WARM_UP:]
    (lobert, lobert_tokens), (padded, padded_tokens) = (
        [list(column) for column in zip(*side, strict=True)] for side in zip(*pairs, strict=True)
    )
    return Comparison(name, [len(rows) for rows in batches[WARM_UP:]], lobert, padded, lobert_tokens, padded_tokens)


# ---- report ----


def report(comparison: Comparison) -> str:
    """A line for each side, and the ratios with their spread over the batches."""
    examples = comparison.examples
    sides = (
        ("lobert", comparison.lobert, comparison.lobert_tokens),
        ("padded", comparison.padded, comparison.padded_tokens),
    )
    speeds = {side: [n / s for n, s in zip(examples, seconds, strict=True)] for side, seconds, _ in sides}
    lines = [
        [f"{comparison.name}, {side}", spread(speeds[side], 1), f"{sum(tokens) / sum(examples):.1f}"]
        for side, _, tokens in sides
    ]
    ratios = [fast / slow for fast, slow in zip(speeds["lobert"], speeds["padded"], strict=True)]
    medians = median(speeds["lobert"]) / median(speeds["padded"])
    text = table(("side", "examples/s: median (min..max)", "tokens per example"), lines)
    pairs = f"per batch {spread(ratios, 2)}; all batches together {comparison.overall:.2f}"
    return f"{text}\n  ratio of medians {medians:.2f}; {pairs}"


def spread(values: Sequence[float], digits: int) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def options(group: str) -> list[str]:
    """The names of a configuration group."""
    return sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Examples per second of fine-tuning and of distillation.")
    parser.add_argument("--task", choices=options("task"), default="MRPC")
    parser.add_argument("--data-dir", type=Path, help="GLUE's files; without it LOBERT_DATA_DIR, else the hub")
    parser.add_argument("--encoder", choices=options("encoder"), default="minilm")
    parser.add_argument("--decomp", choices=options("decomp"), default="svd", help="compression of the student")
    parser.add_argument("--batches", type=int, default=12, help=f"measured on each side, after {WARM_UP} to warm up")
    chosen = parser.parse_args()
    if chosen.batches < 1:
        parser.error("--batches must be 1 or more")
    return chosen


def main() -> None:
    chosen = arguments()
    keep_freed_memory()  # as commands do
    hush_libraries()
    with tempfile.TemporaryDirectory() as outputs:
        work = workspace(chosen, outputs)
        job = work.job
        print(header_line(header(torch.device(job.machine.device))))
        print(f"{job.name}, batches of {job.student.batch_size}, {job.machine.resolved_precision}", flush=True)
        batches = batches_of(work, chosen.batches + WARM_UP)
        teacher, knowledge = Path(outputs) / "teacher", Path(outputs) / "knowledge"
        save_teacher(work, teacher)
        seconds = store_knowledge(work, teacher, batches, knowledge)
        print(report(compare_fine_tuning(work, teacher, batches)), flush=True)
        print(report(compare_distillation(work, teacher, knowledge, batches)))
        print(f"writing the knowledge, once per teacher: {sum(map(len, batches)) / seconds:.1f} examples/s")


if __name__ == "__main__":
    try:
        main()
    except LobertError as error:
        sys.exit(f"error: {error}")
