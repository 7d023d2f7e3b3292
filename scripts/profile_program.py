"""Shows where the time of t5jax's compiled programs goes, operation by operation, on a CPU.

    python scripts/profile_program.py encoding 8x256
    python scripts/profile_program.py training 8x256-48 --dropout 0
    python scripts/profile_program.py decoding 1x64-64x4 --dtype int8

Cases are those of scripts/benchmark.py. Operations of one kind (a layer's, in every layer) are one
line: its time in a call, how often it ran, GFLOP/s of its products, GB/s of its operands and its
result, and the larger of the two as a share of the peak that was measured here. Where several run
or wait at once, the time counts for the one that began last. An operation may read less than its
operands, or find them in the cache, so that GB/s can be more than the memory's.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from contenders import hlo
from contenders.cases import SUBJECTS, expand
from contenders.turns import SCRIPTS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("subject", choices=SUBJECTS)
    parser.add_argument("case", help="such as 8x256, 8x256-48 or 1x64-64x4")
    parser.add_argument("--variant", default="t5_small", help="sizes of the model (t5_small)")
    parser.add_argument("--dtype", default="float32", help="also bfloat16, int8 (float32)")
    parser.add_argument("--dropout", type=float, default=0.1, help="of training (0.1)")
    parser.add_argument("--calls", type=int, default=3, help="calls that are profiled (3)")
    parser.add_argument("--lines", type=int, default=25, help="lines of the table (25)")
    parser.add_argument("--text", help="folder for the programs' text, as XLA optimized it")
    arguments = parser.parse_args()
    try:
        sizes, *more = expand(arguments.case, SUBJECTS[arguments.subject].names)
    except ValueError as error:
        parser.error(str(error))
    if more:
        parser.error(f"{arguments.case} is {1 + len(more)} cases; a profile is of one")
    if arguments.subject == "training":
        sizes = {**sizes, "dropout": arguments.dropout}
    with tempfile.TemporaryDirectory() as temporary:
        dump = Path(arguments.text or f"{temporary}/text").absolute()
        # Read by XLA when JAX is imported. A program from the cache on disk would have no text.
        flags = f"--xla_dump_to={dump} --xla_dump_hlo_as_text"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
        run = prepare(arguments, f"{temporary}/model", sizes)
        run()
        run()
        peaks = measured_peaks()
        wall, cpu, events = trace(run, arguments.calls, f"{temporary}/trace")
        show(groups(events, dump), wall, cpu, peaks, arguments)


def prepare(
    arguments: argparse.Namespace, folder: str, sizes: dict[str, Any]
) -> Callable[[], object]:
    """The call to profile, on a model of random weights."""
    words = ["-m", "contenders.checkpoint", arguments.variant, folder]
    if subprocess.run([sys.executable, *words], cwd=SCRIPTS).returncode:
        raise SystemExit(f"error: no checkpoint of variant {arguments.variant}; see above")
    from contenders import t5jax

    return getattr(t5jax, arguments.subject)(folder, arguments.dtype)(**sizes)


@dataclasses.dataclass(frozen=True)
class Event:
    """One run of an operation, in nanoseconds."""

    module: str
    name: str
    start: float
    until: float


def trace(run: Callable[[], object], calls: int, folder: str) -> tuple[float, float, list[Event]]:
    """Seconds on the clock, seconds of all cores, and what ran."""
    import jax

    with jax.profiler.trace(folder):
        began, used = time.perf_counter(), time.process_time()
        for _ in range(calls):
            run()
        wall, cpu = time.perf_counter() - began, time.process_time() - used
    (file,) = Path(folder).rglob("*.xplane.pb")
    events, ends = [], collections.defaultdict(list)
    for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
        for line in plane.lines:
            for event in line.events:
                if event.name.startswith("end: "):
                    ends[event.name.removeprefix("end: ")].append(event.start_ns)
                elif (about := dict(event.stats)) and "hlo_op" in about:
                    module = f"module_{about['program_id']:04d}.{about['hlo_module']}"
                    until = event.start_ns + event.duration_ns
                    events.append(Event(module, event.name, event.start_ns, until))
    return wall, cpu, list(ended(events, ends))


def ended(events: Sequence[Event], ends: Mapping[str, list[float]]) -> Iterator[Event]:
    """The events in order, each until it is done: other threads may go on with an operation."""
    left = {name: collections.deque(sorted(times)) for name, times in ends.items()}
    following: dict[str, float] = {}  # the next start of an operation of the same name
    found = []
    for event in sorted(events, key=lambda event: -event.start):
        found.append((event, following.get(event.name, math.inf)))
        following[event.name] = event.start
    for event, following_start in reversed(found):
        times = left.get(event.name, collections.deque())
        while times and times[0] < event.start:
            times.popleft()
        told = times and times[0] <= following_start
        until = max(event.until, times.popleft()) if told else event.until
        yield dataclasses.replace(event, until=until)


def measured_peaks() -> tuple[float, float]:
    """GFLOP/s of a large product in float32, and GB/s of reading memory."""
    import jax
    import jax.numpy as jnp

    def best(function: Callable, *values: Any) -> float:
        function = jax.jit(function)
        function(*values).block_until_ready()
        times = []
        for _ in range(5):
            began = time.perf_counter()
            function(*values).block_until_ready()
            times.append(time.perf_counter() - began)
        return min(times)

    square, long = jnp.ones((2048, 2048)), jnp.ones(2**27)
    product = 2 * 2048**3 / best(jnp.dot, square, square) / 1e9
    parts = long.reshape(2**10, -1)
    return product, long.nbytes / best(lambda x: jnp.sum(x, axis=1), parts) / 1e9


@dataclasses.dataclass
class Group:
    """Operations of one kind, over all calls."""

    operation: hlo.Operation
    nanoseconds: float = 0
    names: set[str] = dataclasses.field(default_factory=set)
    count: int = 0


def operation_of(event: Event, texts: dict[str, dict[str, hlo.Operation]], dump: Path) -> Any:
    """The event's operation; `texts` are the modules that were read already."""
    if event.module not in texts:
        file = next(dump.glob(f"{event.module}.*after_optimizations.txt"), None)
        texts[event.module] = hlo.read(file) if file else {}
    unknown = hlo.Operation(plain(event.name), "", event.module, 0, 0)
    return texts[event.module].get(event.name, unknown)


