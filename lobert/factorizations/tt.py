"""Tensor train: one small tensor per mode, each sharing a rank with the next."""

import math
from itertools import pairwise

import torch
from torch import Tensor

from lobert.errors import LobertError
from lobert.factorizations.base import MODES, Factorization, Rank, RankSetting, Shape, bracketed
from lobert.factorizations.numerics import truncated_svd


class TensorTrain(Factorization):
    """`sa,alb,boc,ci->sloi` on `[3, L, d, d]`, `la,aob,bi->loi` on `[L, d, d]`, by one truncated SVD per rank.

    The error is within a factor sqrt(ranks) of the best one (Oseledets, 2011).
    """

    name = "tt"

    def equation(self, stack: str) -> str:
        if not stack:
            raise LobertError("tt of a single matrix is its SVD: use svd, or stack roles or layers")
        modes = [letter for letter in MODES if letter in stack + "oi"]
        links = ["", *"abc"[: len(modes) - 1], ""]
        terms = [left + mode + right for (left, right), mode in zip(pairwise(links), modes, strict=True)]
        return f"{','.join(terms)}->{''.join(modes)}"

    def full_rank(self, shape: Shape) -> Rank:
        return useful_rank(shape, (math.prod(shape),) * (len(shape) - 1))

    def resolve_rank(self, shape: Shape, setting: RankSetting) -> Rank:
        """As for every factorization; a rank that its neighbours leave unused is refused too."""
        rank = super().resolve_rank(shape, setting)
        useful = useful_rank(shape, rank)
        if rank != useful:
            raise LobertError(
                f"rank={bracketed(rank)} is impossible: on {list(shape)} tt can use {bracketed(useful)}: type that"
            )
        return rank

    def scaled_rank(self, shape: Shape, size: int, default: Rank) -> Rank:
        """The last rank grows beside the default ones of the stack; once it is full, they grow, the later one first."""
        full, rank, more = self.full_rank(shape), [*default[:-1], 0], size
        for link in reversed(range(len(rank))):
            grown = min(full[link], rank[link] + more)
            rank[link], more = grown, more - (grown - rank[link])
        return useful_rank(shape, tuple(rank))

    def useful(self, shape: Shape, rank: Rank) -> Rank:
        return useful_rank(shape, rank)

    def dial_length(self, shape: Shape, default: Rank) -> int:
        return sum(self.full_rank(shape)) - sum(default[:-1])

    def decompose(self, tensor: Tensor, rank: Rank) -> list[Tensor]:
        factors, rest, root = [], tensor.unsqueeze(0), tensor.new_ones(1)  # rest [rank before, mode, ...]
        for width in rank:
            before, size, *after = rest.shape
            left, right = truncated_svd(rest.reshape(before * size, -1), width)  # each has half of the singular values
            factors.append(left.reshape(before, size, width) / root[:, None, None])
            root = right.norm(dim=1)
            root = torch.where(root > 0, root, 1.0)
            rest = (right * root.unsqueeze(1)).reshape(width, *after)
        factors = [factors[0].squeeze(0), *factors[1:], rest / root.unsqueeze(1)]
        return [factor.contiguous() for factor in factors]


def useful_rank(shape: Shape, rank: Rank) -> Rank:
    """The largest ranks, none above `rank`, of which each fits the two tensors it joins: b <= a l and a <= l b."""
    useful = list(rank)
    for link in range(len(useful)):
        useful[link] = min(useful[link], shape[link] * (useful[link - 1] if link else 1))
    for link in reversed(range(len(useful))):
        useful[link] = min(useful[link], shape[link + 1] * (useful[link + 1] if link + 1 < len(useful) else 1))
    return tuple(useful)
