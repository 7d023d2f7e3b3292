"""Faults in a task's data, reported in one line: task, split, file, example, and the fault.

TensorFlow reports an error in one row as an error of the whole pipeline, which maps, joins and
shuffles examples. So the row is searched for: the task is read again over fewer and fewer rows of a
source file, until a single row shows the fault.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import seqio
import tensorflow as tf

from t5jax import user_code
from t5jax.knobs import short

Lengths = Mapping[str, int]
Example = Mapping[str, Any]

_OURS = Path(user_code.__file__).resolve().parent
_ROWS = 1024  # rows searched first
_SECONDS = 60.0  # time limit of the search; without a row the fault is reported all the same
_NO_ROW = (tf.errors.NotFoundError, tf.errors.PermissionDeniedError)  # the file has the fault


class DataError(ValueError):
    """A fault in a task's data, in one line; `__cause__` is the library's error."""


@contextlib.contextmanager
def reading(
    provider: seqio.Task | seqio.Mixture, split: str, lengths: Lengths | None = None
) -> Iterator[None]:
    """Turns a library's error about the provider's data into a `DataError`.

    An error in a user's function becomes a `user_code.UserCodeError`. t5jax's own errors pass
    unchanged.
    """
    try:
        yield
    except (user_code.UserCodeError, DataError):
        raise
    except Exception as error:  # TensorFlow, seqio and sources raise many kinds
        told = user_code.explain(error, f"task {provider.name}")
        if told is not None:
            raise told from error
        if Path(traceback.extract_tb(error.__traceback__)[-1].filename).is_relative_to(_OURS):
            raise
        raise DataError(_told(error, provider, split, lengths)) from error


def _told(
    error: Exception, provider: seqio.Task | seqio.Mixture, split: str, lengths: Lengths | None
) -> str:
    tasks = seqio.get_subtasks(provider)
    if not isinstance(error, tf.errors.OpError):  # before any row was read
        return f"task {provider.name}: {_cause(error)}{_before(tasks, split, lengths)}"
    for task in tasks:
        if found := _find(task, split, lengths):
            return _line(task, split, found)
    return f"task {provider.name}, split {split}: {_cause(error)}"


# --- ids ------------------------------------------------------------------------------------------


def check_features(task: seqio.Task, lengths: Lengths | None) -> None:
    """Raises ValueError for features that are not sequences of ids, or have no room for an id."""
    for name in ("inputs", "targets"):
        feature = task.output_features.get(name)
        if feature is None:
            continue
        if not feature.dtype.is_integer or feature.rank != 1:
            raise ValueError(
                f"task {task.name}: its {name} are declared as {feature.dtype.name} of rank "
                f"{feature.rank}; ids are whole numbers in a row: seqio.Feature(…, dtype=tf.int32)"
            )
        length = (lengths or {}).get(name)
        ends = seqio.preprocessors.append_eos_after_trim in task.preprocessors and feature.add_eos
        fewest = 2 if ends else 1
        if length is not None and length < fewest:
            reason = ", whose EOS would be all that there is" if length == 1 else ""
            raise ValueError(
                f"task {task.name} cannot have {name} of {length} tokens{reason}; use {fewest} or "
                "more"
            )


def ids_end(task: seqio.Task, name: str, most: int | None = None) -> int:
    """Ids of a feature are below it: the smaller of `most` and its vocabulary's size."""
    size = task.output_features[name].vocabulary.vocab_size
    return size if most is None else min(size, most)


def wrong_ids(
    task: seqio.Task, most: int | None = None, pad: int | None = None
) -> Callable[[Example], str | None]:
    """A function that describes a fault in an example's ids, or returns None.

    Args:
      task: the task, whose `inputs` and `targets` are checked.
      most: the model's number of ids.
      pad: the padding id, which is a fault too; None: none is.
    """
    ends = {
        name: ids_end(task, name, most)
        for name in ("inputs", "targets")
        if name in task.output_features
    }

    def wrong(example: Example) -> str | None:
        for name, end in ends.items():
            ids = np.asarray(example.get(name, ()))
            outside = ids[(ids < 0) | (ids >= end)]
            if outside.size:
                return f"its {name} have the id {outside[0]}; ids are 0 to {end - 1}"
            if pad is not None and (places := np.flatnonzero(ids == pad)).size:
                return f"its {name} have the id {pad}, which is padding, at place {places[0]}"
        return None

    return wrong


