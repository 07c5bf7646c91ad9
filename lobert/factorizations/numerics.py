"""Linear algebra that the factorizations share, in double precision but where rougher is asked for: Gram matrices,
eigenvectors, truncated SVD.

Singular vectors come from the Gram matrix of the smaller side: on the wide unfoldings met here that is tens of times
faster than a thin SVD. It squares the condition number, which float64 affords: the discarded energy is exact to about
1e-16 of the total.
"""

import logging
import math

import torch
from torch import Tensor

log = logging.getLogger(__name__)

SMALLEST = 1e-15  # of the largest eigenvalue of a matrix: below it there is nothing but rounding
PANEL = 192  # columns of a Gram matrix computed at a time


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (ascending) and eigenvectors of symmetric matrices `[..., n, n]`.

    Where the default solver does not converge, an SVD takes its place and a warning says so.
    """
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except torch.linalg.LinAlgError as error:
        log.warning("eigh did not converge (%s); using an SVD instead, which is slower", error)
        left, values, _ = torch.linalg.svd(matrix)
        values, vectors = values.flip(-1), left.flip(-1)
    return values, vectors


def square_root(metric: Tensor) -> tuple[Tensor, Tensor | None]:
    """A root R of positive semidefinite matrices M = R Rᵀ `[..., n, n]`, and its inverse, None for a triangular one.

    All roots differ by rotations. The Cholesky factor takes a tenth of the time of the eigenvectors, which are left for
    matrices without one.
    """
    root, failed = torch.linalg.cholesky_ex(metric)
    if not failed.any():
        return root, None
    values, vectors = eigh(metric)
    roots = values.clamp(min=values.amax(-1, keepdim=True) * SMALLEST).sqrt()
    return vectors * roots[..., None, :], (vectors / roots[..., None, :]).mT


def leading_eigenvectors(gram: Tensor, rank: int) -> Tensor:
    """The `rank` leading eigenvectors of `gram [..., n, n]`, as columns `[..., n, rank]`, largest first.

    They have the precision of `gram`.
    """
    return eigh(gram)[1][..., -rank:].flip(-1)


def mode_gram(tensor: Tensor, mode: int) -> Tensor:
    """Gram matrix `[n, n]` of the unfolding along `mode`, summed block by block without a transposed copy."""
    return mirrored(lower_gram(tensor, mode))


def mirrored(lower: Tensor) -> Tensor:
    """The symmetric matrix `[n, n]` with this lower triangle."""
    return lower.tril() + lower.tril(-1).T


def lower_gram(tensor: Tensor, mode: int) -> Tensor:
    """The lower triangle of a Gram matrix `[n, n]`, half the work; what is above it means nothing."""
    size, after = tensor.shape[mode], math.prod(tensor.shape[mode + 1 :])
    blocks = tensor.reshape(1, -1, size).mT if after == 1 else tensor.reshape(-1, size, after)
    gram = tensor.new_zeros(size, size)
    for block in blocks:
        for start in range(0, size, PANEL):
            panel = slice(start, start + PANEL)
            gram[start:, panel].addmm_(block[start:], block[panel].T)
    return gram


def mode_product(tensor: Tensor, matrix: Tensor, mode: int) -> Tensor:
    """Multiply the unfolding of `tensor` along `mode` (size n) by `matrix [m, n]`: that mode gets size m."""
    shape = list(tensor.shape)
    after = math.prod(shape[mode + 1 :])
    shape[mode] = matrix.shape[0]
    if after == 1:
        return (tensor.reshape(-1, matrix.shape[1]) @ matrix.T).reshape(shape)
    return torch.matmul(matrix, tensor.reshape(-1, matrix.shape[1], after)).reshape(shape)


def rounded(tensor: Tensor) -> Tensor:
    """The tensor in single precision if nothing is lost by it: weights come from there, and are searched twice as fast.

    What was computed in double precision, as a tensor in the norm of ill-conditioned covariances, stays in it.
    """
    single = tensor.float()
    return single if torch.equal(single.double(), tensor) else tensor


def squared_singular_values(matrix: Tensor) -> Tensor:
    """Of `matrix [..., m, n]`, largest first, `[..., min(m, n)]`."""
    gram = matrix @ matrix.mT if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT @ matrix
    return torch.linalg.eigvalsh(gram).flip(-1).clamp(min=0)


def dropped(energies: Tensor) -> Tensor:
    """Of `energies [k]`, what is left after the first 0, 1, ..., k of them, `[k + 1]`."""
    tails = energies.flip(0).cumsum(0).flip(0)
    return torch.cat([tails, tails.new_zeros(1)])


def truncated_svd(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Best factors `left [..., m, r]`, `right [..., r, n]` of `matrix [..., m, n]` (Eckart and Young, 1936).

    The singular values are split evenly, so both factors have the same norm: gradient steps then act alike on both.
    """
    if matrix.shape[-2] > matrix.shape[-1]:
        right, left = truncated_svd(matrix.mT, rank)
        return left.mT, right.mT
    left = leading_eigenvectors(matrix @ matrix.mT, rank)
    right = left.mT @ matrix
    root = right.norm(dim=-1, keepdim=True).sqrt()
    root = torch.where(root > 0, root, torch.ones_like(root))
    return left * root.mT, right / root
