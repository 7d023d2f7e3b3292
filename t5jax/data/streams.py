"""Streams: the pieces that training data is cut into, and what each needs to go on exactly."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import seqio
import tensorflow as tf

from t5jax.batch import Batch
from t5jax.config import LengthsConfig
from t5jax.data.packing import Example, Examples, pack, to_batch
from t5jax.tasks.faults import check_features, ids_end, reading, tell, wrong_ids

# JAX owns the accelerators; TensorFlow would reserve their memory. It refuses once it has begun.
for _kind in ("GPU", "TPU"):
    with contextlib.suppress(RuntimeError):
        tf.config.set_visible_devices([], _kind)

State = Mapping[str, np.ndarray]

_CHUNK = 256  # examples that pass from TensorFlow to Python together
_OPEN_ROWS = 16  # rows filled at once; each example is tried in all of them
_CHOICES = 4096  # a mixture's choices drawn together
_HOPELESS = 100  # chunks without one usable example before reading gives up


def tasks_of(provider: seqio.Task | seqio.Mixture, split: str) -> list[seqio.Task]:
    """The provider's tasks that have the split, by name.

    Raises:
      ValueError: no task has the split, or their vocabularies differ.
    """
    tasks = [provider] if isinstance(provider, seqio.Task) else provider.tasks
    having = [task for task in tasks if split in task.splits]
    if not having:
        splits = ", ".join(sorted({name for task in tasks for name in task.splits}))
        raise ValueError(f"{provider.name} has no split {split!r}; its splits are {splits}")
    for task in having:
        for name in ("inputs", "targets"):
            if name not in task.output_features:
                raise ValueError(
                    f"task {task.name} has no feature {name!r}, only "
                    f"{', '.join(task.output_features)}; inputs and targets are needed"
                )
            if task.output_features[name].vocabulary != having[0].output_features[name].vocabulary:
                raise ValueError(
                    f"the {name} of tasks {having[0].name} and {task.name} have different "
                    "vocabularies; give all tasks of a mixture the same one"
                )
    return having


def _options(threads: int) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    # The training step needs the cores as well, and short examples are quicker without the tuner.
    options.autotune.enabled = False
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    return options


FEATURES = ("inputs", "targets")
# Features that are added: the lengths of these before they are cut, EOS counted.
_WHOLE = {name: f"{name}_whole" for name in FEATURES}


def _noting_length(task: seqio.Task) -> seqio.Task:
    """The task, whose examples also say how long they were before seqio cut them."""

    def note(dataset: tf.data.Dataset) -> tf.data.Dataset:
        def add(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            whole = {_WHOLE[k]: tf.size(example[k]) + ended[k] for k in FEATURES if k in example}
            return {**example, **whole}

        return dataset.map(add)

    steps = list(task.preprocessors)
    ends = (seqio.preprocessors.append_eos, seqio.preprocessors.append_eos_after_trim)
    place = next((i for i, step in enumerate(steps) if step in ends), len(steps))
    ended = {
        name: int(task.output_features[name].add_eos and place < len(steps)) for name in FEATURES
    }
    noting = task.replace(preprocessors=[*steps[:place], note, *steps[place:]])
    # A class that replace() loses may do what it likes; it is refused where it has to be replaced.
    return noting if type(noting) is type(task) else task


def _chunks(dataset: tf.data.Dataset, lengths: LengthsConfig) -> tf.data.Dataset:
    longest = [getattr(lengths, name) for name in FEATURES]

    def convert(example: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        # Saturated, so that an id too high stays one.
        inputs, targets = (tf.saturate_cast(example[name], tf.int32) for name in FEATURES)
        sizes = tf.stack([tf.size(inputs), tf.size(targets)])
        cut = tf.stack([example.get(_WHOLE[name], 0) for name in FEATURES]) > longest
        return {"inputs": inputs, "targets": targets, "sizes": sizes, "cut": cut}

    return dataset.map(convert).padded_batch(_CHUNK)


def _usable(chunk: Mapping[str, np.ndarray]) -> tuple[list[Example], int, np.ndarray]:
    """The chunk's examples without the unusable ones, the number of these, and int[2] of cut ones.

    Cut are inputs, and targets.
    """
    sizes = chunk["sizes"]
    tokens = np.stack([np.count_nonzero(chunk[k], axis=1) for k in ("inputs", "targets")], axis=1)
    good = np.flatnonzero(((tokens == sizes) & (sizes > 0)).all(axis=1))
    examples = [
        (chunk["inputs"][i, : sizes[i, 0]], chunk["targets"][i, : sizes[i, 1]]) for i in good
    ]
    return examples, len(sizes) - len(good), chunk["cut"][good].sum(axis=0)


def _check_ids(
    task: seqio.Task,
    split: str,
    lengths: LengthsConfig,
    chunk: Mapping[str, np.ndarray],
    vocabulary_size: int | None,
) -> None:
    """Raises ValueError for ids that are not the vocabulary's: a lookup would take others."""
    for name in ("inputs", "targets"):
        outside = (chunk[name] < 0) | (chunk[name] >= ids_end(task, name, vocabulary_size))
        if outside.any():
            row = int(outside.any(axis=1).argmax())
            example = {name: chunk[name][row] for name in ("inputs", "targets")}
            wrong = wrong_ids(task, vocabulary_size)
            tell(task, split, dataclasses.asdict(lengths), wrong, example)


