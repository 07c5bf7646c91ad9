"""Whether calls are being written down as a graph: by torch.export, torch.onnx, torch.jit.trace or torch.compile.

Such a graph runs without the layers: nothing is kept for it from pass to pass, what it forms it forms in every pass,
and it is the same for batches of any size.
"""

import torch

TRACED_BATCH = 128  # tokens, for which the cheapest way is written down


def is_traced() -> bool:
    """Whether this call is being written down."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()