def groups(events: Sequence[Event], dump: Path) -> list[Group]:
    """Events by kind; those of loops and calls are left out, which hold others."""
    texts: dict[str, dict[str, hlo.Operation]] = {}
    found: dict[hlo.Operation, Group] = {}
    held = [e for e in events if operation_of(e, texts, dump).opcode not in hlo.CONTROL]
    for event, nanoseconds in own_times(held):
        operation = operation_of(event, texts, dump)
        group = found.setdefault(operation, Group(operation))
        group.nanoseconds += nanoseconds
        group.count += 1
        group.names.add(plain(event.name))
    return sorted(found.values(), key=lambda group: -group.nanoseconds)


def plain(name: str) -> str:
    """An operation's name without its number."""
    return re.sub(r"\.\d+$", "", name)


def own_times(events: Sequence[Event]) -> Iterator[tuple[Event, float]]:
    """Nanoseconds in which an event was the last of the running ones to begin.

    The events are sorted by their start, and without those that hold others.
    """
    running: list[tuple[Event, float]] = []
    now = 0.0
    for event in [*events, None]:
        start = math.inf if event is None else event.start
        while running and now < start:
            last, own = running[-1]
            until = min(last.until, start)
            running[-1] = (last, own + max(0.0, until - now))
            now = max(now, until)
            if last.until <= now:
                yield running.pop()
        if event is not None:
            now = max(now, start)
            running.append((event, 0.0))


def show(
    found: list[Group],
    wall: float,
    cpu: float,
    peaks: tuple[float, float],
    arguments: argparse.Namespace,
) -> None:
    calls = arguments.calls
    busy = sum(group.nanoseconds for group in found) / 1e9
    print(
        f"{wall / calls * 1e3:.1f} ms a call, {cpu / wall:.2f} cores busy; "
        f"{1 - busy / wall:.0%} outside XLA's operations\n"
        f"peaks: {peaks[0]:.0f} GFLOP/s (2048 x 2048 x 2048), {peaks[1]:.0f} GB/s (reading)\n\n"
        "    ms  share  times  GFLOP/s   GB/s  of peak  operation"
    )
    for group in found[: arguments.lines]:
        seconds, operation = group.nanoseconds / 1e9, group.operation
        gflops = operation.flops * group.count / seconds / 1e9
        rate = operation.bytes * group.count / seconds / 1e9
        share = max(gflops / peaks[0], rate / peaks[1])
        source = "/".join(operation.source.split("/")[-2:])
        print(
            f"{seconds / calls * 1e3:6.2f} {seconds / wall:6.1%} {group.count / calls:6.0f} "
            f"{f'{gflops:.0f}' if gflops else '-':>8} {rate:6.0f} {share:8.0%}  "
            f"{', '.join(sorted(group.names))} {operation.shape} {source}"
        )
    rest = sum(group.nanoseconds for group in found[arguments.lines :]) / 1e9
    print(f"{rest / calls * 1e3:6.2f} {rest / wall:6.1%}  all other operations")


if __name__ == "__main__":
    main()
