"""The factor that has the dimensions of an attention's heads, from what is kept of it."""

import torch
from torch import Tensor, nn

from lobert.errors import LobertError
from lobert.factorizations import Heads


class HeadFrame(nn.Module):
    """Puts a factor `[r, heads * size]` together from what is kept of it.

    Attributes:
        places: `[heads, r]`, of the one that pivots: whether a column is one of the identity's.
    """

    places: Tensor
    order: Tensor

    def __init__(self, heads: Heads, rank: int) -> None:
        super().__init__()
        self.heads, self.rank = heads, rank
        if heads.pivots:
            columns = torch.arange(rank).repeat(heads.count, 1)
            self.register_buffer("places", columns < heads.used)
            # Follows from the places: where each column is behind those of the identity, or among them.
            self.register_buffer("order", columns.clone(), persistent=False)
            self.register_load_state_dict_post_hook(lambda module, _: module.find_columns())

    def find_columns(self) -> None:
        """Bring the order in line with the places; LobertError where these are not as many in each head."""
        if (self.places.sum(1) != self.heads.used).any():
            raise LobertError(
                f"a factor of {self.heads.count} heads lacks places of the identities, {self.heads.used} in each: its "
                "file is damaged, get or make it again"
            )
        behind = (~self.places).to(torch.int8).argsort(dim=1, stable=True)  # [identity, others] as columns
        self.order.copy_(behind.argsort(1))

    def set_places(self, places: Tensor) -> None:
        self.places.copy_(places)
        self.find_columns()

    def forward(self, kept: Tensor) -> Tensor:
        """`[heads, used, r - used]`, or without identities `[r, heads, used]`, to `[r, heads * size]`."""
        heads = self.heads
        whole = self._with_identities(kept) if heads.pivots else kept
        return nn.functional.pad(whole, (0, heads.size - heads.used)).flatten(1)

    def _with_identities(self, rest: Tensor) -> Tensor:
        used = self.heads.used
        identity = torch.eye(used, dtype=rest.dtype, device=rest.device).expand(len(rest), used, used)
        columns = torch.cat([identity, rest.mT], 1)  # [heads, r, used]
        found = columns.gather(1, self.order.unsqueeze(2).expand(-1, -1, used))
        return found.transpose(0, 1)
