"""Seconds of the compressed encoder beside the dense one, and beside forming its weights anew in every forward.

    python benchmarks/forward.py [--only svd tucker_4d] [--batch 1 32] [--length 16 64 128] [--layers 12] [--hidden 768]
    python benchmarks/forward.py --ranks 96 91                        # all_svd at a multiple of 8, beside another rank

Each compression gets the same input as the dense encoder, in turn, so that a drift of the machine cancels; ratios are
medians over the rounds. "rebuild" is the same student with `evaluation=merge` and its kept weights dropped. A training
step is a forward and a backward pass, of all parameters, and AdamW's update, fused, as the pipeline trains. The weights
are random: the time does not depend on them. Students take large batches through the feed-forward networks in chunks
of tokens; the rows "dense, in chunks" say what that alone does for the dense encoder.

Multiply-adds are those of all linears, at that very number of tokens, and of the two products of attention, in a
forward pass; forming weights counts where it is done.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from common import header, header_line, say, table, timed
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from lobert.compression.compress import install_skeleton
from lobert.compression.plan import make_plan
from lobert.compression.points import named_parts
from lobert.errors import LobertError
from lobert.layers.chunks import take_chunks
from lobert.layers.factored import FactoredLinear
from lobert.layers.pairs import fold, unfold
from lobert.startup import keep_freed_memory

COMPRESSIONS = (
    "svd", "tucker_layer", "falcon_layer", "tucker_vertical", "falcon_vertical",
    "tucker_4d", "falcon_4d", "ffn_svd", "ffn_tucker", "all_svd", "all_pivoted_svd",
)  # fmt: skip
WARM_UP = 1  # rounds that are not counted
SPREAD = 0.04  # standard deviation of the weights, about that of BERT's
Call = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """Ratios of one setting; `macs` of the student's multiply-adds to the dense encoder's."""

    name: str
    batch: int
    length: int
    training: bool
    macs: float
    to_dense: float
    to_rebuild: float | None


# ---- models ----


def dense_encoder(chosen: argparse.Namespace) -> nn.Module:
    """The layers of a BERT, without embeddings and without dropout."""
    return bert(chosen).encoder


def bert(chosen: argparse.Namespace) -> BertModel:
    sizes = {"hidden_size": chosen.hidden, "intermediate_size": 4 * chosen.hidden, "num_hidden_layers": chosen.layers}
    heads = max(1, chosen.hidden // 64)
    config = BertConfig(**sizes, num_attention_heads=heads, vocab_size=8, hidden_dropout_prob=0.0)
    config.attention_probs_dropout_prob = 0.0
    torch.manual_seed(0)
    return BertModel(config)


def compressed_encoder(chosen: argparse.Namespace, name: str, rank: int | None = None) -> nn.Module:
    """The same with factors of this rank or the point's default one, drawn at random."""
    model = bert(chosen)
    for factor in install_skeleton(model, make_plan(model, named_parts(name, rank=rank))).parameters():
        nn.init.normal_(factor, std=SPREAD)
    encoder = model.encoder
    encoder.bank = model.factors  # the layers themselves do not register the factors
    return encoder


def factored(encoder: nn.Module) -> list[FactoredLinear]:
    return [module for module in encoder.modules() if isinstance(module, FactoredLinear)]


# ---- multiply-adds ----


def multiply_adds(encoder: nn.Module, batch: int, length: int, training: bool) -> int:
    """Of one forward of the whole encoder."""
    tokens = batch * length
    dense = sum(layer.in_features * layer.out_features for layer in encoder.modules() if isinstance(layer, nn.Linear))
    attention = sum(2 * tokens * length * layer.attention.self.all_head_size for layer in encoder.layer)
    return tokens * dense + of_groups(factored(encoder), tokens, training) + attention


def of_groups(layers: Sequence[FactoredLinear], tokens: int, training: bool) -> int:
    """Of all groups that these layers are slices of."""
    groups = {id(layer.group): layer for layer in layers}.values()
    return sum(layer.group.ways.way(tokens, training, layer.shared.size).multiply_adds for layer in groups)


# ---- one setting ----


def rebuilt(layers: Sequence[FactoredLinear], call: Call) -> object:
    """The call with every weight merged, and formed in this very call."""
    groups = {id(layer.group): layer.group for layer in layers}.values()
    before = [(group.ways.evaluation, group.formed) for group in groups]
    for group in groups:
        group.ways.evaluation, group.formed = "merge", copy(group.formed)  # a copy has nothing kept
    result = call()
    for group, (evaluation, formed) in zip(groups, before, strict=True):
        group.ways.evaluation, group.formed = evaluation, formed
    return result


