"""Ctrl-C and SIGTERM (preemption): work that must not be cut short is finished first, everything else ends where it is.

The first signal raises `Interrupted` in the main thread, or within `deferred` is only remembered (`asked`). A second Ctrl-C ends
the process at once, whatever it does. Imports nothing heavy.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONE_PRESS = 0.5  # seconds: a launcher may pass on a Ctrl-C that the terminal has sent already


class Interrupted(BaseException):
    """The user or the cluster asked this process to stop; the message says how to go on. No Exception: nobody may swallow it."""

    def __init__(self, number: int, said: str = "interrupted; the same command goes on where it stopped"):
        super().__init__(said)
        self.number = number

    @property
    def code(self) -> int:
        """Exit code by convention: 130 for Ctrl-C, 143 for SIGTERM."""
        return 128 + self.number


@dataclass
class _State:
    number: int | None = None  # the first signal
    pressed: float | None = None  # when Ctrl-C was first
    deferring: bool = False
    process: int = 0


_state = _State()


@contextmanager
def heard() -> Iterator[None]:
    """Within the block, signals are treated as above; afterwards as before. Does nothing outside the main thread, and within
    another such block."""
    if threading.current_thread() is not threading.main_thread() or _state.process == os.getpid():
        yield
        return
    before = {number: signal.signal(number, _hear) for number in SIGNALS}
    _state.__init__(process=os.getpid())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _state.__init__()


@contextmanager
def deferred() -> Iterator[None]:
    """Within the block a signal is only remembered. If it was, the end of the block (the outermost) raises Interrupted."""
    before, _state.deferring = _state.deferring, True
    try:
        yield
    finally:
        _state.deferring = before
    if _state.number is not None and not before:
        raise Interrupted(_state.number, "interrupted; what was begun is finished")


def asked() -> int:
    """Number of the signal that asked this process to stop, 0 if none did."""
    return _state.number or 0


def _hear(number: int, _: object) -> None:
    if os.getpid() != _state.process:
        return  # a worker that was forked: its parent says when it ends
    now = time.monotonic()
    if number == signal.SIGINT:
        if _state.pressed is not None and now - _state.pressed > ONE_PRESS:
            os._exit(128 + number)
        _state.pressed = _state.pressed or now
    first = _state.number is None
    _state.number = _state.number or number
    if not _state.deferring:
        raise Interrupted(_state.number)
    if first and os.environ.get("RANK", "0") == "0":
        again = "; Ctrl-C again ends at once" if number == signal.SIGINT else ""
        print(f"\nfinishing this step{again}", file=sys.stderr, flush=True)
