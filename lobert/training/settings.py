"""How and where a model is trained: known without Lightning, which takes seconds to load."""

from dataclasses import dataclass

import torch

from lobert.errors import LobertError, suggest

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
CHECKPOINTS = "checkpoints"  # the folder of an unfinished training


@dataclass(frozen=True)
class Training:
    """How a model is trained. `batch_size` counts the examples of one batch over all processes."""

    epochs: int
    learning_rate: float
    batch_size: int = 32
    accumulate: int = 1  # batches per optimizer step
    weight_decay: float = 0.01
    warmup: float = 0.1  # share of the steps
    gradient_clip: float = 1.0  # largest norm; 0 switches clipping off

    def __post_init__(self) -> None:
        for name, wrong, want in (
            ("epochs", type(self.epochs) is not int or self.epochs < 0, "a whole number, 0 or more"),
            ("learning_rate", not self.learning_rate > 0, "a number above 0"),
            ("batch_size", type(self.batch_size) is not int or self.batch_size < 1, "a whole number, 1 or more"),
            ("accumulate", type(self.accumulate) is not int or self.accumulate < 1, "a whole number, 1 or more"),
            ("weight_decay", self.weight_decay < 0, "0 or more"),
            ("warmup", not 0 <= self.warmup < 1, "a share from 0 to below 1"),
            ("gradient_clip", self.gradient_clip < 0, "0 or more"),
        ):
            if wrong:
                raise LobertError(f"{name}={getattr(self, name)} will not do: give {want}")


@dataclass(frozen=True)
class Distillation:
    """`(1 - alpha) labels + alpha soft targets + beta patience`, as the original weighs them.

    Attributes:
        temperature: of the soft targets; scores (regression) have none.
        normalize: scale [CLS] vectors to unit length before they are compared.
        class_mean: average the soft-target loss over the classes too, as the original does.
    """

    alpha: float
    temperature: float
    beta: float
    normalize: bool
    class_mean: bool

    def __post_init__(self) -> None:
        for name, wrong, want in (
            ("kd.alpha", not 0 <= self.alpha <= 1, "a share from 0 to 1"),
            ("kd.temperature", not self.temperature > 0, "a number above 0"),
            ("kd.beta", self.beta < 0, "0 or more"),
        ):
            if wrong:
                raise LobertError(f"{name}={getattr(self, name.removeprefix('kd.'))} will not do: give {want}")

    @property
    def needs_teacher(self) -> bool:
        return self.alpha > 0 or self.beta > 0


@dataclass(frozen=True)
class Machine:
    """Where to train, in Lightning's words; `precision` None is 32-true on CPU and bf16-mixed elsewhere.

    Raises LobertError for an accelerator that is not known, and for numbers that are none.
    """

    accelerator: str = "auto"
    devices: int | str = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str | None = None
    num_workers: int = 0

    def __post_init__(self) -> None:
        if self.accelerator not in ACCELERATORS:
            choices = suggest(str(self.accelerator), ACCELERATORS)
            raise LobertError(f"trainer.accelerator={self.accelerator} is not known: {choices}")
        for name, least in (("num_nodes", 1), ("num_workers", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise LobertError(f"trainer.{name}={value} will not do: give a whole number, {least} or more")

    @property
    def device(self) -> str:
        """Where one model runs outside of training: "cuda" or "cpu". LobertError where a GPU is asked for in vain."""
        available = torch.cuda.is_available()
        if self.accelerator in ("gpu", "cuda") and not available:
            raise LobertError(
                f"trainer.accelerator={self.accelerator} asks for a GPU, and torch sees none on this machine: type "
                "trainer=cpu, or trainer.accelerator=auto for a GPU only where there is one"
            )
        return "cuda" if self.accelerator in ("auto", "gpu", "cuda") and available else "cpu"

    @property
    def shards(self) -> bool:
        """Whether the weights themselves are spread over the devices."""
        return "fsdp" in self.strategy

    @property
    def resolved_precision(self) -> str:
        """The precision that this machine trains in."""
        return self.precision or ("32-true" if self.device == "cpu" else "bf16-mixed")
