"""Being told to stop: SIGTERM as an exception, and a request that training honours between two optimizer steps."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM)
LOADERS_WAIT = 60  # seconds


class Terminated(KeyboardInterrupt):
    """SIGTERM: as Ctrl-C, it ends the run and, in a sweep, all of it."""


def exit_code(stop: KeyboardInterrupt) -> int:
    """What a shell expects of a process that a signal ended: 143 for SIGTERM, 130 for Ctrl-C."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def interruption(signum: int) -> KeyboardInterrupt:
    """The exception that stands for a signal."""
    return Terminated() if signum == signal.SIGTERM else KeyboardInterrupt()


def raise_on_sigterm() -> None:
    """Have SIGTERM raise `Terminated`, wherever the process is; where it is ignored, it stays so."""
    if _may_handle(signal.SIGTERM):
        signal.signal(signal.SIGTERM, _raise)


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Put the handlers back at the end, whatever a library has made of them: Lightning leaves Ctrl-C ignored."""
    before = {signum: signal.getsignal(signum) for signum in STOPPING}
    try:
        yield
    finally:
        for signum, handler in before.items():
            if handler is not None and _in_main_thread():
                signal.signal(signum, handler)


def outlast(worker: int = 0) -> None:
    """In a process that loads data: let signals that all of a job gets wait for the main process, though not for ever.

    Without its loaders, training could not reach the end of the step. It ends them when it stops.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end_later)


@dataclass
class StopRequest:
    """A signal that has come and waits to be honoured; `signum` is 0 before. A second Ctrl-C raises at once."""

    signum: int = 0
    quiet: bool = False
    process: int = 0

    def listen(self) -> None:
        """Take the signals from now on; see `kept_handlers`. What a forked child hears is not for this process."""
        self.process = os.getpid()
        for signum in STOPPING:
            if _may_handle(signum):
                signal.signal(signum, self)

    def honour(self) -> None:
        """Raise the interruption that was asked for, if one was."""
        if self.signum:
            raise interruption(self.signum)

    def __call__(self, signum: int, frame: FrameType | None) -> Any:
        if os.getpid() != self.process:
            return
        if self.signum and signum == signal.SIGINT:
            raise KeyboardInterrupt
        if not self.signum and not self.quiet:
            # No print: the signal may have struck in the middle of one.
            os.write(2, b"stopping after this step: saving (Ctrl-C again stops at once, without)\n")
        self.signum = self.signum or signum


def _end_later(signum: int, frame: FrameType | None) -> None:
    signal.alarm(LOADERS_WAIT)
    signal.signal(signum, signal.SIG_DFL)  # a second one is for this process


def _raise(signum: int, frame: FrameType | None) -> None:
    raise interruption(signum)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _may_handle(signum: int) -> bool:
    """Python handles signals in the main thread only; an ignored one, as under nohup, was ignored on purpose."""
    return _in_main_thread() and signal.getsignal(signum) is not signal.SIG_IGN
