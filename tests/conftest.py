"""For all tests."""

import os
from pathlib import Path

import jax
import pytest
from hypothesis import HealthCheck, settings

from t5jax.compiled import ProgramRoom

# Before torch is imported. Two workers share two cores: with two threads each, torch waits for a
# core at every product, and its models take five times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Machines differ in speed, and now and then something is compiled: time decides no test. Nor does
# chance: HYPOTHESIS_PROFILE=explore draws other examples in every run.
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", untimed)
settings.register_profile("repeatable", untimed, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

# The tests' own processes keep their compiled programs for the next run. JAX's key holds XLA's
# flags and the number of devices. Processes that tests start, and kill, have the user's cache: a
# file that is half written when its writer is killed would stay.
if jax.config.jax_compilation_cache_dir is None:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "t5jax-tests"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

ROOM = ProgramRoom()


@pytest.fixture(autouse=True)
def room_for_programs():
    """A worker compiles more programs than a process has memory maps for."""
    ROOM.make()


# Tests of eight devices are for a process that has them: tests/test_eight_devices.py starts it.
EIGHT = "device_count=8" in os.environ.get("XLA_FLAGS", "")

# As measured, longest first, so that two workers end together.
LONGEST = (
    "test_training.py",
    "test_eight_devices.py",
    "test_data.py",
    "test_text2text.py",
    "test_processors.py",
    "test_tasks.py",
    "test_beam.py",
    "test_constraints.py",
)


def pytest_collection_modifyitems(items):
    """The files that take longest first."""
    items[:] = [x for x in items if EIGHT or not x.get_closest_marker("eight_devices")]
    places = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))
