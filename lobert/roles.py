"""Roles of weights: where query, key, value, ... of each architecture are, and how to put something else there.

A new architecture is one row of ARCHITECTURES.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from lobert.blocks import Block
from lobert.errors import LobertError, suggest

Place = tuple[str, int | None]  # (role, layer), None for what is outside the layers


@dataclass(frozen=True)
class Architecture:
    """Module paths below the base model; a role may be a block of a module, as the query in "attn.Wqkv[rows 1/3]".

    `layers` is the list of layers, `roles` the linears inside one of them, `singles` the linears outside all of them,
    `tables` the embeddings.
    Each set of roles in `shared_inputs` reads one and the same tensor. A role in `sums` gives its output to a sum with
    a residual, which the module named there reads.
    """

    layers: str
    roles: Mapping[str, str]
    singles: Mapping[str, str]
    tables: Mapping[str, str] = field(default_factory=dict)
    shared_inputs: Sequence[Sequence[str]] = ()
    sums: Mapping[str, str] = field(default_factory=dict)


ARCHITECTURES: dict[str, Architecture] = {
    "bert": Architecture(
        layers="encoder.layer",
        roles={
            "query": "attention.self.query",
            "key": "attention.self.key",
            "value": "attention.self.value",
            "attention_output": "attention.output.dense",
            "intermediate": "intermediate.dense",
            "output": "output.dense",
        },
        singles={"pooler": "pooler.dense"},
        tables={"word_embeddings": "embeddings.word_embeddings"},
        shared_inputs=(("query", "key", "value"),),
        sums={"attention_output": "attention.output.LayerNorm", "output": "output.LayerNorm"},
    ),
}


def architecture_of(model: PreTrainedModel) -> Architecture:
    """The row of a transformers model; LobertError where its `model_type` has none."""
    model_type = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if model_type not in ARCHITECTURES:
        raise LobertError(
            f"no roles are known for a model of type '{model_type}': {suggest(model_type, ARCHITECTURES)}"
        )
    return ARCHITECTURES[model_type]


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


def find_weights(model: PreTrainedModel, roles: list[str]) -> dict[Place, str]:
    """Address of the weight of every (role, layer), roles in the order given; one outside the layers has layer None.

    Raises LobertError for an unknown role, a missing module, or one that is compressed already.
    """
    inside, outside = architecture_of(model).roles, {**architecture_of(model).singles, **architecture_of(model).tables}
    base, depth = layers_path(model), len(encoder_layers(model))
    places: dict[Place, str] = {}
    for role in roles:
        if role in inside:
            places |= {(role, layer): f"{base}.{layer}.{inside[role]}" for layer in range(depth)}
        elif role in outside:
            places[role, None] = base_prefix(model) + outside[role]
        else:
            known = [*inside, *outside]
            raise LobertError(f"no role '{role}' in a {model.config.model_type} encoder: {suggest(role, known)}")
    for address in places.values():
        module_at(model, Block.parse(address).path)
    return places


def encoder_linears(model: PreTrainedModel) -> list[str]:
    """Paths of all linears that have a role, each once, as far as this model has them: a pooler may be missing."""
    known = architecture_of(model)
    outside = [base_prefix(model) + path for path in known.singles.values()]
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
    """Path of the module that reads the sum of a residual and the output of the linear at `path`; None without one."""
    base, known = layers_path(model), architecture_of(model)
    layer, _, inside = path.removeprefix(f"{base}.").partition(".")
    for role, module in known.sums.items():
        if path.startswith(f"{base}.") and inside == known.roles[role]:
            return f"{base}.{layer}.{module}"
    return None


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


def replace_module(model: PreTrainedModel, path: str, module: nn.Module) -> None:
    """Put `module` where `path` points."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def keep_first_layers(model: PreTrainedModel, count: int) -> None:
    """Drop all but the first `count` layers, in place (the start of a PKD student)."""
    layers = encoder_layers(model)
    if not 1 <= count <= len(layers):
        raise LobertError(
            f"student.layers={count} is impossible: the encoder has {len(layers)} layers, so type 1 to {len(layers)}"
        )
    replace_module(model, layers_path(model), layers[:count])
    own_config(model).num_hidden_layers = count


def own_config(model: PreTrainedModel) -> Any:
    """The model's configuration, made its own first: transformers lets models share one object."""
    model.config = copy.deepcopy(model.config)
    return model.config
