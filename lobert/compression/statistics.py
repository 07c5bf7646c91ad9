"""Moments of the linears of a model: of their inputs, and of the gradients at their outputs; in memory and on disk."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lobert.errors import LobertError
from lobert.layers.blocks import Block

STATISTICS_FILE = "statistics.safetensors"
STATISTICS_VERSION = 8  # raised when the same examples come to give other moments, or stand otherwise on disk
TABLES = ("mean", "second_moment", "gradient", "fisher", "weighted_mean", "weighted_moment", "importance")
LOGITS = "logits"
ROUNDING = 1e-6  # share of E[xᵀ x] below which a variance is none: the products are in single precision
SYMMETRIC = ("second_moment", "gradient", "weighted_moment")


@dataclass(frozen=True)
class Statistics:
    """Moments by module path; inputs shared by several linears stand once, under the first one's path.

    Tables that were not asked for (see `calibrate`) are empty.

    Attributes:
        source: of each path, the path whose inputs it shares.
        mean: `[in]`, E[x] over tokens.
        second_moment: `[in, in]`, E[x xᵀ] over tokens.
        gradient: `[out, out]`, sum over an example's tokens of g gᵀ, averaged over examples that count alike.
        fisher: `[in]`, sums over outputs of the squared gradient of the weight, averaged over examples.
        weighted_mean, weighted_moment: as `mean` and `second_moment`, but of each path, and each token counting by its
            importance.
        importance: `[tokens]`, of each path, how much each real token counts, in the order of the examples; 1 on
            average.
        logits: `[examples, C]`, of the model itself; empty where it has none.
    """

    source: Mapping[str, str]
    mean: Mapping[str, Tensor]
    second_moment: Mapping[str, Tensor]
    gradient: Mapping[str, Tensor]
    fisher: Mapping[str, Tensor]
    weighted_mean: Mapping[str, Tensor]
    weighted_moment: Mapping[str, Tensor]
    importance: Mapping[str, Tensor]
    logits: Tensor = field(default_factory=lambda: torch.empty(0))

    def by_importance(self) -> "Statistics":
        """The same, with tokens counting by their importance in the moments of the inputs."""
        source = {path: path for path in self.weighted_mean}
        return replace(self, source=source, mean=self.weighted_mean, second_moment=self.weighted_moment)

    def input_mean(self, block: Block) -> Tensor:
        """Mean `[in]` of what a weight, or a block of one, reads."""
        mean = self.mean[self._source(block.path)]
        return mean[block.columns(len(mean))]

    def covariance(self, block: Block) -> Tensor:
        """Centred covariance `[in, in]` of what a weight, or a block of one, reads; zeros where it is but rounding."""
        mean, moment = self.input_mean(block), self.second_moment[self._source(block.path)]
        columns = block.columns(len(moment))
        moment = moment[columns, columns]
        return centred(moment, mean)

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


def centred(moment: Tensor, mean: Tensor) -> Tensor:
    """The covariance `[in, in]` of what has this second moment and mean; zeros where it is but rounding."""
    covariance = torch.addr(moment, mean, mean, alpha=-1)
    return covariance if covariance.trace() > ROUNDING * moment.trace() else torch.zeros_like(covariance)


def save_statistics(statistics: Statistics, folder: Path) -> None:
    """Write the statistics into `folder`, in double precision; of symmetric matrices the upper triangle."""
    tensors = {
        f"{table}/{path}": (packed(tensor) if table in SYMMETRIC else tensor).double().contiguous()
        for table in TABLES
        for path, tensor in getattr(statistics, table).items()
    }
    tensors[LOGITS] = statistics.logits.double().contiguous()
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
                tensor = file.get_tensor(key)
                if key != LOGITS:
                    tables[table][name] = unpacked(tensor) if table in SYMMETRIC else tensor
            logits = file.get_tensor(LOGITS)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise LobertError(f"{path} cannot be read ({error}): delete {folder} and run again to make it anew") from None
    return Statistics(source, **tables, logits=logits)


def packed(matrix: Tensor) -> Tensor:
    """The upper triangle of a symmetric matrix `[n, n]`, row by row, `[n (n + 1) / 2]`."""
    rows, columns = torch.triu_indices(*matrix.shape)
    return matrix[rows, columns]


def unpacked(triangle: Tensor) -> Tensor:
    """The symmetric matrix `[n, n]` of an upper triangle `[n (n + 1) / 2]`; ValueError where there is no such n."""
    size = (math.isqrt(8 * len(triangle) + 1) - 1) // 2
    if triangle.dim() != 1 or size * (size + 1) // 2 != len(triangle):
        raise ValueError(f"{list(triangle.shape)} is no triangle of a matrix")
    rows, columns = torch.triu_indices(size, size)
    matrix = triangle.new_empty(size, size)
    matrix[rows, columns] = triangle
    matrix[columns, rows] = triangle
    return matrix
