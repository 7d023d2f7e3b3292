"""Reads a run's configuration: YAML, command-line overrides, and what follows from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from t5jax.config import LengthsConfig, RunConfig
from t5jax.knobs import check_value, declared, nearest, short
from t5jax.model.family import default_family, family_of, named, variants
from t5jax.text_files import read_text
from t5jax.yaml_files import parse_yaml, write_yaml

if TYPE_CHECKING:
    from t5jax.vocabulary import Vocabulary

AUTO = "auto"


def read_config(file: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The YAML of `file` with `--section.key=value` overrides, as nested dictionaries.

    Raises:
      FileNotFoundError: no such file. ValueError: no YAML mapping, or a malformed override.
    """
    tree = parse_yaml(read_text(file), str(file))
    if not isinstance(tree, dict):
        raise ValueError(f"{file} must hold sections such as `data:`, not {_kind(tree)}")
    for override in overrides:
        name, equals, text = override.removeprefix("--").partition("=")
        *sections, key = name.split(".")
        if not override.startswith("--") or not equals or not all((*sections, key)):
            raise ValueError(f"{override!r} is no override; write --section.key=value")
        place = tree
        for section in sections:
            if place.get(section) is None:
                place[section] = {}
            elif place[section] == AUTO and name.startswith("data.lengths."):
                place[section] = dict.fromkeys(declared(LengthsConfig), AUTO)
            place = place[section]
            if not isinstance(place, dict):
                raise ValueError(f"{override!r}: {section} is no section")
        place[key] = parse_yaml(text, f"--{name}")
    return tree


def stored_config(file: Path) -> RunConfig:
    """The configuration that a run's folder holds; ValueError names the file."""
    try:
        return build_config(read_config(file))
    except ValueError as error:
        raise ValueError(f"{file}: {str(error).removeprefix(str(file)).lstrip(': ')}") from None


def build_config(
    tree: Mapping[str, Any],
    vocabulary: Vocabulary | None = None,
    initial: Any = None,
    assumed: Iterable[str] = (),
) -> RunConfig:
    """The typed, frozen configuration.

    `model.variant` fills the model's fields; those that follow from a `vocabulary` come from it,
    unless they are given (`vocabulary_fields`). A run that starts from a checkpoint has its
    architecture, `initial`; only dropout may be another, and the fields `assumed`, which its files
    do not tell.

    Raises:
      ValueError: an unknown key (the nearest right one is named), a value of a wrong type, or a
        field of the model that differs from the checkpoint's.
    """
    if not isinstance(tree, Mapping):
        raise ValueError(f"a configuration must hold sections such as `data`, not {_kind(tree)}")
    tree = dict(tree)
    model = dict(_section(tree.pop("model", None), "model"))
    base = _base(model.pop("variant", None), model.pop("family", None), initial)
    if initial is not None:
        base = base.replace(vocab_size=initial.vocab_size)
    elif vocabulary is not None:
        for name, value in vocabulary_fields(base, vocabulary).items():
            model.setdefault(name, value)
    config = _build(RunConfig, tree, "")
    config = dataclasses.replace(config, model=_build(type(base), model, "model", base))
    for name, theirs, ours in () if initial is None else differences(initial, config.model):
        if name not in ("dropout", *assumed):
            raise ValueError(
                f"model.{name}={ours}, but the checkpoint {config.init} has {theirs}; leave it out"
            )
    return config