def forward(encoder: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return encoder(x).last_hidden_state


def step(encoder: nn.Module, x: Tensor) -> None:
    encoder.zero_grad()
    encoder(x.clone().requires_grad_()).last_hidden_state.square().mean().backward()
    optimizer_of(encoder).step()


def optimizer_of(encoder: nn.Module) -> torch.optim.Optimizer:
    """Of this encoder's parameters, which it leaves as they are; made once."""
    if not hasattr(encoder, "optimizer"):
        encoder.optimizer = torch.optim.AdamW(encoder.parameters(), lr=0.0, fused=True)
    return encoder.optimizer


def seconds(calls: Sequence[Call], rounds: int, device: torch.device) -> list[list[float]]:
    """Of each call in every round, one after another."""
    return [[timed(call, device)[0] for call in calls] for _ in range(rounds + WARM_UP)][WARM_UP:]


def compare(name: str, encoders: tuple[nn.Module, nn.Module], x: Tensor, training: bool, rounds: int) -> Row:
    """The compressed encoder against the dense one and against itself with weights formed in every forward."""
    dense, student = encoders
    batch, length = x.shape[:2]
    run = step if training else forward
    for encoder in encoders:
        encoder.train(training)
        (unfold if training else fold)(encoder)  # as the pipeline trains and evaluates students, with new parameters
    own: Call = partial(run, student, x)
    calls: list[Call] = [partial(run, dense, x), own, partial(rebuilt, factored(student), own)]
    times = seconds(calls, rounds, x.device)
    costs = [multiply_adds(encoder, batch, length, training) for encoder in (student, dense)]
    to_dense, to_rebuild = median(b / a for a, b, _ in times), median(b / c for _, b, c in times)
    return Row(name, batch, length, training, costs[0] / costs[1], to_dense, to_rebuild)


def projections(chosen: argparse.Namespace, x: Tensor) -> Row:
    """The queries, keys and values of all layers alone, layer by layer, by FALCON, against the dense ones.

    All layers, because in an encoder no layer finds its weights in the cache that the layer before it used.
    """
    encoders = (dense_encoder(chosen).to(x.device), compressed_encoder(chosen, "falcon_layer").to(x.device))
    linears = [projections_of(encoder) for encoder in encoders]
    calls = [partial(together, layers, x) for layers in linears]
    tokens = x.shape[0] * x.shape[1]
    dense = chosen.layers * 3 * tokens * chosen.hidden**2
    macs = of_groups(factored(encoders[1]), tokens, training=False) / dense
    ratio = median(b / a for a, b in seconds(calls, chosen.rounds, x.device))
    return Row("Q, K, V: falcon_layer", x.shape[0], x.shape[1], False, macs, ratio, None)


def projections_of(encoder: nn.Module) -> list[list[nn.Module]]:
    """Query, key and value of each layer."""
    return [[layer.attention.self.get_submodule(role) for role in ("query", "key", "value")] for layer in encoder.layer]


def together(layers: Sequence[Sequence[nn.Module]], x: Tensor) -> None:
    """The outputs of one layer go before those of the next one come, as in a forward pass."""
    with torch.no_grad():
        for layer in layers:
            _ = [projection(x) for projection in layer]


# ---- report ----


def line(row: Row) -> list[str]:
    rebuild = "" if row.to_rebuild is None else f"{row.to_rebuild:.2f}"
    kind = "training step" if row.training else "forward"
    return [row.name, kind, str(row.batch), str(row.length), f"{row.macs:.2f}", f"{row.to_dense:.2f}", rebuild]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Seconds of compressed encoders as shares of the dense one's.")
    only = "these; none: Q, K and V alone"
    parser.add_argument("--only", nargs="*", choices=COMPRESSIONS, default=COMPRESSIONS, help=only)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--length", nargs="+", type=int, default=[16, 64, 128])
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768)
    ranks = "all_svd at the first of these ranks beside itself at each of the others, and nothing else"
    parser.add_argument("--ranks", nargs="+", type=int, default=[], help=ranks)
    parser.add_argument("--rounds", type=int, default=7, help=f"measured, after {WARM_UP} to warm up")
    parser.add_argument("--device", default="cpu")
    chosen = parser.parse_args()
    if min(*chosen.batch, *chosen.length, chosen.layers, chosen.hidden, chosen.rounds) < 1:
        parser.error("sizes and --rounds must be 1 or more")
    if len(chosen.ranks) == 1:
        parser.error("--ranks compares the first rank with others: give two or more")
    return chosen


def main() -> None:
    chosen = arguments()
    keep_freed_memory()  # as commands do
    device = torch.device(chosen.device)
    print(header_line(header(device)))
    print(f"{chosen.layers} layers of {chosen.hidden}; random weights; median of {chosen.rounds} rounds", flush=True)
    titles = ("compression", "what", "batch", "length", "multiply-adds", "time to dense", "time to rebuilding")
    lines = []
    for row in measured(chosen, device):
        lines.append(line(row))
        say("  ".join(lines[-1]))
    print(table(titles, lines))


def measured(chosen: argparse.Namespace, device: torch.device) -> Iterator[Row]:
    """Every setting, one after the other: first Q, K and V alone, then each compression of the whole encoder."""
    inputs = [
        torch.randn(batch, length, chosen.hidden, device=device) for batch in chosen.batch for length in chosen.length
    ]
    if chosen.ranks:
        yield from beside_ranks(chosen, inputs)
        return
    yield from (projections(chosen, x) for x in inputs)
    dense = dense_encoder(chosen).to(device)
    chunked = deepcopy(dense)
    take_chunks(chunked)
    yield from (
        compare("dense, in chunks", (dense, chunked), x, False, chosen.rounds) for x in inputs if x.shape[0] > 1
    )
    for name in chosen.only:
        student = compressed_encoder(chosen, name).to(device)
        for training in (False, True):
            yield from (compare(name, (dense, student), x, training, chosen.rounds) for x in inputs)


def beside_ranks(chosen: argparse.Namespace, inputs: Sequence[Tensor]) -> Iterator[Row]:
    """One rank beside others: which one it is tells more of the time than how large it is."""
    device, first = inputs[0].device, chosen.ranks[0]
    student = compressed_encoder(chosen, "all_svd", first).to(device)
    for rank in chosen.ranks[1:]:
        pair = compressed_encoder(chosen, "all_svd", rank).to(device), student
        for training in (False, True):
            name = f"all_svd: rank {first} to {rank}"
            yield from (compare(name, pair, x, training, chosen.rounds) for x in inputs)


if __name__ == "__main__":
    try:
        main()
    except LobertError as error:
        sys.exit(f"error: {error}")