def _whole(task: seqio.Task, split: str, lengths: LengthsConfig) -> tf.data.Dataset:
    # seqio's own cache in memory would keep what is read here once.
    dataset = _noting_length(task).get_dataset(
        dataclasses.asdict(lengths), split, shuffle=False, num_epochs=1, try_in_mem_cache=False
    )
    return _chunks(dataset, lengths).with_options(_options(os.cpu_count() or 1))


class Held:
    """All examples of a small task, which every host holds.

    Attributes:
      examples: the usable ones.
      dropped: how many were not usable.
      cut: int[2], how many of the usable ones had inputs, and targets, too long.
    """

    def __init__(self, task: str, examples: Examples, dropped: int, cut: np.ndarray):
        self.task = task
        self.examples = examples
        self.dropped = dropped
        self.cut = cut

    @functools.cached_property
    def fingerprint(self) -> str:
        """Differs from that of other examples."""
        digest = zlib.crc32(self.examples.cuts.tobytes(), zlib.crc32(self.examples.ids.tobytes()))
        return f"{len(self.examples)} examples, checksum {digest:08x}"


def hold(
    task: seqio.Task,
    split: str,
    lengths: LengthsConfig,
    most: int,
    vocabulary_size: int | None = None,
) -> Held | None:
    """The task's examples if they are at most `most` and the same whenever they are read.

    Preprocessors that draw random numbers show in the first examples, which are read twice.
    Random numbers that these do not show would stay as they were drawn here.

    Raises ValueError for an id that is none of the task's vocabulary, or not below
    `vocabulary_size`.
    """
    stored = task.num_input_examples(split)
    if stored is not None and stored > most:
        return None
    dataset = _whole(task, split, lengths)
    again = next(_whole(task, split, lengths).as_numpy_iterator(), None)
    examples: list[Example] = []
    dropped, cut = 0, np.zeros(2, int)
    for index, chunk in enumerate(dataset.as_numpy_iterator()):
        if index == 0 and (
            again is None or not all(np.array_equal(chunk[name], again[name]) for name in chunk)
        ):
            return None
        _check_ids(task, split, lengths, chunk, vocabulary_size)
        usable, unusable, too_long = _usable(chunk)
        examples += usable
        dropped += unusable
        cut += too_long
        if len(examples) + dropped > most:
            return None
    return Held(task.name, Examples.of(examples), dropped, cut)


def _uniform(size: int, *key: int) -> np.ndarray:
    """float64[size] in [0, 1), always the same for a key."""
    # Raw bits are the same in every NumPy; what Generator makes of them may change.
    return np.random.Philox(np.random.SeedSequence(key)).random_raw(size) * 2.0**-64


