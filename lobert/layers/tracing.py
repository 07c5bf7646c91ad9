"""Whether calls are being written down as a graph: by torch.export, which torch.onnx stands on, or torch.jit.trace.

Such a graph runs without the layers: nothing is kept for it from pass to pass, what it forms it forms in every pass,
and it is the same for batches of any size.
"""

import torch

TRACED_BATCH = 128  # tokens, for which the cheapest way is written down


def is_traced() -> bool:
    """Whether the call is written down; torch.compile asks for graphs in another way, and guards them."""
    return torch.jit.is_tracing() or (torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling())
