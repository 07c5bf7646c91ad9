"""How a command starts, so that it runs faster than Python and the C library have it by themselves."""

import ctypes
import gc
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt, in glibc's malloc.h
FREE_MEMORY_KEPT = 512 * 2**20  # bytes
LARGEST_BLOCK_KEPT = 128 * 2**20


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


def keep_freed_memory() -> None:
    """Have memory that tensors free stay with the process, for the next ones.

    By itself glibc gives blocks of some megabytes back, and the activations of every batch are made of pages that the
    system has to find and clear first: a seventh to a quarter of a dense forward pass on a CPU. Without effect where
    the C library is another one, or the user has set anything about its allocator.
    """
    is_set = any(name.startswith("MALLOC_") for name in os.environ) or "malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if platform.libc_ver()[0] == "glibc" and not is_set:
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK_KEPT)
        libc.mallopt(M_TRIM_THRESHOLD, FREE_MEMORY_KEPT)
