"""Seconds, error and error over bound of every compression on an encoder of BERT-base's size, in every norm.

    python benchmarks/decompose.py [--only svd tucker_4d] [--objective weights loss] [--references] [--output FILE]

Timed is what a compression does after calibration: from float64 weights and metrics to float64 factors. With
`--references`, which are slow, the first tensor of each Tucker and FALCON compression goes to what these replace, too.
"""

import argparse
import json
import math
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import torch
from common import header, header_line, say, table, timed
from generated import synthetic_encoder, synthetic_statistics
from references import CPU, Descent, Reference, error_of, refer
from transformers import BertModel

from lobert.compression.compress import norm_of, ratio, stack_weights
from lobert.compression.objective import Objective, ObjectiveName
from lobert.compression.plan import GroupPlan, make_plan
from lobert.compression.points import named_parts
from lobert.compression.statistics import Statistics
from lobert.compression.whitening import decompose_in_norm, lower_bound_in_norm
from lobert.errors import LobertError
from lobert.factorizations import factorization, reconstruct
from lobert.paths import conf_dir
from lobert.startup import keep_freed_memory
from lobert.storage.artefacts import write_atomic

OBJECTIVES = get_args(ObjectiveName)


@dataclass(frozen=True)
class Run:
    """One tensor: what its factors took and left; `seconds` and `processor_seconds` of all threads together."""

    seconds: float
    processor_seconds: float
    squared_norm: float
    squared_error: float
    squared_bound: float | None


@dataclass(frozen=True)
class Row:
    """One compression of the whole encoder in one norm; errors are of all its tensors together.

    Attributes:
        rank: of the first tensor.
        error: relative to the norm of the weights.
        over_bound: error over the lower bound on it; None where there is none, or 0.
    """

    compression: str
    objective: str
    tensors: int
    rank: list[int]
    keep: float
    seconds: float
    processor_seconds: float
    error: float
    over_bound: float | None
    reference: Reference | None


@dataclass(frozen=True)
class Bench:
    """The encoder, its statistics, and what is to be measured beside time and error."""

    model: BertModel
    statistics: Statistics
    bounds: bool
    descent: Descent | None


def points() -> list[str]:
    """The compressions in conf/decomp: all but the original names of some of them."""
    files = sorted((conf_dir() / "decomp").glob("*.yaml"))
    return [path.stem for path in files if path.stem != "none" and "# the original name of" not in path.read_text()]


def measure(bench: Bench, name: str, kind: ObjectiveName) -> Row:
    """One compression in one norm, with its reference in the norm of the weights."""
    plans, objective = make_plan(bench.model, named_parts(name)), Objective(kind)
    say(f"{name}, {kind}: {len(plans)} of {list(plans[0].shape)}")
    runs = [decompose(bench, plan, objective) for plan in plans]
    error, whole = sum(run.squared_error for run in runs), sum(run.squared_norm for run in runs)
    bounds = [run.squared_bound for run in runs if run.squared_bound is not None]
    bound = sum(bounds) if len(bounds) == len(runs) else 0.0
    return Row(
        compression=name,
        objective=kind,
        tensors=len(plans),
        rank=list(plans[0].rank),
        keep=sum(plan.parameters for plan in plans) / sum(plan.dense_parameters for plan in plans),
        seconds=sum(run.seconds for run in runs),
        processor_seconds=sum(run.processor_seconds for run in runs),
        error=math.sqrt(ratio(error, whole)),
        over_bound=math.sqrt(error / bound) if bound > 0 else None,
        reference=reference(bench, plans[0]) if kind == "weights" else None,
    )


def decompose(bench: Bench, plan: GroupPlan, objective: Objective) -> Run:
    """LoBERT's factors of one tensor."""
    tensor, method = stack_weights(bench.model, plan), factorization(plan.factorization)
    norm = norm_of(bench.model, plan, objective, bench.statistics)
    started = time.process_time()
    seconds, factors = timed(lambda: decompose_in_norm(method, plan.stack, tensor, plan.rank, norm), CPU)
    processor_seconds = time.process_time() - started
    lost = tensor - reconstruct(method.equation(plan.stack), factors)
    bound = lower_bound_in_norm(method, plan.stack, tensor, plan.rank, norm) if bench.bounds else None
    left, whole = (x.square().sum().item() if norm is None else norm.squared(x) for x in (lost, tensor))
    return Run(seconds, processor_seconds, whole, left, bound)