@functools.lru_cache(maxsize=16)
def _permutation(size: int, *key: int) -> np.ndarray:
    return np.argsort(_uniform(size, *key), kind="stable")


class Source(Protocol):
    """What a stream takes a task's examples from, without end."""

    dropped: int  # unusable examples met so far, or in the whole task
    cut: np.ndarray  # int[2], inputs and targets that were too long, likewise

    def take(self) -> Example: ...

    def state(self) -> State: ...

    def restore(self, state: State) -> None: ...


class HeldSource:
    """A stream's part of a task in memory.

    Every epoch permutes all examples anew, and stream i of n takes those at places i, i + n, …
    """

    def __init__(self, held: Held, stream: int, streams: int, key: tuple[int, ...]):
        if len(held.examples) < streams:
            raise ValueError(
                f"task {held.task} has {len(held.examples)} usable examples for "
                f"data.streams={streams}; use at most as many streams as examples"
            )
        self._examples = held.examples
        self._places = range(stream, len(held.examples), streams)
        self._key = key
        self._taken = 0
        # Its share: the streams of all hosts together give the number of the task.
        self.dropped = len(range(stream, held.dropped, streams))
        self.cut = np.array([len(range(stream, count, streams)) for count in held.cut])

    def take(self) -> Example:
        epoch, index = divmod(self._taken, len(self._places))
        self._taken += 1
        order = _permutation(len(self._examples), *self._key, epoch)
        return self._examples[order[self._places[index]]]

    def state(self) -> State:
        return {"taken": np.array(self._taken)}

    def restore(self, state: State) -> None:
        self._taken = int(state["taken"])


class _Piece(seqio.DataSource):
    """Piece `index` of `pieces` of a source, in the stored order.

    Left to seqio, a source cut by examples is first shuffled with the stream's seed: the pieces
    would overlap.
    """

    def __init__(self, source: seqio.DataSource, index: int, pieces: int):
        super().__init__(source.splits, caching_permitted=source.caching_permitted)
        self._source = source
        self._shard = seqio.ShardInfo(index, pieces)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> Sequence[str]:
        return [split]

    def get_dataset(
        self, split: str = "train", shuffle: bool = True, seed: int | None = None, **unused: object
    ) -> tf.data.Dataset:
        source, shard = self._source, self._shard
        by_files = (
            source.supports_arbitrary_sharding or len(source.list_shards(split)) >= shard.num_shards
        )
        if by_files and shard.num_shards > 1:
            return source.get_dataset(split, shuffle=False, shard_info=shard)
        return source.get_dataset(split, shuffle=False).shard(shard.num_shards, shard.index)


def _position(iterator: tf.data.Iterator) -> dict[str, bytes]:
    """The files of TensorFlow's checkpoint of an iterator, whose prefix is `iterator`."""
    with tempfile.TemporaryDirectory() as folder:
        tf.train.Checkpoint(iterator=iterator).write(str(Path(folder, "iterator")))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _check_source(task: seqio.Task, split: str) -> None:
    """Raises ValueError if the place in the task's source cannot be saved."""
    try:
        _position(iter(_Piece(task.source, 0, 1).get_dataset(split)))
    except tf.errors.FailedPreconditionError as error:
        raise ValueError(
            f"task {task.name} reads from Python (tf.data's from_generator or the like), where its "
            "place cannot be saved; read from files, or raise data.shuffle_buffer to the number of "
            "its examples so that they are held in memory"
        ) from error


