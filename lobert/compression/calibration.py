"""One pass over training examples: the moments of every linear's inputs and of the gradients at its outputs.

Only real tokens count. Products are in single precision, their sums in double.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from lobert.compression.statistics import Statistics
from lobert.distill.knowledge import Batch, model_inputs
from lobert.errors import LobertError
from lobert.roles import linear_at

SMALLEST = 1e-12  # length of a gradient below which an example has none


@dataclass
class Accumulator:
    """Sums over the batches of a calibration pass; `tokens` by path, because a pooler sees one of each example."""

    source: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    products: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    fisher: dict[str, Tensor] = field(default_factory=dict)
    examples: int = 0

    def statistics(self) -> Statistics:
        """The averages."""
        return Statistics(
            source=self.source,
            mean={path: total / self.tokens[path] for path, total in self.inputs.items()},
            second_moment={path: total / self.tokens[path] for path, total in self.products.items()},
            gradient={path: total / self.examples for path, total in self.gradients.items()},
            fisher={path: total / self.examples for path, total in self.fisher.items()},
        )


class Recorder:
    """Hooks on some modules, by path, that keep what goes in and comes out at every call during one forward pass.

    Most modules are called once; those of layers that share their weights (ALBERT) once for each layer, and queries
    and keys of DeBERTa a second time, with the relative positions.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.inputs: dict[str, list[Tensor]] = {}
        self.outputs: dict[str, list[Tensor]] = {}
        self._handles = [module.register_forward_hook(self._keep(path)) for path, module in modules.items()]

    def _keep(self, path: str):  # type: ignore[no-untyped-def]  # the hook's type is torch's own affair
        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            self.inputs.setdefault(path, []).append(inputs[0])
            self.outputs.setdefault(path, []).append(output)

        return hook

    def forget(self) -> None:
        """Let go of what was kept."""
        self.inputs, self.outputs = {}, {}

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()


def calibrate(
    model: PreTrainedModel,
    paths: Iterable[str],
    batches: Iterable[Batch],
    gradients: bool,
    regression: bool = False,
    temperature: float = 1.0,
) -> Statistics:
    """Statistics of the linears at `paths` over the examples of `batches`; leaves the model in evaluation mode.

    All calls of a linear count: of one that several layers share, their inputs together, and its gradients.

    With `gradients`, g is the gradient at a linear's output of the teacher's own log-likelihood: its second moment is
    the Fisher information (Martens and Grosse, 2015), here by random signs in the eigenbasis of the logits' Fisher
    matrix, which has the same mean as labels sampled from the softmax and less variance. A `temperature` above 1 draws
    from a softer softmax.

    In the moments of g every example counts alike: its gradients are scaled to length one at the last of the linears.
    Where a fine-tuned teacher is sure, its pooler's tanh is saturated and lets hardly any gradient through, but does so
    no more once compression has moved the example away; by their own lengths a few unsure examples would make up all.
    """
    model.eval()
    recorder, sums = Recorder({path: linear_at(model, path) for path in paths}), Accumulator()
    device = next(model.parameters()).device
    random = torch.Generator().manual_seed(0)
    try:
        with torch.set_grad_enabled(gradients):
            for batch in batches:
                recorder.forget()
                inputs = {name: tensor.to(device) for name, tensor in model_inputs(model, batch).items()}
                logits = classifier_logits(model(**inputs), gradients)
                mask = inputs["attention_mask"].bool()
                sums.examples += len(mask)
                add_inputs(sums, recorder, mask)
                if logits is not None:
                    direction = random_direction(logits.detach() / temperature, regression, random)
                    add_gradients(sums, recorder, mask, logits, direction)
    finally:
        recorder.remove()
    return sums.statistics()


def classifier_logits(outputs: ModelOutput, gradients: bool) -> Tensor | None:
    """The logits where gradients are asked for; LobertError for a model that has none."""
    if not gradients:
        return None
    if outputs.get("logits") is None:
        raise LobertError(
            "the model has no logits, so no loss to measure: calibrate a classifier, or choose objective=activations"
        )
    return outputs["logits"]


