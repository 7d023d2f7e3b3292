"""Imports that take seconds, made once a command knows that its arguments are right."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys

from t5jax import starting
from t5jax.training.signals import ending_at_once


def import_heavy(module: str) -> None:
    """Imports it without the lines that TensorFlow prints of that.

    In a process that is the command, Ctrl-C meanwhile ends it at once, without a traceback.
    `t5jax.data` brings TensorFlow, and hides the accelerators from it.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        with ending_at_once() if starting.is_command() else contextlib.nullcontext():
            importlib.import_module(module)
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
