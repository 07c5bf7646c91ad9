"""The classifier's last layer, fitted in closed form so that a compressed encoder answers as its teacher does."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lobert.distill.knowledge import Batch, model_inputs
from lobert.encoders.roles import chooses_options
from lobert.errors import LobertError

RIDGE = 1e-2  # of the mean variance of the features, on the change of the weights


def head_of(model: PreTrainedModel) -> nn.Linear:
    """The last linear of a classifier, of one output where it scores options; LobertError for a model without one."""
    head = last_linear(model)
    if head is None:
        raise LobertError("refit_head needs a classifier whose last layer is linear: leave it out for this model")
    return head


def last_linear(model: PreTrainedModel) -> nn.Linear | None:
    """The linear that gives the logits, where there is one."""
    head = getattr(model, "classifier", None)
    linears = [module for module in head.modules() if isinstance(module, nn.Linear)] if head is not None else []
    outputs = 1 if chooses_options(model) else getattr(model.config, "num_labels", None)
    return linears[-1] if linears and linears[-1].out_features == outputs else None


@torch.no_grad()
def refit_head(model: PreTrainedModel, batches: Iterable[tuple[Batch, Tensor]]) -> float:
    """Move the last layer, in place, to the teacher's `logits [B, C]` on the examples of `batches`.

    Ridge regression of what is missing on the layer's centred inputs, so that few examples change little. Returns the
    mean squared difference of the logits on these examples after it, which is never larger than before.
    """
    head = head_of(model)
    features, wanted = collect(model, head, batches)
    missing = wanted - nn.functional.linear(features, head.weight.double(), head.bias.double())
    mean = features.mean(0)
    centred, offset = features - mean, missing.mean(0)
    gram = centred.T @ centred
    gram.diagonal().add_(RIDGE * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny)
    change = torch.linalg.solve(gram, centred.T @ (missing - offset)).T  # [C, in]
    head.weight.add_(change.to(head.weight))
    head.bias.add_((offset - change @ mean).to(head.bias))
    return (missing - offset - centred @ change.T).square().mean().item()


def collect(model: PreTrainedModel, head: nn.Linear, batches: Iterable[tuple[Batch, Tensor]]) -> tuple[Tensor, Tensor]:
    """Inputs of the head `[n, in]` and the teacher's logits `[n, C]`, in double precision on the head's device.

    n counts examples or, where the head scores one option at a time, options.
    """
    model.eval()
    device, features, wanted = head.weight.device, [], []
    handle = head.register_forward_pre_hook(lambda module, inputs: features.append(inputs[0].double()))
    try:
        for batch, logits in batches:
            model(**{name: tensor.to(device) for name, tensor in model_inputs(model, batch).items()})
            wanted.append(logits.double().to(device).reshape(-1, head.out_features))
    finally:
        handle.remove()
    return torch.cat(features), torch.cat(wanted)
