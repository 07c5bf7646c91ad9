"""Folding all factors of a model, and unfolding them: without the numbers that nothing depends on, or to be trained.

Groups that meet in the heads of an attention (see `headed`) are folded together.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lobert.factorizations.headed import even_heads, meeting
from lobert.layers.factored import FactoredLinear
from lobert.layers.group import FactorGroup

Pair = tuple[FactoredLinear, FactoredLinear]  # the one that pivots, and its partner


def unfold(model: nn.Module) -> None:
    """Make the factors of all groups of a model whole, in place: to train it, or to write it down as a graph.

    It is the same function of a few more numbers, which are new parameters; see `FactorGroup.unfold`.
    """
    for pair in pairs(model):
        unfold_pair(*pair)
    for group in groups(model).values():
        group.unfold()


def fold(model: nn.Module) -> None:
    """The inverse of `unfold`, in place: without the numbers that nothing depends on; before the model is saved."""
    for pair in pairs(model):
        fold_pair(*pair)
    for group in groups(model).values():
        if group.heads is None:
            group.fold()


def groups(model: nn.Module) -> dict[str, FactorGroup]:
    """The groups of a model, or of what has one inside, by their names."""
    return {
        path.rpartition(".")[2]: module for path, module in model.named_modules() if isinstance(module, FactorGroup)
    }


def pairs(model: nn.Module) -> Iterator[Pair]:
    """The layers that meet in heads."""
    layers = {id(layer.group): layer for layer in model.modules() if isinstance(layer, FactoredLinear)}
    named = groups(model)
    for group in named.values():
        if group.heads is not None and group.heads.pivots:
            yield layers[id(group)], layers[id(named[group.heads.partner])]


@torch.no_grad()
def fold_pair(pivoting: FactoredLinear, partner: FactoredLinear) -> None:
    """Keep of two layers what does not follow from identities; what both are good for stays.

    The pivoting one loses its bias: that of keys changes no share of an attention, as a softmax does not see what is
    added to all of its inputs, and that of values goes to the output, as the shares add up to 1.
    """
    here, there = pivoting.group, partner.group
    if here.folded:
        return
    (at, count), (its, _) = dimensions(here), dimensions(there)
    reads = its == 1
    if reads and pivoting.bias is not None and partner.bias is not None:
        partner.bias.add_(partner.weight @ pivoting.bias)
    kept, others = here.spared(doubled(here.tensors())), there.spared(doubled(there.tensors()))
    other = (
        others[its] if reads or partner.bias is None else torch.cat([others[its], partner.bias.to(others[its])[None]])
    )
    rest, places, other = meeting(kept[at].unflatten(1, (count, -1)), other.unflatten(1, (count, -1)))
    if not reads and partner.bias is not None:
        spread = partner.bias.new_zeros(count, partner.out_features // count)
        spread[:, : other.shape[2]] = other[-1]
        partner.bias.copy_(spread.flatten())
        other = other[:-1]
    if pivoting.bias is not None:
        pivoting.bias.zero_()
    assert here.frame is not None
    here.frame.set_places(places)
    kept[at], others[its] = rest, other
    here.take_spared(kept)
    there.take_spared(others)


@torch.no_grad()
def unfold_pair(pivoting: FactoredLinear, partner: FactoredLinear) -> None:
    """Make the factors of two layers whole, as strong in every dimension of a head on one side as on the other."""
    if not pivoting.group.folded:
        return
    _, count = dimensions(pivoting.group)
    turned = even_heads([with_bias(pivoting), with_bias(partner)], count)
    for layer, factor in zip((pivoting, partner), turned, strict=True):
        set_with_bias(layer, factor)


def dimensions(group: FactorGroup) -> tuple[int, int]:
    """Which factor has the dimensions of the heads, and how many heads there are."""
    assert group.heads is not None
    return group.heads.position, group.heads.count


def with_bias(layer: FactoredLinear) -> tuple[Tensor, Tensor]:
    """The factor of a layer that has the dimensions of the heads, and the other one; a bias of these dimensions as one
    more row, for an input that is always 1.
    """
    at, _ = dimensions(layer.group)
    factors = doubled(layer.group.whole_factors())
    framed, other = factors[at], factors[1 - at]
    if at == 0 and layer.bias is not None:
        framed = torch.cat([framed, layer.bias.to(framed)[None]])
        other = torch.block_diag(other, other.new_ones(1, 1))
    return framed, other


def set_with_bias(layer: FactoredLinear, framed: Tensor) -> None:
    """The inverse: whole factors, evened, with this one among them, and its last row as the bias."""
    at, _ = dimensions(layer.group)
    factors = doubled(layer.group.whole_factors())
    if at == 0 and layer.bias is not None:
        layer.bias.copy_(framed[-1])
        framed = framed[:-1]
    factors[at] = framed
    layer.group.take_whole(layer.group.evened(factors))


def doubled(factors: Sequence[Tensor]) -> list[Tensor]:
    """Factors in double precision, on the CPU."""
    return [factor.detach().cpu().double() for factor in factors]
