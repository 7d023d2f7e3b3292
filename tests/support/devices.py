"""Environments of the processes that tests start."""

import os


def environment(devices: int = 1) -> dict[str, str]:
    """This process's, with so many CPU devices in it; what XLA_FLAGS says else is kept."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return {**os.environ, "XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu"}