def reference(bench: Bench, plan: GroupPlan) -> Reference | None:
    """What the compression replaces, on its first tensor, beside LoBERT on the same."""
    if bench.descent is None:
        return None
    tensor, method = stack_weights(bench.model, plan), factorization(plan.factorization)
    seconds, factors = timed(lambda: method.decompose(tensor, plan.rank), CPU)
    return refer(tensor.float(), plan, (seconds, error_of(tensor, plan, factors)), bench.descent)


def warm_up() -> None:
    """Have the solvers loaded and the threads started before anything is timed."""
    for name, shape in (("svd", (64, 64)), ("falcon", (3, 64, 64)), ("tucker", (3, 64, 64)), ("cp", (3, 64, 64))):
        method = factorization(name)
        method.decompose(torch.rand(shape, dtype=torch.float64), method.scaled_rank(shape, 2, method.full_rank(shape)))


# ---- report ----

TITLES = ("compression", "norm of", "tensors", "rank", "kept %", "seconds", "CPU s", "error", "/ bound")
REFERENCE_TITLES = ("compression", "reference", "its s/tensor", "ours s/tensor", "ratio", "error diff.")


def cells(row: Row) -> list[str]:
    """One line of the table."""
    size = [str(row.tensors), "x".join(map(str, row.rank)), f"{100 * row.keep:.1f}"]
    time_taken = [f"{row.seconds:.2f}", f"{row.processor_seconds:.2f}"]
    over_bound = "-" if row.over_bound is None else f"{row.over_bound:.4f}"
    return [row.compression, row.objective, *size, *time_taken, f"{row.error:.4f}", over_bound]


def reference_cells(name: str, other: Reference) -> list[str]:
    """One line of the second table; `error diff.` is the reference's less ours."""
    speed = [f"{other.seconds:.2f}", f"{other.ours_seconds:.3f}", f"{other.seconds / other.ours_seconds:.1f}"]
    return [name, other.method, *speed, f"{other.error - other.ours_error:+.1e}"]


def report(rows: list[Row]) -> None:
    print(table(TITLES, [cells(row) for row in rows]))
    print(f"slowest: {max(row.seconds for row in rows):.2f} s; all: {sum(row.seconds for row in rows):.2f} s")
    compared = [reference_cells(row.compression, row.reference) for row in rows if row.reference]
    if compared:
        print(table(REFERENCE_TITLES, compared))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="All compressions in all norms: seconds, errors, errors over bounds.")
    parser.add_argument("--only", nargs="+", choices=points(), default=points(), help="instead of all compressions")
    parser.add_argument("--objective", nargs="+", choices=OBJECTIVES, default=OBJECTIVES, help="instead of all norms")
    parser.add_argument("--skip-bounds", action="store_true", help="time and error alone")
    parser.add_argument("--references", action="store_true", help="TensorLy and SGD beside Tucker and FALCON: minutes")
    parser.add_argument("--sgd-steps", type=int, default=300, help="of the 10,000 of FALCON's reference")
    parser.add_argument("--balanced-start", action="store_true", help="start FALCON's reference from equal norms")
    parser.add_argument("--layers", type=int, default=12, help="of the encoder")
    parser.add_argument("--hidden", type=int, default=768, help="hidden size; the FFN has four times as much")
    parser.add_argument("--vocabulary", type=int, default=30_522, help="rows of the table of word embeddings")
    parser.add_argument("--output", type=Path, help="write everything to this file as JSON, too")
    chosen = parser.parse_args()
    for name in ("sgd_steps", "layers", "hidden", "vocabulary"):
        if getattr(chosen, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be 1 or more")
    return chosen


def main() -> None:
    chosen = arguments()
    keep_freed_memory()  # as commands do
    facts = header(CPU)
    print(header_line(facts), flush=True)
    say(f"weights of {chosen.layers} layers of {chosen.hidden}")
    model = synthetic_encoder(chosen.layers, chosen.hidden, chosen.vocabulary)
    descent = Descent(chosen.sgd_steps, chosen.balanced_start) if chosen.references else None
    bench = Bench(model, synthetic_statistics(model), not chosen.skip_bounds, descent)
    warm_up()
    rows = [measure(bench, name, kind) for name in chosen.only for kind in chosen.objective]
    report(rows)
    if chosen.output:
        sizes = {name: getattr(chosen, name) for name in ("layers", "hidden", "vocabulary", "balanced_start")}
        content = {**facts, **sizes, "rows": [asdict(row) for row in rows]}
        write_atomic(chosen.output, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except LobertError as error:
        sys.exit(f"error: {error}")
