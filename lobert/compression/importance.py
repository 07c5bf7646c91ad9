"""How much each token counts: as much as a change of what a layer makes of it matters to the loss.

The error of a weight is E[(gᵀ D x)²] over tokens, with D what the weight lacks, x its input and g the gradient at its
output. K-FAC (Martens and Grosse, 2015) takes g and x as independent, but they are not: in the last layers hardly any
token but [CLS] has a gradient at all. So the moments of x are taken over tokens that count by the length of their g, in
the mean over the first tokens, which a classifier reads, or over all the others, of a batch: what single
tokens have beyond that is the calibration's own, and no text that comes later has it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lobert.errors import LobertError

# By the square of the length, as the error has it, a few tokens of a few hundred examples would be all that counts.
POWER = 1
# Of the mean weight, on every token's: a few hundred [CLS] do not span the inputs of the last layers, and the other
# tokens tell what else may come.
FLOOR = 0.3


def call_weights(
    read: Sequence[Tensor], own: Sequence[int], lengths: Tensor, mask: Tensor
) -> list[Tensor]:  # each [B, T, in] or [B, in]; [B, tokens]; [B, T]
    """The weight of every vector that each call of a linear read, `[vectors]` for each.

    `lengths` are those of the gradients of all calls `own`, one after the other; what the examples share counts as
    their average token.
    """
    sizes = [read[number].shape[1] if read[number].dim() == 3 else 1 for number in own]
    parts = zip(own, (lengths**POWER).split(sizes, 1), strict=True)
    weights = {n: by_place(part, mask)[mask] if read[n].dim() == 3 else alike(part[:, 0]) for n, part in parts}
    mean = torch.cat(list(weights.values())).mean()
    weights = {n: weight + FLOOR * mean for n, weight in weights.items()}
    whole = (1 + FLOOR) * mean
    return [weights[n] if n in weights else even_weights(x, mask) * whole for n, x in enumerate(read)]


def by_place(lengths: Tensor, mask: Tensor) -> Tensor:  # [B, T], [B, T] -> [B, T]
    """For the first token of every text the mean over these, for every other one the mean over the others."""
    first = mask & (mask.cumsum(-1) == 1)
    places = torch.zeros_like(lengths)
    for place in (first, mask & ~first):
        places[place] = alike(lengths[place])
    return places


def alike(lengths: Tensor) -> Tensor:
    """Their mean, for each."""
    return lengths.mean().expand_as(lengths)


def even_weights(x: Tensor, mask: Tensor) -> Tensor:
    """One for every vector of an input; for those that all examples share, so that they count as much as the tokens.

    An attention score of DeBERTa takes a token and a relative position on either side, one of each.
    """
    if is_own(x, mask):
        return torch.ones(len(real_tokens(x, mask)), device=x.device)
    rows = x.flatten(0, -2).shape[0]
    return torch.full((rows,), mask.sum().item() / rows, device=x.device)


def is_own(x: Tensor, mask: Tensor) -> bool:
    """Whether an input has the vectors of each example, and not some that all share, as the relative positions are."""
    return x.shape[:2] == mask.shape if x.dim() == 3 else len(x) == len(mask)


def real_tokens(x: Tensor, mask: Tensor) -> Tensor:  # [B, T, in] -> [tokens, in]
    """The vectors of real tokens; a tensor `[B, in]` has one vector for each example already."""
    return x[mask] if x.dim() == 3 and is_own(x, mask) else x.flatten(0, -2)


@dataclass
class Reader:
    """Hands out the importance of the vectors of each path in the order in which they were calibrated."""

    importance: Mapping[str, Tensor]
    position: dict[str, int] = field(default_factory=dict)

    def take(self, path: str, like: Tensor) -> Tensor:
        """The weights of the next vectors of a path, as many as `like [vectors, in]` has, on its device.

        Raises LobertError where calibration saw fewer.
        """
        start = self.position.get(path, 0)
        weights = self.importance[path][start : start + len(like)]
        if len(weights) < len(like):
            raise LobertError(f"'{path}' reads more tokens than calibration saw: give the examples it was made from")
        self.position[path] = start + len(like)
        return weights.to(like)
