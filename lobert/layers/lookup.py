"""The compressed embedding: rows are looked up in the factors, and only those of the tokens at hand are multiplied."""

import torch
from torch import Tensor, nn

from lobert.factorizations.contraction import Path, contract
from lobert.factorizations.orders import cheapest_path
from lobert.layers.group import FactorGroup
from lobert.layers.tracing import TRACED_BATCH, is_traced
from lobert.layers.ways import LARGE_BATCH


class FactoredEmbedding(nn.Module):
    """Stands where an nn.Embedding stood; its group's tensor is the transposed table, `[out, tokens]`.

    A lookup is a product with a one-hot input, so that the tokens are the input mode: `ro,ri->oi` gathers the columns
    of `ri` first and multiplies them by `ro` then. Maps ids `[...]` to `[..., out]`. The table itself is never formed,
    whatever the evaluation of the group: merged, it would be the size it was and save no time.

    The row of the padding token is factorized and trained like the others: what reads it is masked. Where the dense
    table had one, its number `padding_idx` is kept for the table that takes its place again.
    """

    group: FactorGroup
    bias = None  # as of a FactoredLinear without one

    def __init__(self, group: FactorGroup, padding_idx: int | None = None) -> None:
        super().__init__()
        object.__setattr__(self, "group", group)  # not registered: the bank owns it
        self.padding_idx = padding_idx
        self.embedding_dim, self.num_embeddings = group.shape
        self.places = [term.find("i") for term in group.ways.terms]  # of the token mode in each factor, -1 without
        self.traced_path = self.path(TRACED_BATCH)

    @property
    def weight(self) -> Tensor:
        """The dense table `[tokens, out]` this embedding stands for, formed anew at each access."""
        return self.group.weight(()).T

    def path(self, tokens: int) -> Path:
        """The cheapest order for so many tokens."""
        terms = tuple(term.replace("i", "n") for term in self.group.ways.terms)
        return cheapest_path(terms, "no", tuple(sorted({**self.group.ways.sizes, "n": tokens}.items())))

    def macs_per_token(self) -> int:
        """Multiply-adds of one lookup in a large batch."""
        return round(self.path(LARGE_BATCH).multiply_adds / LARGE_BATCH)

    def forward(self, ids: Tensor) -> Tensor:
        tokens = ids.reshape(-1)
        pairs = zip(self.group.whole_factors(), self.places, strict=True)
        factors = [f if place < 0 else f.index_select(place, tokens) for f, place in pairs]
        path = self.traced_path if is_traced() else self.path(len(tokens))
        found = factors[0].T if len(factors) == 1 else contract(path, factors)
        return found.reshape(*ids.shape, self.embedding_dim)

    def extra_repr(self) -> str:
        return f"num_embeddings={self.num_embeddings}, embedding_dim={self.embedding_dim}"


@torch.no_grad()
def dense_embedding(layer: FactoredEmbedding) -> nn.Embedding:
    """The nn.Embedding that a factored one equals."""
    table = layer.weight.contiguous()
    embedding = nn.Embedding.from_pretrained(table, freeze=False, padding_idx=layer.padding_idx)
    return embedding.train(layer.training)
