"""The grouping of a compression: which weights, or square blocks of them, form a tensor together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from transformers import PreTrainedModel

from lobert.encoders.roles import Place, depth_of, encoder_layers, find_weights, layer_uses, matrix_at, tied_to
from lobert.errors import LobertError, suggest
from lobert.factorizations import RankSetting, Shape
from lobert.layers.blocks import Block, squares

NETWORK = ("intermediate", "output")  # the roles that have neurons
ATTENTION = ("query", "key", "value", "attention_output")  # those that meet in heads
STACK_LETTERS = {"role": "s", "layer": "l"}
Neurons = float | Literal["auto"]  # of the feed-forward networks: the share that stays, or as many as are best
HeadsName = Literal["apart", "joint"]  # whether weights that meet in the heads of an attention are kept together
Index = tuple[int, ...]  # into the stack
Strip = tuple[str, int]  # role, and number of the block of its weight
Member = tuple[Strip, int | None]  # strip and layer


@dataclass(frozen=True)
class Part:
    """One compression of some roles, as a `conf/decomp` point writes it.

    `stack` names what is stacked into one tensor: nothing, "role", "layer" or both. With `cut` every weight is cut into
    square blocks along its longer side, and each block counts as a role of its own. Without `rank` or `keep` the
    `default_rank` holds, whose fractions are shares of the full rank; where there is a `default_keep`, that share of
    every tensor stays, and `default_rank` is no more than the rank of the stack that `keep` starts from. `neurons` of
    the feed-forward networks stay, where the part compresses these; without it `default_neurons`. `heads` say whether
    what is redundant between queries and keys, and between values and output, is kept; without it `default_heads`.
    """

    name: str
    roles: Sequence[str]
    stack: Sequence[str]
    factorization: str
    default_rank: RankSetting
    rank: RankSetting | None = None
    keep: float | None = None
    default_keep: float | None = None
    cut: bool = False
    neurons: Neurons | None = None
    default_neurons: Neurons = 1.0
    heads: HeadsName | None = None
    default_heads: HeadsName = "apart"

    def __post_init__(self) -> None:
        if self.keep is not None and self.rank is not None:
            raise LobertError(
                f"{self.name}: keep={self.keep} and rank={self.rank} are two answers to one question: give one of them"
            )
        check_keep(self.keep)
        check_keep(self.default_keep)
        check_neurons(self.neurons)
        check_neurons(self.default_neurons)
        for heads in (self.heads or "apart", self.default_heads):
            if heads not in get_args(HeadsName):
                raise LobertError(f"{self.name}: no heads={heads}: {suggest(str(heads), get_args(HeadsName))}")
        if not self.roles:
            raise LobertError(
                f"{self.name}: roles is empty, so there is nothing to compress: name some, or use decomp=none"
            )
        if not isinstance(self.cut, bool):
            raise LobertError(f"{self.name}: cut={self.cut} will not do: it is true or false")
        for axis in self.stack:
            if axis not in STACK_LETTERS:
                raise LobertError(f"{self.name}: nothing to stack by '{axis}': {suggest(axis, STACK_LETTERS)}")

    @property
    def asked_neurons(self) -> Neurons:
        """How many neurons are to stay, by what was asked or by default."""
        return self.default_neurons if self.neurons is None else self.neurons

    @property
    def title(self) -> str:
        """The name, and what was asked of neurons and heads that it has, if anything: "all_svd_neurons0.5"."""
        asked = ""
        if self.neurons is not None and set(NETWORK) & set(self.roles):
            asked = f"_neurons{'' if self.neurons == 'auto' else f'{self.neurons:g}'}"
        if self.heads is not None and set(ATTENTION) & set(self.roles):
            asked += f"_{self.heads}"
        return self.name + asked

    @property
    def letters(self) -> str:
        """The stack as einsum letters, roles before layers."""
        return "".join(letter for axis, letter in STACK_LETTERS.items() if axis in self.stack)


def check_keep(keep: float | None) -> None:
    """Refuse a share that is none."""
    if keep is not None and not (isinstance(keep, int | float) and 0 < keep <= 1):
        raise LobertError(f"keep={keep} is impossible: it is the share that stays, above 0 and at most 1")


def check_neurons(neurons: Neurons | None) -> None:
    """Refuse what is neither a share nor `auto`."""
    number = isinstance(neurons, int | float) and not isinstance(neurons, bool)
    if neurons not in (None, "auto") and not (number and 0 < float(neurons) <= 1):
        raise LobertError(
            f"neurons={neurons} is impossible: it is the share that stays, above 0 and at most 1, or auto"
        )


def group_slices(model: PreTrainedModel, part: Part) -> list[tuple[str, list[tuple[Block, Index]]]]:
    """Name and slices of every group: one per role, or block of one, and layer, less the axes that are stacked."""
    blocks = part_blocks(model, part)
    strips, layers = (list(dict.fromkeys(axis)) for axis in zip(*blocks, strict=True))
    strip_sets = [strips] if "s" in part.letters else [[strip] for strip in strips]
    layer_sets = [layers] if "l" in part.letters else [[layer] for layer in layers]
    groups = []
    for layer_set in layer_sets:
        for strip_set in strip_sets:
            members = [(strip, layer) for strip in strip_set for layer in layer_set if (strip, layer) in blocks]
            if members:
                layer_name = "" if layer_set[0] is None or "l" in part.letters else f"_{layer_set[0]}"
                places = {"s": strip_set, "l": layer_set}
                slices = [(blocks[member], index_of(member, part.letters, places)) for member in members]
                groups.append((strips_name(strip_set, strips, slices[0][0]) + layer_name, slices))
    return groups


def index_of(member: Member, letters: str, places: Mapping[str, Sequence[object]]) -> Index:
    """Where a member stands on each axis of its stack, given what lies along every axis."""
    return tuple(places[letter].index(member["sl".index(letter)]) for letter in letters)


def part_blocks(model: PreTrainedModel, part: Part) -> dict[Member, Block]:
    """The weights of a part, or their square blocks, by role with number of the block, and layer."""
    places = find_weights(model, list(part.roles))
    outside = [role for role, layer in places if layer is None]
    if outside and part.letters:
        raise LobertError(f"{part.name}: '{outside[0]}' is outside the layers and stacks with nothing: use stack=[]")
    if "layer" in part.stack and len(encoder_layers(model)) == 1 < layer_uses(model):
        raise LobertError(
            f"{part.name}: the {depth_of(model)} layers of this {model.config.model_type} share one set of weights, so "
            "a stack by layer has one slice: use a grouping without layers, as svd or tucker_layer do"
        )
    refuse_tied(model, part, outside, places)
    blocks: dict[Member, Block] = {}
    for (role, layer), address in places.items():
        block = Block.parse(address)
        matrix = matrix_at(model, block)
        pieces = squares(block, (matrix.shape[0], matrix.shape[1])) if part.cut else [block]
        blocks |= {((role, number), layer): piece for number, piece in enumerate(pieces)}
    return blocks


def refuse_tied(model: PreTrainedModel, part: Part, outside: Sequence[str], places: Mapping[Place, str]) -> None:
    """Raise LobertError for a weight outside the layers that another module uses, too: only one would be replaced."""
    for role in outside:
        if (other := tied_to(model, places[role, None])) is not None:
            raise LobertError(
                f"{part.name}: '{places[role, None]}' and '{other}' are one weight, so nothing would be saved: leave "
                "this one out, or take the model without its language-modelling head"
            )


def strips_name(strips: Sequence[Strip], every: Sequence[Strip], block: Block) -> str:
    """The roles' names; where it is one of several blocks of its role, with which: "intermediate_rows_2_of_4"."""
    (role, number), *others = strips
    count = sum(name == role for name, _ in every)
    if count > 1 and not others:
        return f"{role}_{block.axis}_{number + 1}_of_{count}"
    return "_".join(dict.fromkeys(name for name, _ in strips))


def stacked_shape(model: PreTrainedModel, part: str, slices: list[tuple[Block, Index]]) -> Shape:
    """Shape of the tensor that the slices' weights form; LobertError where they differ."""
    shapes = {tuple(matrix_at(model, block).shape) for block, _ in slices}
    if len(shapes) > 1:
        raise LobertError(
            f"{part}: weights of shapes {sorted(shapes)} do not stack into one tensor: do not stack these roles"
        )
    depth = [max(index[axis] for _, index in slices) + 1 for axis in range(len(slices[0][1]))]
    return (*depth, *shapes.pop())