def tell(
    task: seqio.Task,
    split: str,
    lengths: Lengths | None,
    wrong: Callable[[Example], str | None],
    example: Example,
) -> None:
    """Raises a DataError for the first faulty example; `example` is a faulty example."""
    found = _find(task, split, lengths, wrong)
    raise DataError(_line(task, split, found or _Found(None, None, None, str(wrong(example)))))


def checked(
    provider: seqio.Task | seqio.Mixture,
    split: str,
    lengths: Lengths | None,
    examples: Iterable[Example],
    pad: int = 0,
) -> Iterator[Example]:
    """The examples, whose ids are checked: in the vocabulary, and not padding, which is `pad`.

    Raises:
      DataError: at the first faulty example.
    """
    tasks = seqio.get_subtasks(provider)
    wrong = [wrong_ids(task, pad=pad) for task in tasks]
    for example in examples:
        # A mixture's examples do not name their task.
        if all(each(example) is not None for each in wrong):
            for task, each in zip(tasks, wrong, strict=True):
                if found := _find(task, split, lengths, each):
                    raise DataError(_line(task, split, found))
            raise DataError(f"task {provider.name}, split {split}: {wrong[0](example)}")
        yield example


# --- the row --------------------------------------------------------------------------------------


class _Found(NamedTuple):
    """A fault, and its file, row number (from 1) and row, if known."""

    file: str | None
    number: int | None
    row: str | None
    fault: str


class _Rows(seqio.DataSource):
    """Rows [start, stop) of one file of a source, in stored order."""

    def __init__(
        self, source: seqio.DataSource, file: seqio.ShardInfo | None, start: int, stop: int
    ):
        super().__init__(source.splits)
        self._source = source
        self._file = file
        self._start = start
        self._stop = stop

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        return [split]

    def get_dataset(self, split: str = "train", **unused: object) -> tf.data.Dataset:
        options = {} if self._file is None else {"shard_info": self._file}
        dataset = self._source.get_dataset(split, shuffle=False, **options)
        return dataset.skip(self._start).take(self._stop - self._start)


def _find(
    task: seqio.Task,
    split: str,
    lengths: Lengths | None,
    wrong: Callable[[Example], str | None] = lambda example: None,
) -> _Found | None:
    """The first row that raises an error or makes a faulty example; None if not found."""
    deadline = time.monotonic() + _SECONDS
    source = task.source
    files: list[str | None] = [None]
    if isinstance(source, seqio.FileDataSource):
        files = list(source.list_shards(split)) or files
    for index, file in enumerate(files):
        shard = seqio.ShardInfo(index, len(files)) if len(files) > 1 else None

        def rows(start: int, stop: int, shard: seqio.ShardInfo | None = shard) -> _Rows:
            return _Rows(source, shard, start, stop)

        def fault(start: int, stop: int) -> tuple[str | None, int]:
            return _fault(task, rows(start, stop), split, lengths, wrong)

        # Reads more and more rows until they include the fault.
        start, stop = 0, _ROWS
        what, before = fault(start, stop)
        while what is None and time.monotonic() < deadline:
            if _ended(rows(stop, stop + 1), split):
                break
            start, stop = stop, 4 * stop
            what, before = fault(start, stop)
        if what is None:
            continue
        # If each row makes one example, the examples before the fault count its row; else bisect.
        guess = start + before
        if guess < stop and (alone := fault(guess, guess + 1)[0]):
            start, stop, what = guess, guess + 1, alone
        while stop - start > 1 and time.monotonic() < deadline:
            middle = (start + stop) // 2
            if first := fault(start, middle)[0]:
                stop, what = middle, first
            elif second := fault(middle, stop)[0]:
                start, what = middle, second
            else:  # only several rows together show it
                break
        if stop - start > 1:
            return _Found(file, None, None, what)
        try:
            (row,) = rows(start, stop).get_dataset(split).as_numpy_iterator()
        except _NO_ROW as error:
            return _Found(None, None, None, _cause(error))
        except Exception:  # the row itself cannot be read
            return _Found(file, stop, None, what)
        return _Found(file, stop, _shown(row), what)
    return None


