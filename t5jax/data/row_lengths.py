"""`data.lengths: auto`: the row lengths at which training on an example costs least."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import seqio

from t5jax.config import DataConfig, LengthsConfig
from t5jax.data.packing import WAITING, TokenPair, pack
from t5jax.data.sources import Piece
from t5jax.data.streams import OPEN_ROWS, rates_of, tasks_of
from t5jax.tasks import registry
from t5jax.tasks.faults import check_features, reading

# Examples of a task that are read, in their stored order, and examples of all that are looked at.
READ, EXAMPLES = 16_384, 4_096
# Share of the inputs, and of the targets, that may be cut.
CUT = 0.01
# Lengths are multiples of it, and packed rows of inputs at most LONGEST, where examples are not.
STEP = 8
LONGEST = 512
# Tried: input lengths, each so many times the one before; target lengths, as multiples of what the
# examples that fill the inputs need on average.
GROWTH = 1.15
TARGETS = (0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 1.7, 2.0)

FEATURES = ("inputs", "targets")
# The cost of a row of so many inputs and targets, in any unit.
Cost = Callable[[int, int], float]


@dataclasses.dataclass(frozen=True)
class RowLengths:
    """Row lengths, and how the examples that were looked at fit into them.

    Attributes:
      lengths: of a row.
      cut: shares of the inputs, and of the targets, that are longer.
      filled: shares of the rows' positions that hold tokens, for inputs and targets.
      cost: of an example.
    """

    lengths: LengthsConfig
    cut: tuple[float, float]
    filled: tuple[float, float]
    cost: float

    def __str__(self) -> str:
        inputs, targets = (
            f"{getattr(self.lengths, name)} {name} ({filled:.0%} filled, {cut:.1%} cut)"
            for name, filled, cut in zip(FEATURES, self.filled, self.cut, strict=True)
        )
        return f"{inputs}, {targets}"


def look(provider: seqio.Task | seqio.Mixture, split: str, seed: int) -> np.ndarray:
    """The lengths of `EXAMPLES` examples, EOS included: int[EXAMPLES, 2], tasks by their rates.

    Raises:
      ValueError: a preprocessor makes examples of the lengths that it is told, or the data has a
        fault.
    """
    if registry.needs_lengths(provider):
        raise ValueError(
            f"lengths can be chosen for examples with lengths of their own, but {provider.name} "
            "fills rows of any length; give data.lengths, such as {inputs: 512, targets: 114}"
        )
    tasks = tasks_of(provider, split)
    rates = rates_of(provider, tasks, split)
    each = [_sizes(task, split, seed) for task in tasks]
    drawn = np.random.default_rng(seed).choice(len(tasks), EXAMPLES, p=rates / np.sum(rates))
    # In turn, over again where a task has fewer.
    found = np.zeros((EXAMPLES, len(FEATURES)), int)
    for number, sizes in enumerate(each):
        of_task = np.flatnonzero(drawn == number)
        if len(of_task) and not len(sizes):
            raise ValueError(
                f"lengths cannot be chosen: no example in {tasks[number].name}, split {split!r}; "
                "give data.lengths"
            )
        if len(of_task):
            found[of_task] = sizes[np.arange(len(of_task)) % len(sizes)]
    return found


def _sizes(task: seqio.Task, split: str, seed: int) -> np.ndarray:
    """The lengths of a task's examples, shuffled."""
    check_features(task, None)
    with reading(task, split):
        # The whole source in its order: the seed is that of random preprocessors.
        whole = task.replace(source=Piece(task.source, 0, 1), metric_fns=(), metric_objs=())
        dataset = whole.get_dataset(None, split, shuffle=False, seed=seed, num_epochs=1)
        sizes = [
            [len(example[name]) for name in FEATURES]
            for example in dataset.take(READ).as_numpy_iterator()
        ]
    usable = np.array([pair for pair in sizes if all(pair)], int).reshape(-1, len(FEATURES))
    return np.random.default_rng(seed).permutation(usable)


