"""Progress bars on a terminal, silence elsewhere."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import datasets
import transformers
from rich.console import Console
from rich.progress import track as rich_track

from lobert.storage.artefacts import process_rank

Item = TypeVar("Item")


def interactive() -> bool:
    """Whether somebody watches."""
    return sys.stderr.isatty()


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Pass the items through, with a bar that vanishes when done where standard error is a terminal."""
    if not interactive():
        yield from items
        return
    yield from rich_track(items, description, total=total, console=Console(stderr=True), transient=True)


def bar(description: str) -> Callable[[Sequence[Item]], Iterator[Item]]:
    """A progress bar over the groups of a plan, or the layers of a model."""
    return lambda items: track(items, description, len(items))


def hush_libraries() -> None:
    """Leave the talking to LoBERT: the libraries' hints, load reports and inner bars say nothing a user can act on."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if not interactive():
        datasets.disable_progress_bars()
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    warnings.filterwarnings("ignore", module="lightning_fabric")
    if process_rank() > 0:
        logging.getLogger("lobert").setLevel(logging.WARNING)  # process zero has said it


def hush_lightning() -> None:
    """The same for Lightning, which talks again once it is loaded."""
    for name in ("pytorch_lightning", "lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
