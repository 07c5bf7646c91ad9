"""What a slice of a tensor addresses: the whole weight of a module, or one of the equal blocks it is cut into.

In plans and tables of roles an address is text: the path of the module, and behind it the block where it is not the
whole, as in `encoder.layer.0.intermediate.dense[rows 2/4]`, the second of four blocks of rows.
"""

import re
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lobert.errors import LobertError

Axis = Literal["rows", "columns"]
WRITTEN = re.compile(r"(?P<path>[^\[\]]+)(\[(?P<axis>rows|columns) (?P<place>[1-9]\d*)/(?P<count>[1-9]\d*)\])?")


@dataclass(frozen=True)
class Block:
    """Block `number` (from 0) of the `count` equal ones that the rows (outputs) or columns (inputs) of a weight make.

    `path` is that of the module. A block of one is the whole weight, whatever its axis.
    """

    path: str
    axis: Axis = "rows"
    number: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Block":
        """The block that is written so; LobertError where it is none."""
        found = WRITTEN.fullmatch(text) if isinstance(text, str) else None
        if found is None or int(found["place"] or 1) > int(found["count"] or 1):
            raise LobertError(
                f"'{text}' addresses no weight: write the path of a module, or of its second block of four "
                "'path[rows 2/4]' or 'path[columns 2/4]'"
            )
        if int(found["count"] or 1) == 1:
            return cls(found["path"])
        axis: Axis = "rows" if found["axis"] == "rows" else "columns"
        return cls(found["path"], axis, int(found["place"]) - 1, int(found["count"]))

    def __str__(self) -> str:
        return self.path if self.is_whole else f"{self.path}[{self.axis} {self.number + 1}/{self.count}]"

    @property
    def is_whole(self) -> bool:
        return self.count == 1

    @property
    def cutting(self) -> tuple[str, int]:
        """How the weight is cut: equal for the blocks that make it up."""
        return self.axis, self.count

    @property
    def layer(self) -> str:
        """Path of the factored layer that stands for the block in a compressed model."""
        return self.path if self.is_whole else f"{self.path}.blocks.{self.number}"

    def rows(self, size: int) -> slice:
        """The outputs it gives, of the `size` of the whole weight."""
        return self._range(size, "rows")

    def columns(self, size: int) -> slice:
        """The inputs it reads, of the `size` of the whole weight."""
        return self._range(size, "columns")

    def of(self, matrix: Tensor) -> Tensor:
        """Its part of a weight `[out, in]`, as a view; LobertError where the weight cannot be cut so."""
        return matrix[self.rows(matrix.shape[0]), self.columns(matrix.shape[1])]

    def holds(self, other: "Block") -> bool:
        """Whether `other` is this block or a part of it."""
        if self.path != other.path or (not self.is_whole and self.axis != other.axis):
            return False
        parts, rest = divmod(other.count, self.count)
        return not rest and other.number // parts == self.number

    def cut(self, axis: Axis, count: int) -> list["Block"]:
        """Its `count` equal parts; LobertError where it is cut along the other axis already."""
        if count == 1:
            return [self]
        if not self.is_whole and axis != self.axis:
            raise LobertError(f"'{self}' is cut by {self.axis} already and cannot be cut by {axis}, too")
        first = self.number * count
        return [Block(self.path, axis, first + part, self.count * count) for part in range(count)]

    def siblings(self) -> list["Block"]:
        """All blocks of the weight, in order."""
        return Block(self.path).cut(self.axis, self.count)

    def _range(self, size: int, axis: Axis) -> slice:
        if self.is_whole or axis != self.axis:
            return slice(0, size)
        length, rest = divmod(size, self.count)
        if rest:
            raise LobertError(f"'{self}' cannot be: the {size} {axis} of the weight do not make {self.count} blocks")
        return slice(self.number * length, (self.number + 1) * length)


def squares(block: Block, shape: tuple[int, int]) -> list[Block]:
    """The square blocks that a weight, or block of one, of this shape `[out, in]` is cut into, along its longer side.

    Raises LobertError where the shorter side does not divide the longer one.
    """
    rows, columns = shape
    long, short = max(shape), min(shape)
    if long % short:
        raise LobertError(
            f"'{block}' is [{rows}, {columns}] and cuts into no squares, as {long} is no multiple of {short}: "
            "choose a grouping with cut=false, or roles without this one"
        )
    return block.cut("rows" if rows > columns else "columns", long // short)
