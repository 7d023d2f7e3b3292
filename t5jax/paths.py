"""Paths that a user gives, made absolute once, where they enter."""

from __future__ import annotations

import os
from pathlib import Path

from t5jax.knobs import short


def user_path(path: str | os.PathLike[str]) -> Path:
    """The absolute path, with `~` as the home folder.

    `..` is followed as the system does it, through symbolic links; TensorStore takes no path that
    has it. Without it links stay what they are.

    Raises:
      TypeError: `path` is none.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path={short(path)} must be a path: a str or a pathlib.Path")
    found = Path(path)
    if found.parts[:1] == ("~",):  # another user's `~name` may be a folder's name as well
        found = found.expanduser()
    return found.resolve() if ".." in found.parts else found.absolute()
