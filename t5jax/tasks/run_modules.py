"""A run's task modules, found from any working directory and in a moved run.

A run's config.yaml names `.py` files by absolute path, and the run keeps a copy of each. The
original file is preferred, since it may have been edited; the copy serves a run that was moved to
another machine. There, a module that reads files beside itself must be named with --modules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from t5jax.config_files import stored_config
from t5jax.paths import user_path
from t5jax.run_folder import CONFIG, MODEL, MODULES
from t5jax.tasks import registry


def absolute(modules: Sequence[str]) -> tuple[str, ...]:
    """Files by absolute path; dotted names unchanged."""
    return tuple(str(user_path(name)) if name.endswith(".py") else name for name in modules)


def copies(modules: Sequence[str]) -> dict[str, bytes]:
    """The run folder's copies of modules that are files: name -> content."""
    return {
        str(_copy(Path(), name)): Path(name).read_bytes()
        for name in modules
        if name.endswith(".py") and Path(name).is_file()
    }


def load_of_run(checkpoint: str | Path, tasks: Sequence[str]) -> None:
    """Loads the modules of a checkpoint's run, if a task is unknown without them.

    Raises:
      ValueError: a module is missing, or cannot be imported.
    """
    unknown = [name for name in tasks if not registry.is_known(name)]
    place = Path(checkpoint)
    for folder in (place, place.absolute().parent.parent):
        if unknown and (folder / CONFIG).is_file() and (folder / MODEL).is_file():
            modules = there(folder, stored_config(folder / CONFIG).data.modules)
            for name in modules:
                if name.endswith(".py") and not Path(name).is_file():
                    raise ValueError(
                        f"no task is called {unknown[0]!r}, and {name}, a module of the run "
                        f"{folder}, is not there any more; name it: --modules FILE.py"
                    )
            registry.load_modules(modules)
            return


def there(run_dir: Path, modules: Sequence[str]) -> list[str]:
    """The modules, with the run's copy in place of a missing file."""
    return [
        str(copy) if name.endswith(".py") and not Path(name).is_file() and copy.is_file() else name
        for name, copy in ((name, _copy(run_dir, name)) for name in modules)
    ]


def _copy(folder: Path, name: str) -> Path:
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]  # file names may repeat
    return folder / MODULES / f"{Path(name).stem}-{digest}.py"
