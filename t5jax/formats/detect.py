"""One door for all formats: a path or a hub id in, a `Checkpoint` out."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, get_args

from t5jax.formats import hub, huggingface, native, t5x
from t5jax.formats.checkpoint import Checkpoint
from t5jax.model.config import T5Config
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
      allow: regular expressions of names that the files may hold in vain, or lack; a parameter
        that is missing starts from zeros.
      changes: fields of `T5Config` that are to be otherwise than the checkpoint says.

    Raises:
      FileNotFoundError: there is no such folder, nor such a model on the hub.
      ValueError: what is there is damaged, incomplete, or of no known format.
    """
    known = {field.name for field in dataclasses.fields(T5Config)}
    for name in changes:
        if name not in known:
            raise ValueError(
                f"{name!r} is no field of T5Config; fields: {', '.join(sorted(known))}"
            )
    allow = (allow,) if isinstance(allow, str) else tuple(allow)
    for pattern in allow:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError, TypeError) as error:
            raise ValueError(f"allow={pattern!r} is no regular expression: {error}") from None
    folder = Path(path)
    if not folder.exists():
        if not hub.looks_like_id(str(path)):
            raise FileNotFoundError(f"{path} is no folder, and no id of the Hugging Face hub")
        folder = hub.download(str(path))
    if native.detect(folder):
        checkpoint = native.read(folder, **changes)
    elif huggingface.detect(folder):
        checkpoint = huggingface.read(folder, allow=allow, **changes)
    elif t5x.detect(folder):
        checkpoint = t5x.read(folder, allow=allow, **changes)
    else:
        raise ValueError(
            f"{path} holds no model: no {native.MODEL_FILE} (t5jax), no {huggingface.CONFIG_FILE} "
            f"(Hugging Face), no {t5x.FILE!r} (T5X)"
        )
    if vocabulary is not None:
        if not isinstance(vocabulary, Vocabulary):
            vocabulary = make_vocabulary(vocabulary)
        checkpoint = dataclasses.replace(checkpoint, vocabulary=vocabulary)
    have = checkpoint.vocabulary
    if have is not None and have.vocab_size > checkpoint.config.vocab_size:
        raise ValueError(
            f"{path}: the vocabulary has {have.vocab_size} ids, the embedding only "
            f"{checkpoint.config.vocab_size} rows; they do not belong together"
        )
    return checkpoint


def write_checkpoint(
    path: str | Path,
    checkpoint: Checkpoint,
    format: str,
    *,
    dtype: Any = None,
    track: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> None:
    """Writes a checkpoint in a format; the folder is complete or not there.

    Args:
      path: the folder, which must not exist yet.
      checkpoint: what to write.
      format: "t5jax", "hf" or "t5x".
      dtype: of the written parameters; None: as they are.
      track: gets the tensors' names and gives them back, one before each is written.

    Raises:
      FileExistsError: `path` exists. ValueError: unknown format, or one that has no such model.
    """
    path = Path(path)
    if checkpoint.quantized is not None and format in FORMATS and format != "t5jax":
        raise ValueError(f"a quantized model can be written in the format 't5jax', not {format!r}")
    if format == "t5jax":
        native.write(path, checkpoint, dtype=dtype)
    elif format == "hf":
        huggingface.write(path, checkpoint, dtype=dtype, track=track)
    elif format == "t5x":
        t5x.write(path, checkpoint, dtype=dtype, track=track)
    else:
        raise ValueError(f"format={format!r} is not known; use {', '.join(map(repr, FORMATS))}")
