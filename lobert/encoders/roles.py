"""Roles of weights: finding query, key, value, ... of a model, and putting something else there."""

import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from lobert.encoders.architectures import ARCHITECTURES, Architecture
from lobert.encoders.patterns import PATTERNS, architecture_from, example, has_module
from lobert.errors import LobertError, suggest
from lobert.layers.blocks import Block

Place = tuple[str, int | None]  # (role, layer), None for what is outside the layers


@dataclass(frozen=True)
class Network:
    """A feed-forward network: the paths of its two linears, and how many outputs of the first one make a neuron."""

    intermediate: str
    output: str
    gates: int = 1


def architecture_of(model: PreTrainedModel) -> Architecture:
    """Where the roles of a transformers model are: the row of its `model_type`, and what patterns say beside it.

    Raises LobertError where there is neither.
    """
    config = getattr(model, "config", None)
    model_type = getattr(config, "model_type", type(model).__name__)
    known, patterns = ARCHITECTURES.get(model_type), getattr(config, PATTERNS, None)
    if known is not None and chooses_options(model):
        known = known.of_choosers()
    if patterns is not None:
        return architecture_from(model, patterns, known)
    if known is None:
        raise LobertError(
            f"no roles are known for a model of type '{model_type}': give the paths of its modules, as in "
            f"encoder.roles.query='{example(model)}', or take another encoder. {suggest(model_type, ARCHITECTURES)}"
        )
    return known


def layers_path(model: PreTrainedModel) -> str:
    """Path of the list of layers from the model: "bert.encoder.layer", or "encoder.layer" for a bare encoder."""
    return base_prefix(model) + architecture_of(model).layers


def base_prefix(model: PreTrainedModel) -> str:
    """What comes before the paths of the base model: "bert.", or nothing for a bare encoder."""
    prefix = getattr(model, "base_model_prefix", "")
    return f"{prefix}." if prefix and hasattr(model, prefix) else ""


def encoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The list of transformer layers (without embeddings, pooler and head)."""
    layers = model.get_submodule(layers_path(model))
    assert isinstance(layers, nn.ModuleList)
    return layers


def layer_uses(model: PreTrainedModel) -> int:
    """How often a pass runs each layer: more than once where layers share their weights, as all of ALBERT's do.

    Raises LobertError for an ALBERT whose layers do not share them evenly.
    """
    if not architecture_of(model).repeats:
        return 1
    config, groups = model.config, len(encoder_layers(model))
    if config.num_hidden_layers % groups or config.inner_group_num != 1:
        raise LobertError(
            f"the {config.num_hidden_layers} layers of this {config.model_type} share {groups} groups of "
            f"{config.inner_group_num} layers unevenly: LoBERT knows groups of one layer, each used equally often"
        )
    return config.num_hidden_layers // groups


def depth_of(model: PreTrainedModel) -> int:
    """How many layers a pass goes through: there is one more tensor of hidden states."""
    return len(encoder_layers(model)) * layer_uses(model)


def is_inside(model: PreTrainedModel, path: str) -> bool:
    """Whether a module is in one of the layers."""
    return path.startswith(f"{layers_path(model)}.")


def no_order_of_layers(model: PreTrainedModel) -> str | None:
    """Why the layers cannot be gone through one after the other, each reading what the one before gives; None if so."""
    if layer_uses(model) > 1:
        return f"the {depth_of(model)} layers of this {model.config.model_type} share their weights"
    between = architecture_of(model).between
    if between and has_module(model, base_prefix(model) + between):
        return f"in this {model.config.model_type} '{between}' stands between two of them"
    return None


def find_weights(model: PreTrainedModel, roles: list[str]) -> dict[Place, str]:
    """Address of the weight of every (role, layer), roles in the order given; one outside the layers has layer None.

    Raises LobertError for an unknown role, a missing module, or one that is compressed already.
    """
    inside, outside = architecture_of(model).roles, architecture_of(model).outside(base_prefix(model))
    base, depth = layers_path(model), len(encoder_layers(model))
    places: dict[Place, str] = {}
    for role in roles:
        if role in inside:
            places |= {(role, layer): f"{base}.{layer}.{inside[role]}" for layer in range(depth)}
        elif role in outside:
            places[role, None] = outside[role]
        else:
            known = [*inside, *outside]
            raise LobertError(f"no role '{role}' in a {model.config.model_type} encoder: {suggest(role, known)}")
    for address in places.values():
        module_at(model, Block.parse(address).path)
    return places


def places_of_weights(model: PreTrainedModel) -> dict[Block, Place]:
    """Role and layer of every weight that has a role, by its address; one outside the layers need not be there."""
    known = architecture_of(model)
    addresses: dict[Place, str] = {(role, None): path for role, path in known.outside(base_prefix(model)).items()}
    addresses |= find_weights(model, list(known.roles))
    return {Block.parse(address): place for place, address in addresses.items()}


def encoder_linears(model: PreTrainedModel) -> list[str]:
    """Paths of all linears that have a role, each once, as far as this model has them: a pooler may be missing."""
    known = architecture_of(model)
    outside = [path for role, path in known.outside(base_prefix(model)).items() if role not in known.tables]
    modules = dict(model.named_modules())
    inside = [Block.parse(address).path for address in find_weights(model, list(known.roles)).values()]
    return [*dict.fromkeys(inside), *(p for p in outside if modules.get(p) is not None)]


def first_reader(model: PreTrainedModel, path: str) -> str:
    """Path of the first linear that reads the input of the one at `path`: the query for a layer's key and value."""
    known = architecture_of(model)
    for readers in known.shared_inputs:
        for suffix in (known.roles[role] for role in readers):
            if path.endswith(f".{suffix}"):
                return path.removesuffix(suffix) + known.roles[readers[0]]
    return path


