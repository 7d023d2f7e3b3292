"""A stream's examples of one task: from memory, or from its shard of the files."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import seqio
import tensorflow as tf

from t5jax.config import LengthsConfig
from t5jax.data.chunks import (
    CHUNK,
    FEATURES,
    WHOLE,
    check_ids,
    chunks_of,
    noting_length,
    reading_options,
    usable_of,
    whole_task,
)
from t5jax.data.packing import Examples, ModelIds, TokenPair
from t5jax.tasks.faults import reading

State = Mapping[str, np.ndarray]

HOPELESS = 100  # chunks without one usable example before reading gives up


class Source(Protocol):
    """An endless source of a task's examples for one stream."""

    dropped: int  # unusable examples: so far, or the stream's share of a task in memory
    cut: np.ndarray  # int[2], truncated inputs and targets, likewise

    def take(self) -> TokenPair: ...

    def state(self) -> State: ...

    def restore(self, state: State) -> None: ...


class Held:
    """A small task in memory, whole on every host.

    Attributes:
      examples: usable examples.
      dropped: number of unusable examples.
      cut: int[2], usable examples with truncated inputs, and targets.
    """

    def __init__(self, task: str, examples: Examples, dropped: int, cut: np.ndarray):
        self.task = task
        self.examples = examples
        self.dropped = dropped
        self.cut = cut

    @functools.cached_property
    def fingerprint(self) -> str:
        """A checksum of the examples."""
        digest = zlib.crc32(self.examples.cuts.tobytes(), zlib.crc32(self.examples.ids.tobytes()))
        return f"{len(self.examples)} examples, checksum {digest:08x}"


def hold(
    task: seqio.Task,
    split: str,
    lengths: LengthsConfig,
    most: int,
    ids: ModelIds,
) -> Held | None:
    """The task's examples in memory; None if there are more than `most`, or they are random.

    The first chunk is read twice to detect random preprocessors. Randomness that appears only in
    later chunks is frozen as first drawn.

    Raises:
      ValueError: an id outside the task's vocabulary or the model's.
    """
    stored = task.num_input_examples(split)
    if stored is not None and stored > most:
        return None
    dataset = whole_task(task, split, lengths)
    again = next(whole_task(task, split, lengths).as_numpy_iterator(), None)
    examples: list[TokenPair] = []
    dropped, cut = 0, np.zeros(2, int)
    for index, chunk in enumerate(dataset.as_numpy_iterator()):
        if index == 0 and (
            again is None or not all(np.array_equal(chunk[name], again[name]) for name in chunk)
        ):
            return None
        check_ids(task, split, lengths, chunk, ids.end)
        usable, unusable, too_long = usable_of(chunk, ids.pad)
        examples += usable
        dropped += unusable
        cut += too_long
        if len(examples) + dropped > most:
            return None
    return Held(task.name, Examples.of(examples), dropped, cut)


def uniform(size: int, *key: int) -> np.ndarray:
    """float64[size] in [0, 1), a pure function of `key`."""
    # Raw bits are the same in every NumPy version; Generator's distributions may change.
    return np.random.Philox(np.random.SeedSequence(key)).random_raw(size) * 2.0**-64


@functools.lru_cache(maxsize=16)
def _permutation(size: int, *key: int) -> np.ndarray:
    return np.argsort(uniform(size, *key), kind="stable")


class HeldSource:
    """A stream's share of a task in memory.

    Each epoch permutes all examples; stream i of n takes those at places i, i + n, …
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
        # The stream's share, so that the sum over streams is the task's count.
        self.dropped = len(range(stream, held.dropped, streams))
        self.cut = np.array([len(range(stream, count, streams)) for count in held.cut])

    def take(self) -> TokenPair:
        epoch, index = divmod(self._taken, len(self._places))
        self._taken += 1
        order = _permutation(len(self._examples), *self._key, epoch)
        return self._examples[order[self._places[index]]]

    def state(self) -> State:
        return {"taken": np.array(self._taken)}

    def restore(self, state: State) -> None:
        self._taken = int(state["taken"])


class Piece(seqio.DataSource):
    """Shard `index` of `pieces` of a source, in the stored order.

    seqio would shuffle a source with the stream's seed before it shards by examples, so that shards
    overlap.
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
    """The files of a TensorFlow checkpoint of the iterator, by name."""
    with tempfile.TemporaryDirectory() as folder:
        tf.train.Checkpoint(iterator=iterator).write(str(Path(folder, "iterator")))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def check_source(task: seqio.Task, split: str) -> None:
    """Raises ValueError if the position in the task's source cannot be saved."""
    try:
        _position(iter(Piece(task.source, 0, 1).get_dataset(split)))
    except tf.errors.FailedPreconditionError as error:
        raise ValueError(
            f"task {task.name} reads from Python (tf.data's from_generator or the like), where its "
            "place cannot be saved; read from files, or raise data.shuffle_buffer to the number of "
            "its examples so that they are held in memory"
        ) from error


class ReadSource:
    """A stream's shard of a task that seqio reads and preprocesses while training.

    A buffer shuffles preprocessed examples, across epochs.
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
        ids: ModelIds,
    ):
        seed = int(uniform(1, *key, stream)[0] * 2**30)
        piece = noting_length(task).replace(
            source=Piece(task.source, stream, streams), metric_fns=(), metric_objs=()
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
        # Before the shuffle, whose buffer would hold unused features.
        read = (*FEATURES, *WHOLE.values())
        dataset = dataset.map(lambda example: {k: example[k] for k in read if k in example})
        dataset = chunks_of(dataset.shuffle(buffer, seed=seed), lengths).prefetch(1)
        options = reading_options(threads)
        # TensorFlow takes preprocessors in Python for state that it cannot save.
        options.experimental_external_state_policy = tf.data.experimental.ExternalStatePolicy.IGNORE
        self._task = task
        self._split = split
        self._lengths = lengths
        self._ids = ids
        self._streams = streams
        self._iterator = iter(dataset.with_options(options))
        self._chunk: Sequence[TokenPair] = ()
        self._next = 0
        self.dropped, self.cut = 0, np.zeros(2, int)

    def take(self) -> TokenPair:
        if self._next == len(self._chunk):
            self._chunk = self._read()
            self._next = 0
        self._next += 1
        return self._chunk[self._next - 1]

    def _read(self) -> list[TokenPair]:
        for _ in range(HOPELESS):
            with reading(self._task, self._split, dataclasses.asdict(self._lengths)):
                tensors = next(self._iterator, None)
            if tensors is None:
                raise ValueError(
                    f"task {self._task.name} has no example for some of "
                    f"data.streams={self._streams}; use fewer streams"
                )
            chunk = {name: tensor.numpy() for name, tensor in tensors.items()}
            check_ids(self._task, self._split, self._lengths, chunk, self._ids.end)
            examples, unusable, too_long = usable_of(chunk, self._ids.pad)
            self.dropped += unusable
            self.cut = self.cut + too_long
            if examples:
                return examples
        raise ValueError(
            f"task {self._task.name} gave {HOPELESS * CHUNK} examples in a row with empty inputs "
            f"or targets, or with an id {self._ids.pad} in them; see what its preprocessors make"
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
        # Older positions hold the number of cut targets only, or nothing.
        cut = state.get("cut", np.array(0))
        self.cut = cut if cut.ndim else np.array([0, int(cut)])
