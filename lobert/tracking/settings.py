"""How Weights & Biases is asked for."""

from dataclasses import dataclass

from lobert.errors import LobertError, suggest

WANDB_MODES = ("online", "offline", "disabled")


@dataclass(frozen=True)
class WandbSettings:
    """How to log to Weights & Biases. `group` gathers runs: by default those of a sweep, by its name."""

    project: str
    entity: str | None = None  # the user or team; None: the account's own
    mode: str = "online"
    group: str | None = None
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", tuple(self.tags))
        if self.mode not in WANDB_MODES:
            raise LobertError(f"logger.wandb.mode={self.mode} is not known: {suggest(self.mode, WANDB_MODES)}")
