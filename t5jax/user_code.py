"""Errors in a user's function are reported with its file, line and name.

Metrics, pre- and postprocessors, answers and modules are called deep within libraries, where a
message such as "'str' object has no attribute 'foo'" does not say where to look.
"""

from __future__ import annotations

import contextlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_HINT = "T5JAX_TRACEBACK=1 shows the whole traceback"
_OURS = Path(__file__).resolve().parent
_LIBRARIES = {
    Path(sysconfig.get_path(name)).resolve()
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
}
_PACKAGES = {"site-packages", "dist-packages"}
# Frames in the text of a TensorFlow error, which quotes the traceback of a Python function.
_FRAME = re.compile(r'File "(?P<file>[^"\n]+)", line (?P<line>\d+), in (?P<function>\S+)')
_MAX_CAUSE = 240  # characters; a command's error line has 500

_declared: set[Path] = set()


class UserCodeError(ValueError):
    """A user's function failed; the message says where, `__cause__` is its error."""


class Place(NamedTuple):
    """A line of code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        path = Path(self.file)
        with contextlib.suppress(ValueError, OSError):
            path = path.relative_to(Path.cwd())
        return f"{path}, line {self.line}, in {self.function}"


def declare(file: str | Path) -> None:
    """Declares the package around `file` a user's, even if it is installed like a library.

    Files outside the environment's libraries need no declaration.
    """
    path = Path(file).resolve()
    if not path.is_relative_to(_OURS):
        while (path.parent / "__init__.py").is_file():
            path = path.parent
        _declared.add(path)


@contextlib.contextmanager
def running(what: str) -> Iterator[None]:
    """Turns an error in a user's function into a `UserCodeError` that begins with `what`.

    `what` is the function's role and task: "task mine: metric first_letter". Errors of other code
    pass unchanged.
    """
    try:
        yield
    except Exception as error:  # users' code may raise anything
        told = explain(error, what)
        if told is None:
            raise
        raise told from error


def explain(error: BaseException, what: str) -> UserCodeError | None:
    """The `UserCodeError` for `error`; None if its traceback has no line of a user's."""
    if isinstance(error, UserCodeError):
        return None  # an inner `running` has explained it
    place = place_of(error)
    if place is None:
        return None
    return UserCodeError(f"{what}: {place}: {cause_of(error)}; {_HINT}")


def place_of(error: BaseException) -> Place | None:
    """The innermost line of a user's code in the traceback, or None."""
    if isinstance(error, SyntaxError) and error.filename and _is_users(error.filename):
        return Place(error.filename, error.lineno or 0, "<module>")
    # Autograph runs a translation of the function and keeps where each line came from.
    metadata = getattr(error, "ag_error_metadata", None)
    if metadata is not None:
        translated = [
            Place(frame.filename, frame.lineno, frame.function_name)
            for frame in metadata.translated_stack
            if _is_users(frame.filename)
        ]
        if translated:
            return translated[0]  # innermost first
    for one in _chain(error):
        frames = [
            Place(frame.filename, frame.lineno or 0, frame.name)
            for frame in traceback.extract_tb(one.__traceback__)
        ]
        frames += [Place(m["file"], int(m["line"]), m["function"]) for m in _written(one)]
        theirs = [frame for frame in frames if _is_users(frame.file)]
        if theirs:
            return theirs[-1]
    return None


def cause_of(error: BaseException) -> str:
    """The original error, as `Type: message` on one line."""
    metadata = getattr(error, "ag_error_metadata", None)
    if metadata is not None:
        text = metadata.cause_message
    elif found := list(_written(error)):
        # The message follows the last frame and the source line that it quotes.
        rest = str(error)[found[-1].end() :]
        named = re.search(r"^\w+(?:\.\w+)*(?:: .*)?$", rest, re.MULTILINE)
        text = named[0] if named else str(error)
    else:
        for one in _chain(error):
            if any(_is_users(f.filename) for f in traceback.extract_tb(one.__traceback__)):
                error = one
                break
        text = f"{type(error).__name__}: {error}"
    text = " ".join(text.split())
    return text if len(text) <= _MAX_CAUSE else text[:_MAX_CAUSE] + "…"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, the original first."""
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in chain:
        chain.append(one)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return reversed(chain)


def _written(error: BaseException) -> Iterator[re.Match[str]]:
    """Frames of the traceback that a TensorFlow error's text quotes."""
    text = str(error) if type(error).__module__.startswith("tensorflow") else ""
    return _FRAME.finditer(text)


def _is_users(file: str) -> bool:
    """Whether the file belongs neither to this package nor to the environment's libraries."""
    if file.startswith("<"):
        return file.startswith("<ipython")
    path = Path(file).resolve()
    if any(path.is_relative_to(each) for each in _declared):
        return True
    if path.is_relative_to(_OURS) or path.name.startswith("__autograph_generated"):
        return False
    if _PACKAGES & set(path.parts) or any(path.is_relative_to(each) for each in _LIBRARIES):
        return False
    # A command's own starting script.
    return path.parent != Path(sys.prefix, "bin").resolve()
