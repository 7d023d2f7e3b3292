"""`load`: any checkpoint as a `Text2Text`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from t5jax import sharding
from t5jax.compiled import keep_compiled_programs
from t5jax.engine.arguments import dtype_of
from t5jax.formats import generation_defaults
from t5jax.formats.detect import open_checkpoint, report_assumed
from t5jax.ops.quantized import QuantizedKind, Scheme
from t5jax.text2text import Text2Text
from t5jax.vocabulary import Vocabulary


def load(
    path: str | Path,
    dtype: Any = "float32",
    mesh: Mesh | Mapping[str, int] | None = None,
    *,
    vocabulary: str | Path | Vocabulary | None = None,
    allow: str | Iterable[str] = (),
    quantize: QuantizedKind | None = None,
    quantize_head: bool = True,
    **changes: Any,
) -> Text2Text:
    """Loads a model: a t5jax run or saved model, a Hugging Face folder or hub id, T5X's format.

    A run gives its latest step; RUN/checkpoints/STEP gives that one. Parameters are read one by
    one, straight into `dtype` and onto `mesh`. What a safetensors file holds as it is needed stays
    in the file's pages: do not change it in place while the model is used. Compiled programs are
    kept in a cache on disk unless JAX already has one configured.

    Args:
      path: the folder, or the id of a model on the Hugging Face hub.
      dtype: "float32" or "bfloat16", or such a dtype: of the parameters and of computation, but for
        norms, softmax and logits, which are float32. float16 is refused: activations may reach past
        65,504. A float16 file loads into both.
      mesh: devices to spread the parameters over, along axes that are among data, fsdp, tensor and
        sequence: a `jax.sharding.Mesh`, or sizes by axis whose product is the number of
        devices, as {"data": 4, "tensor": 2}; default: the first device.
      vocabulary: in place of the checkpoint's: a `Vocabulary`, "bytes", or a SentencePiece file.
      allow: regular expressions of tensors that may be unused or missing.
      quantize: "int8" keeps the kernels in a quarter of float32's bytes: faster where few rows are
        decoded, and a little less exact; "int4" in an eighth, slower and less exact than "int8".
        Default: as the checkpoint is. A quantized checkpoint cannot be quantized otherwise.
      quantize_head: whether the output head is among them, the embedding where that is the head.
      changes: fields of the configuration that are to be otherwise than the checkpoint says.

    Raises:
      FileNotFoundError: nothing is there. ValueError: what is there is damaged, incomplete, or of
        no known format.
    """
    dtype = dtype_of(dtype)
    mesh = sharding.mesh_of(mesh)
    if quantize is None and not quantize_head:
        raise ValueError("quantize_head=False needs quantize; without it every head is as it is")
    scheme = None if quantize is None else Scheme(quantize, quantize_head)
    checkpoint = open_checkpoint(path, vocabulary=vocabulary, allow=allow, **changes)
    report_assumed(path, checkpoint)
    keep_compiled_programs()
    about = checkpoint.about
    return Text2Text(
        about.config,
        checkpoint.read(scheme or "serving", dtype, mesh),
        about.vocabulary,
        dtype=dtype,
        mesh=mesh,
        generation=generation_defaults.read(about.generation, about.config, about.limit),
        max_input_length=about.max_input_length,
    )
