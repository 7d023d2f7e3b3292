"""Opens checkpoints of any format, by path or hub id, and writes them."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from t5jax import run_folder
from t5jax.formats import hub, huggingface, native, t5x
from t5jax.formats.checkpoint import Checkpoint
from t5jax.knobs import short
from t5jax.model.family import families
from t5jax.ops.quantized import Scheme
from t5jax.paths import user_path
from t5jax.vocabulary import Vocabulary, make_vocabulary

Format = Literal["t5jax", "hf", "t5x"]
FORMATS: tuple[str, ...] = get_args(Format)


def open_checkpoint(
    path: str | Path,
    *,
    vocabulary: str | Path | Vocabulary | None = None,
    allow: str | Iterable[str] = (),
    **changes: Any,
) -> Checkpoint:
    """Finds out what `path` is and opens it; tensors are read when they are asked for.

    Args:
      path: a t5jax run, one of its steps, or a saved model; a Hugging Face folder; a T5X
        checkpoint; or the id of a model on the Hugging Face hub.
      vocabulary: in place of the checkpoint's: a `Vocabulary`, or what `make_vocabulary` reads.
      allow: regular expressions of names that may be unused or missing; a parameter that is missing
        starts from zeros.
      changes: fields of the configuration that are to be otherwise than the checkpoint says.

    Raises:
      FileNotFoundError: there is no such folder, nor such a model on the hub.
      ValueError: what is there is damaged, incomplete, or of no known format.
    """
    known = {field.name for each in families() for field in dataclasses.fields(each.config)}
    for name in changes:
        if name not in known:
            classes = " or ".join(each.config.__name__ for each in families())
            raise ValueError(
                f"{name!r} is no field of {classes}; fields: {', '.join(sorted(known))}"
            )
    allow = _patterns(allow)
    folder = user_path(path)
    if not folder.exists():
        if not hub.looks_like_id(str(path)):
            raise FileNotFoundError(f"{path} is no folder, and no id of the Hugging Face hub")
        folder = hub.download(str(path))
    checkpoint: Checkpoint
    if native.detect(folder):
        checkpoint = native.read(folder, **changes)
    elif huggingface.detect(folder):
        checkpoint = huggingface.read(folder, allow=allow, **changes)
    elif t5x.detect(folder):
        checkpoint = t5x.read(folder, allow=allow, **changes)
    else:
        raise ValueError(
            f"{path} holds no model: no {run_folder.MODEL} (t5jax), no {huggingface.CONFIG_FILE} "
            f"(Hugging Face), no {t5x.FILE!r} (T5X)"
        )
    if vocabulary is not None:
        about = dataclasses.replace(checkpoint.about, vocabulary=_vocabulary(vocabulary))
        checkpoint = dataclasses.replace(checkpoint, about=about)
    about = checkpoint.about
    if about.limit is not None and about.limit > about.config.vocab_size:
        raise ValueError(
            f"{path}: the vocabulary has {about.limit} ids, the embedding only "
            f"{about.config.vocab_size} rows; they do not belong together"
        )
    return checkpoint


def _vocabulary(given: str | Path | Vocabulary) -> Vocabulary:
    if isinstance(given, Vocabulary):
        return given
    if not isinstance(given, str | os.PathLike):
        raise TypeError(
            f"vocabulary={short(given)} must be 'bytes', a file, a folder, or a Vocabulary"
        )
    return make_vocabulary(given)


def _patterns(allow: str | Iterable[str]) -> tuple[str, ...]:
    if not isinstance(allow, Iterable) or isinstance(allow, Mapping):
        raise TypeError(f"allow={short(allow)} must be a regular expression, or a list of them")
    patterns = (allow,) if isinstance(allow, str) else tuple(allow)
    for pattern in patterns:
        try:
            re.compile(pattern)
        except (re.error, TypeError, RecursionError, OverflowError) as error:
            raise ValueError(f"allow={short(pattern)} is no regular expression: {error}") from None
    return patterns


def write_checkpoint(
    path: str | Path,
    checkpoint: Checkpoint,
    format: str,
    *,
    dtype: Any = None,
    quantize: Scheme | None = None,
    track: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> None:
    """Writes a checkpoint in a format; the folder is complete or not there.

    Args:
      path: the folder, which must not exist yet.
      checkpoint: what to write.
      format: "t5jax", "hf" or "t5x".
      dtype: of the written parameters; None: as they are. float16 holds what is at most 65,504.
      quantize: write the kernels so; of a checkpoint that is not quantized, in t5jax's format.
      track: gets the tensors' names and gives them back, one before each is written.

    Raises:
      FileExistsError: `path` exists.
      ValueError: unknown format, or one that has no such model; a value past float16's largest.
    """
    path = user_path(path)
    if format not in FORMATS:
        known = ", ".join(map(repr, FORMATS))
        raise ValueError(f"format={short(format)} is not known; use {known}")
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another folder or delete it")
    if (quantize or checkpoint.about.scheme) and format != "t5jax":
        raise ValueError(f"a quantized model can be written in the format 't5jax', not {format!r}")
    if dtype == np.float16:
        _check_float16(checkpoint)
    if format == "t5jax":
        native.write(path, checkpoint, dtype=dtype, quantize=quantize)
    elif format == "hf":
        huggingface.write(path, checkpoint, dtype=dtype, track=track)
    else:
        t5x.write(path, checkpoint, dtype=dtype, track=track)


def report_assumed(path: str | Path, checkpoint: Checkpoint, given: Iterable[str] = ()) -> None:
    """Warns on stderr, in one line, of fields of the architecture that the files do not tell.

    Args:
      path: as the user named the checkpoint.
      checkpoint: what is there.
      given: fields that the user has set.
    """
    taken = [f"{k}={v}" for k, v in checkpoint.about.assumed.items() if k not in set(given)]
    if taken:
        print(
            f"warning: {path} does not tell {' and '.join(x.split('=')[0] for x in taken)}: taken "
            f"as {' '.join(taken)}; if that is wrong, set it: --set FIELD=VALUE, load(…, "
            "FIELD=VALUE), or model.FIELD in a config with init",
            file=sys.stderr,
        )


def _check_float16(checkpoint: Checkpoint) -> None:
    """ValueError for a value past float16's largest, which would be written as infinity."""
    largest = float(np.finfo(np.float16).max)
    for name, tensor in checkpoint.tensors.items():
        # bfloat16 and float32 reach 3e38; T5's MLPs were trained in them.
        most = float(np.max(np.abs(tensor.read()), initial=0))
        if most > largest and most != np.inf:
            raise ValueError(
                f"{name} holds {most:.6g}, past float16's largest, {largest:,.0f}; write it with "
                "dtype='bfloat16'"
            )
