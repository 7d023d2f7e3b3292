"""Streams: exactly resumable shards of the training data."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence

import numpy as np
import seqio

from t5jax.batch import Batch
from t5jax.config import LengthsConfig
from t5jax.data.packing import Examples, ModelIds, TokenPair, pack, to_batch
from t5jax.data.sources import HeldSource, ReadSource, Source, State, check_source, hold, uniform
from t5jax.tasks.faults import check_features, reading

OPEN_ROWS = 16  # rows packed together; each example is tried in all of them
_CHOICES = 4096  # draws of a mixture's tasks at a time


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


def rates_of(
    provider: seqio.Task | seqio.Mixture, tasks: Sequence[seqio.Task], split: str
) -> list[float]:
    """The tasks' sampling rates; ValueError if one is negative or all are 0."""
    mixed = isinstance(provider, seqio.Mixture)
    rates = [float(provider.get_rate(task)) if mixed else 1.0 for task in tasks]
    if not sum(rates) > 0 or min(rates) < 0:
        listed = ", ".join(f"{task.name} {rate:g}" for task, rate in zip(tasks, rates, strict=True))
        raise ValueError(
            f"the rates of {provider.name} in split {split!r} ({listed}) must not be negative, nor "
            "all 0"
        )
    return rates


class Stream:
    """An endless sequence of batches of `rows` rows from one shard of the data.

    Args:
      sources: a source for each task.
      rates: relative sampling rates of the sources.
      key: seed of the sampling.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        rates: Sequence[float],
        *,
        rows: int,
        lengths: LengthsConfig,
        packed: bool,
        ids: ModelIds,
        key: tuple[int, ...],
    ):
        self.sources = sources
        self._edges = np.cumsum(rates, dtype=np.float64)[:-1] / np.sum(rates)
        self._rows = rows
        self._lengths = lengths
        self._packed = packed
        self._ids = ids
        self._key = key
        self._taken = 0
        self._choices: Sequence[int] = ()
        self._waiting: Sequence[TokenPair] = ()

    def _take(self) -> TokenPair:
        if len(self.sources) == 1:
            return self.sources[0].take()
        block, index = divmod(self._taken, _CHOICES)
        if index == 0 or not len(self._choices):
            draws = uniform(_CHOICES, *self._key, block)
            self._choices = np.searchsorted(self._edges, draws, side="right").tolist()
        self._taken += 1
        return self.sources[self._choices[index]].take()

    def read(self) -> Batch:
        """The next rows, as a numpy Batch."""
        if not self._packed:
            return to_batch([[self._take()] for _ in range(self._rows)], self._lengths, self._ids)
        rows: list[list[TokenPair]] = []
        while len(rows) < self._rows:
            count = min(OPEN_ROWS, self._rows - len(rows))
            filled, self._waiting = pack(self._waiting, self._take, count, self._lengths)
            rows += filled
        return to_batch(rows, self._lengths, self._ids)

    def state(self) -> State:
        """The position, for `restore`."""
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
        """Goes to the position `state` of a stream with the same arguments."""
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
    ids: ModelIds,
) -> tuple[dict[int, Stream], dict[str, str]]:
    """The owned streams, at their beginning.

    Returns:
      Streams by index; and for each task a description that changes with its examples.
    """
    tasks = tasks_of(provider, split)
    for task in tasks:
        check_features(task, dataclasses.asdict(lengths))
    rates = rates_of(provider, tasks, split)
    makers: list[Callable[[int], Source]] = []
    found = {}
    for index, task in enumerate(tasks):
        key = (seed, 1 + index)
        with reading(task, split, dataclasses.asdict(lengths)):
            held = hold(task, split, lengths, buffer, ids)
        if held is not None:
            makers.append(functools.partial(HeldSource, held, streams=streams, key=key))
            found[task.name] = held.fingerprint
        else:
            check_source(task, split)
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
                    ids=ids,
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
            ids=ids,
            key=(seed, 0, stream),
        )
        for stream in owned
    }
    return opened, found
