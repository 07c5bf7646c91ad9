"""Loading large libraries, faster than Python does by itself."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Imports without the garbage collector, which never looks at what they made again, not at the end either.

    Torch and transformers make a million objects that stay until the process ends: looking through them again and again
    takes a fifth of the imports, and two seconds when the process ends.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
