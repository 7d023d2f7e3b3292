"""Peak FLOP/s of accelerators."""

from __future__ import annotations

# Dense bfloat16 FLOP/s of one chip, from the vendors' datasheets, by a substring of device_kind.
PEAK_FLOPS = {
    "TPU v2": 45e12,
    "TPU v3": 123e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Peak bfloat16 FLOP/s of a device; None if unknown."""
    for name, peak in PEAK_FLOPS.items():
        if name in device_kind:
            return peak
    return None
