"""Passes over one layer while its weights change one after another: what cannot change any more is computed once."""

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn

Calls = list[list[Any]]  # what a module gave: in each batch, at each of its calls


class Replay:
    """The modules inside a layer that ended, in the pass before, ahead of every weight that was still `pending`.

    They give again what they gave then, batch by batch, and what is inside them does not run. The pending linears give
    zeros: a sum that one of them is part of is then the rest of it. A pass is one call of `begin` for each batch, in
    order, with one call of the layer after it. A context: at its end the modules are what they were.

    Attributes:
        pending: paths, below the layer, of the weights that will change; whoever changes one takes it out.
    """

    def __init__(self, layer: nn.Module, pending: Iterable[str]) -> None:
        self.pending = set(pending)
        self._inside = {path: module for path, module in layer.named_modules() if path}
        self._kept: dict[str, Calls] = {}
        self._found: dict[str, Calls] = {}
        self._calls = Counter[str]()
        self._batch = 0
        self._settled = False  # whether what ends now will be the same in the next pass

    def __enter__(self) -> "Replay":
        for path, module in self._inside.items():
            forward = partial(zeros, module) if path in self.pending else module.forward
            module.forward = self._replayed(path, forward)
        return self

    def __exit__(self, *_: object) -> None:
        for module in self._inside.values():
            del module.forward

    def begin(self, batch: int) -> None:
        """A forward pass of this batch comes next."""
        if batch == 0:
            self._kept, self._found = outermost(self._found), {}
        self._batch, self._calls, self._settled = batch, Counter(), bool(self.pending)

    def _replayed(self, path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def call(*placed: Any, **named: Any) -> Any:
            self._settled &= path not in self.pending
            number, kept = self._calls[path], self._kept.get(path, [])
            self._calls[path] += 1
            known = kept[self._batch] if self._batch < len(kept) else []
            output = known[number] if number < len(known) else forward(*placed, **named)
            if self._settled:
                calls = self._found.setdefault(path, [])
                calls.extend([] for _ in range(self._batch + 1 - len(calls)))
                calls[self._batch].append(output)
            return output

        return call


def zeros(linear: nn.Linear, x: Tensor) -> Tensor:
    """What a linear of zeros gives, `[..., out]`."""
    return x.new_zeros(*x.shape[:-1], linear.out_features)


def outermost(found: dict[str, Calls]) -> dict[str, Calls]:
    """Without the modules that are inside others of them."""
    return {path: calls for path, calls in found.items() if not any(path.startswith(f"{p}.") for p in found)}
