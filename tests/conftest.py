"""What every test runs under: no network, no account, one thread per process, Ctrl-C as in a terminal."""

import os
import signal
from collections.abc import Iterator

# Set before any library reads it.
os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", WANDB_SILENT="true", TOKENIZERS_PARALLELISM="false")

import pytest
import torch

from lobert.startup import loading

torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background jobs inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """The tests' modules import all that takes long."""
    with loading():
        return (yield)