def rows_together(data: DataConfig) -> int:
    """Rows that training packs together; 0 where it does not pack."""
    return min(OPEN_ROWS, max(1, data.batch // data.streams)) if data.pack else 0


def choose(
    sizes: np.ndarray,
    cost: Cost,
    *,
    together: int,
    given: Mapping[str, int],
    longest: Sequence[int | None] = (None, None),
) -> RowLengths:
    """The lengths at which an example costs least, of those that cut at most `CUT` of them.

    Args:
      sizes: int[E, 2], lengths of examples in the order of training.
      cost: of a row.
      together: rows that are packed together; 0: every example is padded to a row.
      given: lengths that are not to be chosen.
      longest: the model's positions for inputs and targets.
    """
    needed = [
        given.get(name) or _rounded(np.quantile(column, 1 - CUT, method="higher"), limit)
        for name, column, limit in zip(FEATURES, sizes.T, longest, strict=True)
    ]
    if not together:
        return measure(sizes, LengthsConfig(*needed), cost, together)
    tried = {}
    for lengths in _candidates(sizes, needed, given, longest):
        if lengths not in tried:
            tried[lengths] = measure(sizes, lengths, cost, together)
    return min(tried.values(), key=lambda found: found.cost)


def measure(sizes: np.ndarray, lengths: LengthsConfig, cost: Cost, together: int) -> RowLengths:
    """Row lengths and examples of `sizes` int[E, 2]; `together` as of `choose`."""
    room = (lengths.inputs, lengths.targets)
    whole = np.minimum(sizes, room)
    if together:
        rows, examples, tokens = _packed(whole, lengths, together)
    else:
        rows = examples = len(whole)
        tokens = whole.sum(axis=0)
    filled = tokens / rows / np.array(room)
    cut = (sizes > room).mean(axis=0)
    return RowLengths(
        lengths,
        (float(cut[0]), float(cut[1])),
        (float(filled[0]), float(filled[1])),
        cost(*room) * rows / examples,
    )


def _packed(
    sizes: np.ndarray, lengths: LengthsConfig, together: int
) -> tuple[int, int, np.ndarray]:
    """Rows, examples and tokens int[2] of packing, in groups of rows as training packs them.

    The last group is left out, which the end of the examples leaves half empty.
    """
    # Packing asks for nothing of an example but its lengths.
    stand_ins = ((range(n), range(m)) for n, m in sizes.tolist())
    take: Any = functools.partial(next, stand_ins, None)
    waiting: Sequence[TokenPair] = ()
    placed: list[TokenPair] = []
    groups, more = 0, True
    while more:
        rows, waiting = pack(waiting, take, together, lengths)
        more = len(waiting) == WAITING
        if more or not groups:
            groups += 1
            placed += itertools.chain.from_iterable(rows)
    tokens = np.array([[len(inputs), len(targets)] for inputs, targets in placed]).sum(axis=0)
    return together * groups, len(placed), tokens


def _candidates(
    sizes: np.ndarray,
    needed: Sequence[int],
    given: Mapping[str, int],
    longest: Sequence[int | None],
) -> Iterator[LengthsConfig]:
    """Lengths of packed rows that are worth trying."""
    whole = np.minimum(sizes, needed)
    ratio = whole[:, 1].mean() / whole[:, 0].mean()
    most = max(needed[0], min(LONGEST, longest[0] or LONGEST))
    steps = 1 + math.ceil(math.log(most / needed[0], GROWTH))
    for number in range(1 if "inputs" in given else steps):
        inputs = given.get("inputs") or min(most, _rounded(needed[0] * GROWTH**number, longest[0]))
        for share in TARGETS:
            targets = _rounded(max(needed[1], inputs * ratio * share), longest[1])
            yield LengthsConfig(inputs, given.get("targets") or targets)


def _rounded(length: float, longest: int | None) -> int:
    """A multiple of `STEP`, and at most `longest`."""
    found = STEP * math.ceil(length / STEP)
    return found if longest is None else min(found, longest)
