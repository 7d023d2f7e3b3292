"""Reads a run's configuration: YAML, command-line overrides, and what follows from them."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic
import yaml

from t5jax.config import RunConfig
from t5jax.model.config import VARIANTS, T5Config
from t5jax.vocabulary import Vocabulary


def read_config(file: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The YAML of `file` with `--section.key=value` overrides, as nested dictionaries.

    Raises:
      FileNotFoundError: no such file. ValueError: no YAML mapping, or a malformed override.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such configuration file")
    tree = parse_yaml(file.read_text(encoding="utf-8"), str(file))
    if not isinstance(tree, dict):
        raise ValueError(f"{file} must hold sections such as `data:`, not {type(tree).__name__}")
    for override in overrides:
        name, equals, text = override.removeprefix("--").partition("=")
        if not override.startswith("--") or not equals:
            raise ValueError(f"{override!r} is no override; write --section.key=value")
        *sections, key = name.split(".")
        place = tree
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise ValueError(f"{override!r}: {section} is no section")
        place[key] = parse_yaml(text, override)
    return tree


def parse_yaml(text: str, source: str) -> Any:
    """YAML's value of `text`; ValueError names `source`."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is no YAML: {' '.join(str(error).split())}") from error
    return _numbers(value)


def _numbers(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as text, for want of a dot; people mean a number."""
    if isinstance(value, dict):
        return {k: _numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_numbers(v) for v in value]
    if isinstance(value, str) and value[:1] in "0123456789+-." and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def build_config(
    tree: Mapping[str, Any],
    vocabulary: Vocabulary | None = None,
    initial: T5Config | None = None,
) -> RunConfig:
    """The typed, frozen configuration.

    `model.variant` fills the model's fields; with a `vocabulary` the embedding gets as many rows
    as that needs, rounded up to 128, unless `model.vocab_size` is given. A run that starts from a
    checkpoint has its architecture, `initial`; only dropout may be another.

    Raises:
      ValueError: an unknown key (the nearest right one is named), a value of a wrong type, or a
        field of the model that differs from the checkpoint's.
    """
    tree = dict(tree)
    model = dict(tree.pop("model", None) or {})
    variant = model.pop("variant", None)
    if variant is not None and variant not in VARIANTS:
        raise ValueError(f"model.variant: {variant!r} is unknown; {_nearest(variant, VARIANTS)}")
    base = VARIANTS[variant] if variant else initial or T5Config()
    if initial is not None:
        base = base.replace(vocab_size=initial.vocab_size)
    elif vocabulary is not None:
        model.setdefault("vocab_size", -(-vocabulary.vocab_size // 128) * 128)
    config = _build(RunConfig, tree, "")
    config = dataclasses.replace(config, model=_build(T5Config, model, "model", base))
    for name, theirs, ours in () if initial is None else differences(initial, config.model):
        if name != "dropout":
            raise ValueError(
                f"model.{name}={ours}, but the checkpoint {config.init} has {theirs}; leave it out"
            )
    return config


def _build(cls: type, tree: Any, where: str, base: Any = None) -> Any:
    """`cls` from `base` (default: its defaults) with the values of `tree`."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"{where}: {tree!r} must be a section with keys")
    types = typing.get_type_hints(cls)
    base = cls() if base is None else base
    changes = {}
    for key, value in tree.items():
        name = f"{where}.{key}" if where else str(key)
        if key not in types:
            raise ValueError(f"unknown key {name}; {_nearest(str(key), types)}")
        if dataclasses.is_dataclass(types[key]):
            changes[key] = _build(types[key], value or {}, name, getattr(base, key))
        else:
            changes[key] = _leaf(types[key], value, name)
    return dataclasses.replace(base, **changes)


def _leaf(kind: Any, value: Any, name: str) -> Any:
    if kind is str and isinstance(value, str | Path):
        return str(value)
    adapter = pydantic.TypeAdapter(kind)
    try:
        # Strict: "10" is no number and 1.5 no count. Lists stand for tuples, 1 for 1.0.
        value = tuple(value) if isinstance(value, list) else value
        return adapter.validate_python(value, strict=True)
    except pydantic.ValidationError as error:
        wanted = error.errors()[0]["msg"]
        raise ValueError(f"{name}: {value!r}: {wanted[:1].lower()}{wanted[1:]}") from None


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML that `build_config` reads."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, tuple | list) else value

    return yaml.safe_dump(plain(dataclasses.asdict(config)), sort_keys=False)


def knobs(cls: type = RunConfig, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted name, default, meaning) of every knob."""
    types = typing.get_type_hints(cls)
    defaults = cls()
    for field in dataclasses.fields(cls):
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(types[field.name]):
            yield name, "", field.metadata["help"]
            yield from knobs(types[field.name], f"{name}.")
        else:
            value = getattr(defaults, field.name)
            shown = "" if value in ("", (), None) else str(value)
            yield name, shown, field.metadata["help"]


def differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, old value, new value) of every knob that differs."""
    for field in dataclasses.fields(old):
        a, b = getattr(old, field.name), getattr(new, field.name)
        if dataclasses.is_dataclass(a):
            yield from differences(a, b, f"{prefix}{field.name}.")
        elif a != b:
            yield f"{prefix}{field.name}", a, b
