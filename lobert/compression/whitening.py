"""Any factorization in any norm: scale the tensor, factorize it, divide the scaling out of the factors.

With the square roots of a norm's metrics multiplied onto the tensor, the norm becomes the plain one. A factor can carry
the inverse of a metric that differs between slices only if it has their stack letters itself; metrics are averaged over
the other letters, and a mode that two factors share is scaled entry by entry. What was averaged is made up for by
alternating least squares in the norm itself (see `refine`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lobert.compression.objective import Goal, Norm, narrowed, trace
from lobert.compression.refine import affordable, refined
from lobert.compression.sketch import Sketch
from lobert.factorizations import Factorization, Rank
from lobert.factorizations.numerics import SMALLEST, square_root

FAITHFUL = 1e-6  # relative difference of a slice's norm from that of its scaled form, which rounding may make
PROBES = 3  # random tensors on which two norms are compared
SAME = 1e-7  # relative difference below which they agree


@dataclass(frozen=True)
class Scale:
    """One scaling of a tensor: its `letter` mode by a matrix, or its entries by numbers, and the factor that undoes it.

    `forward` and `inverse` have the modes `letters`; a matrix has the mode `letter` twice, as `letter` and `z`. That of
    a lower triangular matrix is left out: the factor is solved for, which takes a fraction of the time.
    """

    factor: int
    letters: str
    forward: Tensor
    inverse: Tensor | None

    def undone(self, modes: str, factor: Tensor) -> Tensor:
        """A factor with these modes, with the scaling divided out of it."""
        if self.inverse is not None:
            return torch.einsum(f"{modes},{self.letters}->{moved(modes, self.letters)}", factor, self.inverse)
        stack, letter = self.letters[:-2], self.letters[-2]
        order = stack + "".join(mode for mode in modes if mode not in stack + letter) + letter
        placed = factor.permute([modes.index(mode) for mode in order])
        rows = placed.reshape(*placed.shape[: len(stack)], -1, placed.shape[-1])
        found = torch.linalg.solve_triangular(self.forward, rows, upper=False, left=False)
        return found.reshape(placed.shape).permute([order.index(mode) for mode in modes])


def decompose_in_norm(method: Factorization, stack: str, tensor: Tensor, rank: Rank, norm: Norm | None) -> list[Tensor]:
    """Factors of `tensor [*stack, out, in]` with a small error in `norm`; None is the plain norm.

    Where no metric was averaged, the error is as small as the factorization makes it in the plain norm. Elsewhere that
    is where alternating least squares start. Not worse in `norm` than the plain decomposition, as far as the method
    knows what its iterations can gain.
    """
    if norm is None:
        return method.decompose(tensor, rank)
    equation = method.equation(stack)
    scales, goal = scaling(equation, stack, norm), Goal(tensor, norm)
    if stack and not is_faithful(norm, stack, scales):
        return decompose_averaged(method, stack, goal, rank, scales)
    found = unscaled_all(equation, method.decompose(scaled(tensor, stack, scales), rank), scales)
    if not stack:
        return found
    return min([found, method.decompose(tensor, rank)], key=lambda factors: goal.error_of(equation, factors))


def decompose_averaged(
    method: Factorization, stack: str, goal: Goal, rank: Rank, scales: Sequence[Scale]
) -> list[Tensor]:
    """Factors that are refined from the closer one of two closed forms: of the scaled tensor, and of the tensor itself.

    The plain decomposition is finished beside them only where it may be closer: where its closed form is not farther
    than the method makes up for, nor so far behind the other one that it stays there. The scaled tensor is one in
    single precision: what is refined from it does not depend on its last digits. Where a method has to end before it
    has found what it can, its errors are sketched: they would take a third of the time.
    """
    equation, tensor, shape = method.equation(stack), goal.tensor, tuple(goal.tensor.shape)
    whitened = scaled(tensor.float(), stack, scales).double()
    found, plain = method.closed_form(whitened, rank), method.closed_form(tensor, rank)
    error_of = goal.error_of if math.isinf(method.lead(shape)) else Sketch(stack, goal).error_of
    closed = unscaled_all(equation, found, scales)
    near, far = (error_of(equation, factors) for factors in (closed, plain))
    safe = far / method.gain(shape)  # no plain decomposition is closer
    can_refine, ahead = affordable(equation, stack, goal, found), near * method.lead(shape) <= far
    enough = 1.0 if can_refine else safe / min(near, far) if min(near, far) > 0 else 0.0
    if near <= far:
        begun = method.start(whitened, rank, found, enough)
        start = closed if begun is found else unscaled_all(equation, begun, scales)
    else:
        start = method.start(tensor, rank, plain, enough)
    if ahead and not can_refine:
        return start
    known = near if start is closed else far if start is plain else error_of(equation, start)
    best, error = refined(equation, stack, goal, start, known, error_of)
    if error <= safe or ahead:
        return best
    plain = method.finish(tensor, rank, plain)
    return best if error <= error_of(equation, plain) else plain


def is_faithful(norm: Norm, stack: str, scales: Sequence[Scale]) -> bool:
    """Whether every slice has the norm that its scaled form has; up to one factor for all slices.

    Two such forms that agree on random matrices of rank one are the same.
    """
    random = torch.Generator().manual_seed(0)
    for _ in range(PROBES):
        left, right = (
            torch.randn(metric.shape[:-1], dtype=metric.dtype, generator=random)
            for metric in (norm.outputs, norm.inputs)
        )
        wanted = quadratic(norm.outputs, left) * quadratic(norm.inputs, right)
        outer = applied(stack + "o", left, [scale for scale in scales if "i" not in scale.letters])
        inner = applied(stack + "i", right, [scale for scale in scales if "i" in scale.letters])
        found = outer.square().sum(-1) * inner.square().sum(-1)
        if not torch.allclose(wanted / wanted.sum(), found / found.sum(), rtol=FAITHFUL, atol=0.0):
            return False
    return True


def quadratic(metric: Tensor, vectors: Tensor) -> Tensor:
    """x M xᵀ of `vectors [..., n]` in metrics `[..., n, n]`."""
    return ((metric @ vectors.unsqueeze(-1)).squeeze(-1) * vectors).sum(-1)


def errors_in_norm(
    method: Factorization, stack: str, tensor: Tensor, ranks: Sequence[Rank], norm: Norm | None
) -> list[float]:
    """The squared error in `norm` that each of some ranks leaves; an estimate where metrics were averaged."""
    if norm is None:
        return method.squared_errors(stack, tensor, ranks)
    scales = scaling(method.equation(stack), stack, norm)
    return method.squared_errors(stack, scaled(tensor, stack, scales), ranks)


def lower_bound_in_norm(
    method: Factorization, stack: str, tensor: Tensor, rank: Rank, norm: Norm | None
) -> float | None:
    """No factors of this rank have a smaller squared error in `norm`; None where metrics were averaged.

    Where none was, the scaled tensor is the tensor in this norm, in a unit of its own.
    """
    if norm is None:
        return method.lower_bound(stack, tensor, rank)
    scales = scaling(method.equation(stack), stack, norm)
    unit = unit_of(scales, stack, norm, tensor.shape)
    return None if unit is None else method.lower_bound(stack, scaled(tensor, stack, scales), rank) / unit


def unit_of(scales: Sequence[Scale], stack: str, norm: Norm, shape: Sequence[int]) -> float | None:
    """The ratio of the squared norm of a scaled tensor to that in `norm`, where it is the same for all tensors.

    Two quadratic forms that agree, but for a factor, on random tensors are the same.
    """
    random = torch.Generator().manual_seed(0)
    probes = [torch.randn(shape, dtype=torch.float64, generator=random) for _ in range(PROBES)]
    units = [scaled(probe, stack, scales).square().sum().item() / norm.squared(probe) for probe in probes]
    return units[0] if max(units) <= min(units) * (1 + SAME) else None


def scaling(equation: str, stack: str, norm: Norm) -> list[Scale]:
    """The scalings that come closest to `norm` among those that the factors of `equation` can undo."""
    terms = equation.split("->")[0].split(",")
    scales, weights = [], slice_weights(norm)
    for letter, metric in (("i", norm.inputs), ("o", norm.outputs)):
        holders = [position for position, term in enumerate(terms) if letter in term]
        factor = max(holders, key=lambda p: sum(c in stack for c in terms[p]))
        letters = "".join(c for c in stack if c in terms[factor])
        metric = averaged(metric, stack, letters)
        if len(holders) == 1 and narrowed(metric) is metric:
            scales.append(matrix_scale(factor, letters, letter, metric))
        else:
            scales.append(diagonal_scale(factor, letters + letter, metric.diagonal(dim1=-2, dim2=-1)))
        weights = weights / spread(trace(metric), stack, letters)
    return scales + weight_scales(terms, stack, weights)


def slice_weights(norm: Norm) -> Tensor:
    """How much each slice matters, `[*stack]`: tr G · tr C."""
    return trace(norm.inputs) * trace(norm.outputs)


def spread(values: Tensor, stack: str, letters: str) -> Tensor:
    """`values` with the modes `letters`, as a tensor with all modes of the stack."""
    sizes = iter(values.shape)
    return values.reshape([next(sizes) if letter in letters else 1 for letter in stack])


def averaged(metric: Tensor, stack: str, letters: str) -> Tensor:
    """Mean over the stack modes that are not among `letters`."""
    others = [mode for mode, letter in enumerate(stack) if letter not in letters]
    return metric.mean(others) if others else metric


def diagonal_scale(factor: int, letters: str, diagonal: Tensor) -> Scale:
    """The roots of diagonal metrics, `[..., n]`, entry by entry."""
    roots = diagonal.clamp(min=diagonal.amax(-1, keepdim=True) * SMALLEST).sqrt()
    return Scale(factor, letters, roots, 1 / roots)


def matrix_scale(factor: int, letters: str, letter: str, metric: Tensor) -> Scale:
    """A root of a metric, whichever: no factorization minds a rotation."""
    return Scale(factor, letters + letter + "z", *square_root(metric))


def weight_scales(terms: Sequence[str], stack: str, weights: Tensor) -> list[Scale]:
    """What is left of the slices' weights, on the factors that have stack letters but neither o nor i."""
    scales = []
    for factor, term in enumerate(terms):
        letters = "".join(c for c in stack if c in term)
        if letters and not set("oi") & set(term):
            mean = averaged(weights, stack, letters)
            root = (mean / mean.mean()).sqrt()
            scales.append(Scale(factor, letters, root, 1 / root))
    return scales


