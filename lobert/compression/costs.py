"""What a group costs: the parameters of its factors, or their multiply-adds per token."""

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from functools import lru_cache, partial
from typing import Literal, get_args

from transformers import PreTrainedModel

from lobert.encoders.roles import first_reader, layers_path
from lobert.errors import LobertError, TooSmall, suggest
from lobert.factorizations import Rank, Shape, factorization
from lobert.factorizations.dial import Dial
from lobert.layers.blocks import Block
from lobert.layers.ways import Evaluation, Ways

Budget = Literal["parameters", "macs"]
UNITS: dict[str, str] = {"parameters": "parameters", "macs": "multiply-adds per token"}
Slices = Iterable[tuple[Block, tuple[int, ...]]]  # (weight or block of one, index into the stack)
Cost = Callable[[Rank], int]


def check_budget(budget: str) -> None:
    """Refuse a budget that is none."""
    if budget not in get_args(Budget):
        raise LobertError(f"decomp.budget={budget} is not known: {suggest(str(budget), get_args(Budget))}")


def inputs_read(model: PreTrainedModel, stack: str, slices: Slices) -> dict[Block, Hashable]:
    """Which input each slice of a group reads: equal for slices that differ in role alone and share it.

    Blocks of rows share the whole input; each block of columns reads its own part.
    """
    layer = len(stack.replace("l", ""))  # where the index of the role, if any, ends
    return {
        block: (first_reader(model, block.path), block if block.axis == "columns" else None, index[layer:])
        for block, index in slices
    }


def macs_cost(
    model: PreTrainedModel, name: str, stack: str, shape: Shape, slices: Slices, evaluation: Evaluation
) -> Cost:
    """Multiply-adds per token of a whole group by its rank, as `linear_macs` counts them in the compressed model.

    Slices that share an input are counted together, once. Raises LobertError for a weight outside the layers.
    """
    read = inputs_read(model, stack, slices)
    for block in read:
        if not block.path.startswith(f"{layers_path(model)}."):
            raise LobertError(
                f"decomp.budget=macs counts multiply-adds per token in the encoder's layers, and '{block}' is outside "
                "them: leave it out of decomp, or type decomp.budget=parameters"
            )
    sharers = Counter(Counter(read.values()).values())  # how many inputs are read by so many slices

    def cost(rank: Rank) -> int:
        return sum(
            count * macs_per_token(name, stack, shape, rank, evaluation, size) for size, count in sharers.items()
        )

    return cost


@lru_cache(maxsize=1 << 14)
def macs_per_token(name: str, stack: str, shape: Shape, rank: Rank, evaluation: Evaluation, sharers: int) -> int:
    """`Ways.macs_per_token` of a group that is not there yet."""
    method = factorization(name)
    shapes = method.factor_shapes(stack, shape, rank)
    return Ways(method.equation(stack), stack, shapes, evaluation).macs_per_token(sharers)


def parameters_cost(name: str, stack: str, shape: Shape) -> Cost:
    """How many numbers the factors of a group hold, by its rank."""
    return partial(parameters_of, name, stack, shape)


@lru_cache(maxsize=1 << 16)  # the groups of an encoder have few shapes
def parameters_of(name: str, stack: str, shape: Shape, rank: Rank) -> int:
    return factorization(name).parameters(stack, shape, rank)


def rank_within_macs(name: str, shape: Shape, keep: float, default: Rank, macs: Cost) -> Rank:
    """The largest rank that costs at most `keep` times the multiply-adds of the dense weights.

    Raises LobertError where no rank does.
    """
    dial, dense = Dial(factorization(name), shape, default), math.prod(shape)
    rank = dial.largest(macs, keep * dense)
    if rank is not None:
        return rank
    least = macs(dial.at(1)) / dense
    if least >= 1:
        raise LobertError(
            f"{name} on {list(shape)} saves no multiply-adds at any rank, as its factors cost no less than the dense "
            "weights: type decomp.budget=parameters, or choose a decomp that saves some, such as svd"
        )
    smallest = f"its smallest rank costs {least:.4f} of them"
    raise TooSmall(f"keep={keep:g} of the multiply-adds is too small for {name} on {list(shape)}: {smallest}", least)
