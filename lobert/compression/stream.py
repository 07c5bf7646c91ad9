"""Calibration examples on their way through a model's layers, one layer at a time."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lobert.compression.calibration import Recorder
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
    """

    hidden: list[Tensor] = field(default_factory=list)
    arguments: list[list[Arguments]] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)

    def calls(self, layer: int, hidden: Sequence[Tensor]) -> Iterator[tuple[Tensor, Arguments]]:
        """The inputs `[B, T, hidden]` of a layer with its other arguments, batch by batch."""
        for x, arguments in zip(hidden, self.arguments, strict=True):
            yield x, arguments[layer if len(arguments) > 1 else 0]

    def run(self, model: PreTrainedModel, layer: int, hidden: Sequence[Tensor]) -> Iterator[Tensor]:
        """The layer's output `[B, T, hidden]` for each batch of inputs."""
        module = encoder_layers(model)[layer]
        for x, (placed, named) in self.calls(layer, hidden):
            yield first(module(x, *placed, **named))

    def watch(
        self, model: PreTrainedModel, layer: int, hidden: Sequence[Tensor], paths: Iterable[str]
    ) -> Iterator[Recorder]:
        """What goes into and comes out of the modules at `paths`, batch by batch.

        The layer runs no further than to the first call of the last of them: name it, too, where more calls count.
        """
        modules = {path: model.get_submodule(path) for path in paths}
        recorder = Recorder(modules)

        def stop(*_: Any) -> None:
            if len(recorder.inputs) == len(modules):
                raise Caught

        handles = [module.register_forward_hook(stop) for module in modules.values()]
        try:
            for x, (placed, named) in self.calls(layer, hidden):
                recorder.forget()
                with contextlib.suppress(Caught):
                    encoder_layers(model)[layer](x, *placed, **named)
                yield recorder
        finally:
            recorder.remove()
            for handle in handles:
                handle.remove()


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
                passage.only_first = passage.alike()
            stream.masks.append(token_mask(inputs))
            stream.hidden.append(passage.inputs[0])
            stream.arguments.append(passage.arguments[:1] if passage.only_first else passage.arguments)
    finally:
        passage.remove()
    return stream
