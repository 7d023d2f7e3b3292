"""For all tests."""

import os

from hypothesis import HealthCheck, settings

# Before torch is imported. Two workers share two cores: with two threads each, torch waits for a
# core at every product, and its models take five times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Machines differ in speed, and now and then something is compiled: time decides no test.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


# Tests of eight devices are for a process that has them: tests/test_eight_devices.py starts it.
EIGHT = "device_count=8" in os.environ.get("XLA_FLAGS", "")


def pytest_collection_modifyitems(items):
    """The file that takes longest first, so that two workers end together."""
    items[:] = [x for x in items if EIGHT or not x.get_closest_marker("eight_devices")]
    items.sort(key=lambda item: item.path.name != "test_training.py")
