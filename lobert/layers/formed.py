"""What the factors of a group give before any input comes, for all its slices at once.

In training it is formed once per pass, and the gradients of all slices go back through it together: a slice taken out
of the factors by itself has a gradient as large as all of them, zeros but for one place. In evaluation it is kept from
pass to pass.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from operator import mul
from typing import NamedTuple

import torch
from torch import Tensor

from lobert.factorizations.contraction import Path

Index = tuple[int, ...]
Form = Callable[[], Sequence[Tensor]]
saving_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", lambda _: "unknown")  # before torch 2.8


class Parts(NamedTuple):
    """A tensor by the indices into a stack: `strides` number its parts, 0 for a letter that it does not have."""

    tensors: Sequence[Tensor]
    strides: Index

    def at(self, index: Index) -> Tensor:
        return self.tensors[sum(map(mul, self.strides, index))]


def parts_of(tensor: Tensor, term: str, stack: str) -> Parts:
    """Take a tensor with these letters apart by those of the stack."""
    letters = [letter for letter in stack if letter in term]
    if not letters:
        return Parts([tensor], (0,) * len(stack))
    front = tensor.movedim([term.index(letter) for letter in letters], list(range(len(letters))))
    after = {letter: math.prod(front.shape[place + 1 : len(letters)]) for place, letter in enumerate(letters)}
    return Parts(front.flatten(0, len(letters) - 1).unbind(0), tuple(after.get(letter, 0) for letter in stack))


class Operands(NamedTuple):
    """What one slice has of the factors; `origin` is the same for slices that have it of the same values."""

    tensors: list[Tensor]
    origin: object


@dataclass(eq=False)
class Held:
    """The operands of all slices, what they were formed from, and those that slices have had."""

    key: Hashable
    operands: list[Parts]
    served: dict[Index, Operands] = field(default_factory=dict)
    origin: object = field(default_factory=object)

    def at(self, index: Index) -> Operands:
        if index not in self.served:
            self.served[index] = Operands([parts.at(index) for parts in self.operands], self.origin)
        return self.served[index]


class Formed:
    """Operands of the slices of one group, held as long as what `key` says they were formed from is the same.

    In training they are dropped when all slices have had them, when a slice comes again, and when a backward pass goes
    through them. Drop those of evaluation at every pass that a training step could follow: a fused one raises no
    version that would tell.
    """

    def __init__(self, stack: str, count: int) -> None:
        self.stack, self.count = stack, count
        self.forget()

    def forget(self) -> None:
        """Let go of all."""
        self._in_training: Held | None = None
        self.drop_kept()

    def drop_kept(self) -> None:
        """Let go of what is kept for evaluation."""
        self._kept: dict[Path, Held] = {}

    def in_training(self, index: Index, key: Hashable, terms: Sequence[str], form: Form) -> Operands:
        """The operands of one slice; `form` gives those of all, which have these terms."""
        held = self._in_training
        if held is None or held.key != key or index in held.served:
            tensors = form()
            self._drop_after_backward(tensors)
            held = self._in_training = self._held(key, terms, tensors)
        operands = held.at(index)
        if len(held.served) == self.count:
            self._in_training = None
        return operands

    def in_evaluation(
        self, index: Index, joint: Path, key: Hashable, terms: Sequence[str], form: Callable[[Path], Sequence[Tensor]]
    ) -> Operands:
        """The same; those of each `joint`, which `form` goes, are kept beside each other."""
        held = self._kept.get(joint)
        if held is None or held.key != key:
            held = self._kept[joint] = self._held(key, terms, form(joint))
        return held.at(index)

    def _held(self, key: Hashable, terms: Sequence[str], tensors: Sequence[Tensor]) -> Held:
        pairs = zip(tensors, terms, strict=True)
        return Held(key, [parts_of(tensor.contiguous(), term, self.stack) for tensor, term in pairs])

    def _drop_after_backward(self, tensors: Sequence[Tensor]) -> None:
        """A backward pass frees the graph of what was formed."""
        owner = weakref.ref(self)  # the hooks live as long as the graph, and must not keep it alive

        def drop(_: Tensor) -> None:
            if (formed := owner()) is not None:
                formed._in_training = None

        for tensor in tensors:
            if tensor.requires_grad and not tensor.is_leaf:
                tensor.register_hook(drop)

    def __getstate__(self) -> dict[str, object]:
        return {"stack": self.stack, "count": self.count}  # copies form their own

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self.forget()


def stands_alone() -> bool:
    """Whether what is computed now is computed again in the backward pass, or is being so, as gradient checkpointing
    does layer by layer: then nothing may be left for the next layer.
    """
    return saving_hooks(True) is not None or torch._C._current_graph_task_id() != -1
