"""The laws of a start: imports are never looked at again, and freed memory is there for the next tensors."""

import gc
import os
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lobert.startup import loading


@pytest.fixture
def collector() -> Iterator[None]:
    was_on = gc.isenabled()
    yield
    gc.enable() if was_on else gc.disable()


@pytest.mark.usefixtures("collector")
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("on", [False, True])
def test_the_collector_is_as_it_was(on: bool, fails: bool) -> None:
    gc.enable() if on else gc.disable()
    frozen, made = gc.get_freeze_count(), []
    try:
        with loading():
            assert not gc.isenabled()
            made.extend([] for _ in range(1000))
            if fails:
                raise ImportError
    except ImportError:
        pass
    assert gc.isenabled() == on
    assert gc.get_freeze_count() >= frozen + 1000


BATCHES = """
import ctypes, resource
from lobert.startup import keep_freed_memory
{start}
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def batch():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [ctypes.c_void_p(libc.malloc(20 * 2**20)) for _ in range(3)]
    for block in blocks:
        ctypes.memset(block, 0, 20 * 2**20)
    for block in blocks:
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

batch(), batch()
print(batch())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize(
    ("start", "tunables", "kept"),
    [("", "", False), ("keep_freed_memory()", "", True), ("keep_freed_memory()", "glibc.malloc.arena_test=8", False)],
)
def test_freed_memory_is_there_for_the_next_batch_unless_the_user_has_it_otherwise(
    start: str, tunables: str, kept: bool
) -> None:
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    script = [sys.executable, "-c", BATCHES.format(start=start)]
    found = subprocess.run(script, env={**surroundings, "GLIBC_TUNABLES": tunables}, capture_output=True, check=True)
    assert (int(found.stdout) < 1000) is kept