class ReadSource:
    """A stream's piece of a task that is read and preprocessed as it goes, by seqio.

    Examples are shuffled after the preprocessors, through a buffer that does not end with an epoch.
    """

    def __init__(
        self,
        task: seqio.Task,
        split: str,
        lengths: LengthsConfig,
        stream: int,
        *,
        streams: int,
        buffer: int,
        threads: int,
        key: tuple[int, ...],
        vocabulary_size: int | None = None,
    ):
        seed = int(_uniform(1, *key, stream)[0] * 2**30)
        piece = _noting_length(task).replace(
            source=_Piece(task.source, stream, streams), metric_fns=(), metric_objs=()
        )
        if type(piece) is not type(task):
            raise ValueError(
                f"task {task.name} is a {type(task).__name__}, and its replace() makes a plain "
                f"{type(piece).__name__}; override replace() so that its source can be cut"
            )
        with reading(task, split, dataclasses.asdict(lengths)):
            dataset = piece.get_dataset(
                dataclasses.asdict(lengths), split, shuffle=False, seed=seed, num_epochs=None
            )
        # Before the shuffle, which would otherwise hold the features that nobody reads.
        read = (*FEATURES, *_WHOLE.values())
        dataset = dataset.map(lambda example: {k: example[k] for k in read if k in example})
        dataset = _chunks(dataset.shuffle(buffer, seed=seed), lengths).prefetch(1)
        options = _options(threads)
        # Preprocessors may call Python, which TensorFlow takes for state that it cannot save.
        options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
        self._task = task
        self._split = split
        self._lengths = lengths
        self._vocabulary_size = vocabulary_size
        self._streams = streams
        self._iterator = iter(dataset.with_options(options))
        self._chunk: Sequence[Example] = ()
        self._next = 0
        self.dropped, self.cut = 0, np.zeros(2, int)

    def take(self) -> Example:
        if self._next == len(self._chunk):
            self._chunk = self._read()
            self._next = 0
        self._next += 1
        return self._chunk[self._next - 1]

    def _read(self) -> list[Example]:
        for _ in range(_HOPELESS):
            with reading(self._task, self._split, dataclasses.asdict(self._lengths)):
                tensors = next(self._iterator, None)
            if tensors is None:
                raise ValueError(
                    f"task {self._task.name} has no example for some of "
                    f"data.streams={self._streams}; use fewer streams"
                )
            chunk = {name: tensor.numpy() for name, tensor in tensors.items()}
            _check_ids(self._task, self._split, self._lengths, chunk, self._vocabulary_size)
            examples, unusable, too_long = _usable(chunk)
            self.dropped += unusable
            self.cut = self.cut + too_long
            if examples:
                return examples
        raise ValueError(
            f"task {self._task.name} gave {_HOPELESS * _CHUNK} examples in a row with empty inputs "
            "or targets, or with an id 0 in them; see what its preprocessors make"
        )

    def state(self) -> State:
        rest = Examples.of(self._chunk[self._next :])
        files = _position(self._iterator)
        return {
            **{f"file.{name}": np.frombuffer(content, np.uint8) for name, content in files.items()},
            "ids": rest.ids,
            "cuts": rest.cuts,
            "dropped": np.array(self.dropped),
            "cut": self.cut,
        }

    def restore(self, state: State) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for name, content in state.items():
                if name.startswith("file."):
                    Path(folder, name.removeprefix("file.")).write_bytes(content.tobytes())
            status = tf.train.Checkpoint(iterator=self._iterator).read(
                str(Path(folder, "iterator"))
            )
            status.assert_existing_objects_matched()
        self._chunk = list(Examples(state["ids"], state["cuts"]))
        self._next = 0
        self.dropped = int(state["dropped"])
        # Older positions have the number of cut targets alone, or none.
        cut = state.get("cut", np.array(0))
        self.cut = cut if cut.ndim else np.array([0, int(cut)])


