"""The share of one machine that each of several jobs gets: some of its cores, or one of its GPUs."""

import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

CORES_PER_JOB = 2  # where nobody says how many jobs are to run at once, and there is no GPU
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
DRIVER = Path("/proc/driver/nvidia/gpus")  # one folder per GPU, readable without loading CUDA

_own: dict[str, int] = {}  # the slot that this process has had: CUDA cannot change its GPU once it has begun


@dataclass(frozen=True)
class Machine:
    """What jobs beside each other share."""

    cores: int
    gpus: tuple[str, ...]


@dataclass(frozen=True)
class Sharing:
    """How many jobs run at once on this machine, with how many threads each; `gpus` names one for each, or none."""

    jobs: int
    threads: int
    gpus: tuple[str, ...] = ()


def this_machine() -> Machine:
    """Cores and GPUs that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return Machine(cores, tuple(name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")))
    count = len(list(DRIVER.iterdir())) if DRIVER.is_dir() else 0
    return Machine(cores, tuple(str(number) for number in range(count)))


def plan_sharing(
    launcher: Mapping[str, Any], machine: Machine, wanted: int | None, uses_gpu: bool = True
) -> Sharing | None:
    """How jobs of a Hydra launcher share the machine; None where each has it alone, or a cluster deals out the parts.

    `wanted` is how many are to run at once; None: as many as the launcher is told to start, at most one for a GPU.
    """
    kind = str(launcher.get("_target_", ""))
    if "BasicLauncher" in kind or "SlurmLauncher" in kind:
        return None
    gpus = machine.gpus if uses_gpu else ()
    started = launcher.get("n_jobs") or 0
    usual = len(gpus) or (started if started > 0 else max(1, machine.cores // CORES_PER_JOB))
    jobs = wanted or (min(usual, started) if started > 0 else usual)
    return Sharing(jobs, max(1, machine.cores // jobs), tuple(gpus[n % len(gpus)] for n in range(jobs)) if gpus else ())


@contextmanager
def shared(sharing: Sharing | None) -> Iterator[None]:
    """Wait for a free share of this machine and keep to it; nothing to wait for where it is not shared."""
    if sharing is None:
        yield
        return
    folder = Path(tempfile.gettempdir()) / f"lobert-{os.getuid() if hasattr(os, 'getuid') else 0}"
    folder.mkdir(parents=True, exist_ok=True)
    kind = "gpu" if sharing.gpus else "cpu"
    slot, lock = wait_for_slot(folder, kind, sharing.jobs)
    try:
        if sharing.gpus:
            _own[kind] = slot
            os.environ["CUDA_VISIBLE_DEVICES"] = sharing.gpus[slot]
        limit_threads(sharing.threads)
        yield
    finally:
        lock.release()


def wait_for_slot(folder: Path, kind: str, count: int) -> tuple[int, FileLock]:
    """The first free slot of `count` and its lock, held."""
    slots = [_own[kind]] if kind in _own else range(count)
    while True:
        for slot in slots:
            lock = FileLock(folder / f"{kind}{slot}.lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                continue
            return slot, lock
        time.sleep(0.1 + 0.2 * random.random())


def limit_threads(count: int) -> None:
    """Have this process compute with so many threads, whether torch is loaded already or not."""
    for name in THREADS:
        os.environ[name] = str(count)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(count)