def vocabulary_fields(base: Any, vocabulary: Vocabulary) -> dict[str, int]:
    """The fields of a new model that follow from its vocabulary.

    The embedding has the vocabulary's rows, rounded up to a multiple of 128. EOS is the
    vocabulary's. Padding is the variant's unless that is taken; the decoder starts with the id of
    the same meaning as in the variant `base`.
    """
    rows, eos = -(-vocabulary.vocab_size // 128) * 128, vocabulary.eos_id
    pad, start = base.pad_token_id, base.decoder_start_token_id
    if pad == eos or pad >= rows:
        pad = vocabulary.pad_id
    same = {base.eos_token_id: eos, base.pad_token_id: pad}
    return {
        "vocab_size": rows,
        "pad_token_id": pad,
        "eos_token_id": eos,
        "decoder_start_token_id": same.get(start, start),
    }


def auto_lengths(tree: Mapping[str, Any]) -> tuple[Mapping[str, Any], set[str]]:
    """A configuration without the row lengths that are "auto", and the names of those.

    "auto" may be one of `data.lengths`, or stand for both.

    Raises:
      ValueError: a length is another word.
    """
    data = tree.get("data") if isinstance(tree, Mapping) else None
    lengths = data.get("lengths") if isinstance(data, Mapping) else None
    if lengths == AUTO:
        lengths = dict.fromkeys(declared(LengthsConfig), AUTO)
    if isinstance(lengths, str):
        keys = " and ".join(declared(LengthsConfig))
        raise ValueError(f"data.lengths={short(lengths)} must be auto, or a section with {keys}")
    if not isinstance(data, Mapping) or not isinstance(lengths, Mapping):
        return tree, set()
    for name in declared(LengthsConfig):
        if isinstance(given := lengths.get(name), str) and given != AUTO:
            raise ValueError(
                f"data.lengths.{name}={short(given)} must be auto, or a whole number, at least 1"
            )
    names = {name for name in declared(LengthsConfig) if lengths.get(name) == AUTO}
    rest = {name: value for name, value in lengths.items() if name not in names}
    return {**tree, "data": {**data, "lengths": rest}}, names


def _base(variant: Any, family: Any, initial: Any) -> Any:
    """The configuration of a model that a variant, a family or a checkpoint begins with."""
    known, base = variants(), initial
    if variant is not None:
        if not (isinstance(variant, str) and variant in known):
            raise ValueError(
                f"model.variant={short(variant)} is unknown; {nearest(variant, known)}"
            )
        base = known[variant]
    if base is None:
        return (default_family() if family is None else named(family)).config()
    if family is not None and named(family) is not family_of(base):
        what = f"model.variant={variant}" if variant else "the checkpoint of init"
        raise ValueError(
            f"model.family={family}, but {what} is of {family_of(base).name}; leave one of them out"
        )
    return base


def _section(tree: Any, where: str) -> Mapping[str, Any]:
    if tree is None:  # a section of which every line is commented out
        return {}
    if not isinstance(tree, Mapping):
        raise ValueError(f"{where}={short(tree)} must be a section with keys")
    return tree


def _build(cls: type, tree: Mapping[str, Any], where: str, base: Any = None) -> Any:
    """`cls` from `base` (default: its defaults) with the values of `tree`."""
    known = declared(cls)
    base = cls() if base is None else base
    changes = {}
    for key, value in tree.items():
        name = f"{where}.{key}" if where else str(key)
        if key not in known:
            raise ValueError(f"unknown key {name[:60]}; {nearest(key, known)}")
        kind, within = known[key]
        if dataclasses.is_dataclass(kind):
            section = _section(value, name)
            changes[key] = _build(cast(type, kind), section, name, getattr(base, key))
        else:
            changes[key] = check_value(name, value, kind, within)
    try:
        return dataclasses.replace(base, **changes)
    except ValueError as error:  # two values that do not go together
        raise ValueError(f"{where}.{error}" if where else str(error)) from None


def _kind(value: Any) -> str:
    return "nothing" if value is None else short(value)


def to_yaml(config: RunConfig) -> str:
    """The resolved configuration as YAML that `build_config` reads."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, tuple | list) else value

    tree, family = plain(dataclasses.asdict(config)), family_of(config.model)
    if family is not default_family():
        tree["model"] = {"family": family.name, **tree["model"]}
    return write_yaml(tree)


def knobs(cls: type = RunConfig, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """(dotted name, default, meaning with its range) of every knob."""
    defaults = cls()
    for field in dataclasses.fields(cls):
        name, meaning = f"{prefix}{field.name}", field.metadata["help"]
        within, value = declared(cls)[field.name][1], getattr(defaults, field.name)
        if dataclasses.is_dataclass(value):
            yield name, "", meaning
            yield from knobs(type(value), f"{name}.")
        else:
            shown = "" if value in ("", (), None) else str(value)
            yield name, shown, f"{meaning} ({within})" if within else meaning


def differences(old: Any, new: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, old value, new value) of every knob that differs."""
    for field in dataclasses.fields(old):
        a, b = getattr(old, field.name), getattr(new, field.name)
        if dataclasses.is_dataclass(a):
            yield from differences(a, b, f"{prefix}{field.name}.")
        elif a != b:
            yield f"{prefix}{field.name}", a, b
