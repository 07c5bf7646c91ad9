"""One pass over training examples: the moments of every linear's inputs and of the gradients at its outputs.

Only real tokens count. Products are in single precision, their sums in double.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from lobert.compression.statistics import Statistics
from lobert.distill.knowledge import Batch, model_inputs, token_mask
from lobert.errors import LobertError
from lobert.roles import linear_at

SMALLEST = 1e-12  # length of a gradient below which an example has none


@dataclass
class Accumulator:
    """Sums over the batches of a calibration pass; `tokens` by path, because a pooler sees one of each example."""

    source: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
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
    """Hooks on some modules, by path, that keep what goes in and comes out during one forward pass."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        self._handles = [module.register_forward_hook(self._keep(path)) for path, module in modules.items()]

    def _keep(self, path: str):  # type: ignore[no-untyped-def]  # the hook's type is torch's own affair
        def hook(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            self.inputs[path], self.outputs[path] = inputs[0], output

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
                inputs = {name: tensor.to(device) for name, tensor in model_inputs(batch).items()}
                logits = classifier_logits(model(**inputs), gradients)
                sums.examples += len(inputs["input_ids"])
                add_inputs(sums, recorder, token_mask(inputs))
                if logits is not None:
                    direction = random_direction(logits.detach() / temperature, regression, random)
                    add_gradients(sums, recorder, logits, direction)
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
    """Add the moments of the recorded inputs; those of one tensor once."""
    first: dict[int, str] = {}
    for path, x in recorder.inputs.items():
        source = sums.source.setdefault(path, first.setdefault(id(x), path))
        if source != path:
            continue
        tokens = real_tokens(x, mask).float()
        sums.tokens[path] = sums.tokens.get(path, 0) + len(tokens)
        add(sums.inputs, path, tokens.sum(0))
        add(sums.products, path, tokens.T @ tokens)


def add_gradients(sums: Accumulator, recorder: Recorder, logits: Tensor, direction: Tensor) -> None:
    """Add the moments of the gradients of `direction · logits` at the recorded outputs."""
    paths = list(recorder.outputs)
    found = torch.autograd.grad((logits * direction).sum(), [recorder.outputs[path] for path in paths])
    with torch.no_grad():
        scale = 1 / by_example(found[-1], len(logits)).float().flatten(1).norm(dim=1).clamp(min=SMALLEST)
        for path, gradient in zip(paths, found, strict=True):
            gradient, x = (by_example(t, len(logits)).float() for t in (gradient, recorder.inputs[path].detach()))
            rows = (gradient * scale[:, None, None]).flatten(0, 1)
            add(sums.gradients, path, rows.T @ rows)
            add(sums.fisher, path, squared_weight_gradients(gradient, x))


def by_example(x: Tensor, examples: int) -> Tensor:  # [sequences, T, d] or [sequences, d] -> [examples, vectors, d]
    """All vectors of each example together, those of all its options in multiple choice."""
    return x.reshape(examples, -1, x.shape[-1])


def squared_weight_gradients(gradient: Tensor, x: Tensor) -> Tensor:  # [B, T, out], [B, T, in] -> [in]
    """Sum over examples and outputs of the squared gradient of the weight, which for one example is gᵀ x.

    By the products of its tokens with each other, `[T, T]`, which are far fewer numbers than those of a weight.
    """
    if x.dim() == 2:
        gradient, x = gradient[:, None], x[:, None]
    return (((gradient @ gradient.mT) @ x) * x).sum((0, 1))


def real_tokens(x: Tensor, mask: Tensor) -> Tensor:  # [B, T, in] -> [tokens, in]
    """The vectors of real tokens; a tensor `[B, in]` has one vector for each example already."""
    return x[mask] if x.dim() == 3 else x


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