def scaled(tensor: Tensor, stack: str, scales: Sequence[Scale]) -> Tensor:
    """The tensor after every scaling, in its own precision."""
    return applied(stack + "oi", tensor, scales)


def applied(modes: str, tensor: Tensor, scales: Sequence[Scale]) -> Tensor:
    """Every one of the scalings applied to a tensor that has their modes."""
    for scale in scales:
        equation = f"{modes},{scale.letters}->{moved(modes, scale.letters)}"
        tensor = torch.einsum(equation, tensor, scale.forward.to(tensor.dtype))
    return tensor


def unscaled_all(equation: str, factors: Sequence[Tensor], scales: Sequence[Scale]) -> list[Tensor]:
    """The factors of the tensor, from those of the scaled one."""
    return [unscaled(equation, position, factor, scales) for position, factor in enumerate(factors)]


def unscaled(equation: str, position: int, factor: Tensor, scales: Sequence[Scale]) -> Tensor:
    """A factor of the scaled tensor, with the scalings it is to undo divided out."""
    modes = equation.split("->")[0].split(",")[position]
    for scale in scales:
        if scale.factor == position:
            factor = scale.undone(modes, factor)
    return factor.contiguous()


def moved(modes: str, letters: str) -> str:
    """The modes after a scaling: a matrix `..xz` turns mode x into z, which stands in its place."""
    return modes.replace(letters[-2], "z") if letters.endswith("z") else modes
