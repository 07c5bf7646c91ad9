"""Calibration examples on their way through a model's layers, one layer at a time."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lobert.compression.calibration import Recorder
from lobert.distill.knowledge import Batch, model_inputs, token_mask
from lobert.roles import encoder_layers


@dataclass
class Stream:
    """What the layers read, one entry for each batch.

    Attributes:
        hidden: the first argument of the first layer, `[B, T, hidden]`.
        arguments: the other arguments, which all layers share.
        masks: which tokens are real, `[B, T]`.
    """

    hidden: list[Tensor] = field(default_factory=list)
    arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    masks: list[Tensor] = field(default_factory=list)

    def run(self, layer: nn.Module, hidden: Sequence[Tensor]) -> Iterator[Tensor]:
        """The layer's output `[B, T, hidden]` for each batch of inputs."""
        for x, (arguments, named) in zip(hidden, self.arguments, strict=True):
            yield first(layer(x, *arguments, **named))

    def watch(
        self, model: PreTrainedModel, layer: int, hidden: Sequence[Tensor], paths: Iterable[str]
    ) -> Iterator[Recorder]:
        """What goes into and comes out of the modules at `paths`, batch by batch; the layer runs no further."""
        modules = {path: model.get_submodule(path) for path in paths}
        recorder = Recorder(modules)

        def stop(*_: Any) -> None:
            if len(recorder.inputs) == len(modules):
                raise Caught

        handles = [module.register_forward_hook(stop) for module in modules.values()]
        try:
            for x, (arguments, named) in zip(hidden, self.arguments, strict=True):
                recorder.forget()
                with contextlib.suppress(Caught):
                    encoder_layers(model)[layer](x, *arguments, **named)
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


@torch.no_grad()
def open_stream(model: PreTrainedModel, batches: Iterable[Batch]) -> Stream:
    """The examples of `batches` before the first layer of `model`."""
    stream, device = Stream(), next(model.parameters()).device

    def catch(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        stream.hidden.append(arguments[0])
        stream.arguments.append((arguments[1:], named))
        raise Caught

    handle = encoder_layers(model)[0].register_forward_pre_hook(catch, with_kwargs=True)
    try:
        for batch in batches:
            inputs = {name: tensor.to(device) for name, tensor in model_inputs(batch).items()}
            stream.masks.append(token_mask(inputs))
            with contextlib.suppress(Caught):
                model(**inputs)
    finally:
        handle.remove()
    return stream
