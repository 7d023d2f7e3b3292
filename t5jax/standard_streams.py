"""stdin, stdout and stderr that are closed, full, or left by their reader."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


def hold_places() -> None:
    """Opens what is closed of descriptors 0, 1 and 2 on nothing.

    Else the next file that is opened, a checkpoint perhaps, would get its number, and with it what
    is printed. `sys.stdin` and `sys.stdout` stay None, so that who needs them can tell.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number
    if sys.stderr is None:  # print() to None goes to stdout
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


def need_stdout(instead: str = "") -> None:
    """OSError where a command has nowhere to print what it was called for."""
    if sys.stdout is None:
        raise OSError(f"standard output is closed{instead}")


def flush_or_give_up() -> None:
    """Output that cannot be written must not be tried again when the interpreter ends."""
    try:
        print(end="", flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def writing(name: str) -> Iterator[None]:
    """Within it, an error of the system that names no file (a full disk) names this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, name) from None
        raise
