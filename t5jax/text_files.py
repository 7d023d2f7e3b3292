"""Text files: UTF-8 with or without a byte order mark; lines end with \\n or \\r\\n.

A lone \\r and Unicode's other line separators do not end a line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

_MARK = b"\xef\xbb\xbf"


def read_text(file: str | Path) -> str:
    """The whole file, without its byte order mark; line ends stay as they are.

    Raises:
      FileNotFoundError: there is no such file. ValueError: a byte is not UTF-8; names the line.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return "".join(_decoded(path.read_bytes().split(b"\n"), str(path), end="\n"))


def read_lines(file: str | Path) -> Iterator[str]:
    """The file's lines without their ends, read as they are taken; errors as `read_text`."""
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    with path.open("rb") as stream:
        yield from lines_of(stream, str(path))


def lines_of(stream: Iterable[bytes], source: str) -> Iterator[str]:
    """The lines of an open byte stream, as `read_lines`; errors name `source`."""
    for number, line in enumerate(stream, 1):
        if number > 1 or line != _MARK:  # a file of a mark alone has no line
            yield _decode(_without_end(line), number, source)


def _without_end(line: bytes) -> bytes:
    # A \r at the end of the file, without \n, stays.
    return line[:-1].removesuffix(b"\r") if line.endswith(b"\n") else line


def _decoded(lines: list[bytes], source: str, end: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        yield _decode(line, number, source) + (end if number < len(lines) else "")


def _decode(line: bytes, number: int, source: str) -> str:
    if number == 1:
        line = line.removeprefix(_MARK)
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{source}, line {number}: byte {line[error.start]:#04x} is not UTF-8; "
            "save the file as UTF-8"
        ) from None
