"""What the benchmarks share: where they ran, the seconds of a call, a plain table, and progress on standard error."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from lobert.results.surroundings import environment

Result = TypeVar("Result")


def header(device: torch.device) -> dict[str, Any]:
    """Device with its threads, versions of the libraries and commit of the checkout."""
    return environment(device)


def header_line(facts: dict[str, Any]) -> str:
    """The header in one line."""
    versions = [f"{name} {facts['versions'][name]}" for name in ("torch", "python")]
    return " · ".join([facts["device"], *versions, f"commit {facts['commit'] or 'unknown'}"])


def timed(call: Callable[[], Result], device: torch.device) -> tuple[float, Result]:
    """Seconds of one call, until the device has finished, and what it returned."""
    synchronize(device)
    start = time.perf_counter()
    result = call()
    synchronize(device)
    return time.perf_counter() - start, result


def synchronize(device: torch.device) -> None:
    """Wait for an accelerator, which answers before it has computed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be: the first one flush left, the others flush right."""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    return "\n".join(table_line(cells, widths) for cells in (titles, *rows))


def table_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join([cells[0].ljust(widths[0]), *padded[1:]])


def say(text: str) -> None:
    """Progress, kept apart from the results."""
    print(text, file=sys.stderr, flush=True)
