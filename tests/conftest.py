"""For all tests."""

import os

from hypothesis import HealthCheck, settings

# Before torch is imported. Two workers share two cores: with two threads each, torch waits for a
# core at every product, and its models take five times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Machines differ in speed, and now and then something is compiled: time decides no test.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_collection_modifyitems(items):
    """The file that takes longest first, so that two workers end together."""
    items.sort(key=lambda item: item.path.name != "test_training.py")
