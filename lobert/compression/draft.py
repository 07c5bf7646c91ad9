"""A model while it is compressed: in the places of its weights runs what they have become so far."""

import copy

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lobert.encoders.roles import linear_at, module_at, replace_module


class Draft:
    """Stand-ins for dense modules of a model. A context: at its end they are back, still dense, with the new biases.

    An exception leaves the model as it was.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._dense: dict[str, nn.Linear | nn.Embedding] = {}
        self._biases: dict[str, nn.Parameter] = {}

    def open(self, path: str) -> None:
        """Have a copy stand in for a linear or an embedding, to be written into."""
        if path in self._dense:
            return
        dense = self._dense[path] = module_at(self.model, path)
        stand_in = copy.deepcopy(dense)
        vars(stand_in).pop("forward", None)  # of a replay, which would give what the dense one gave
        replace_module(self.model, path, stand_in)
        if isinstance(stand_in, nn.Linear) and stand_in.bias is not None:
            self._biases[path] = stand_in.bias

    @torch.no_grad()
    def divide(self, path: str, left: Tensor, right: Tensor) -> None:
        """Run the stand-in of a linear, the product of `left [r, out]` and `right [r, in]`, as two, if that is less."""
        linear, rank = linear_at(self.model, path), len(left)
        rows, columns = linear.weight.shape
        if rank * (rows + columns) >= rows * columns:
            return
        inner, outer = (nn.utils.skip_init(nn.Linear, *size, bias=False) for size in ((columns, rank), (rank, rows)))
        inner.weight, outer.weight = (nn.Parameter(matrix.to(linear.weight)) for matrix in (right, left.mT))
        outer.bias = linear.bias
        replace_module(self.model, path, nn.Sequential(inner, outer))

    def __enter__(self) -> "Draft":
        return self

    @torch.no_grad()
    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        for path, dense in self._dense.items():
            replace_module(self.model, path, dense)
            if path in self._biases and failure is None:
                dense.get_parameter("bias").copy_(self._biases[path])
