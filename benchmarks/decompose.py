"""Seconds and error of the nine compressions, or others, on an encoder of BERT-base's size, beside what they replace.

    python benchmarks/decompose.py [--only svd tucker_4d] [--skip-references] [--output FILE]

Ours is timed from float32 weights to float32 factors. The references get the same tensor in float32: for Tucker,
TensorLy's `tucker` with its default settings; for FALCON, 10,000 steps of SGD from random factors, as in the original.
They are slow, so each runs on the first tensor of a compression only, and is compared with ours on that tensor.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tensorly
import torch
from common import header, header_line, say, table, timed
from tensorly.decomposition import tucker
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from lobert.artefacts import write_atomic
from lobert.compression.compress import stack_weights
from lobert.compression.plan import GroupPlan, make_plan
from lobert.compression.points import named_parts
from lobert.errors import LobertError
from lobert.factorizations import factorization, relative_error
from lobert.roles import find_weights, linear_at

COMPRESSIONS = (
    "svd", "tucker_layer", "falcon_layer", "tucker_vertical", "falcon_vertical",
    "tucker_4d", "falcon_4d", "ffn_svd", "ffn_tucker",
)  # fmt: skip
MORE = ("all_tucker",)
ROLES = (("query", "key", "value"), ("intermediate",), ("output",), ("attention_output",))  # each shares a component
DECAY = 0.5  # singular values fall like k ** -DECAY
SPREAD = 0.04  # standard deviation of the weights, about that of BERT's
UNEVEN = 1.6  # ratio of the largest to the smallest standard deviation among weights of a role, as MiniLM's values have
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


@dataclass(frozen=True)
class Row:
    """One compression of the whole encoder; `error` is the relative Frobenius error of all its tensors together."""

    compression: str
    tensors: int
    rank: list[int]  # of the first tensor
    keep: float
    seconds: float
    error: float
    reference: Reference | None


# ---- weights ----


def synthetic_encoder(layers: int, hidden: int) -> BertModel:
    """A BERT whose weights have decaying spectra, and something in common through layers and roles."""
    sizes = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers}
    model = BertModel(BertConfig(**sizes, vocab_size=8, max_position_embeddings=8, num_attention_heads=1))
    random = torch.Generator().manual_seed(0)
    for roles in ROLES:
        fill(model, roles, random)
    return model


@torch.no_grad()
def fill(model: nn.Module, roles: Sequence[str], random: torch.Generator) -> None:
    """Each weight is the sum of four components: everybody's, its role's, its layer's and its own.

    Its strength is its own, too: among weights of equal strength no choice of leading layers is better than another,
    and alternating least squares wander on that plateau, which they do not on real weights.
    """
    places = find_weights(model, list(roles))
    shape = linear_at(model, next(iter(places.values()))).weight.shape
    common = component(shape, random)
    by_role = {role: component(shape, random) for role, _ in places}
    by_layer = {layer: component(shape, random) for _, layer in places}
    for (role, layer), path in places.items():
        weight = common + by_role[role] + by_layer[layer] + component(shape, random)
        strength = UNEVEN ** (torch.rand((), generator=random) - 0.5)
        linear_at(model, path).weight.copy_(weight * (SPREAD * strength / weight.std()))


def component(shape: torch.Size, random: torch.Generator) -> Tensor:
    """Random singular vectors and singular values `k ** -DECAY`, `[out, in]`."""
    size = min(shape)
    left, right = (nn.init.orthogonal_(torch.empty(length, size), generator=random) for length in shape)
    return (left * torch.arange(1, size + 1) ** -DECAY) @ right.T


# ---- ours ----


def measure(model: nn.Module, name: str, descent: Descent | None) -> Row:
    """One compression, and its reference unless `descent` is None."""
    plans = make_plan(model, named_parts(name))
    say(f"{name}: {len(plans)} of {list(plans[0].shape)}")
    runs = [decompose(stack_weights(model, plan), plan) for plan in plans]
    norms = [stack_weights(model, plan).norm().item() for plan in plans]
    energy = sum((error * norm) ** 2 for (_, error), norm in zip(runs, norms, strict=True))
    return Row(
        compression=name,
        tensors=len(plans),
        rank=list(plans[0].rank),
        keep=sum(plan.parameters for plan in plans) / sum(plan.dense_parameters for plan in plans),
        seconds=sum(seconds for seconds, _ in runs),
        error=math.sqrt(energy / sum(norm**2 for norm in norms)),
        reference=None if descent is None else refer(stack_weights(model, plans[0]), plans[0], runs[0], descent),
    )


def decompose(tensor: Tensor, plan: GroupPlan) -> tuple[float, float]:
    """Seconds and relative error of our factors of one tensor."""
    method = factorization(plan.factorization)
    seconds, factors = timed(lambda: [f.float() for f in method.decompose(tensor.double(), plan.rank)], CPU)
    return seconds, error_of(tensor, plan, factors)


def warm_up() -> None:
    """Have the solvers loaded and the threads started before anything is timed."""
    for name, shape in (("svd", (64, 64)), ("falcon", (3, 64, 64)), ("tucker", (3, 64, 64))):
        method = factorization(name)
        method.decompose(torch.rand(shape, dtype=torch.float64), method.full_rank(shape))


def error_of(tensor: Tensor, plan: GroupPlan, factors: Sequence[Tensor]) -> float:
    """Relative Frobenius error, summed in double precision."""
    equation = factorization(plan.factorization).equation(plan.stack)
    return relative_error(tensor.double(), equation, [factor.double() for factor in factors])


# ---- references ----


def refer(tensor: Tensor, plan: GroupPlan, ours: tuple[float, float], descent: Descent) -> Reference | None:
    """What `plan.factorization` replaces, on the same tensor; None for SVD, which is a library call anywhere."""
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


# ---- report ----

TITLES = (
    "compression", "tensors", "rank", "kept %", "seconds", "error",
    "reference", "its s/tensor", "ours s/tensor", "ratio", "error diff.",
)  # fmt: skip


def cells(row: Row) -> list[str]:
    """One line of the table; the last four columns are of one tensor, `error diff.` is reference less ours."""
    size = [row.compression, str(row.tensors), "x".join(map(str, row.rank)), f"{100 * row.keep:.1f}"]
    mine = [f"{row.seconds:.2f}", f"{row.error:.4f}"]
    other = row.reference
    if other is None:
        return [*size, *mine, *["-"] * 5]
    speed = [f"{other.seconds:.2f}", f"{other.ours_seconds:.3f}", f"{other.seconds / other.ours_seconds:.1f}"]
    return [*size, *mine, other.method, *speed, f"{other.error - other.ours_error:+.1e}"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The nine compressions, and what they replace: seconds and errors.")
    parser.add_argument("--only", nargs="+", choices=COMPRESSIONS + MORE, default=COMPRESSIONS, help="not all nine")
    parser.add_argument("--skip-references", action="store_true", help="ours alone: seconds instead of many minutes")
    parser.add_argument("--sgd-steps", type=int, default=300, help="of the 10,000 of FALCON's reference")
    parser.add_argument("--balanced-start", action="store_true", help="start FALCON's reference from equal norms")
    parser.add_argument("--layers", type=int, default=12, help="of the encoder")
    parser.add_argument("--hidden", type=int, default=768, help="hidden size; the FFN has four times as much")
    parser.add_argument("--output", type=Path, help="write everything to this file as JSON, too")
    chosen = parser.parse_args()
    for name in ("sgd_steps", "layers", "hidden"):
        if getattr(chosen, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be 1 or more")
    return chosen


def main() -> None:
    chosen = arguments()
    facts = header(CPU)
    print(header_line(facts), flush=True)
    say(f"weights of {chosen.layers} layers of {chosen.hidden}")
    model = synthetic_encoder(chosen.layers, chosen.hidden)
    warm_up()
    descent = None if chosen.skip_references else Descent(chosen.sgd_steps, chosen.balanced_start)
    rows = [measure(model, name, descent) for name in chosen.only]
    total = sum(row.seconds for row in rows)
    print(table(TITLES, [cells(row) for row in rows]))
    print(f"total of {len(rows)}: {total:.2f} s")
    if chosen.output:
        sizes = {"layers": chosen.layers, "hidden": chosen.hidden, "balanced_start": chosen.balanced_start}
        content = {**facts, **sizes, "total_seconds": total, "rows": [asdict(row) for row in rows]}
        write_atomic(chosen.output, json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except LobertError as error:
        sys.exit(f"error: {error}")
