"""Weights and moments of BERT-base's sizes for the benchmarks, drawn from fixed seeds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from lobert.compression.statistics import Statistics
from lobert.encoders.roles import encoder_linears, find_weights, first_reader, linear_at, matrix_at
from lobert.layers.blocks import Block

ROLES = (("query", "key", "value"), ("intermediate",), ("output",), ("attention_output",))  # each shares a component
TABLE = "word_embeddings"
DECAY = 0.5  # singular values fall like k ** -DECAY
SPREAD = 0.04  # standard deviation of the weights, about that of BERT's
UNEVEN = 1.6  # ratio of the largest to the smallest standard deviation among weights of a role, as MiniLM's values have
CONDITION = 1e7  # of the metrics: BERT's input covariances have 1e6 to 1e8


# ---- weights ----


def synthetic_encoder(layers: int, hidden: int, vocabulary: int) -> BertModel:
    """A BERT whose weights have decaying spectra, and something in common through layers and roles."""
    sizes = {"hidden_size": hidden, "intermediate_size": 4 * hidden, "num_hidden_layers": layers}
    model = BertModel(BertConfig(**sizes, vocab_size=vocabulary, max_position_embeddings=8, num_attention_heads=1))
    random = torch.Generator().manual_seed(0)
    for roles in (*ROLES, ("pooler",)):
        fill(model, roles, random)
    table = matrix_at(model, Block.parse(find_weights(model, [TABLE])[TABLE, None]))
    copy_scaled(component(table.shape, random), table, 1.0)
    return model


def fill(model: nn.Module, roles: Sequence[str], random: torch.Generator) -> None:
    """Each weight is the sum of four components: everybody's, its role's, its layer's and its own.

    Its strength is its own, too: among weights of equal strength no choice of leading layers is better than another,
    and alternating least squares wander on that plateau, which they do not on real weights.
    """
    places = find_weights(model, list(roles))
    shape = linear_at(model, next(iter(places.values()))).weight.shape
    common = component(shape, random)
    by_role = {role: component(shape, random) for role, _ in places}
    by_layer = {layer: component(shape, random) for _, layer in places}
    for (role, layer), path in places.items():
        weight = common + by_role[role] + by_layer[layer] + component(shape, random)
        strength = UNEVEN ** (torch.rand((), generator=random).item() - 0.5)
        copy_scaled(weight, matrix_at(model, Block.parse(path)), strength)


@torch.no_grad()
def copy_scaled(weight: Tensor, place: Tensor, strength: float) -> None:
    place.copy_(weight * (SPREAD * strength / weight.std()))


def component(shape: torch.Size, random: torch.Generator) -> Tensor:
    """Random singular vectors and singular values `k ** -DECAY`, `[out, in]`."""
    size = min(shape)
    left, right = (nn.init.orthogonal_(torch.empty(length, size), generator=random) for length in shape)
    return (left * torch.arange(1, size + 1) ** -DECAY) @ right.T


# ---- moments ----


class Drawn(Mapping[str, Tensor]):
    """Tensors by module path, each drawn anew when it is asked for: together they would fill the memory."""

    def __init__(self, paths: Sequence[str], draw: Callable[[int], Tensor]) -> None:
        self.numbers = {path: number for number, path in enumerate(paths)}
        self.draw = draw

    def __getitem__(self, path: str) -> Tensor:
        return self.draw(self.numbers[path])

    def __iter__(self) -> Iterator[str]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


def synthetic_statistics(model: BertModel) -> Statistics:
    """Moments of every linear; those of one input are the same, and all metrics have the condition CONDITION."""
    paths = encoder_linears(model)
    columns = [linear_at(model, path).in_features for path in paths]
    rows = [linear_at(model, path).out_features for path in paths]
    means = Drawn(paths, lambda number: torch.zeros(columns[number], dtype=torch.float64))
    moments = Drawn(paths, lambda number: metric(columns[number], 2 * number))
    return Statistics(
        source={path: first_reader(model, path) for path in paths},
        mean=means,
        second_moment=moments,
        weighted_mean=means,
        weighted_moment=moments,
        importance={},
        gradient=Drawn(paths, lambda number: metric(rows[number], 2 * number + 1)),
        fisher=Drawn(paths, lambda number: spectrum(columns[number], number)),
    )


def metric(size: int, seed: int) -> Tensor:
    """A symmetric positive matrix `[size, size]`, in single precision as moments on disk are."""
    basis = random_basis(size)
    return ((basis * spectrum(size, seed).float()) @ basis.T).double()


@cache
def random_basis(size: int) -> Tensor:
    """Orthonormal columns `[size, size]`."""
    return nn.init.orthogonal_(torch.empty(size, size), generator=torch.Generator().manual_seed(size))


def spectrum(size: int, seed: int) -> Tensor:
    """From 1 down to 1 / CONDITION in even ratios, in random order and with a strength of its own, float64."""
    random = torch.Generator().manual_seed(seed)
    values = CONDITION ** -torch.linspace(0, 1, size, dtype=torch.float64)
    return values[torch.randperm(size, generator=random)] * UNEVEN ** torch.rand((), generator=random).item()
