"""Moments of the linears of a model: of their inputs, and of the gradients at their outputs; in memory and on disk."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lobert.blocks import Block
from lobert.errors import LobertError

STATISTICS_FILE = "statistics.safetensors"
STATISTICS_VERSION = 2  # raised when the same examples come to give other moments
TABLES = ("mean", "second_moment", "gradient", "fisher")


@dataclass(frozen=True)
class Statistics:
    """Moments by module path; inputs shared by several linears stand once, under the first one's path.

    Attributes:
        source: of each path, the path whose inputs it shares.
        mean: `[in]`, E[x] over tokens.
        second_moment: `[in, in]`, E[x xᵀ] over tokens.
        gradient: `[out, out]`, sum over an example's tokens of g gᵀ, averaged over examples that count alike (see
            `calibrate`); empty where the gradients were not asked for.
        fisher: `[in]`, sums over outputs of the squared gradient of the weight, averaged over examples.
    """

    source: Mapping[str, str]
    mean: Mapping[str, Tensor]
    second_moment: Mapping[str, Tensor]
    gradient: Mapping[str, Tensor]
    fisher: Mapping[str, Tensor]

    def input_mean(self, block: Block) -> Tensor:
        """Mean `[in]` of what a weight, or a block of one, reads."""
        mean = self.mean[self._source(block.path)]
        return mean[block.columns(len(mean))]

    def covariance(self, block: Block) -> Tensor:
        """Centred covariance `[in, in]` of what a weight, or a block of one, reads."""
        mean, moment = self.input_mean(block), self.second_moment[self._source(block.path)]
        columns = block.columns(len(moment))
        return moment[columns, columns] - torch.outer(mean, mean)

    def output_gradient(self, block: Block) -> Tensor | None:
        """Second moment `[out, out]` of the gradient of what a weight, or a block of one, gives; None without any."""
        moment = self.gradient.get(block.path)
        return None if moment is None else moment[block.rows(len(moment)), block.rows(len(moment))]

    def input_fisher(self, block: Block) -> Tensor:
        """`fisher [in]` of what a weight reads; of a block of rows, as big a part of it as of the rows."""
        fisher = self.fisher[block.path]
        share = block.count if block.axis == "rows" else 1  # sums over all outputs are kept, not the outputs apart
        return fisher[block.columns(len(fisher))] / share

    def _source(self, path: str) -> str:
        if path not in self.source:
            raise LobertError(f"there are no calibration statistics of '{path}': calibrate with the model as it is")
        return self.source[path]


def save_statistics(statistics: Statistics, folder: Path) -> None:
    """Write the statistics into `folder`, in single precision."""
    tensors = {
        f"{table}/{path}": tensor.float().contiguous()
        for table in TABLES
        for path, tensor in getattr(statistics, table).items()
    }
    save_file(tensors, folder / STATISTICS_FILE, {"source": json.dumps(dict(statistics.source))})


def load_statistics(folder: Path) -> Statistics:
    """The statistics in `folder`, in double precision. Raises LobertError where they cannot be read."""
    path = folder / STATISTICS_FILE
    tables: dict[str, dict[str, Tensor]] = {table: {} for table in TABLES}
    try:
        with safe_open(path, "pt") as file:
            source = json.loads(file.metadata()["source"])
            for key in file.keys():  # noqa: SIM118  # the file is no dict
                table, _, name = key.partition("/")
                tables[table][name] = file.get_tensor(key).double()
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise LobertError(f"{path} cannot be read ({error}): delete {folder} and run again to make it anew") from None
    return Statistics(source, **tables)