def _fault(
    task: seqio.Task,
    rows: _Rows,
    split: str,
    lengths: Lengths | None,
    wrong: Callable[[Example], str | None],
) -> tuple[str | None, int]:
    """The fault in these rows, or None; and the number of good examples before it."""
    good = 0
    try:
        narrowed = task.replace(source=rows, metric_fns=(), metric_objs=())
        examples = narrowed.get_dataset(
            lengths, split, shuffle=False, seed=0, num_epochs=1, try_in_mem_cache=False
        )
        for example in examples.as_numpy_iterator():
            if (told := wrong(example)) is not None:
                return told, good
            good += 1
    except Exception as error:  # the fault
        return _cause(error), good
    return None, good


def _ended(rows: _Rows, split: str) -> bool:
    try:
        return next(rows.get_dataset(split).as_numpy_iterator(), None) is None
    except Exception:  # more rows, with a fault
        return False


def _line(task: seqio.Task, split: str, found: _Found) -> str:
    parts = [f"task {task.name}", f"split {split}"]
    if found.file is not None:
        parts.append(found.file)
    if found.number is not None:
        parts.append(f"example {found.number}" + (f" ({found.row})" if found.row else ""))
    return f"{', '.join(parts)}: {found.fault}"


def _shown(row: Any) -> str:
    if isinstance(row, Mapping):
        return short({name: _plain(value) for name, value in itertools.islice(row.items(), 4)}, 80)
    return short(_plain(row), 80)


def _plain(value: Any) -> Any:
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else value


# --- the error ------------------------------------------------------------------------------------


def _cause(error: Exception) -> str:
    """An error's message on one line, without TensorFlow's names of nodes and iterators."""
    if not isinstance(error, tf.errors.OpError):
        return user_code.cause_of(error).removeprefix("ValueError: ")
    text = re.sub(
        r"\{\{function_node \S+\}\}|\[\[\{\{node \S+\}\}\]\]|\[Op:\w+\]( name:)?", "", error.message
    )
    text = re.sub(r"Error in user-defined function passed to .*? with iterator: \S+:", "", text)
    text = " ".join(text.split())
    if "slice index" in text and "out of bounds" in text:
        text += " (a line with too few fields?)"
    return short(text, 240)[1:-1] if len(text) > 240 else text


def _before(tasks: Sequence[seqio.Task], split: str, lengths: Lengths | None) -> str:
    """A description of the examples before the preprocessor that fails."""
    for task in tasks:
        steps = list(task.preprocessors)
        try:
            dataset = task.source.get_dataset(split, shuffle=False)
        except Exception:  # the source fails, not a preprocessor
            return ""
        for step in steps:
            try:
                dataset = task._preprocess_dataset(dataset, [step], lengths)  # not public in seqio
            except Exception:
                name = getattr(getattr(step, "func", step), "__name__", type(step).__name__)
                return f"; the preprocessor {name} is given {_types(dataset)}"
        try:
            task._validate_preprocessing(dataset)
        except Exception:
            return f"; its preprocessors make {_types(dataset)}"
    return ""


def _types(dataset: tf.data.Dataset) -> str:
    spec = dataset.element_spec
    if not isinstance(spec, Mapping):
        return "examples that are no dictionaries of features"
    return ", ".join(
        f"{name} {each.dtype.name if hasattr(each, 'dtype') else each}"
        for name, each in itertools.islice(spec.items(), 8)
    )
