"""The one exception that speaks to the user, and the nearest-name hint it usually carries."""

import difflib
import errno
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path


class LobertError(Exception):
    """A mistake the user can mend: the message says what is wrong, where, and what to type instead.

    `train.py` and the command-line tools print the message alone, without a traceback, and exit with a non-zero code.
    """


class TooSmall(LobertError):
    """A share of the weights that even the smallest rank exceeds; `least` is the share that this one keeps."""

    def __init__(self, message: str, least: float) -> None:
        super().__init__(message, least)  # as they came: an exception is made of them again in another process
        self.message, self.least = message, least

    def __str__(self) -> str:
        return f"{self.message}, so type keep={rounded_up(self.least)} or more, or choose another decomp"


def rounded_up(share: float) -> str:
    """A share as it is typed, to four digits, and not below it.

    >>> rounded_up(0.06249)
    '0.0625'
    """
    return f"{math.ceil(share * 1e4) / 1e4:.4g}"


def suggest(word: str, choices: Iterable[str]) -> str:
    """The end of an error sentence: the nearest of `choices` first, then all of them.

    >>> suggest("falcn", ["svd", "falcon"])
    "did you mean 'falcon'? Choices: falcon, svd"
    """
    names = sorted(set(choices))
    folded = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.5)
    hint = f"did you mean '{folded[near[0]]}'? " if near else ""
    return f"{hint}Choices: {', '.join(names)}"


def first_line(error: BaseException) -> str:
    """What an error of a library says first, or its name where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ELSEWHERE = "choose another place (output_dir=FOLDER)"
DISK_TROUBLE = {  # what is wrong with a place, and what to do
    errno.ENOSPC: ("its disk is full", f"free some space or {ELSEWHERE}"),
    errno.EDQUOT: ("your quota on its disk is used up", f"free some space or {ELSEWHERE}"),
    errno.EFBIG: ("a file would be larger than is allowed (see ulimit -f)", f"raise the limit or {ELSEWHERE}"),
    errno.EROFS: ("its file system is read-only", ELSEWHERE),
    errno.EACCES: ("permission is denied", f"change the permissions or {ELSEWHERE}"),
    errno.EPERM: ("the system does not permit it", f"change the permissions or {ELSEWHERE}"),
    errno.ENOTDIR: ("a part of its path is a file and no folder", ELSEWHERE),
    errno.EEXIST: ("something of that name, but no folder, is there already", ELSEWHERE),
    errno.EIO: ("its disk reports an input/output error", f"check the disk or {ELSEWHERE}"),
}


def sentence_of(error: BaseException, place: Path | str | None = None) -> str | None:
    """The sentence that answers trouble with a disk or with permissions; None where `error` is nothing of that kind.

    `place` is what was being written, for errors that do not say where they struck. Libraries hide such an error in
    one of their own; it is found by its number in their text, or as the one that theirs was raised from.

    >>> sentence_of(OSError(errno.EROFS, "Read-only file system", "outputs/runs"))
    "cannot use 'outputs/runs': its file system is read-only; choose another place (output_dir=FOLDER)"
    """
    for number, where in _disk_errors(error):
        if number in DISK_TROUBLE:
            trouble, remedy = DISK_TROUBLE[number]
            verb = "write" if number in OUT_OF_SPACE else "use"
            again = ", then run the same command again" if number in OUT_OF_SPACE else ""
            named = (place or where) if number in OUT_OF_SPACE else (where or place)
            return f"cannot {verb} '{named or 'the output'}': {trouble}; {remedy}{again}"
    return None


def _disk_errors(error: BaseException) -> Iterator[tuple[int, str | None]]:
    """Number and place of the operating system's error that `error` is, names, or was raised from."""
    if isinstance(error, OSError):
        if re.search(r"\d+ requested and \d+ written", str(error)):  # NumPy, of a write that was cut short
            yield errno.ENOSPC, None
        elif error.errno is not None:
            yield error.errno, None if error.filename is None else str(error.filename)
    elif named := re.search(r"os error (\d+)", str(error)):  # as the libraries written in Rust say it
        yield int(named[1]), None
    for origin in (error.__cause__, error.__context__ if isinstance(error, RuntimeError) else None):
        if origin is not None:
            yield from _disk_errors(origin)
