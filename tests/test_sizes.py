"""What cannot fit into memory is refused before anything is made, with the estimate."""

import re
import time

import jax
import jax.numpy as jnp
import pytest

from t5jax import sizes
from t5jax.config_files import build_config
from t5jax.model.family import family_of
from tests.support.models import TINY, shared_text2text

CPU = jax.devices()[:1]


def test_the_cache_is_as_large_as_estimated():
    cache = family_of(TINY).serving(TINY, jnp.dtype(jnp.bfloat16)).init_cache(3, 128, beams=4)
    parts = sizes.decoding_bytes(TINY, rows=3, hypotheses=4, length=128, inputs=0, size=2)
    assert parts["the cache"] == sum(x.nbytes for x in jax.tree.leaves(cache))
    # One row that becomes long, beside others that end.
    longer = sizes.decoding_bytes(TINY, rows=3, hypotheses=4, length=10**6, inputs=0, size=2)
    assert longer["the cache"] == parts["the cache"] * 10**6 // 3 // 128


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 10**6},
        {"num_return_sequences": 10**6, "do_sample": True},
        {"max_new_tokens": 10**8},
        {"num_beams": 1000, "max_new_tokens": 10**6},
    ],
)
def test_a_call_that_cannot_fit_is_refused_at_once_with_its_estimate(options):
    t5 = shared_text2text()
    began = time.monotonic()
    for call in (t5.generate, lambda text, **options: t5.check_options(options)):
        with pytest.raises(ValueError, match=r"at least [\d,.]+ [GT]B of memory") as error:
            call("x", **options)
        for name, value in options.items():
            assert name == "do_sample" or f"{name}={value}" in str(error.value)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"model": {"num_layers": 10_000, "d_model": 8192, "d_ff": 8192}}, "parameters [0-9.]+ TB"),
        ({"data": {"batch": 10**9}}, "data.batch=1000000000"),
        ({"data": {"lengths": {"inputs": 10**9}}}, "data.lengths=1000000000 and 128"),
        ({"data": {"lengths": {"targets": 10**9}}}, "data.lengths=512 and 1000000000"),
        ({"data": {"prefetch": 10**9}}, "data.prefetch=1000000000"),
        ({"eval": {"tasks": ["x"], "max_new_tokens": 10**9}}, "eval.max_new_tokens=1000000000"),
    ],
)
def test_a_run_that_cannot_fit_is_refused_with_its_estimate(tree, words):
    with pytest.raises(ValueError, match=words) as error:
        sizes.check_training(build_config(tree), CPU)
    assert re.search(r"needs at least [\d,.]+ [GT]B of memory .* are free; ", str(error.value))


def test_what_is_trained_today_is_not_refused():
    sizes.check_training(build_config({"model": {"variant": "t5_1_1_small"}}), CPU)


def test_free_memory_is_what_the_system_says_and_never_more_than_a_control_group_leaves(
    tmp_path, monkeypatch
):
    free = sizes.host_memory()
    assert free is not None and 10**8 < free < 10**14
    group = tmp_path / "memory"
    group.mkdir()
    (group / "memory.max").write_text("5000000\n")
    (group / "memory.current").write_text("3000000\n")
    (group / "memory.stat").write_text("anon 1\ninactive_file 100\nactive_file 20\n")
    (tmp_path / "cgroup").write_text("0::/memory\n")
    monkeypatch.setattr(sizes, "GROUP", tmp_path / "cgroup")
    monkeypatch.setattr(sizes, "GROUPS", tmp_path)
    assert sizes.host_memory() == 2_000_120