@torch.no_grad()
def add_inputs(sums: Accumulator, recorder: Recorder, mask: Tensor) -> None:
    """Add the moments of the recorded inputs; those of the same tensors once."""
    first: dict[tuple[int, ...], str] = {}
    for path, calls in recorder.inputs.items():
        source = sums.source.setdefault(path, first.setdefault(tuple(map(id, calls)), path))
        if source != path:
            continue
        for call in calls:
            x, weight = real_tokens(call, mask).float(), weight_of(call, mask)
            sums.tokens[path] = sums.tokens.get(path, 0) + weight * len(x)
            add(sums.inputs, path, weight * x.sum(0))
            add(sums.products, path, weight * (x.T @ x))


def add_gradients(sums: Accumulator, recorder: Recorder, mask: Tensor, logits: Tensor, direction: Tensor) -> None:
    """Add the moments of the gradients of `direction · logits` at the recorded outputs.

    Calls that the examples of a batch share have no gradient of an example's own and are left out.
    """
    calls = {path: [i for i, x in enumerate(read) if is_own(x, mask)] for path, read in recorder.inputs.items()}
    outputs = [recorder.outputs[path][i] for path, numbers in calls.items() for i in numbers]
    found = iter(torch.autograd.grad((logits * direction).sum(), outputs))
    with torch.no_grad():
        gradients = {path: joined([next(found) for _ in numbers]) for path, numbers in calls.items() if numbers}
        last = next(reversed(gradients.values()))
        scale = 1 / last.flatten(1).norm(dim=1).clamp(min=SMALLEST)
        for path, gradient in gradients.items():
            rows = (gradient * scale[:, None, None]).flatten(0, 1)
            add(sums.gradients, path, rows.T @ rows)
            x = joined([recorder.inputs[path][i].detach() for i in calls[path]])
            add(sums.fisher, path, squared_weight_gradients(gradient, x))


def joined(calls: Sequence[Tensor]) -> Tensor:  # each [B, T, d] or [B, d] -> [B, tokens, d]
    """What an example has in all calls of a linear, as if it were one longer sentence: the weight is the same."""
    parts = [call.float() if call.dim() == 3 else call.float()[:, None] for call in calls]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def squared_weight_gradients(gradient: Tensor, x: Tensor) -> Tensor:  # [B, T, out], [B, T, in] -> [in]
    """Sum over examples and outputs of the squared gradient of the weight, which for one example is gᵀ x.

    By the products of its tokens with each other, `[T, T]`, which are far fewer numbers than those of a weight.
    """
    return (((gradient @ gradient.mT) @ x) * x).sum((0, 1))


def is_own(x: Tensor, mask: Tensor) -> bool:
    """Whether an input has the vectors of each example, and not some that all share, as the relative positions are."""
    return x.shape[:2] == mask.shape if x.dim() == 3 else len(x) == len(mask)


def real_tokens(x: Tensor, mask: Tensor) -> Tensor:  # [B, T, in] -> [tokens, in]
    """The vectors of real tokens; a tensor `[B, in]` has one vector for each example already."""
    return x[mask] if x.dim() == 3 and is_own(x, mask) else x.flatten(0, -2)


def weight_of(x: Tensor, mask: Tensor) -> float:
    """How much each vector of an input counts: one, or so that what all examples share counts as much as their tokens.

    An attention score of DeBERTa takes a token and a relative position on either side, one of each.
    """
    return 1.0 if is_own(x, mask) else mask.sum().item() / x.flatten(0, -2).shape[0]


def add(sums: dict[str, Tensor], path: str, value: Tensor) -> None:
    total = sums.get(path)
    sums[path] = value.double().cpu() if total is None else total + value.double().cpu()


def random_direction(logits: Tensor, regression: bool, random: torch.Generator) -> Tensor:  # [B, C] -> [B, C]
    """Vectors v with E[v vᵀ] the Fisher matrix of the logits: diag(p) - p pᵀ for classes, 1 for scores."""
    signs = torch.randint(0, 2, logits.shape, generator=random).to(logits) * 2 - 1
    if regression:
        return signs
    p = logits.double().softmax(-1)
    values, vectors = torch.linalg.eigh(torch.diag_embed(p) - p[:, :, None] * p[:, None, :])
    return ((vectors * values.clamp(min=0).sqrt()[:, None, :]) @ signs.double()[:, :, None])[:, :, 0].to(logits)
