"""Arguments of the command line, made from declared knobs."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from t5jax.knobs import REQUIRED, Kind, Range, check_value, declared, kind_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Command:
    """A command of `t5jax`: its fields are its arguments, its docstring is its help.

    The docstring's first line is what `t5jax --help` says of it.
    """

    def run(self) -> None:
        """Does the work; raises ValueError or OSError for what the user can mend."""
        raise NotImplementedError

    @classmethod
    def epilog(cls) -> str:
        """Text after the arguments in `--help`."""
        return ""


def place(word: str, help: str = "", default: Any = REQUIRED) -> Any:
    """A positional argument; a tuple takes any number of them."""
    return dataclasses.field(default=default, metadata={"help": help, "word": word, "place": True})


def group(cls: Any, title: str, about: str) -> Any:
    """A field whose value is a dictionary: the knobs of dataclass `cls` that the user gives."""
    metadata = {"group": cls, "title": title, "about": about}
    return dataclasses.field(default_factory=dict, metadata=metadata)


def add_command(commands: Any, name: str, cls: type[Command]) -> None:
    """Adds the command to argparse's subparsers."""
    summary, _, description = inspect.cleandoc(cls.__doc__ or "").partition("\n")
    summary = summary[:1].lower() + summary[1:].removesuffix(".")
    parser = commands.add_parser(
        name,
        help=summary,
        description=description.strip() or None,
        epilog=(epilog := cls.epilog()),
        # argparse's own wraps the lines of the epilog too.
        formatter_class=argparse.RawDescriptionHelpFormatter if epilog else argparse.HelpFormatter,
    )
    parser.set_defaults(command=cls, parser=parser)
    add_arguments(parser, cls)


def add_arguments(parser: Any, cls: Any) -> None:
    """Adds an argument for every knob of a dataclass, a class's own before those it inherits.

    A field without a help text is no argument.
    """
    own = inspect.get_annotations(cls)
    for field in sorted(dataclasses.fields(cls), key=lambda each: each.name not in own):
        if other := field.metadata.get("group"):
            titled = parser.add_argument_group(field.metadata["title"], field.metadata["about"])
            add_arguments(titled, other)
        elif field.metadata:
            _add_argument(parser, field, *declared(cls)[field.name], issubclass(cls, Command))


def make(cls: Any, values: Mapping[str, Any]) -> Any:
    """The dataclass with what the parsed command line gives of its knobs."""
    given: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if other := field.metadata.get("group"):
            given[field.name] = {
                each.name: values[each.name]
                for each in dataclasses.fields(other)
                if each.name in values
            }
        elif field.name in values:
            value = values[field.name]
            given[field.name] = tuple(value) if isinstance(value, list) else value
    return cls(**given)


def _add_argument(
    parser: Any, field: Any, declared: Any, within: Range | None, by_default: bool
) -> None:
    """`by_default`: what is not given has the field's default, so a switch needs no `--no-`."""
    kind = kind_of(declared)
    options: dict[str, Any] = {"default": argparse.SUPPRESS}
    shown = [] if field.default in (REQUIRED, None, (), "") else [str(field.default)]
    if declared is bool:
        shown = [] if by_default else [str(field.default).lower()]
        options["action"] = "store_true" if by_default else argparse.BooleanOptionalAction
    elif kind.choices:
        options["choices"] = kind.choices
    else:
        options["type"] = _reader(kind, declared, within)
        options["metavar"] = field.metadata["word"] or kind.word
    if within:
        shown.append(str(within))
    if "place" in field.metadata:
        names = (field.name,)
        optional = None if field.default is REQUIRED else "?"
        options["nargs"] = "*" if kind.repeated else optional
    else:
        names = (f"--{field.name}",)
        options["required"] = field.default is REQUIRED and not kind.repeated
        if kind.repeated:
            options["action"] = "append"
            shown.append("repeatable")
    notes = f" ({'; '.join(shown)})" if shown else ""
    help = f"{field.metadata['help']}{notes}".strip()
    parser.add_argument(*names, **options, help=help.replace("%", "%%"))


def _reader(kind: Kind, declared: Any, within: Range | None) -> Callable[[str], Any]:
    """The function that reads a word of the command line, for argparse."""

    def read(word: str) -> Any:
        try:
            assert kind.parse is not None
            value = kind.parse(word)
            return value if within is None else check_value("", value, declared, within)
        except (ValueError, KeyError):
            # A word such as IDS=NUMBER shows the form; one such as IDS says less than a sentence.
            shown = kind.word if kind.word and not kind.word.isalpha() else kind.wanted
            wanted = f"{kind.wanted}, {within}{within.advice}" if within else shown
            raise argparse.ArgumentTypeError(f"{word[:60]!r} must be {wanted}") from None

    return read
