"""The one exception that speaks to the user, and the nearest-name hint it usually carries."""

import difflib
from collections.abc import Iterable


class LobertError(Exception):
    """A mistake the user can mend: the message says what is wrong, where, and what to type instead.

    `train.py` and the command-line tools print the message alone, without a traceback, and exit with a non-zero code.
    """


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
