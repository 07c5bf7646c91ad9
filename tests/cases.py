"""The tables that the law tests share: a tiny BERT, every factorization on every stack, every configuration file."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from lobert.compression.grouping import Part
from lobert.compression.points import parts_from_settings
from lobert.errors import LobertError
from lobert.factorizations import FACTORIZATIONS, Factorization, Rank, RankSetting, Shape
from lobert.factorizations.tt import useful_rank

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
# How many files each folder of conf/ holds: a new one is counted here, so that none is forgotten.
CONF_COUNTS = {"task": 13, "encoder": 11, "decomp": 33, "kd": 4, "trainer": 5, "logger": 2, "experiment": 3, "sweep": 6}

POINTS = ["svd", "tucker_layer", "falcon_layer", "tucker_vertical", "falcon_vertical", "tucker_4d", "falcon_4d"]
POINTS += ["ffn_svd", "ffn_tucker", "ffn_cp", "ffn_tt", "all_svd", "all_tucker", "pooler_svd", "embeddings_svd", "free"]
POINTS += [
    "cp_layer",
    "tt_layer",
    "cp_vertical",
    "tt_vertical",
    "basis_vertical",
    "cp_4d",
    "tt_4d",
    "all_pivoted_svd",
    "all_narrow_svd",
]
ALIASES = {
    "self_svd": "svd",
    "self_tuckerlayer": "tucker_layer",
    "self_falconlayer": "falcon_layer",
    "self_tuckervertical": "tucker_vertical",
    "self_falconvertical": "falcon_vertical",
    "self_tucker_4d": "tucker_4d",
    "self_falcon_4d": "falcon_4d",
}
TINY = {
    "hidden_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "vocab_size": 100,
}

# Tall, wide and square matrices, single rows and layers, stacks longer than the weights in them.
SHAPES: dict[str, list[Shape]] = {
    "": [(12, 18), (18, 12), (9, 9), (1, 7)],
    "s": [(3, 12, 18), (3, 9, 9)],
    "l": [(4, 18, 12), (12, 3, 5), (1, 6, 6)],
    "sl": [(3, 4, 12, 18), (3, 1, 6, 6)],
}


def exists(method: Factorization, stack: str) -> bool:
    """Whether the factorization knows such a stack."""
    try:
        method.equation(stack)
    except LobertError:
        return False
    return True


GROUPS = [  # (factorization, stack, shape)
    (name, stack, shape)
    for name, method in FACTORIZATIONS.items()
    for stack, shapes in SHAPES.items()
    if exists(method, stack)
    for shape in shapes
]


def conf_names(folder: str) -> list[str]:
    """The options in one folder of conf/, as `ls` shows them."""
    return sorted(path.stem for path in (CONF / folder).glob("*.yaml"))


def random_tensor(shape: Shape, seed: int = 0) -> Tensor:
    """Float64 normal entries, the modes weighed by a decaying spectrum as trained weights have one."""
    tensor = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    for mode, size in enumerate(shape):
        decay = torch.arange(1, size + 1, dtype=torch.float64) ** -0.5
        tensor = tensor * decay.reshape([-1 if axis == mode else 1 for axis in range(len(shape))])
    return tensor


def random_factors(name: str, stack: str, shape: Shape, rank: Rank) -> list[Tensor]:
    """Float64 factors of the right shapes, drawn at random."""
    torch.manual_seed(1)
    return [torch.randn(s, dtype=torch.float64) for s in FACTORIZATIONS[name].factor_shapes(stack, shape, rank)]


def rank_ladder(name: str, shape: Shape, steps: int = 6) -> list[Rank]:
    """Ranks from the smallest to the full one; no entry of a later rank is below that of an earlier one."""
    full = FACTORIZATIONS[name].full_rank(shape)
    ladder = [tuple(max(1, size * step // steps) for size in full) for step in range(1, steps + 1)]
    return [useful_rank(shape, rank) for rank in ladder] if name.endswith("tt") else ladder


def tiny_bert(seed: int = 0, labels: int = 3, **changes: Any) -> BertForSequenceClassification:
    """A small classifier in which every parameter, biases and norms too, is its own and matters."""
    return copy.deepcopy(_tiny_bert(seed, labels, tuple(changes.items())))


@cache
def _tiny_bert(seed: int, labels: int, changes: tuple[tuple[str, Any], ...]) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    model = BertForSequenceClassification(BertConfig(**{**TINY, **dict(changes)}, num_labels=labels))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model.eval()


def token_batch(examples: int = 5, length: int = 9, seed: int = 0) -> dict[str, Tensor]:
    """Random token ids of two segments, every example with padding of its own."""
    ids = torch.randint(1, TINY["vocab_size"], (examples, length), generator=torch.Generator().manual_seed(seed))
    position = torch.arange(length).expand(examples, length)
    mask = (position < length - torch.arange(examples)[:, None] % 4).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": (position > 3).long() * mask}


@torch.no_grad()
def logits_of(model: torch.nn.Module, batch: dict[str, Tensor] | None = None) -> Tensor:
    """What the classifier answers to a batch."""
    return model(**(batch or token_batch())).logits


def point(name: str | tuple[str, ...], keep: float | None = None, rank: RankSetting | None = None) -> list[Part]:
    """What `named_parts` gives, from a configuration that is composed only once: that is slow."""
    return parts_from_settings({**decomp_settings(name), "keep": keep, "rank": rank})


@cache
def decomp_settings(name: str | tuple[str, ...]) -> dict[str, Any]:
    """The `decomp` node as `decomp=name` or `decomp=[name,name]` composes it."""
    config = compose(f"decomp={name}" if isinstance(name, str) else f"decomp=[{','.join(name)}]")
    return OmegaConf.to_container(config.decomp, resolve=True)  # type: ignore[return-value]


@cache
def compose(*overrides: str) -> DictConfig:
    """What `train.py` gets with these overrides. Composing is slow: nobody is to write into it."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose("config", list(overrides))


def one_sentence(error: BaseException) -> str:
    """The message of a user's mistake, which is a single line."""
    text = str(error)
    assert text
    assert "\n" not in text
    return text