def sum_after(model: PreTrainedModel, path: str) -> str | None:
    """Path of the module that reads the sum of a residual and the output of the linear at `path`; None without one.

    It is the path of the layer where the sum is what the layer gives.
    """
    base, known = layers_path(model), architecture_of(model)
    layer, _, inside = path.removeprefix(f"{base}.").partition(".")
    for role, module in known.sums.items():
        if path.startswith(f"{base}.") and inside == known.roles[role]:
            return f"{base}.{layer}.{module}".rstrip(".")
    return None


def feedforwards(model: PreTrainedModel) -> list[Network]:
    """The feed-forward networks, layer by layer; LobertError where the model does not have them as two linears."""
    places = find_weights(model, ["intermediate", "output"])
    networks = []
    for layer in range(len(encoder_layers(model))):
        first, second = (linear_at(model, places[role, layer]) for role in ("intermediate", "output"))
        gates, rest = divmod(first.out_features, second.in_features)
        if rest or second.in_features != width_of(model):
            outputs = f"the {first.out_features} outputs of '{places['intermediate', layer]}'"
            raise LobertError(f"{outputs} are not those of {width_of(model)} neurons")
        networks.append(Network(places["intermediate", layer], places["output", layer], gates))
    return networks


def width_of(model: PreTrainedModel) -> int:
    """How many neurons a feed-forward network has, as the configuration says; LobertError where it does not."""
    name = architecture_of(model).width
    width = getattr(model.config, name, None)
    if not isinstance(width, int):
        raise LobertError(f"the configuration of this {model.config.model_type} has no {name}")
    return width


def set_width(model: PreTrainedModel, width: int) -> None:
    """Write into the configuration how many neurons a feed-forward network has."""
    setattr(own_config(model), architecture_of(model).width, width)


def linear_at(model: PreTrainedModel, path: str) -> nn.Linear:
    """The nn.Linear at `path`; LobertError where there is something else or nothing."""
    module = module_at(model, path)
    if not isinstance(module, nn.Linear):
        raise LobertError(f"'{path}' is an embedding, not an nn.Linear: leave it out here")
    return module


def module_at(model: PreTrainedModel, path: str) -> nn.Linear | nn.Embedding:
    """The dense module at `path`; LobertError where there is something else or nothing."""
    try:
        module = model.get_submodule(path)
    except AttributeError:
        raise LobertError(f"the model has no module '{path}'") from None
    if not isinstance(module, nn.Linear | nn.Embedding):
        raise LobertError(f"'{path}' is a {type(module).__name__}, not an nn.Linear: is the model compressed already?")
    return module


def matrix_at(model: PreTrainedModel, block: Block) -> Tensor:
    """The weight `[out, in]` of a module, or a block of it; of an embedding `[out, tokens]`: its input is one-hot.

    Raises LobertError where there is no such module, or its weight cannot be cut so.
    """
    module = module_at(model, block.path)
    if not isinstance(module, nn.Embedding):
        return block.of(module.weight)
    if not block.is_whole:
        raise LobertError(f"'{block}' is part of an embedding, which is not cut: choose a grouping with cut=false")
    return module.weight.T


def is_table(model: PreTrainedModel, path: str) -> bool:
    """Whether an embedding is at `path`, compressed or not."""
    return path in {base_prefix(model) + table for table in architecture_of(model).tables.values()}


def tied_to(model: PreTrainedModel, path: str) -> str | None:
    """Name of another parameter that is the weight of the module at `path`; None where it is nobody else's."""
    weight = module_at(model, path).weight
    names = (name for name, other in model.named_parameters(remove_duplicate=False) if other is weight)
    return next((name for name in names if name != f"{path}.weight"), None)


def replace_module(model: PreTrainedModel, path: str, module: nn.Module) -> None:
    """Put `module` where `path` points."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def keep_first_layers(model: PreTrainedModel, count: int) -> None:
    """Drop all but the first `count` layers, in place (the start of a PKD student); of layers that share their weights
    run so many.
    """
    layers, depth = encoder_layers(model), depth_of(model)
    if not 1 <= count <= depth:
        raise LobertError(f"student.layers={count} is impossible: the encoder has {depth} layers, so type 1 to {depth}")
    if layer_uses(model) == 1:
        replace_module(model, layers_path(model), layers[:count])
    elif len(layers) > 1:
        raise LobertError(
            f"student.layers={count} cannot be: the layers of this {model.config.model_type} share {len(layers)} sets "
            "of weights; leave it out"
        )
    config = own_config(model)
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None):  # ModernBERT has global and local attention in turns
        config.layer_types = config.layer_types[:count]


def own_config(model: PreTrainedModel) -> Any:
    """The configuration of the model and its modules, made its own first: transformers lets models share one object."""
    old, own = model.config, copy.deepcopy(model.config)
    for module in model.modules():
        if getattr(module, "config", None) is old:
            module.config = own
    return own


def chooses_options(model: PreTrainedModel) -> bool:
    """Whether the model scores the options of an example, one sequence each, with one output."""
    return type(model).__name__.endswith("ForMultipleChoice")
