"""Schemas of files that t5jax reads.

A schema is a pydantic model that derives from `Schema`, or any type that pydantic knows. A file
that does not fit raises a ValueError with the file, the field, the value and what was wanted.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from t5jax.knobs import short
from t5jax.text_files import read_text

__all__ = ["Schema", "check", "parse_json", "read_json", "short"]

T = TypeVar("T")


class Schema(pydantic.BaseModel):
    """The fields of a file that are read; other fields are ignored.

    Nothing is converted, except an integer to a float; "10" and true are not numbers.
    """

    model_config = pydantic.ConfigDict(strict=True, extra="ignore", frozen=True)


@functools.cache
def _adapter(schema: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(schema)


def check(schema: type[T], value: Any, source: str | Path) -> T:
    """`value` as `schema` declares it.

    Raises:
      ValueError: `source: field: value: what was wanted`, for the first field that does not fit.
    """
    adapter: Any = _adapter
    try:
        return adapter(schema).validate_python(value)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        wanted = first["msg"][:1].lower() + first["msg"][1:]
        parts = [str(source), where, wanted]
        if first["type"] != "missing":
            parts.insert(2, short(first["input"]))
        raise ValueError(": ".join(part for part in parts if part)) from None


def parse_json(text: str | bytes, source: str | Path) -> Any:
    """The JSON value of `text`. ValueError names `source`."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError(f"{source} is no JSON that can be read: it is nested too deeply") from None
    except ValueError as error:  # also text that is not UTF-8, or a number of 5,000 digits
        raise ValueError(f"{source} is not JSON: {error}") from None


def read_json(file: str | Path, schema: type[T]) -> T:
    """The JSON file's value as `schema` declares it.

    Raises:
      FileNotFoundError: there is no such file. ValueError: it is not JSON, or does not fit.
    """
    return check(schema, parse_json(read_text(file), file), file)
