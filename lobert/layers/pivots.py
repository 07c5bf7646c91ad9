"""The part of a factor `[I | T]` that no training changes: where its identity stands, and how large it is."""

import torch
from torch import Tensor, nn

from lobert.errors import LobertError
from lobert.factorizations.pivoted import pivot


class Pivots(nn.Module):
    """Puts `unit * [I | T]`, its columns in their order, together from `unit * T`.

    Attributes:
        places: `[columns]`, whether a column is one of the identity's.
        unit: makes this factor as large as the one beside it: gradient steps then act alike on both.
    """

    places: Tensor
    unit: Tensor
    identity_columns: Tensor
    other_columns: Tensor

    def __init__(self, rank: int, columns: int) -> None:
        super().__init__()
        self.rank, self.columns = rank, columns
        self.register_buffer("places", torch.arange(columns) < rank)
        self.register_buffer("unit", torch.ones(()))
        # Follow from the places. To look for them in every pass would make a GPU wait.
        self.register_buffer("identity_columns", torch.arange(rank), persistent=False)
        self.register_buffer("other_columns", torch.arange(rank, columns), persistent=False)
        self.register_load_state_dict_post_hook(lambda module, _: module.find_columns())

    def find_columns(self) -> None:
        """Bring the numbers of the columns in line with their places; LobertError where these are not `rank` many."""
        if (count := int(self.places.sum())) != self.rank:
            raise LobertError(
                f"a pivoted factor of rank {self.rank} has {count} columns of an identity in place of {self.rank}: "
                "its file is damaged, get or make it again"
            )
        self.identity_columns.copy_(self.places.nonzero().squeeze(1))
        self.other_columns.copy_((~self.places).nonzero().squeeze(1))

    def take(self, matrix: Tensor, partner: Tensor, mode: int) -> tuple[Tensor, Tensor]:
        """What to keep of `matrix [r, n]`, `[r, n - r]`, and of its partner, whose `mode` meets it."""
        rest, partner, places = pivot(matrix.cpu().double(), partner.cpu().double(), mode)
        strength, size = partner.norm(), (rest.square().sum() + self.rank).sqrt()
        unit = (strength / size).sqrt() if strength > 0 else torch.ones_like(size)
        self.places.copy_(places)
        self.unit.copy_(unit)
        self.find_columns()
        return rest * unit, partner / unit

    def forward(self, rest: Tensor) -> Tensor:
        """`[r, n - r]` to `[r, n]`."""
        identity = torch.eye(self.rank, dtype=rest.dtype, device=rest.device) * self.unit
        whole = rest.new_zeros(self.rank, self.columns).index_copy_(1, self.identity_columns, identity)
        return whole.index_copy(1, self.other_columns, rest)
