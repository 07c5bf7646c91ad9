"""Calibration examples on their way through a model's layers, one layer at a time."""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from lobert.compression.calibration import Recorder
from lobert.compression.replay import Replay
from lobert.distill.knowledge import Batch, model_inputs, token_mask
from lobert.encoders.roles import encoder_layers
from lobert.errors import LobertError


class Arguments(NamedTuple):
    """What a layer is called with beside its hidden states: masks, positions, ..."""

    placed: tuple[Any, ...]
    named: dict[str, Any]

    def same_as(self, other: "Arguments") -> bool:
        """Whether both are the very same objects."""
        mine, theirs = ([*call.placed, *call.named.values()] for call in (self, other))
        alike = len(self.placed) == len(other.placed) and self.named.keys() == other.named.keys()
        return alike and all(a is b for a, b in zip(mine, theirs, strict=True))


@dataclass
class Stream:
    """What the layers read, one entry for each batch.

    Attributes:
        hidden: the first argument of the first layer, `[B, T, hidden]`.
        arguments: the other arguments, of each layer, or of the first one where all have the same.
        masks: which tokens are real, `[B, T]`.
        beside: what a layer returns after its output, where that is the first of several things.
    """

    hidden: list[Tensor] = field(default_factory=list)
    arguments: list[list[Arguments]] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)
    beside: tuple[Any, ...] | None = None

    def calls(
        self, model: PreTrainedModel, layer: int, hidden: Sequence[Tensor], replay: Replay | None = None
    ) -> Iterator[Callable[[], Tensor]]:
        """For each batch of a layer's inputs `[B, T, hidden]` what computes its output `[B, T, hidden]`."""
        module = encoder_layers(model)[layer]

        def output(number: int, x: Tensor, arguments: Arguments) -> Tensor:
            if replay is not None:
                replay.begin(number)
            return first(module(x, *arguments.placed, **arguments.named))

        for number, (x, arguments) in enumerate(zip(hidden, self.arguments, strict=True)):
            yield partial(output, number, x, arguments[layer if len(arguments) > 1 else 0])

    def watch(
        self,
        model: PreTrainedModel,
        layer: int,
        hidden: Sequence[Tensor],
        read: Collection[str],
        given: Collection[str] = (),
        replay: Replay | None = None,
    ) -> Iterator[Recorder]:
        """What goes into the modules at the paths `read` and comes out of those at `given`, batch by batch.

        The layer runs no further than until each has been called once: name it, too, where more calls count.
        """
        modules = {path: model.get_submodule(path) for path in {*read, *given}}
        recorder = Recorder(modules)

        def stop(*_: Any) -> None:
            if recorder.inputs.keys() >= set(read) and recorder.outputs.keys() >= set(given):
                raise Caught

        handles = [modules[path].register_forward_pre_hook(stop) for path in read]
        handles += [modules[path].register_forward_hook(stop) for path in given]
        try:
            for call in self.calls(model, layer, hidden, replay):
                recorder.forget()
                with contextlib.suppress(Caught):
                    call()
                yield recorder
        finally:
            for handle in handles:
                handle.remove()
            recorder.remove()

    def answers(
        self, model: PreTrainedModel, batches: Iterable[Batch], hidden: Iterable[Tensor]
    ) -> Iterator[ModelOutput]:
        """What `model` gives for each of the batches when its last layer gives `hidden`; no layer runs."""
        layers, device = [*encoder_layers(model)], next(model.parameters()).device

        def given(last: Tensor, *_: Any, **__: Any) -> Tensor | tuple[Any, ...]:
            return last if self.beside is None else (last, *self.beside)

        try:
            for batch, last in zip(batches, hidden, strict=True):
                for layer in layers:
                    layer.forward = partial(given, last)
                yield model(**{name: tensor.to(device) for name, tensor in model_inputs(model, batch).items()})
        finally:
            for layer in layers:
                vars(layer).pop("forward", None)


def first(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The hidden states `[B, T, hidden]` among what a layer returns."""
    return output[0] if isinstance(output, tuple) else output


class Caught(Exception):
    """Ends a forward pass whose rest is of no interest."""


class Passage:
    """Hooks on the layers that keep what each is called with during one forward pass, and what it returns."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.arguments: list[Arguments] = []
        self.beside: tuple[Any, ...] | None = None
        self.only_first = False  # end the pass there
        self._handles = [layer.register_forward_pre_hook(self._enter, with_kwargs=True) for layer in layers]
        self._handles += [layer.register_forward_hook(self._leave) for layer in layers]

    def _enter(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        self.inputs.append(arguments[0])
        self.arguments.append(Arguments(arguments[1:], named))
        if self.only_first:
            raise Caught

    def _leave(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        self.outputs.append(first(output))
        self.beside = output[1:] if isinstance(output, tuple) else None

    def check(self) -> None:
        """Raise LobertError where a layer reads anything but the output of the one before it."""
        if any(given is not read for given, read in zip(self.outputs, self.inputs[1:], strict=False)):
            raise LobertError(
                "decomp.order=sequential goes from layer to layer, and this model does something to the hidden states "
                "between its layers: type decomp.order=parallel"
            )

    def alike(self) -> bool:
        """Whether all layers were called with the same arguments."""
        return all(call.same_as(self.arguments[0]) for call in self.arguments)

    def forget(self) -> None:
        """Let go of what was kept."""
        self.inputs, self.outputs, self.arguments = [], [], []

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()


@torch.no_grad()
def open_stream(model: PreTrainedModel, batches: Iterable[Batch]) -> Stream:
    """The examples of `batches` before the first layer of `model`.

    The first batch goes through all layers and shows whether each reads the output of the one before, without which
    there is a LobertError, and whether all have the same other arguments, so that one layer tells those of all.
    """
    stream, device = Stream(), next(model.parameters()).device
    passage = Passage(encoder_layers(model))
    try:
        for batch in batches:
            passage.forget()
            inputs = {name: tensor.to(device) for name, tensor in model_inputs(model, batch).items()}
            with contextlib.suppress(Caught):
                model(**inputs)
            if not stream.hidden:
                passage.check()
                stream.beside, passage.only_first = passage.beside, passage.alike()
            stream.masks.append(token_mask(inputs))
            stream.hidden.append(passage.inputs[0])
            stream.arguments.append(passage.arguments[:1] if passage.only_first else passage.arguments)
    finally:
        passage.remove()
    return stream
