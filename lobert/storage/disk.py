"""Files that are written whole or not at all, locks, and what is damaged put aside."""

import errno
import glob
import hashlib
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from filelock import FileLock, SoftFileLock, Timeout

from lobert.errors import LobertError, sentence_of

log = logging.getLogger(__name__)
HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
PARTIAL = ".partial"  # how the names of unfinished files and folders end
NOT_FOR_FOLDERS = (errno.EINVAL, errno.EBADF, errno.ENOTSUP, errno.EACCES)  # where a folder cannot be synchronized


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` at the end: readers see the old content or the new, never a part.

    Not even after a power cut. Where the block raises, the old content stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_orphans(path)
    temporary = path.with_name(f".{path.name}.{HOST}.{os.getpid()}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def remove_orphans(path: Path) -> None:
    """Remove what processes of this machine that were killed have left of their attempts to write `path`."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{HOST}.*{PARTIAL}"):
        process = left.name.split(".")[-3]
        if process.isdigit() and not alive(int(process)):
            left.unlink(missing_ok=True)


def alive(process: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that readers see the old content or the new, never a part.

    Raises:
        LobertError: the disk is full, read-only, or closed to this user.
    """
    content = text.encode()
    with telling(path), replacing(path) as file:
        file.write(content)


@contextmanager
def telling(place: Path) -> Iterator[None]:
    """Turn trouble with the disk into the LobertError that names `place`, which was being written."""
    try:
        yield
    except LobertError:
        raise
    except Exception as error:
        sentence = sentence_of(error, place)
        if sentence is None:
            raise
        raise LobertError(sentence) from error


def sync_folder(folder: Path) -> None:
    """Have the names in a folder survive a power cut."""
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in NOT_FOR_FOLDERS:
            raise


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder to the first free `name.broken-N`, and return that."""
    number = 1
    while (place := path.with_name(f"{path.name}.broken-{number}")).exists():
        number += 1
    os.replace(path, place)
    return place


@contextmanager
def held(lock_file: Path, what: str) -> Iterator[None]:
    """Hold a lock file; other processes that want it wait here, and say that they wait for `what`.

    The system frees the lock of a process that ends, however it ends.

    Raises:
        FileNotFoundError: its folder is gone.
        LobertError: the file system has no locks.
    """
    lock = FileLock(lock_file)
    try:
        acquire(lock, what)
    except FileNotFoundError:
        raise
    except (OSError, NotImplementedError) as error:
        if (sentence := sentence_of(error, lock_file)) is not None:
            raise LobertError(sentence) from error
        raise no_locks(lock_file) from error
    try:
        if issubclass(type(lock), SoftFileLock):  # what newer versions turn it into: it outlives a killed process
            raise no_locks(lock_file)
        yield
    finally:
        lock.release()


@contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Hold a folder itself: a second guard, for the case that somebody removes the lock file in it.

    Network file systems do not lock folders, and then there is the lock file alone.

    Raises:
        BlockingIOError: another process holds it.
    """
    if os.name == "nt":  # folders cannot be opened
        yield
        return
    import fcntl

    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:
            log.debug("'%s' cannot be locked itself", folder)
        yield
    finally:
        os.close(handle)


def acquire(lock: FileLock, what: str) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("waiting for another process, which makes %s", what)
        lock.acquire()


def no_locks(lock_file: Path) -> LobertError:
    return LobertError(
        f"the file system of '{lock_file.parent}' has no file locks (flock), which keep two runs from making the same "
        "thing at once: type output_dir=FOLDER on another one, or mount it with locks"
    )
