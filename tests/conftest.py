"""What every test runs under: no network, no account, one thread per process."""

import os

# Set before any library reads it.
os.environ.update(HF_HUB_OFFLINE="1", WANDB_MODE="offline", WANDB_SILENT="true", TOKENIZERS_PARALLELISM="false")

from lobert.startup import loading

with loading():
    import torch

    import lobert.pipeline  # noqa: F401

torch.set_num_threads(1)
