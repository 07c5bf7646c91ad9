"""Feed-forward networks that take a large batch in chunks of tokens, in evaluation on a CPU.

Their intermediate values are the largest there are, four times the hidden size for every token. Those of a large batch
leave every cache, and the memory for them is asked of the system, and cleared by it, in every layer anew.
"""

from inspect import signature

import torch
from torch import Tensor, nn

from lobert.layers.tracing import is_traced

CHUNK = 1024  # tokens, at least
METHODS = ("feed_forward_chunk", "ff_chunk")  # by which transformers' layers call them, for any number of tokens


class Chunked:
    """The network of a layer, `[..., hidden]` to `[..., hidden]`, that `method` runs.

    A batch stays whole where gradients are wanted, on other devices, and where hooks wait for it in the layer.
    """

    __signature__ = signature(lambda x: x)  # transformers asks in every pass, and to find out takes a while

    def __init__(self, layer: nn.Module, method: str) -> None:
        self.layer, self.method = layer, method

    def __call__(self, x: Tensor) -> Tensor:
        network = getattr(type(self.layer), self.method)
        if is_traced():
            return network(self.layer, x)
        tokens = x.shape[:-1].numel()
        if tokens < 2 * CHUNK or torch.is_grad_enabled() or x.device.type != "cpu" or is_watched(self.layer):
            return network(self.layer, x)
        parts = x.reshape(tokens, -1).tensor_split(tokens // CHUNK)  # of equal sizes, within one
        return torch.cat([network(self.layer, part) for part in parts]).view(x.shape)


def is_watched(layer: nn.Module) -> bool:
    """Whether hooks wait in a layer."""
    return any(module._forward_pre_hooks or module._forward_hooks for module in layer.modules())


def take_chunks(model: nn.Module) -> None:
    """Have the feed-forward networks of a model go in chunks, where transformers calls them by a name."""
    for layer in model.modules():
        for method in METHODS:
            if hasattr(type(layer), method):
                setattr(layer, method, Chunked(layer, method))


def take_whole(model: nn.Module) -> None:
    """The inverse of `take_chunks`."""
    for layer in model.modules():
        for method in METHODS:
            vars(layer).pop(method, None)
