"""Students on disk: a Hugging Face folder whose `config.json` carries the plan, and back; and the dense equivalent."""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.initialization import no_init_weights

from lobert.compression.compress import BANK, install_skeleton
from lobert.compression.plan import GroupPlan
from lobert.encoders.naming import set_roles
from lobert.encoders.roles import replace_module
from lobert.errors import LobertError
from lobert.layers.blocklinear import BlockLinear
from lobert.layers.chunks import take_whole
from lobert.layers.factored import FactoredLinear
from lobert.layers.lookup import FactoredEmbedding, dense_embedding

WEIGHTS = "model.safetensors"


def save_student(model: PreTrainedModel, folder: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Write the model (each factor once), its plan, label names and tokenizer as a Hugging Face folder."""
    model.save_pretrained(folder)
    if tokenizer is not None:
        if tokenizer.is_fast:  # it remembers how the last texts were cut and padded, which is no part of it
            tokenizer.backend_tokenizer.no_truncation()
            tokenizer.backend_tokenizer.no_padding()
        tokenizer.save_pretrained(folder)


def load(folder: str | Path, roles: Mapping[str, str | None] | None = None) -> PreTrainedModel:
    """A model saved by LoBERT, compressed or dense, in evaluation mode.

    `roles` are patterns of a dense encoder that the table does not know; a compressed one brings its own. Raises
    LobertError where the folder is none, or a tensor is missing, extra or of another shape: it is named.
    """
    folder = Path(folder)
    settings = read_config(folder)
    cls = model_class(settings, folder)
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise LobertError(f"{folder}/config.json is no model's configuration: {reason}") from None
    with no_init_weights():  # random numbers that would all be overwritten
        model = cls._from_config(config)
    model.tie_weights()
    if settings.get("lobert") is not None:
        install_skeleton(model, read_plan(settings["lobert"], folder))
    load_strictly(model, folder / WEIGHTS)
    set_roles(model, roles)
    return model.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed `config.json`."""
    path = folder / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise LobertError(f"no model at '{folder}': there is no config.json in it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LobertError(f"{path} is not readable JSON ({error})") from None
    if not isinstance(settings, dict):
        raise LobertError(f"{path} is not the configuration of a model")
    return settings


def read_plan(plan: Any, folder: Path) -> list[GroupPlan]:
    """The groups of the plan in a config.json; LobertError for another version or a damaged plan."""
    if not isinstance(plan, dict) or not isinstance(plan.get("groups"), list):
        raise LobertError(f"{folder}/config.json holds a damaged compression plan: it has no list of groups")
    if plan.get("version") != 1:
        raise LobertError(f"{folder}/config.json holds a plan of version {plan.get('version')}; LoBERT reads version 1")
    return [GroupPlan.from_dict(group) for group in plan["groups"]]


def model_class(settings: dict[str, Any], folder: Path) -> type[PreTrainedModel]:
    """The transformers class that the folder names."""
    name = (settings.get("architectures") or ["none"])[0]
    cls = getattr(transformers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, PreTrainedModel)):
        raise LobertError(f"{folder}/config.json names the model class '{name}', which transformers does not have")
    return cls


def load_strictly(model: nn.Module, path: Path) -> None:
    """Load a safetensors file whose names and shapes must be the model's own."""
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise LobertError(f"no weights at '{path}'") from None
    except SafetensorError as error:
        raise LobertError(f"{path} is damaged: {error}") from None
    wanted = model.state_dict()
    shared = {name for names in tied_names(model) for name in names}
    for name in wanted.keys() - tensors.keys() - shared:
        raise LobertError(f"{path} lacks the tensor '{name}'")
    for name in tensors.keys() - wanted.keys():
        raise LobertError(f"{path} holds '{name}', which the model does not have")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise LobertError(
                f"'{name}' in {path} is {list(tensor.shape)}, but the model's is {list(wanted[name].shape)}"
            )
    model.load_state_dict(tensors, strict=False)


def tied_names(model: nn.Module) -> list[set[str]]:
    """Names of the tensors that the model itself ties to another one, which a file therefore need not hold."""
    by_storage: dict[int, set[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        by_storage.setdefault(tensor.data_ptr(), set()).add(name)
    return [names for names in by_storage.values() if len(names) > 1]


def merge(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a compressed model with a dense layer in place of each factored one: same function, dense size."""
    model = copy.deepcopy(model)
    if not hasattr(model, BANK):
        return model
    for kind in (BlockLinear, FactoredLinear, FactoredEmbedding):  # the whole before its blocks, which go with it
        for path, layer in [(path, layer) for path, layer in model.named_modules() if isinstance(layer, kind)]:
            replace_module(model, path, dense_module(layer))
    take_whole(model)
    delattr(model, BANK)
    del model.config.lobert
    return model


def dense_module(layer: BlockLinear | FactoredLinear | FactoredEmbedding) -> nn.Linear | nn.Embedding:
    """The dense layer that a factored one equals."""
    return dense_embedding(layer) if isinstance(layer, FactoredEmbedding) else dense_linear(layer)


@torch.no_grad()
def dense_linear(layer: FactoredLinear | BlockLinear) -> nn.Linear:
    """The nn.Linear that a factored layer equals."""
    weight = layer.weight
    linear = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, weight.device, weight.dtype)
    linear.weight.copy_(weight)
    if layer.bias is not None:
        linear.bias.copy_(layer.bias)
    return linear.train(layer.training)
