"""Generation over more texts than fit into memory: batches of like length, results in order."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from t5jax.decoding.constraints import AllowedTokens
from t5jax.decoding.controls import LogitsProcessor
from t5jax.engine.buckets import ROW_BUCKETS, bucket
from t5jax.engine.progress import bar
from t5jax.engine.results import Generation
from t5jax.host import replace
from t5jax.knobs import Range, check_value, short
from t5jax.schema import read_json
from t5jax.text2text import Text2Text

# Full batches sorted together: enough that few rows are padding, and few results wait for others.
BATCHES_AT_ONCE = 32


def generate_each(
    t5: Text2Text,
    texts: Iterable[str],
    *,
    batch_size: int = 64,
    batch_tokens: int = 32_768,
    window: int | None = None,
    decoder_prefix: str | None = None,
    logits_processor: LogitsProcessor | None = None,
    prefix_allowed_tokens_fn: AllowedTokens | None = None,
    assistant_model: Text2Text | None = None,
    on_batch: Callable[[Generation], None] = lambda result: None,
    progress: bool = True,
    **options: Any,
) -> Iterator[Any]:
    """The result of `t5.generate` for each text, in order, as it is ready.

    Texts are taken `window` at a time, so memory does not grow with their number, and sorted by
    length. All batches whose longest input falls into one bucket of lengths have the same number
    of rows, so the whole work compiles two programs a bucket (encoder and decoder), however many
    texts there are; another one where outputs get past 128 tokens, past 256, and so on.

    Args:
      t5: the model.
      texts: any number of them; consumed as results are taken.
      batch_size: rows at a time, at most.
      batch_tokens: tokens of a batch, at most: rows times the lengths of input and output, each
        rounded up. One row is always decoded.
      window: texts sorted together, and read before the first result; default: 32 full batches.
      decoder_prefix: what every output begins with; see `t5.generate`.
      logits_processor, assistant_model: see `t5.generate`.
      prefix_allowed_tokens_fn: too; it gets the text's number among all.
      on_batch: called with what each batch gave, in the order of decoding.
      progress: see `t5.generate`; time left is shown for texts whose number is known.
      options: as of `t5.generate`.

    Raises:
      ValueError: an unknown option or a value out of range, before the first text is read.
    """
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        raise TypeError(f"texts={short(texts)} must be several texts, such as a list of them")
    sizes = {"batch_size": batch_size, "batch_tokens": batch_tokens, "window": window}
    for name, value in sizes.items():
        check_value(name, value, int | None if name == "window" else int, Range(least=1))
    more: dict[str, Any] = {
        "decoder_prefix": decoder_prefix,
        "logits_processor": logits_processor,
        "assistant_model": assistant_model,
    }
    allowed = prefix_allowed_tokens_fn
    settings = t5.check_options(options, prefix_allowed_tokens_fn=allowed, **more)
    given = len(t5.vocabulary.encode(decoder_prefix)) if decoder_prefix else 0
    out = bucket(settings.max_new_tokens + given, longest=t5.config.longest_output)
    beams = max(settings.num_beams, settings.num_return_sequences)
    bulk = _Bulk(t5, batch_size, batch_tokens, beams, out, allowed, {**more, **options}, on_batch)
    results = bulk.windows(iter(texts), window or BATCHES_AT_ONCE * batch_size)
    # Not `len`: that of tqdm over a generator raises TypeError.
    return _counted(results, operator.length_hint(texts) or None, progress)


def _counted(results: Iterator[Any], total: int | None, progress: bool) -> Iterator[Any]:
    with bar("generate", total, progress) as shown:
        for result in results:
            yield result
            shown.update()


@dataclasses.dataclass(frozen=True)
class _Bulk:
    """How `generate_each` batches and decodes: with `beams` rows an input, `out` tokens a row."""

    t5: Text2Text
    batch_size: int
    batch_tokens: int
    beams: int
    out: int
    allowed: AllowedTokens | None
    options: dict[str, Any]
    on_batch: Callable[[Generation], None]

    def windows(self, texts: Iterator[str], size: int) -> Iterator[Any]:
        """Results in order, of `size` texts at a time."""
        for before in itertools.count(step=size):
            some = list(itertools.islice(texts, size))
            if not some:
                return
            yield from self._in_order(some, before, before > 0 or len(some) > self.batch_size)

    def _rows(self, length: int) -> int:
        """Rows of a batch whose longest input has `length` ids."""
        tokens = self.beams * (bucket(length, longest=self.t5.config.longest_input) + self.out)
        most = min(self.batch_size, self.batch_tokens // tokens)
        return max((rows for rows in ROW_BUCKETS if rows <= most), default=1)

    def _in_order(self, some: list[str], before: int, whole: bool) -> Iterator[Any]:
        """Results of one window, whose first text has the number `before`.

        `whole`: batches are filled up, so that all of a bucket have the same number of rows.
        """
        ids = self.t5.text_ids(some)
        lengths = (ids != self.t5.config.pad_token_id).sum(axis=1)
        order = np.argsort(-lengths, kind="stable")
        results: dict[int, Any] = {}
        given = start = 0
        while start < len(order):
            rows = self._rows(lengths[order[start]])
            batch = order[start : start + rows]
            start += len(batch)
            # Filled up with its last row: a batch of fewer rows would be another program.
            filled = np.pad(batch, (0, rows - len(batch) if whole else 0), mode="edge")
            found = self.t5.generate_ids(
                ids[filled],
                batch_size=rows,
                progress=False,
                return_scores=False,
                prefix_allowed_tokens_fn=self.allowed and numbered(self.allowed, before + filled),
                **self.options,
            )
            self.on_batch(found)
            results.update(zip(batch.tolist(), self.t5.texts_of(found), strict=False))
            while given in results:
                yield results.pop(given)
                given += 1


def numbered(allowed: AllowedTokens, numbers: np.ndarray) -> AllowedTokens:
    """The function for a batch, of which `numbers` says which texts it has."""
    return lambda row, ids: allowed(int(numbers[row]), ids)


@contextlib.contextmanager
def unfinished(path: str | Path, job: Mapping[str, Any]) -> Iterator[tuple[TextIO, int]]:
    """A file that is written line by line, and gone on with where an earlier call was stopped.

    While it is not whole, PATH.unfinished lies beside it and holds `job`, which says what is being
    written. If that is there at the start, the file's whole lines are kept.

    Args:
      path: the file.
      job: JSON values.

    Yields:
      The stream, and the number of lines that are there already.

    Raises:
      ValueError: the unfinished file is of another job.
    """
    path = Path(path)
    note = path.with_name(path.name + ".unfinished")
    job = json.loads(json.dumps(job))
    done = 0
    if note.exists():
        try:
            before = read_json(note, dict[str, Any])
        except ValueError as error:
            raise ValueError(f"{error}; delete it, and {path} is written anew") from None
        for name in sorted(before.keys() | job.keys()):
            if before.get(name) != job.get(name):
                raise ValueError(
                    f"{path} is the unfinished work of another call: {name} was "
                    f"{before.get(name)!r}, now it is {job.get(name)!r}; repeat that call, or "
                    f"delete {note}"
                )
        done = _keep_whole_lines(path)
    else:
        path.write_bytes(b"")
        replace(note, json.dumps(job).encode())  # whole or not there, whenever a kill comes
    with path.open("a", encoding="utf-8") as stream:
        yield stream, done
    note.unlink()


def _keep_whole_lines(path: Path) -> int:
    """Cuts a last line that is not ended; returns the number of the others."""
    if not path.exists():
        return 0
    lines = size = 0
    with path.open("rb") as stream:
        for line in stream:
            if line.endswith(b"\n"):
                lines += 1
                size += len(line)
    os.truncate(path, size)
    return lines
