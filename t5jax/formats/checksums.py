"""Checksums of a folder's files, kept beside them and verified before they are read.

`checksums.json` has the size and the CRC-32 of every file, and a checksum of its own content. A
step of a run's checkpoints has one, written before the step is committed, and so have the text
files of a run or a saved model. A folder without one, from an older t5jax, is read with a warning.
"""

from __future__ import annotations

import json
import os
import warnings
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from t5jax.host import replace
from t5jax.run_folder import CHECKSUMS
from t5jax.schema import Schema, read_json

_BLOCK = 4 << 20  # bytes read at a time; zlib releases the GIL for each
_SMALL = 1 << 20  # bytes of a file whose content `quickly` verifies too


class Damaged(ValueError):
    """A file is not as it was written."""


class Checksums(NamedTuple):
    """Of a folder: what each file may be, by its relative name, and facts kept beside."""

    files: Mapping[str, list[str]]
    about: Mapping[str, Any]


class _File(Schema):
    checksum: str
    files: dict[str, list[str]]
    about: dict[str, Any]


def of_bytes(content: bytes) -> str:
    """Size and CRC-32, as "115 8a93533f"."""
    return f"{len(content)} {zlib.crc32(content):08x}"


def of_file(file: Path) -> str:
    """`of_bytes` of its content, which is read in blocks."""
    size = crc = 0
    with file.open("rb", buffering=0) as stream:
        while block := stream.read(_BLOCK):
            size, crc = size + len(block), zlib.crc32(block, crc)
    return f"{size} {crc:08x}"


def write(
    folder: Path, about: Mapping[str, Any] | None = None, *, without: Iterable[str] = ()
) -> None:
    """Writes the checksums of all files below `folder`, and `about`, a JSON object.

    Files named in `without`, which will still change, have none.
    """
    names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    names = [name for name in names if name not in (CHECKSUMS, *without)]
    sums = _each(of_file, [folder / name for name in names])
    _write(folder, {name: [each] for name, each in zip(names, sums, strict=True)}, about or {})


def read(folder: Path) -> Checksums | None:
    """The checksums that `write` wrote; None where there are none.

    Raises:
      Damaged: the file with the checksums is.
    """
    file = folder / CHECKSUMS
    if not file.is_file():
        return None
    try:
        content = read_json(file, _File)
    except ValueError as error:
        raise Damaged(f"{file} is damaged: {error}") from error
    if content.checksum != _own(content.files, content.about):
        raise Damaged(f"{file} is damaged: its own checksum differs")
    return Checksums(content.files, content.about)


def verify(folder: Path, *parts: str, quickly: bool = False) -> None:
    """Compares the files of `folder` with their checksums.

    Args:
      folder: with CHECKSUMS in it; without, a warning says that nothing is verified.
      parts: only these files, and those below these folders; the default is all.
      quickly: of files above 1 MiB, the size alone.

    Raises:
      Damaged: names the first file that is missing or differs.
    """
    sums = read(folder)
    if sums is None:
        warnings.warn(
            f"{folder} has no {CHECKSUMS} (an older t5jax wrote it, or it was lost): "
            "whether its files are whole is not verified",
            stacklevel=2,
        )
        return
    names = [
        name
        for name in sums.files
        if not parts or any(name == part or name.startswith(f"{part}/") for part in parts)
    ]

    def fault(name: str) -> str | None:
        file, wanted = folder / name, sums.files[name]
        if not file.is_file():
            return f"{file} is missing"
        size = file.stat().st_size
        sizes = [each.partition(" ")[0] for each in wanted]
        if str(size) not in sizes:
            return f"{file} is damaged: it has {size} bytes of {' or '.join(sizes)}"
        if (not quickly or size <= _SMALL) and of_file(file) not in wanted:
            return f"{file} is damaged: its checksum differs"
        return None

    for found in _each(fault, names):
        if found:
            raise Damaged(found)


def replace_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Writes files whose checksums are kept in `folder`; a kill in between damages nothing.

    Until all are written, the old content of each passes as well as the new one. Checksums of
    files that are not among `contents` are dropped.
    """
    try:
        old = read(folder)
    except Damaged:
        old = None
    new = {name: [of_bytes(content)] for name, content in contents.items()}
    before = old.files if old else {}
    if old and before == new and all((folder / name).is_file() for name in new):
        return
    folder.mkdir(parents=True, exist_ok=True)
    if old:
        names = before.keys() | new.keys()
        _write(folder, {k: [*before.get(k, ()), *new.get(k, ())] for k in sorted(names)}, {})
    for name, content in contents.items():
        replace(folder / name, content)
    _write(folder, new, {})


def _own(files: Mapping[str, list[str]], about: Mapping[str, Any]) -> str:
    return of_bytes(json.dumps([files, about], sort_keys=True).encode())


def _write(folder: Path, files: Mapping[str, list[str]], about: Mapping[str, Any]) -> None:
    content = {"checksum": _own(files, about), "files": files, "about": about}
    replace(folder / CHECKSUMS, (json.dumps(content, indent=1) + "\n").encode())


def _each(function: Any, items: Iterable[Any]) -> list[Any]:
    """`map` in a few threads; all are done when it returns."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, items))
