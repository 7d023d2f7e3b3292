"""Memory that a call or a run needs, estimated from shapes, and memory that is free.

Estimates are lower bounds without temporaries: a refused call could not have run, and an accepted
one near the limit may still fail.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from t5jax.config import RunConfig
from t5jax.model.contract import ModelConfig
from t5jax.model.family import family_of
from t5jax.model.parameters import abstract_params, count_parameters

# Bytes below which a call is not checked: reading the free memory takes 0.1 ms.
SMALL = 2**28
# Length of the first KV cache; see `t5jax.engine.buckets.ROOMS`.
FIRST_ROOM = 128

GROUP, GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
_BYTES = {"float32": 4, "bfloat16": 2}


def decoding_bytes(
    config: ModelConfig, *, rows: int, hypotheses: int, length: int, inputs: int, size: int
) -> dict[str, int]:
    """Bytes that decoding holds beside the parameters, by name.

    Args:
      rows: inputs decoded together.
      hypotheses: beams or samples per input.
      length: longest output in tokens. All rows begin with a KV cache of `FIRST_ROOM` tokens; only
        one row is counted with a longer cache, since the other rows may have ended.
      inputs: tokens of an input.
      size: bytes of a number in the KV cache.
    """
    token = family_of(config).sizes(config).cached * size
    long = hypotheses * length
    first = rows * hypotheses * min(length, FIRST_ROOM)
    return {
        "the cache": max(long, first) * token + rows * inputs * token,
        "logits": rows * hypotheses * config.vocab_size * 4,
        "ids": max(long, first) * 4,
    }


def training_bytes(config: RunConfig) -> dict[str, int]:
    """Bytes that a training step holds over all devices, by name."""
    model, training, data = config.model, config.training, config.data
    parameters = 4 * count_parameters(abstract_params(model))
    pieces = training.micro_batches
    inputs, targets = (
        data.batch * n // pieces for n in (data.lengths.inputs, data.lengths.targets)
    )
    kept = family_of(model).sizes(model)
    layers = kept.encoder * inputs + kept.decoder * targets
    # remat keeps the inputs of all layers. Gradients replace activations, so the larger counts.
    activations = layers * _BYTES[training.dtype] + targets * model.vocab_size * 4
    return {
        "parameters": parameters,
        "optimizer": 2 * parameters if config.optimizer.name == "adamw" else 0,
        "activations": activations,
        "gradients": max(0, parameters - activations),
    }


def check_fits(
    what: str, parts: Mapping[str, int], devices: Sequence[jax.Device], remedy: str
) -> None:
    """Raises ValueError, with the estimate and the free memory, if `parts` do not fit.

    Args:
      what: the name of the allocation, for the error.
      parts: bytes by name, over all devices.
      devices: devices that share the parts; none: the host's memory.
      remedy: the end of the error.
    """
    here = [device for device in devices if device.process_index == jax.process_index()]
    need = sum(parts.values()) * len(here) // len(devices) if devices else sum(parts.values())
    if need < SMALL:
        return
    free = device_memory(here)
    free = host_memory() if free is None else free
    if free is None or need <= free:
        return
    detail = ", ".join(f"{name} {amount(n)}" for name, n in parts.items() if n > need // 100)
    raise ValueError(
        f"{what} needs at least {amount(need)} of memory ({detail}), and {amount(free)} are free; "
        f"{remedy}"
    )


def check_training(config: RunConfig, devices: Sequence[jax.Device]) -> None:
    """Raises ValueError if a run's step, prefetched batches or evaluation cannot fit."""
    model, data = config.model, config.data
    check_fits(
        f"a step of data.batch={data.batch}, data.lengths={data.lengths.inputs} and "
        f"{data.lengths.targets}, {count_parameters(abstract_params(model)):,} parameters",
        training_bytes(config),
        devices,
        "use a smaller batch, shorter rows, more training.micro_batches, or a smaller model",
    )
    row = 4 * (2 * data.lengths.inputs + 4 * data.lengths.targets)
    check_fits(
        f"data.prefetch={data.prefetch} of data.batch={data.batch}",
        {"prepared batches": data.prefetch * data.batch * row},
        (),
        "prepare fewer",
    )
    if config.eval.tasks and not model.encoder_only:
        longest = config.eval.max_new_tokens or data.lengths.targets
        check_fits(
            f"evaluation with eval.max_new_tokens={longest}",
            decoding_bytes(
                model,
                rows=1,
                hypotheses=1,
                length=longest,
                inputs=data.lengths.inputs,
                size=_BYTES[config.training.dtype],
            ),
            devices,
            "write less",
        )


def amount(size: int) -> str:
    """Bytes as MB, GB or TB."""
    for unit, name in ((10**12, "TB"), (10**9, "GB")):
        if size >= unit:
            return f"{size / unit:,.1f} {name}"
    return f"{size / 10**6:,.0f} MB"


def device_memory(devices: Sequence[jax.Device]) -> int | None:
    """Free bytes of all accelerators; None for CPUs and for devices without memory statistics."""
    total = 0
    for device in devices:
        stats = device.memory_stats() if device.platform != "cpu" else None
        if not stats or "bytes_limit" not in stats:
            return None
        total += stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return total or None


def host_memory() -> int | None:
    """Bytes that this process can still allocate; None where the system does not tell.

    The machine's available memory and swap, limited by the process's control group.
    """
    found = []
    lines = _lines("/proc/meminfo")
    known = {
        name: int(value.split()[0]) * 1024 for name, _, value in (x.partition(":") for x in lines)
    }
    if "MemAvailable" in known:
        found.append(known["MemAvailable"] + known.get("SwapFree", 0))
    elif hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    found += _group_memory()
    return min(found, default=None)


def _group_memory() -> list[int]:
    """Free bytes of the control group and each of its parents, droppable page cache included."""
    left = []
    for line in _lines(GROUP):
        _, kinds, place = line.split(":", 2)
        if kinds == "":
            root, limit, used = GROUPS, "memory.max", "memory.current"
        elif "memory" in kinds.split(","):
            root, limit, used = GROUPS / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # In a container the path is the host's, and the group lies at the root.
        places = [Path(root, *place.split("/")[1 : n + 1]) for n in range(place.count("/") + 1)]
        for folder in dict.fromkeys([Path(root), *places]):
            most, now = (_lines(folder / name) for name in (limit, used))
            if most and now and most[0].isdigit():
                stat = dict(x.split() for x in _lines(folder / "memory.stat"))
                dropped = sum(int(stat.get(k, 0)) for k in ("inactive_file", "active_file"))
                left.append(int(most[0]) - int(now[0]) + dropped)
    return left


def _lines(file: str | Path) -> list[str]:
    try:
        return Path(file).read_text().splitlines()
    except OSError:
        return []
