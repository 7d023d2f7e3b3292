"""The command line: which command, its errors in one line each, and exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import t5jax
from t5jax import standard_streams, starting
from t5jax.cli.arguments import add_command, make
from t5jax.cli.compare import Compare
from t5jax.cli.convert import Convert
from t5jax.cli.eval import Eval
from t5jax.cli.generate import Generate
from t5jax.cli.tasks import Tasks
from t5jax.cli.train import Train
from t5jax.cli.vocabulary import Vocabulary
from t5jax.knobs import nearest

COMMANDS = {
    "train": Train,
    "eval": Eval,
    "compare": Compare,
    "generate": Generate,
    "convert": Convert,
    "tasks": Tasks,
    "vocabulary": Vocabulary,
}
# Errors that a user can mend: one line, no traceback. T5JAX_TRACEBACK=1 shows the traceback.
MISTAKES = (ValueError, FloatingPointError, MemoryError, OSError)


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one line; options are given by their whole names."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; see `{self.prog} --help`", file=sys.stderr)
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command; a user's mistake prints one line that begins `error:` and exits 2."""
    standard_streams.hold_places()
    command = _parse(argv)
    # TensorFlow's C++ log would bury a command's own lines; its errors reach Python as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # it also logs what it then raises
    # One line, as the other messages of a command; where in the code it was raised is no matter.
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    if starting.is_command():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        command.run()
        with standard_streams.writing("standard output"):
            print(end="", flush=True)  # what cannot be written should not wait for the exit
    except KeyboardInterrupt as error:
        # `train` has told what it saved; what else is interrupted has nothing to tell.
        raise SystemExit(128 + getattr(error, "signal", signal.SIGINT)) from None
    except BrokenPipeError:  # `t5jax … | head`; an OSError, so it comes before those
        standard_streams.flush_or_give_up()
    except Exception as error:
        message = _mistake(error)
        if message is None or os.environ.get("T5JAX_TRACEBACK"):
            raise
        standard_streams.flush_or_give_up()
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2) from None


def _parse(argv: Sequence[str] | None) -> Any:
    """The command that the words ask for."""
    parser = Parser(prog="t5jax", description="The T5 family in JAX.")
    parser.add_argument("--version", action="version", version=f"t5jax {t5jax.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for name, cls in COMMANDS.items():
        add_command(commands, name, cls)
    arguments, rest = parser.parse_known_args(argv)
    values = vars(arguments)
    if rest and arguments.command is not Train:
        known = re.findall(r"--\w+", arguments.parser.format_help())
        wrong = rest[0].partition("=")[0]
        hint = nearest(wrong, known, otherwise="")
        parser.error(f"unknown argument {rest[0]}" + (f"; {hint}" if hint else ""))
    return make(arguments.command, {**values, "overrides": tuple(rest)})


def _mistake(error: Exception) -> str | None:
    """The error line of a user's mistake; None for a bug of t5jax."""
    if isinstance(error, MISTAKES):
        text = str(error)
        if isinstance(error, MemoryError):
            text = f"not enough memory; {text}".removesuffix("; ")
        elif isinstance(error, OSError) and error.strerror:
            where = "" if error.filename is None else f"{error.filename}: "
            text = f"{where}{error.strerror[:1].lower()}{error.strerror[1:]}"
    else:
        from jax.errors import JaxRuntimeError

        if not isinstance(error, JaxRuntimeError) or "RESOURCE_EXHAUSTED" not in str(error):
            return None
        text = f"not enough memory; {error}"
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= 500 else text[:500] + "…"
