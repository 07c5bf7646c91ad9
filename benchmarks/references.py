"""What LoBERT's factorizations replace, on one tensor: TensorLy for Tucker, gradient descent for FALCON."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorly
import torch
from common import say, timed
from tensorly.decomposition import tucker
from torch import Tensor, nn

from lobert.compression.plan import GroupPlan
from lobert.factorizations import factorization, relative_error

ORIGINAL_STEPS = 10_000
RATES = (0.1, 0.3, 1.0, 3.0, 10.0)  # learning rates tried, in units of 1 / the largest curvature at the start
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Reference:
    """Another method on the first tensor of a compression; `ours_*` are of the same tensor."""

    method: str
    seconds: float
    error: float
    ours_seconds: float
    ours_error: float


@dataclass(frozen=True)
class Descent:
    """How FALCON's reference is run: so many of its 10,000 steps; `balanced` factors start with equal norms."""

    steps: int
    balanced: bool


def refer(tensor: Tensor, plan: GroupPlan, ours: tuple[float, float], descent: Descent) -> Reference | None:
    """What `plan.factorization` replaces, on the same float32 tensor; None where there is no such method.

    `ours` are the seconds and the relative error of LoBERT's factors.
    """
    if plan.factorization == "tucker":
        say(f"  TensorLy on {list(tensor.shape)}, rank {list(plan.rank)}")
        return Reference("tensorly", *tensorly_tucker(tensor, plan), *ours)
    if plan.factorization == "falcon":
        say(f"  {descent.steps} steps of SGD on {list(tensor.shape)}")
        return Reference(f"sgd, {descent.steps} steps", *falcon_descent(tensor, plan, descent), *ours)
    return None


@torch.no_grad()
def tensorly_tucker(tensor: Tensor, plan: GroupPlan) -> tuple[float, float]:
    """Seconds and relative error of TensorLy's Tucker decomposition."""
    with tensorly.backend_context("pytorch"):
        seconds, (core, factors) = timed(lambda: tucker(tensor, rank=list(plan.rank)), CPU)
    return seconds, error_of(tensor, plan, [core, *(factor.T for factor in factors)])


def falcon_descent(tensor: Tensor, plan: GroupPlan, descent: Descent) -> tuple[float, float]:
    """Seconds of the original's 10,000 steps, extrapolated from `descent.steps`, and the error after `descent.steps`.

    Of the runs with each of RATES, the one with the smallest error counts.
    """
    runs = {rate: descend(tensor, plan, rate, descent) for rate in RATES}
    say("  errors by learning rate: " + ", ".join(f"{rate:g}: {error:.4f}" for rate, (_, error) in runs.items()))
    seconds, error = min(runs.values(), key=lambda run: run[1] if math.isfinite(run[1]) else math.inf)
    return seconds * ORIGINAL_STEPS / descent.steps, error


def descend(tensor: Tensor, plan: GroupPlan, rate: float, descent: Descent) -> tuple[float, float]:
    """Seconds and relative error of SGD on the squared error, from random factors of the tensor's own magnitude."""
    rows, columns = tensor.shape[0], tensor[0, 0].numel()  # of the matrices that have rank 1
    tilt = (columns / rows) ** 0.25 if descent.balanced else 1.0
    scale = tensor.square().mean().sqrt().item()
    random = torch.Generator().manual_seed(0)
    small = nn.Parameter(torch.randn(tensor.shape[:2], generator=random) * scale**0.5 * tilt)
    large = nn.Parameter(torch.randn(tensor.shape[1:], generator=random) * scale**0.5 / tilt)
    curvature = 2 * scale * max(rows * tilt**2, columns / tilt**2)
    optimizer = torch.optim.SGD([small, large], lr=rate / curvature)

    def step() -> None:
        optimizer.zero_grad()
        product = small.reshape(*small.shape, *[1] * (tensor.dim() - 2)) * large
        (tensor - product).square().sum().backward()
        optimizer.step()

    seconds, _ = timed(lambda: repeat(step, descent.steps), CPU)
    return seconds, error_of(tensor, plan, [small.detach()[None], large.detach()[None]])


def repeat(step: Callable[[], None], times: int) -> None:
    for _ in range(times):
        step()


def error_of(tensor: Tensor, plan: GroupPlan, factors: Sequence[Tensor]) -> float:
    """Relative Frobenius error, summed in double precision."""
    equation = factorization(plan.factorization).equation(plan.stack)
    return relative_error(tensor.double(), equation, [factor.double() for factor in factors])
