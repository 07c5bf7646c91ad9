"""Progress bars on a terminal, silence elsewhere."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

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
