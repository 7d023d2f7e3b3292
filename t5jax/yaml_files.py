"""YAML of configurations: plain data, unique keys, limited size.

YAML 1.1, except that 1e-4 is a number, 2026-11-25 is text, and 010 is ten.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

# Limits that aliases need: nine lines of nine aliases each expand to 400 million values.
MOST_VALUES = 10_000
DEEPEST = 32

_NUMBERS = (
    ("tag:yaml.org,2002:int", r"[-+]?[0-9][0-9_]*", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        "-+0123456789.",
    ),
)
_KEPT = ("bool", "null", "merge")


def _resolve_as_we_do(cls: type[Any]) -> None:
    cls.yaml_implicit_resolvers = {
        first: [(tag, regexp) for tag, regexp in found if tag.rpartition(":")[2] in _KEPT]
        for first, found in cls.yaml_implicit_resolvers.items()
    }
    for tag, pattern, first in _NUMBERS:
        cls.add_implicit_resolver(tag, re.compile(f"(?:{pattern})$"), list(first))


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would read as something else."""


class _Loader(yaml.SafeLoader):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.values = self.depth = 0
        self.sizes: dict[int, int] = {}  # node id -> values, aliases expanded

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        alias = isinstance(event, yaml.AliasEvent)
        if not alias and event.tag is not None:
            raise _at(event, f"{event.tag!r}: tags have no place here; write the value alone")
        self.depth += 1
        before = self.values
        if self.depth > DEEPEST:
            raise _at(event, f"more than {DEEPEST} levels, one in another")
        node = super().compose_node(parent, index)  # type: ignore[no-untyped-call]
        if not alias:
            self.values += 1
            self.sizes[id(node)] = self.values - before
        elif id(node) in self.sizes:
            self.values += self.sizes[id(node)]
        else:
            raise _at(event, f"*{event.anchor} stands within itself")
        if self.values > MOST_VALUES:
            raise _at(event, f"more than {MOST_VALUES:,} values, aliases written out")
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)  # type: ignore[no-untyped-call]
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _at(key, "a key must be a word")
            if key.value in seen:
                raise _at(key, f"{key.value} is given twice; leave one of them out")
            seen.add(key.value)
        return node


def _at(place: Any, message: str) -> yaml.YAMLError:
    return yaml.YAMLError(f"line {place.start_mark.line + 1}: {message}")


def _int(loader: _Loader, node: Any) -> int:
    return int(loader.construct_scalar(node).replace("_", ""))


def _float(loader: _Loader, node: Any) -> float:
    text = loader.construct_scalar(node).replace("_", "")
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_resolve_as_we_do(_Loader)
_resolve_as_we_do(_Dumper)
_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def parse_yaml(text: str, source: str) -> Any:
    """The value of YAML `text`: dictionaries, lists, strings, numbers, booleans and None.

    Raises:
      ValueError: invalid YAML, a repeated key, a tag, or too many values; names `source`.
    """
    try:
        loader = _Loader(text)
        try:
            return _copied(loader.get_single_data())  # type: ignore[no-untyped-call]
        finally:
            loader.dispose()  # type: ignore[no-untyped-call]
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # also a number of 5,000 digits
        problem = " ".join(str(error).split())
        raise ValueError(f"{source} is no YAML that can be read: {problem}") from None


def write_yaml(value: Any) -> str:
    """YAML that `parse_yaml` reads as `value`."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False)


def _copied(value: Any) -> Any:
    """A deep copy without aliasing, so that editing one section does not edit another."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
