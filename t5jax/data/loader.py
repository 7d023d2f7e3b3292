"""`TrainData`: a task or mixture as an endless, resumable sequence of batches on the mesh."""

from __future__ import annotations

import bisect
import io
import itertools
import json
import math
import os
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import seqio
from jax.sharding import NamedSharding

from t5jax.batch import Batch
from t5jax.config import DataConfig
from t5jax.data.chunks import FEATURES
from t5jax.data.packing import SEQIO_IDS, ModelIds
from t5jax.data.prefetch import Prefetcher
from t5jax.data.sources import Source, State
from t5jax.data.streams import open_streams
from t5jax.knobs import Range, check_value

Cut = Mapping[str, Mapping[str, int]]  # counts by feature and task


class TrainData:
    """An endless iterator over training batches, with `config.prefetch` batches prepared ahead.

    The data is cut into `config.streams` streams, each of which fills the same rows of every
    batch. So neither batches nor exact resumption depend on the number of hosts. A host reads only
    the streams whose rows its devices hold.

    A task with at most `config.shuffle_buffer` examples and no random preprocessing is tokenized
    once and held in memory; each epoch gives every example once, in a new order. Any other task is
    preprocessed while training. Each stream reads its shard, files in their stored order, and
    shuffles it with its share of `config.shuffle_buffer`, across epochs. Such a task resumes
    exactly if its preprocessors draw random numbers from seqio's seeds and keep no state in Python.

    A mixture's tasks are sampled by their rates (a mixture's `sample_fn` is ignored). Each task has
    the whole of `config.shuffle_buffer`.

    Examples whose inputs or targets are empty or contain the model's padding id are dropped; a lone
    EOS is kept. Packing puts whole examples side by side, as seqio does, but groups other examples
    into a row.

    Args:
      provider: the seqio task or mixture; its examples have `inputs` and `targets`.
      config: `mixture` and `modules` are not read here.
      sharding: of the int[batch, length] arrays of a Batch. None: batches stay on the host as
        numpy, with zeros in the rows of streams that are not owned.
      snapshot_every: batches between snapshots of the position. `save` works at any batch, but
        resuming reads the batches since the last snapshot again.
      restore_from: a folder that `save` wrote, to resume from.
      owned: streams that this process reads; default: those that `sharding` needs, or all.
      ids: the model's; a task's ids must be below `ids.end` and the size of its vocabulary.

    Attributes:
      index: the number of the next batch, from 0.
      cut: counts of truncated examples, by feature (inputs, targets) and task, in this process's
        streams and the batches given so far. A task in memory counts each once, another task each
        time it is read.

    Raises:
      ValueError: streams or the mesh do not divide the batch; a task lacks the split, a feature, or
        an example for each stream; its data has a fault (the message names task, file and example);
        its source's position cannot be saved; `restore_from` is unreadable, of other data, or lacks
        a stream.
    """

    def __init__(
        self,
        provider: seqio.Task | seqio.Mixture,
        config: DataConfig,
        *,
        sharding: NamedSharding | None = None,
        snapshot_every: int = 1000,
        restore_from: Path | None = None,
        owned: Sequence[int] | None = None,
        ids: ModelIds = SEQIO_IDS,
    ):
        _check_divisible(config)
        check_value("snapshot_every", snapshot_every, int, Range(least=1))
        self._config = config
        self._sharding = sharding
        self._snapshot_every = snapshot_every
        readers = readers_of(config, sharding)
        me = jax.process_index() if sharding is not None else 0
        if owned is None:
            owned = [stream for stream, processes in readers.items() if me in processes]
        self._writes = [stream for stream in owned if me == min(readers[stream])]
        self._streams, found = open_streams(
            provider,
            config.split,
            config.lengths,
            owned=owned,
            streams=config.streams,
            rows=config.batch // config.streams,
            packed=config.pack,
            seed=config.seed,
            buffer=config.shuffle_buffer,
            ids=ids,
        )
        self._facts = _facts(provider.name, config, found)
        self._lock = threading.Lock()
        self._snapshots: dict[int, Mapping[int, State]] = {}
        self.index = 0
        first = 0
        if restore_from is not None:
            first, self.index = self._restore(restore_from)
        self._keep(first)
        self.cut = self._cut()
        self._prefetcher = Prefetcher(self._produce(first, self.index), config.prefetch)

    def _produce(self, first: int, start: int) -> Iterator[tuple[Batch, Cut]]:
        """Batches from `start` on with counts of cut examples; the streams are at batch `first`."""
        for index in itertools.count(first):
            if index > first and index % self._snapshot_every == 0:
                self._keep(index)
            parts = {stream: reader.read() for stream, reader in self._streams.items()}
            if index >= start:
                yield self._place(parts), self._cut()

    def _keep(self, index: int) -> None:
        snapshot = {stream: reader.state() for stream, reader in self._streams.items()}
        with self._lock:
            self._snapshots[index] = snapshot
            # The last batch given may not have been trained on, so `save` must still reach it.
            needed = [i for i in self._snapshots if i <= max(self.index - 1, 0)]
            for old in sorted(needed)[:-1]:
                del self._snapshots[old]

    def _place(self, parts: Mapping[int, Batch]) -> Batch:
        """The global batch, with the streams' rows on the devices of this process."""
        rows = self._config.batch // self._config.streams

        def place(*pieces: np.ndarray) -> jax.Array | np.ndarray:
            shape = (self._config.batch, *pieces[0].shape[1:])
            whole = np.zeros(shape, pieces[0].dtype)
            for stream, piece in zip(parts, pieces, strict=True):
                whole[stream * rows : (stream + 1) * rows] = piece
            if self._sharding is None:
                return whole
            return jax.make_array_from_callback(shape, self._sharding, whole.__getitem__)

        return jax.tree.map(place, *parts.values())

    def __iter__(self) -> TrainData:
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
          ValueError: a fault in the data, such as no usable example.
          RuntimeError: reading failed (the failure is the cause), or the data is closed.
        """
        batch, cut = next(self._prefetcher)
        with self._lock:
            self.index += 1
        self.cut = cut
        return batch

    @property
    def dropped(self) -> dict[str, int]:
        """Dropped examples by task, counted as `cut` is, prefetched batches included."""
        return {
            name: sum(source.dropped for source in sources) for name, sources in self._by_task()
        }

    def _cut(self) -> Cut:
        sums = {name: np.sum([x.cut for x in sources], axis=0) for name, sources in self._by_task()}
        return {
            feature: {name: int(count[i]) for name, count in sums.items()}
            for i, feature in enumerate(FEATURES)
        }

    def _by_task(self) -> Iterator[tuple[str, tuple[Source, ...]]]:
        columns = zip(*(stream.sources for stream in self._streams.values()), strict=True)
        return zip(self._facts["tasks"], columns, strict=True)

    def save(self, folder: Path, index: int | None = None) -> None:
        """Writes the position before batch `index` into `folder`, a file for each stream.

        All hosts call it with one folder. The first host that reads a stream writes its file.

        Args:
          folder: a pathlib or etils path; made if missing.
          index: the first batch not yet trained on: `self.index` (the default), one less, or an
            older one whose snapshot is still kept.

        Raises:
          ValueError: no snapshot before `index` is kept, or `index` is not reached yet.
        """
        with self._lock:
            index = self.index if index is None else index
            kept = sorted(self._snapshots)
            place = bisect.bisect_right(kept, index)
            if not place or index > self.index:
                raise ValueError(
                    f"the position before batch {index} is not known; "
                    f"save between {kept[0]} and {self.index}, the next batch"
                )
            snapshot = self._snapshots[kept[place - 1]]
        folder.mkdir(parents=True, exist_ok=True)
        for stream in self._writes:
            content = io.BytesIO()
            arrays = {
                "facts": np.array(json.dumps(self._facts)),
                "snapshot_index": np.array(kept[place - 1]),
                "batch_index": np.array(index),
            } | {f"state/{name}": value for name, value in snapshot[stream].items()}
            np.savez(content, allow_pickle=False, **arrays)
            name = _file_name(stream, self._config.streams)
            (folder / name).write_bytes(content.getvalue())

    def _restore(self, folder: Path) -> tuple[int, int]:
        """Restores the streams; returns the batch of their snapshot, and the next batch to give."""
        self._check_streams(folder)
        indices = set()
        for stream, reader in self._streams.items():
            path = folder / _file_name(stream, self._config.streams)
            saved = _read(path)
            try:
                facts = json.loads(str(saved["facts"]))
                index = (int(saved["snapshot_index"]), int(saved["batch_index"]))
            except (KeyError, ValueError) as error:
                raise ValueError(_unreadable(path, error)) from error
            _compare(facts, self._facts)
            state = {
                name.removeprefix("state/"): value
                for name, value in saved.items()
                if name.startswith("state/")
            }
            try:
                reader.restore(state)
            except Exception as error:  # TensorFlow raises its own kinds
                raise ValueError(_unreadable(path, error)) from error
            indices.add(index)
        if len(indices) != 1:
            raise ValueError(
                f"the streams' files in {folder} are of different saves (snapshot and batch "
                f"{sorted(indices)}); restore from another checkpoint"
            )
        return indices.pop()

    def _check_streams(self, folder: Path) -> None:
        # File names hold the number of streams; name it in place of a missing file.
        names = sorted(path.name for path in folder.glob("stream-*-of-*.npz"))
        if names and not any(n.endswith(f"-of-{self._config.streams:05d}.npz") for n in names):
            saved = int(names[0].removesuffix(".npz").rpartition("-")[2])
            raise ValueError(_mismatch("data.streams", saved, self._config.streams))

    def close(self) -> None:
        """Stops the background thread; `next` then raises. May be called again."""
        self._prefetcher.close()

    def __enter__(self) -> TrainData:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _check_divisible(config: DataConfig) -> None:
    if config.batch % config.streams:
        rows = max(1, config.batch // config.streams)
        raise ValueError(
            f"data.batch={config.batch} does not divide into data.streams={config.streams}; "
            f"use data.batch={rows * config.streams} or data.streams="
            f"{math.gcd(config.batch, config.streams)}"
        )


def readers_of(config: DataConfig, sharding: NamedSharding | None) -> dict[int, set[int]]:
    """The processes that need each stream's rows; {0} without a sharding."""
    if sharding is None:
        return {stream: {0} for stream in range(config.streams)}
    readers: dict[int, set[int]] = {stream: set() for stream in range(config.streams)}
    for length in (config.lengths.inputs, config.lengths.targets):
        try:
            placed = sharding.devices_indices_map((config.batch, length))
        except ValueError as error:
            raise ValueError(
                f"batches of data.batch={config.batch} rows of {length} tokens do not divide over "
                f"the mesh {dict(sharding.mesh.shape)} as {sharding.spec}; use multiples of its "
                "sizes"
            ) from error
        for device, (rows, *_) in placed.items():
            start, stop, _ = rows.indices(config.batch)
            size = config.batch // config.streams
            for stream in range(start // size, -(-stop // size)):
                readers[stream].add(device.process_index)  # type: ignore[attr-defined]
    return readers


def _facts(name: str, config: DataConfig, found: Mapping[str, str]) -> dict[str, Any]:
    """Settings and data that determine the batches: a saved position is valid only with these."""
    return {
        "data.mixture": name,
        "data.split": config.split,
        "data.lengths.inputs": config.lengths.inputs,
        "data.lengths.targets": config.lengths.targets,
        "data.batch": config.batch,
        "data.pack": config.pack,
        "data.streams": config.streams,
        "data.seed": config.seed,
        "data.shuffle_buffer": config.shuffle_buffer,
        "tasks": dict(found),
    }


def _compare(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    for knob, value in now.items():
        if knob != "tasks" and saved.get(knob) != value:
            raise ValueError(_mismatch(knob, saved.get(knob), value))
    for task, value in now["tasks"].items():
        was = saved["tasks"].get(task, "not in the mixture")
        if was != value:
            raise ValueError(
                f"task {task} is {value!r}, and was {was!r} when the data's position was saved; "
                "put its examples and vocabulary back, or start a new run"
            )
    for task in saved["tasks"].keys() - now["tasks"].keys():
        raise ValueError(
            f"task {task} was in the mixture when the data's position was saved, and is not now; "
            "put it back, or start a new run"
        )


def _mismatch(knob: str, saved: object, now: object) -> str:
    return (
        f"{knob}={now}, but the data's position was saved with {knob}={saved}; "
        f"set {knob}={saved} to go on, or start a new run"
    )


def _unreadable(path: os.PathLike, error: Exception) -> str:
    return (
        f"{path}: the stream's position cannot be read ({type(error).__name__}: "
        f"{' '.join(str(error).split())[:200]}); restore from another checkpoint"
    )


def _file_name(stream: int, streams: int) -> str:
    return f"stream-{stream:05d}-of-{streams:05d}.npz"


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as saved:
            return dict(saved)
    except FileNotFoundError as error:
        raise ValueError(
            f"{path}: the stream's position is missing; restore from another checkpoint"
        ) from error
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(_unreadable(path, error)) from error
