"""Naming roles of a model by patterns, each checked against its modules."""

from collections.abc import Mapping

from torch import nn
from transformers import PreTrainedModel

from lobert.encoders.patterns import PATTERNS, has_module, module_names
from lobert.encoders.roles import architecture_of, base_prefix, find_weights, layers_path, own_config
from lobert.errors import LobertError, suggest


def set_roles(model: PreTrainedModel, patterns: Mapping[str, str | None] | None) -> None:
    """Say by patterns (see `lobert.encoders.patterns`) where roles of a model are; they are saved with it. In place.

    A known architecture needs patterns only for what differs; None leaves a role as it is. Raises LobertError for a
    pattern that fits no module, with the nearest names, or not one in every layer.
    """
    given = {role: pattern for role, pattern in (patterns or {}).items() if pattern is not None}
    if not given:
        return
    before, config = getattr(model.config, PATTERNS, None), own_config(model)
    setattr(config, PATTERNS, {**(before or {}), **given})
    try:
        for role, pattern in given.items():
            check_pattern(model, role, pattern)
    except LobertError:
        setattr(config, PATTERNS, before)
        raise


def check_pattern(model: PreTrainedModel, role: str, pattern: str) -> None:
    """Raise LobertError unless the role has a linear or a table: in every layer, where the pattern names layers."""
    known, layers = architecture_of(model), layers_path(model)
    if role in known.roles:
        held = model.get_submodule(layers) if has_module(model, layers) else None
        count = len(held) if isinstance(held, nn.ModuleList) else 0
        paths = [f"{layers}.{number}.{known.roles[role]}" for number in range(count)]
    else:
        paths = [known.outside(base_prefix(model))[role]]
    lacking = [path for path in paths if not has_module(model, path.partition("[")[0])]  # a block is in its module
    if len(lacking) == len(paths):
        raise LobertError(f"encoder.roles.{role}={pattern} fits no module: {suggest(pattern, module_names(model))}")
    if lacking:
        raise LobertError(
            f"encoder.roles.{role}={pattern} fits {len(paths) - len(lacking)} of {len(paths)} layers, but there is no "
            f"'{lacking[0]}': give a path that all layers have"
        )
    find_weights(model, [role])  # refuses what is neither linear nor table
