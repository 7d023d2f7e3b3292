"""Progress of calls over many inputs, on stderr."""

from __future__ import annotations

import sys
from typing import Any

# tqdm.auto draws notebooks' bars too; the module tqdm does not.
from tqdm.auto import tqdm

from t5jax.knobs import check_value

# Seconds before a bar appears.
DELAY = 2.0


def bar(what: str, total: int | None, progress: bool) -> Any:
    """A bar of `total` inputs, with the time left; used with `with` and `update(inputs)`.

    It appears after two seconds, and goes when the work is done. Where stderr is neither a terminal
    nor a notebook's, or `progress` is False, nothing appears.

    Raises:
      ValueError: `progress` is no bool.
    """
    progress = check_value("progress", progress, bool)
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return tqdm(
        desc=what,
        total=total,
        unit=" inputs",
        delay=DELAY,
        leave=False,
        disable=not progress or not (terminal or "ipykernel" in sys.modules),
    )
