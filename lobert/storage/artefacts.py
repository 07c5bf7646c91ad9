"""Artefacts: folders on disk that are found by what they were made from, made at most once, and checked when found.

An artefact lives at `root/kind/name-fingerprint`. It is made in a folder whose name ends in `.partial`, which one
process at a time holds, and renamed when it is whole, so a folder without that ending is always complete. Its
`recipe.json` lists its files with their checksums (`lobert.storage.manifest`). A damaged one is moved aside, to
`name.broken-N`, and made again.
"""

import hashlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lobert.errors import LobertError
from lobert.storage.disk import PARTIAL, held, held_folder, replacing, set_aside, sync_folder, telling, write_atomic
from lobert.storage.manifest import RECIPE_FILE, Recipe, damage, fingerprint, read_recipe, remember, write_manifest

__all__ = [
    "RECIPE_FILE", "Recipe", "Store", "find", "fingerprint", "hash_files", "locked", "make_folder", "process_rank",
    "read_recipe", "replacing", "set_aside", "wait_for", "write_atomic",
]  # fmt: skip

log = logging.getLogger(__name__)
POLL = 0.2  # seconds
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")  # where Lightning looks, in its order
LOCK_FILE = ".building"  # in the partial folder: gone when that is, and no litter beside it


def hash_files(folder: Path, patterns: tuple[str, ...] = ("*",)) -> str:
    """Digest of names and contents of the files of `folder` that match, in sorted order (not recursive)."""
    digest = hashlib.sha256()
    for path in sorted({p for pattern in patterns for p in folder.glob(pattern) if p.is_file()}):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file beside `path`; other processes wait here. LobertError where there are no locks."""
    with telling(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with held(lock_path(path), f"'{path}'"):
        yield


def lock_path(path: Path) -> Path:
    return path.with_name(path.name + ".lock")


@dataclass(frozen=True)
class Store:
    """The artefacts under one folder."""

    root: Path

    def path(self, kind: str, name: str, recipe: Recipe) -> Path:
        """Where the artefact made from `recipe` is, or will be."""
        return self.root / kind / f"{name}-{fingerprint(recipe)}"

    def make(
        self,
        kind: str,
        name: str,
        recipe: Recipe,
        build: Callable[[Path], None],
        resume: bool = False,
    ) -> Path:
        """Find the artefact made from `recipe`, or have `build(folder)` write it, and return its folder."""
        path = self.path(kind, name, recipe)
        make_folder(path, recipe, build, resume)
        return path


def find(path: Path, recipe: Recipe) -> bool:
    """Whether the artefact is there and whole; reads it through at the first call in a process."""
    return path.exists() and damage(path, recipe) is None


def make_folder(
    path: Path,
    recipe: Recipe,
    build: Callable[[Path], None],
    resume: bool = False,
    together: bool = False,
    scratch: str | None = None,
) -> None:
    """Make the folder `path` once, whole, across processes, unless it is there and sound.

    `build` gets an empty folder, or, with `resume`, what an interrupted build has left there. Where it raises, that
    partial folder stays for a later resume, and there is no artefact. `scratch` names a folder in it that is dropped
    once the artefact is there, and until then can be resumed from. In a distributed run process zero builds and the
    others wait; with `together` all of them call `build`, because it trains.

    Raises:
        LobertError: the disk is full, read-only, closed to this user, or has no locks.
    """
    if find(path, recipe):
        return tidy(path, scratch)
    partial = path.with_name(path.name + PARTIAL)
    if process_rank() > 0:
        if together:
            build(partial)
        return wait_for(path, recipe)
    with telling(path), sole_builder(path, partial, recipe) as builder:
        if not builder:  # another process made it while this one waited
            return
        if path.exists():
            replace_damaged(path, recipe)
        sweep(partial, all_of_it=not resume)
        build(partial)
        finish(path, partial, recipe, scratch)


@contextmanager
def sole_builder(path: Path, partial: Path, recipe: Recipe) -> Iterator[bool]:
    """Hold the partial folder, alone; gives False, without it, once the artefact is there."""
    with ExitStack() as locks:
        yield hold(locks, path, partial, recipe)


def hold(locks: ExitStack, path: Path, partial: Path, recipe: Recipe) -> bool:
    while not find(path, recipe):
        partial.mkdir(parents=True, exist_ok=True)
        try:
            locks.enter_context(held(partial / LOCK_FILE, f"'{path}'"))
            locks.enter_context(held_folder(partial))
        except FileNotFoundError:  # the folder became the artefact while this process waited for the lock
            locks.close()
            continue
        except BlockingIOError:  # the lock file of whoever makes it was removed
            locks.close()
            time.sleep(POLL)
            continue
        if not find(path, recipe):
            return True
        shutil.rmtree(partial, ignore_errors=True)  # this process has just made it, late
        locks.close()
    return False


def replace_damaged(path: Path, recipe: Recipe) -> None:
    """Move a damaged artefact aside, and say so."""
    wrong, place = damage(path, recipe), set_aside(path)
    log.warning("'%s' is damaged: %s; it is made again, and what was there is kept as '%s'", path, wrong, place.name)


def sweep(partial: Path, all_of_it: bool) -> None:
    """Remove what a killed process left half written, or all that it left."""
    for path in list(partial.iterdir() if all_of_it else partial.rglob(f".*{PARTIAL}")):
        if path.is_dir():
            shutil.rmtree(path)
        elif path != partial / LOCK_FILE:
            path.unlink(missing_ok=True)


def finish(path: Path, partial: Path, recipe: Recipe, scratch: str | None) -> None:
    """Turn the partial folder, which is whole, into the artefact."""
    write_manifest(partial, recipe, without=(LOCK_FILE, *([scratch] if scratch else [])))
    sync_folder(partial)
    os.replace(partial, path)
    sync_folder(path.parent)
    tidy(path, scratch)
    remember(path, recipe)


def tidy(path: Path, scratch: str | None) -> None:
    """Drop what only making the artefact needed; a process that was killed before it could leaves it to the next."""
    if process_rank() > 0:
        return
    with suppress(OSError):  # in a store that is read-only
        (path / LOCK_FILE).unlink(missing_ok=True)
    if scratch is not None:
        shutil.rmtree(path / scratch, ignore_errors=True)


def process_rank() -> int:
    """Rank of this process in a distributed run, 0 in any other: Lightning's, or the one that it will find.

    Reading artefacts needs neither Lightning nor torch, which take seconds to load.
    """
    if "pytorch_lightning" not in sys.modules:
        return next((int(os.environ[name]) for name in RANKS if name in os.environ), 0)
    from pytorch_lightning.utilities import rank_zero_only

    return getattr(rank_zero_only, "rank", None) or 0


def wait_for(path: Path, recipe: Recipe) -> None:
    """Wait until process zero has made `path`; LobertError where the process that started this one is gone."""
    parent = os.getppid()
    while not find(path, recipe):
        if os.getppid() != parent:
            raise LobertError(f"process 0 ended before it had made '{path}': its own message says why")
        time.sleep(POLL)
