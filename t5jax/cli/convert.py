"""`t5jax convert`."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from t5jax.cli.arguments import place
from t5jax.cli.heavy import import_heavy
from t5jax.cli.loading import CheckpointCommand
from t5jax.knobs import REQUIRED, knob
from t5jax.paths import user_path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convert(CheckpointCommand):
    """Write a checkpoint in another format.

    Reads a checkpoint of any format, one parameter at a time, and writes it in another. Every
    tensor of the source must find its place, and every parameter its tensor.
    """

    source: str = place("SRC", "a folder, or an id of the Hugging Face hub")
    target: str = place("DST", "the folder to write")
    format: Literal["t5jax", "hf", "t5x"] = knob(REQUIRED, "format to write")
    dtype: Literal["float32", "bfloat16", "float16"] | None = knob(
        None, "dtype of the written parameters; float16 holds at most 65,504; default: as in SRC"
    )
    quantize: Literal["int8", "int4"] | None = knob(
        None, "kernels in eight or four bits a weight; --format t5jax only"
    )
    allow: tuple[str, ...] = knob(
        (),
        "regular expression of tensors that may be left out, or start from zeros",
        word="PATTERN",
    )

    def run(self) -> None:
        """Converts, and prints what was written and what found no place."""
        if user_path(self.target).exists():
            raise FileExistsError(f"{self.target} exists; choose another folder or delete it")
        self.check_quantization()
        fields = self.fields()
        import_heavy("t5jax.formats.detect")
        import jax.numpy as jnp
        from rich.console import Console
        from rich.progress import track

        from t5jax.formats.detect import open_checkpoint, report_assumed, write_checkpoint
        from t5jax.ops.quantized import Scheme

        checkpoint = open_checkpoint(
            self.source, vocabulary=self.vocabulary, allow=self.allow, **fields
        )
        report_assumed(self.source, checkpoint)
        console = Console(stderr=True)
        write_checkpoint(
            self.target,
            checkpoint,
            self.format,
            dtype=None if self.dtype is None else jnp.dtype(self.dtype),
            quantize=Scheme(self.quantize, not self.float_head) if self.quantize else None,
            track=lambda names: track(
                list(names), "writing", console=console, disable=not console.is_terminal
            ),
        )
        count = sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values())
        print(f"{self.target}: {count:,} parameters in {len(checkpoint.tensors)} tensors")
        about = checkpoint.about
        for kind, names in (("unused", about.unused), ("zeros for", about.missing)):
            for name in names:
                print(f"  {kind} {name}")
        if about.vocabulary is None:
            print("  without a vocabulary: give one with --vocabulary, or to load()")
