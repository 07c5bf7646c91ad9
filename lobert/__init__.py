"""LoBERT: low-rank and tensor-factorized BERT encoders, brought back to their teacher by distillation."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lobert.api import compress
    from lobert.checkpoint import load, merge
    from lobert.encoders.naming import set_roles
    from lobert.errors import LobertError
    from lobert.layers.pairs import fold, unfold

__version__ = "0.1.0"
__all__ = ["LobertError", "compress", "fold", "load", "merge", "set_roles", "unfold"]

HOMES = {
    "compress": "api",
    "fold": "layers.pairs",
    "load": "checkpoint",
    "merge": "checkpoint",
    "set_roles": "encoders.naming",
    "unfold": "layers.pairs",
    "LobertError": "errors",
}


def __getattr__(name: str) -> Any:
    """Import on first use: tables of results need neither torch nor transformers."""
    if name not in HOMES:
        raise AttributeError(f"module 'lobert' has no attribute '{name}'")
    return getattr(import_module(f"lobert.{HOMES[name]}"), name)
