"""Arguments of the commands that read a checkpoint, and of those that generate."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

from t5jax.cli.arguments import Command, group
from t5jax.decoding.options import GenerationOptions
from t5jax.knobs import knob

if TYPE_CHECKING:
    from t5jax.text2text import Text2Text


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointCommand(Command):
    """How a checkpoint is read."""

    quantize: Literal["int8", "int4"] | None = knob(None, "kernels in eight or four bits a weight")
    float_head: bool = knob(False, "with --quantize: leave the head as it is")
    vocabulary: str | None = knob(None, "`bytes` or a SentencePiece file (the checkpoint's)")
    set: tuple[str, ...] = knob(
        (),
        "a field of the architecture that the checkpoint does not tell, as in some of T5X's",
        word="FIELD=VALUE",
    )

    def check_quantization(self) -> None:
        """ValueError where the head's option stands alone."""
        if self.float_head and not self.quantize:
            raise ValueError("--float_head needs --quantize; without it every head is as it is")

    def fields(self) -> dict[str, Any]:
        """The values of `--set`, by field."""
        from t5jax.yaml_files import parse_yaml

        fields = {}
        for item in self.set:
            name, equals, value = item.partition("=")
            if not equals:
                raise ValueError(f"--set {item} must be FIELD=VALUE")
            fields[name] = parse_yaml(value, f"--set {item}")
        return fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generating(CheckpointCommand):
    """How a checkpoint is loaded, and how it decodes."""

    dtype: Literal["float32", "bfloat16"] = knob("float32", "parameters and computation")
    options: dict[str, Any] = group(
        GenerationOptions,
        "generation options (default: the checkpoint's)",
        "IDS are numbers divided by commas. What can be given several times makes a list.",
    )

    def load(self, checkpoint: str, *, assistant: bool = False) -> Text2Text:
        """The model; the files of an assistant tell their architecture on their own."""
        from t5jax.loading import load

        self.check_quantization()
        return load(
            checkpoint,
            dtype=self.dtype,
            vocabulary=self.vocabulary,
            quantize=self.quantize,
            quantize_head=not self.float_head,
            **({} if assistant else self.fields()),
        )
