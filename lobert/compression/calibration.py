"""One pass over training examples: the moments of every linear's inputs and of the gradients at its outputs.

Only real tokens count. Products are in single precision, their sums in double.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from lobert.compression.importance import call_weights, even_weights, is_own, real_tokens
from lobert.compression.moments import Moments, add
from lobert.compression.objective import ObjectiveName
from lobert.compression.statistics import Statistics
from lobert.distill.knowledge import Batch, model_inputs, token_mask
from lobert.encoders.roles import linear_at
from lobert.errors import LobertError
from lobert.factorizations.numerics import lower_gram, mirrored

OBJECTIVES: tuple[ObjectiveName, ...] = get_args(ObjectiveName)
SMALLEST = 1e-12  # length of a gradient below which an example has none


@dataclass
class Accumulator:
    """Sums over the batches of a calibration pass, by path."""

    source: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, Moments] = field(default_factory=dict)
    weighted: dict[str, Moments] = field(default_factory=dict)
    importance: dict[str, list[Tensor]] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)
    fisher: dict[str, Tensor] = field(default_factory=dict)
    logits: list[Tensor] = field(default_factory=list)
    examples: int = 0

    def statistics(self) -> Statistics:
        """The averages. Where no gradient reached a linear, all its tokens count alike."""
        alike = {path: self.inputs[self.source[path]] for path in self.weighted if not self.is_weighted(path)}
        weighted = {**self.weighted, **alike}
        importance = {path: torch.cat(weights).double() for path, weights in self.importance.items()}
        return Statistics(
            source=self.source,
            mean={path: sums.mean for path, sums in self.inputs.items()},
            second_moment={path: sums.moment for path, sums in self.inputs.items()},
            gradient={path: mirrored(lower) / self.examples for path, lower in self.gradients.items()},
            fisher={path: total / self.examples for path, total in self.fisher.items()},
            weighted_mean={path: sums.mean for path, sums in weighted.items()},
            weighted_moment={path: sums.moment for path, sums in weighted.items()},
            importance={path: torch.ones_like(w) if path in alike else w / w.mean() for path, w in importance.items()},
            logits=torch.cat(self.logits) if self.logits else torch.empty(0),
        )

    def is_weighted(self, path: str) -> bool:
        """Whether a gradient has reached this linear."""
        return path in self.weighted and self.weighted[path].weight > 0


class Recorder:
    """Hooks on some modules, by path, that keep what goes in and comes out at every call during one forward pass.

    Most modules are called once; those of layers that share their weights (ALBERT) once for each layer, and queries
    and keys of DeBERTa a second time, with the relative positions.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.inputs: dict[str, list[Tensor]] = {}
        self.outputs: dict[str, list[Tensor]] = {}
        self._handles = [module.register_forward_pre_hook(self._enter(path)) for path, module in modules.items()]
        self._handles += [module.register_forward_hook(self._leave(path)) for path, module in modules.items()]

    def _enter(self, path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, inputs: self.inputs.setdefault(path, []).append(inputs[0])

    def _leave(self, path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        return lambda module, inputs, output: self.outputs.setdefault(path, []).append(output)

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
    norms: Collection[ObjectiveName] = OBJECTIVES,
) -> Statistics:
    """Statistics of the linears at `paths` over the examples of `batches`; leaves the model in evaluation mode.

    All calls of a linear count: of one that several layers share, their inputs together, and its gradients.

    With `gradients`, g is the gradient at a linear's output of the teacher's own log-likelihood: its second moment is
    the Fisher information (Martens and Grosse, 2015), here by random signs in the eigenbasis of the logits' Fisher
    matrix, which has the same mean as labels sampled from the softmax and less variance. A `temperature` above 1 draws
    from a softer softmax.

    The moments of the inputs stand twice: over tokens that count alike, and, with `gradients`, over tokens that count
    by their importance (see `importance`). What none of the `norms` is made of is left out: it would take as long.

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
                outputs = model(**inputs)
                logits = classifier_logits(outputs, gradients)
                mask = token_mask(inputs)
                if not mask.any():
                    raise LobertError("calibration has a batch without a real token: its attention_mask is all zeros")
                sums.examples += len(inputs["input_ids"])
                if (answers := outputs.get("logits")) is not None and answers.dim() == 2:
                    sums.logits.append(answers.detach().double().cpu())
                if logits is not None:
                    refuse_infinite("logits", logits)
                    direction = random_direction(logits.detach() / temperature, regression, random)
                    add_gradients(sums, recorder, mask, logits, direction, norms)
                add_inputs(sums, recorder, mask, set(norms) != {"loss"})
    finally:
        recorder.remove()
    if not sums.examples:
        raise LobertError("calibration has no examples: give batches of a few hundred")
    return checked(sums.statistics())


def checked(statistics: Statistics) -> Statistics:
    """The statistics; LobertError where one is not finite, which would be all over the student."""
    for table in (statistics.second_moment, statistics.gradient, statistics.fisher, statistics.weighted_moment):
        for path, values in table.items():
            refuse_infinite(path, values)
    return statistics


def refuse_infinite(place: str, values: Tensor) -> None:
    """LobertError where one of the values is not finite."""
    if not values.isfinite().all():
        raise LobertError(
            f"what the model computes at '{place}' for the calibration's examples is not finite: the model is broken, "
            "train it again"
        )


def classifier_logits(outputs: ModelOutput, gradients: bool) -> Tensor | None:
    """The logits `[B, C]` where gradients are asked for; LobertError for a model that has none of every text."""
    if not gradients:
        return None
    if (logits := outputs.get("logits")) is None or logits.dim() != 2:
        raise LobertError(
            "the model has no logits [B, C], so no loss to measure: calibrate a classifier, or choose "
            "objective=activations"
        )
    return logits


@torch.no_grad()
def add_inputs(sums: Accumulator, recorder: Recorder, mask: Tensor, every: bool) -> None:
    """Add the moments of `every` recorded input, or of those no gradient leads to; those of the same tensors once."""
    first: dict[tuple[int, ...], str] = {}
    for path, calls in recorder.inputs.items():
        sums.source.setdefault(path, first.setdefault(tuple(map(id, calls)), path))
    for source in {sums.source[path] for path in recorder.inputs if every or not sums.is_weighted(path)}:
        for x in recorder.inputs[source]:
            sums.inputs.setdefault(source, Moments()).add(real_tokens(x, mask).float(), even_weights(x, mask))


def add_gradients(
    sums: Accumulator,
    recorder: Recorder,
    mask: Tensor,
    logits: Tensor,
    direction: Tensor,
    norms: Collection[ObjectiveName],
) -> None:
    """Add the moments of the gradients of `direction · logits` at the recorded outputs, and what `norms` make of them.

    Calls that the examples of a batch share have no gradient of an example's own and are left out.
    """
    calls = {path: [i for i, x in enumerate(read) if is_own(x, mask)] for path, read in recorder.inputs.items()}
    outputs = [recorder.outputs[path][i] for path, numbers in calls.items() for i in numbers]
    found = iter(torch.autograd.grad((logits * direction).sum(), outputs))
    with torch.no_grad():
        gradients = {path: joined([next(found) for _ in numbers]) for path, numbers in calls.items() if numbers}
        examples = len(logits)
        last = by_example(next(reversed(gradients.values())), examples)
        scale = 1 / last.flatten(1).norm(dim=1).clamp(min=SMALLEST)
        scale = scale.repeat_interleave(len(mask) // examples)  # the same for all options of an example
        for path, gradient in gradients.items():
            read = [x.detach() for x in recorder.inputs[path]]
            lengths = gradient.norm(dim=-1) * scale.unsqueeze(1)
            some = lengths != 0  # padding has none, nor has, in the last layer, any token but [CLS]
            rows = gradient[some] * scale.unsqueeze(1).expand_as(some)[some].unsqueeze(1)
            add(sums.gradients, path, lower_gram(rows, 1))
            if "fisher" in norms:
                own = joined([read[i] for i in calls[path]])
                squares = squared_weight_gradients(by_example(gradient, examples), by_example(own, examples))
                add(sums.fisher, path, squares)
            if "loss" not in norms:
                continue
            for x, weights in zip(read, call_weights(read, calls[path], lengths, mask), strict=True):
                sums.weighted.setdefault(path, Moments()).add(real_tokens(x, mask).float(), weights)
                sums.importance.setdefault(path, []).append(weights.cpu())


def joined(calls: Sequence[Tensor]) -> Tensor:  # each [sequences, T, d] or [sequences, d] -> [sequences, tokens, d]
    """What a sequence has in all calls of a linear, as if it were one longer sentence: the weight is the same."""
    parts = [call.float() if call.dim() == 3 else call.float()[:, None] for call in calls]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def by_example(x: Tensor, examples: int) -> Tensor:  # [sequences, tokens, d] -> [examples, vectors, d]
    """All vectors of each example together, those of all its options in multiple choice."""
    return x.reshape(examples, -1, x.shape[-1])


def squared_weight_gradients(gradient: Tensor, x: Tensor) -> Tensor:  # [B, T, out], [B, T, in] -> [in]
    """Sum over examples and outputs of the squared gradient of the weight, which for one example is gᵀ x.

    By the products of its tokens with each other, `[T, T]`, which are far fewer numbers than those of a weight.
    """
    return (((gradient @ gradient.mT) @ x) * x).sum((0, 1))


def random_direction(logits: Tensor, regression: bool, random: torch.Generator) -> Tensor:  # [B, C] -> [B, C]
    """Vectors v with E[v vᵀ] the Fisher matrix of the logits: diag(p) - p pᵀ for classes, 1 for scores."""
    signs = torch.randint(0, 2, logits.shape, generator=random).to(logits) * 2 - 1
    if regression:
        return signs
    p = logits.double().softmax(-1)
    values, vectors = torch.linalg.eigh(torch.diag_embed(p) - p[:, :, None] * p[:, None, :])
    return ((vectors * values.clamp(min=0).sqrt()[:, None, :]) @ signs.double()[:, :, None])[:, :, 0].to(logits)
