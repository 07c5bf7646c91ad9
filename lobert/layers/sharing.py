"""What slices of one group that read the same input leave for each other: the intermediate products common to them.

Q, K and V of a layer are called one after another with the same tensor. In `rso,roi,ni->sno` (FALCON) only the step
`roi,ni->nro` is expensive, and it has no role letter `s`: whoever comes first computes it for all.
"""

import weakref
from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor

from lobert.factorizations.contraction import Path

Index = tuple[int, ...]


def states(factors: Iterable[Tensor]) -> tuple[object, ...]:
    """What changes when a factor changes, moves or is frozen.

    Not seen is an edit in place through `factor.data`, by which torch's own version counter is not raised either: edit
    under `torch.no_grad()` instead.
    """
    try:
        return tuple([(f.data_ptr(), f._version, f.dtype, f.requires_grad) for f in factors])
    except RuntimeError:  # some of them were made in inference mode
        return tuple([(f.data_ptr(), version(f), f.dtype, f.requires_grad) for f in factors])


def version(tensor: Tensor) -> int:
    """How often the tensor was changed in place; of those made in inference mode torch does not count it."""
    return 0 if tensor.is_inference() else tensor._version


def modes(x: Tensor) -> tuple[object, ...]:
    """The switches of torch on which the products of `x` depend."""
    kind = "cpu" if x.is_cpu else x.device.type  # takes longer to find out
    return x.requires_grad, torch.is_grad_enabled(), torch.is_inference_mode_enabled(), precision(kind)


def precision(kind: str) -> torch.dtype | None:
    """That of matrix products on a kind of device, where autocast decides it."""
    autocast = knows_autocast(kind) and torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if autocast else None


@lru_cache
def knows_autocast(kind: str) -> bool:
    """Whether a kind of device has automatic mixed precision."""
    return torch.amp.is_autocast_available(kind)


class Results(dict[int, Tensor]):
    """Common results by step. A backward pass through one of them frees its graph: then the owner forgets them."""

    def __init__(self, owner: "SharedInput") -> None:
        super().__init__()
        self.owner = weakref.ref(owner)

    def __setitem__(self, number: int, result: Tensor) -> None:
        super().__setitem__(number, result)
        if result.requires_grad:
            owner = self.owner  # the hook lives as long as the graph, and must not keep these results alive

            def forget(_: Tensor) -> None:
                if (shared := owner()) is not None:
                    shared.forget()

            result.register_hook(forget)


class SharedInput:
    """One input that `size` slices of a group read, and the products they share while they read it.

    Products hold for the very same tensor, unchanged since, and for the same factors, path and modes of torch. They are
    dropped when all slices have had them, when another input comes, when a slice comes again, and when a backward pass
    goes through them. A tensor made in inference mode has no version: there, do not change the input in place between
    the calls.
    """

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self.forget()

    def forget(self) -> None:
        """Let go of input and products."""
        self._input: Tensor | None = None
        self._key: tuple[object, ...] = ()
        self._results: dict[int, Tensor] | None = None
        self._served: set[Index] = set()

    def results(self, x: Tensor, index: Index, origin: object, path: Path) -> dict[int, Tensor] | None:
        """The common results so far, for the slice `index` to use and to add to; None where there are none to share.

        `origin` is equal for slices whose operands have the same values, and None while a graph is written down: then
        a tensor is one value, and nobody goes back through it before it is whole.
        """
        if self.size == 1 or not path.common:
            return None
        key = () if origin is None else (path, version(x), modes(x), origin)
        results = self._results
        if results is None or x is not self._input or key != self._key or index in self._served:
            results = self._results = {} if origin is None else Results(self)
            self._input, self._key, self._served = x, key, set()
        self._served.add(index)
        if len(self._served) == self.size:
            self.forget()
        return results

    def __getstate__(self) -> dict[str, int]:
        return {"size": self.size}  # copies compute their own

    def __setstate__(self, state: dict[str, int]) -> None:
        self.size = state["size"]
        self.forget()
