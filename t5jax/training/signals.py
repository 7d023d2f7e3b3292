"""SIGTERM and Ctrl-C during training: the first signal saves a checkpoint and ends the run."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(KeyboardInterrupt):
    """A signal ended the run, after its current step was saved.

    Attributes:
      signal: its number. `t5jax train` exits with 128 + `signal`.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


@contextlib.contextmanager
def noted() -> Iterator[Callable[[], int | None]]:
    """Yields a function that returns the number of the first signal received, or None.

    A second signal acts as usual. Outside the main thread, where Python handles no signals, the
    function always returns None.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        received.append(number)
        restore()

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield lambda: received[0] if received else None
    finally:
        restore()


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """Makes Ctrl-C end the process as SIGTERM does: at once, without a traceback.

    A KeyboardInterrupt would wait for running C++ code, such as a compilation, and be lost in the
    callbacks of some libraries.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
