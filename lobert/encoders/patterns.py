"""Roles by patterns, for encoders that have no row in the table: `encoder.roles.query=layers.*.attention.q_proj`.

A pattern is the path of a module, `*` in the place of the layer's number; without one the module is outside the layers.
The name of the base model may stand before it. The role `word_embeddings` is a table, every other one a linear.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from lobert.encoders.architectures import Architecture
from lobert.errors import LobertError

PATTERNS = "lobert_roles"  # field of a model's configuration that holds its patterns, so that they are saved with it
TABLE = "word_embeddings"


def architecture_from(model: PreTrainedModel, patterns: Any, known: Architecture | None) -> Architecture:
    """The row that patterns make, or what they make of a known one. LobertError where they do not fit together."""
    if not isinstance(patterns, Mapping) or not all(isinstance(p, str) for pair in patterns.items() for p in pair):
        raise LobertError(f"the roles in the model's config.json are damaged: {PATTERNS}={patterns!r}")
    base = f"{getattr(model, 'base_model_prefix', '')}."
    inside: dict[str, str] = {}
    outside: dict[str, str] = {}
    layers = {known.layers} if known else set[str]()
    for role, pattern in patterns.items():
        path = pattern.removeprefix(base) if base != "." else pattern
        before, star, after = path.partition(".*.")
        if star:
            layers.add(before)
            inside[role] = after
        else:
            outside[role] = path
    if len(layers) != 1 or "*" in "".join([*layers, *inside.values(), *outside.values()]):
        raise LobertError(
            f"encoder.roles has no one list of layers: {listed(patterns)}. Write the path of a module with one * for "
            f"the number of the layer, the same up to there for all, as in encoder.roles.query='{example(model)}'"
        )
    return joined(model, known or Architecture(layers=layers.pop(), roles={}), inside, outside)


def joined(
    model: PreTrainedModel, known: Architecture, inside: Mapping[str, str], outside: Mapping[str, str]
) -> Architecture:
    """A row with more roles, or other paths of them. What is not below the base model is in the head."""
    heads = {role: path for role, path in outside.items() if role != TABLE and not below_base(model, path)}
    singles = {role: path for role, path in outside.items() if role != TABLE and role not in heads}
    return replace(
        known,
        roles={**known.roles, **inside},
        singles={**{role: path for role, path in known.singles.items() if role not in heads}, **singles},
        tables={**known.tables, **({TABLE: outside[TABLE]} if TABLE in outside else {})},
        heads={**{role: path for role, path in known.heads.items() if role not in singles}, **heads},
        sums={role: place for role, place in known.sums.items() if role not in inside},
        plain_heads=known.plain_heads and not inside.keys() & {"query", "key", "value", "attention_output"},
    )


def below_base(model: PreTrainedModel, path: str) -> bool:
    """Whether the base model has a module there; one without a head is a base model itself."""
    return has_module(getattr(model, getattr(model, "base_model_prefix", "") or "-", model), path)


def has_module(model: nn.Module, path: str) -> bool:
    """Whether there is a module at `path`."""
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def module_names(model: nn.Module) -> list[str]:
    """Paths of all linears and embeddings, those of different layers as one: `*` stands for the number."""
    kept = (path for path, module in model.named_modules() if isinstance(module, nn.Linear | nn.Embedding))
    return list(dict.fromkeys(map(across_layers, kept)))


def across_layers(path: str) -> str:
    """The path with * for the number of the layer."""
    return re.sub(r"\.\d+\.", ".*.", path, count=1)


def example(model: nn.Module) -> str:
    """A pattern that fits, the first one in a layer."""
    names = module_names(model)
    return next((name for name in names if "*" in name), "layers.*.attention.query")


def listed(patterns: Mapping[str, str]) -> str:
    return ", ".join(f"{role}={pattern}" for role, pattern in patterns.items())
