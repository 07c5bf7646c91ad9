"""How long a forward pass takes, of the student beside its teacher: in turn, so that a drift of the machine cancels."""

import time
from collections.abc import Mapping
from statistics import median, quantiles

import torch
from torch import Tensor, nn

from lobert.distill.knowledge import model_inputs
from lobert.results.record import Latency

MOST_ROUNDS, FEWEST_ROUNDS = 15, 5
WARM_UP = 1  # rounds that are not counted
ENOUGH_SECONDS = 3.0


@torch.no_grad()
def measure_latency(teacher: nn.Module, student: nn.Module, batch: Mapping[str, Tensor]) -> Latency:
    """Time both on one batch with `input_ids` `[B, T]` (`[B, options, T]`), on the student's device."""
    device = next(student.parameters()).device
    models = [model.to(device).eval() for model in (teacher, student)]
    inputs = [{name: tensor.to(device) for name, tensor in model_inputs(model, batch).items()} for model in models]
    pairs: list[tuple[float, float]] = []
    for _ in range(WARM_UP):
        for model, given in zip(models, inputs, strict=True):
            model(**given)
    started = time.perf_counter()
    while len(pairs) < FEWEST_ROUNDS or (len(pairs) < MOST_ROUNDS and time.perf_counter() - started < ENOUGH_SECONDS):
        before, after = (milliseconds(model, given) for model, given in zip(models, inputs, strict=True))
        pairs.append((before, after))
    theirs, mine = zip(*pairs, strict=True)
    rows, *_, length = batch["input_ids"].shape
    return Latency(
        student_ms=median(mine),
        teacher_ms=median(theirs),
        student_spread_ms=spread(mine),
        teacher_spread_ms=spread(theirs),
        ratio=median(after / before for before, after in pairs),
        batch=rows,
        length=length,
        rounds=len(pairs),
    )


def milliseconds(model: nn.Module, inputs: Mapping[str, Tensor]) -> float:
    """Wall-clock time of one forward pass."""
    synchronize()
    start = time.perf_counter()
    model(**inputs)
    synchronize()
    return 1000 * (time.perf_counter() - start)


def synchronize() -> None:
    """Wait for what the GPU still computes."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def spread(values: tuple[float, ...]) -> float:
    """Distance between the quartiles."""
    low, _, high = quantiles(values, n=4)
    return high - low
