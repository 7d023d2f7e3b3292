"""Ctrl-C while a command imports its packages, for seconds: an end without a traceback.

This is the first import of the package. It changes nothing where t5jax is not the command.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys


def is_command() -> bool:
    """Whether this process was started as `t5jax …` or `python -m t5jax.cli …`."""
    words = sys.orig_argv
    module = any(pair == ("-m", "t5jax.cli") for pair in itertools.pairwise(words))
    return module or os.path.basename(sys.argv[0]) in ("t5jax", "t5jax.exe")


if is_command():
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # `cli.main` sets Python's own handler again
