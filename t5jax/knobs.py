"""Declares a configuration field together with the sentence that `--help` prints for it."""

from __future__ import annotations

import dataclasses
from typing import Any


def knob(default: Any, help: str) -> Any:
    """A dataclass field with `default` and its meaning; mutable defaults are copied."""
    metadata = {"help": help}
    if isinstance(default, dict | list | set):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)