class Stream:
    """One of the pieces of the training data: an endless sequence of batches of `rows` rows.

    Args:
      sources: where each task's examples come from.
      rates: how often each is taken from, relative to the others; float[len(sources)].
      key: seed of the choice among them.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        rates: Sequence[float],
        *,
        rows: int,
        lengths: LengthsConfig,
        packed: bool,
        key: tuple[int, ...],
    ):
        self.sources = sources
        self._edges = np.cumsum(rates, dtype=np.float64)[:-1] / np.sum(rates)
        self._rows = rows
        self._lengths = lengths
        self._packed = packed
        self._key = key
        self._taken = 0
        self._choices: Sequence[int] = ()
        self._waiting: Sequence[Example] = ()

    def _take(self) -> Example:
        if len(self.sources) == 1:
            return self.sources[0].take()
        block, index = divmod(self._taken, _CHOICES)
        if index == 0 or not len(self._choices):
            draws = _uniform(_CHOICES, *self._key, block)
            self._choices = np.searchsorted(self._edges, draws, side="right").tolist()
        self._taken += 1
        return self.sources[self._choices[index]].take()

    def read(self) -> Batch:
        """The next rows, as a numpy Batch."""
        if not self._packed:
            return to_batch([[self._take()] for _ in range(self._rows)], self._lengths)
        rows: list[list[Example]] = []
        while len(rows) < self._rows:
            count = min(_OPEN_ROWS, self._rows - len(rows))
            filled, self._waiting = pack(self._waiting, self._take, count, self._lengths)
            rows += filled
        return to_batch(rows, self._lengths)

    def state(self) -> State:
        """Everything that `restore` needs to go on with the rows that come next."""
        waiting = Examples.of(self._waiting)
        state: dict[str, np.ndarray] = {
            "taken": np.array(self._taken),
            "ids": waiting.ids,
            "cuts": waiting.cuts,
        }
        for index, source in enumerate(self.sources):
            state |= {f"{index}/{name}": value for name, value in source.state().items()}
        return state

    def restore(self, state: State) -> None:
        """Goes to where `state` was taken; the stream must have been made with the same values."""
        self._taken = int(state["taken"])
        self._choices = ()
        self._waiting = list(Examples(state["ids"], state["cuts"]))
        for index, source in enumerate(self.sources):
            prefix = f"{index}/"
            source.restore(
                {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
            )


def open_streams(
    provider: seqio.Task | seqio.Mixture,
    split: str,
    lengths: LengthsConfig,
    *,
    owned: Sequence[int],
    streams: int,
    rows: int,
    packed: bool,
    seed: int,
    buffer: int,
    vocabulary_size: int | None = None,
) -> tuple[dict[int, Stream], dict[str, str]]:
    """The owned ones of `streams` streams, at their beginning, and what was found in each task.

    Returns:
      Streams by index; and task names with a few words that differ where the examples do.
    """
    tasks = tasks_of(provider, split)
    for task in tasks:
        check_features(task, dataclasses.asdict(lengths))
    mixed = isinstance(provider, seqio.Mixture)
    rates = [float(provider.get_rate(task)) if mixed else 1.0 for task in tasks]
    if not sum(rates) > 0 or min(rates) < 0:
        listed = ", ".join(f"{task.name} {rate:g}" for task, rate in zip(tasks, rates, strict=True))
        raise ValueError(
            f"the rates of {provider.name} in split {split!r} ({listed}) must not be negative, nor "
            "all 0"
        )
    makers: list[Callable[[int], Source]] = []
    found = {}
    for index, task in enumerate(tasks):
        key = (seed, 1 + index)
        with reading(task, split, dataclasses.asdict(lengths)):
            held = hold(task, split, lengths, buffer, vocabulary_size)
        if held is not None:
            makers.append(functools.partial(HeldSource, held, streams=streams, key=key))
            found[task.name] = held.fingerprint
        else:
            _check_source(task, split)
            makers.append(
                functools.partial(
                    ReadSource,
                    task,
                    split,
                    lengths,
                    streams=streams,
                    buffer=max(1, buffer // streams),
                    threads=max(1, (os.cpu_count() or 1) // len(owned)),
                    key=key,
                    vocabulary_size=vocabulary_size,
                )
            )
            found[task.name] = "read as it goes"
    opened = {
        stream: Stream(
            [make(stream) for make in makers],
            rates,
            rows=rows,
            lengths=lengths,
            packed=packed,
            key=(seed, 0, stream),
        )
        for stream in owned
    }
    return opened, found
