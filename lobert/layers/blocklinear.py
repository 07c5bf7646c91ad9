"""The layer whose weight is cut into blocks: each is a slice of some group, or has stayed dense."""

from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

from lobert.layers.blocks import Axis, Block
from lobert.layers.factored import FactoredLinear


class BlockLinear(nn.Module):
    """Stands where an nn.Linear stood whose weight is cut into equal blocks of rows or of columns, with its bias.

    Row blocks read the same input, and their outputs stand side by side; column blocks read their part of the input
    each, and their outputs add up. The blocks have no bias of their own. Maps `[..., in]` to `[..., out]`.
    """

    def __init__(self, axis: Axis, blocks: Sequence[FactoredLinear | nn.Linear], bias: Tensor | None) -> None:
        super().__init__()
        self.axis, self.blocks = axis, nn.ModuleList(blocks)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        more_rows, more_columns = (len(blocks), 1) if axis == "rows" else (1, len(blocks))
        self.out_features = blocks[0].out_features * more_rows
        self.in_features = blocks[0].in_features * more_columns

    @property
    def weight(self) -> Tensor:
        """The dense weight `[out, in]` this layer stands for, formed anew at each access."""
        return torch.cat([weight_of(block) for block in self.blocks], 0 if self.axis == "rows" else 1)

    def forward(self, x: Tensor) -> Tensor:
        count = len(self.blocks)
        if self.axis == "rows":
            biases = [None] * count if self.bias is None else self.bias.chunk(count)
            pairs = zip(self.blocks, biases, strict=True)
            return torch.cat([product(block, x, bias) for block, bias in pairs], -1)
        parts = zip(self.blocks, x.chunk(count, -1), [self.bias, *[None] * (count - 1)], strict=True)
        return reduce(torch.add, (product(block, part, bias) for block, part, bias in parts))

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, {self.axis}"


def product(block: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
    """What a block gives for `x [..., in]`, and a bias, which is added in the same step."""
    if isinstance(block, FactoredLinear):
        return block.product(x, bias)
    return nn.functional.linear(x, weight_of(block), bias)


def weight_of(block: nn.Module) -> Tensor:
    """The dense weight `[out, in]` of a block."""
    assert isinstance(block, FactoredLinear | nn.Linear)
    return block.weight


def assembled(dense: nn.Linear, factored: Mapping[Block, FactoredLinear]) -> FactoredLinear | BlockLinear:
    """The layer in place of `dense`, of which these are all factored blocks; the others stay as they are."""
    first = next(iter(factored))
    if first.is_whole:
        return factored[first]
    blocks = [factored.get(block) or dense_block(dense, block) for block in first.siblings()]
    return BlockLinear(first.axis, blocks, dense.bias)


@torch.no_grad()
def dense_block(dense: nn.Linear, block: Block) -> nn.Linear:
    """A block of a linear as one of its own, without bias."""
    weight = block.of(dense.weight)
    linear = nn.Linear(weight.shape[1], weight.shape[0], False, weight.device, weight.dtype)
    linear.weight.copy_(weight)
    return linear
