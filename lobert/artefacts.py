"""Artefacts: folders on disk that are found by what they were made from, and made at most once.

An artefact lives at `root/kind/name-fingerprint`. It is written in a folder whose name ends in `.partial` and renamed
when it is whole, so a folder without that ending is always complete; a lock beside it makes two processes that need
the same missing artefact build it once.
"""

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from lobert.errors import LobertError

Recipe = Mapping[str, Any]
RECIPE_FILE = "recipe.json"


def fingerprint(recipe: Any, length: int = 12) -> str:
    """Hexadecimal digest of a JSON-able value, independent of key order and of the process."""
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def hash_files(folder: Path, patterns: tuple[str, ...] = ("*",)) -> str:
    """Digest of names and contents of the files of `folder` that match, in sorted order (not recursive)."""
    digest = hashlib.sha256()
    for path in sorted({p for pattern in patterns for p in folder.glob(pattern) if p.is_file()}):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that readers see the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file beside `path`; other processes wait here."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock_path(path)):
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


def make_folder(
    path: Path,
    recipe: Recipe,
    build: Callable[[Path], None],
    resume: bool = False,
    together: bool = False,
) -> None:
    """Make the folder `path` once, whole, across processes, unless it is there.

    `build` gets an empty folder, or, with `resume`, what an interrupted build has left there. Where it raises, that
    partial folder stays for a later resume, and there is no artefact. In a distributed run process zero builds and the
    others wait; with `together` all of them call `build`, because it trains.
    """
    partial = path.with_name(path.name + ".partial")
    if path.exists():
        return
    if process_rank() > 0:
        if together:
            build(partial)
        return wait_for(path)
    with locked(path):
        if path.exists():  # another process made it while this one waited
            return
        if not resume and partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(exist_ok=True)
        build(partial)
        write_atomic(partial / RECIPE_FILE, json.dumps(recipe, indent=2, sort_keys=True) + "\n")
        os.replace(partial, path)
    lock_path(path).unlink(missing_ok=True)  # whoever still waits for it will find the artefact


def process_rank() -> int:
    """Rank of this process in a distributed run, 0 in any other; from the environment the launcher has set."""
    from pytorch_lightning.utilities import rank_zero_only  # late: reading artefacts needs neither Lightning nor torch

    return getattr(rank_zero_only, "rank", None) or 0


def wait_for(path: Path) -> None:
    """Wait until process zero has made `path`; LobertError where the process that started this one is gone."""
    parent = os.getppid()
    while not path.exists():
        if os.getppid() != parent:
            raise LobertError(f"process 0 ended before it had made '{path}': its own message says why")
        time.sleep(0.2)
