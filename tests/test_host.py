"""Files that appear whole, and what several processes have together."""

import os
import socket
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from t5jax import host


@pytest.mark.parametrize("content", [b"new", ["new", "lines"]])
def test_a_file_is_as_it_was_until_all_of_the_new_one_is_written(tmp_path, monkeypatch, content):
    file = tmp_path / "deep" / "file.json"
    host.replace(file, b"old")

    def killed(source, target):
        assert file.read_bytes() == b"old"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        host.replace(file, content)
    assert file.read_bytes() == b"old"
    host.replace(file, content)
    assert file.read_bytes() == (content if isinstance(content, bytes) else b"new\nlines\n")
    assert [each.name for each in file.parent.iterdir()] == ["file.json"]


def test_one_process_writes_and_gathers_its_own():
    found = host.gather({"x": jnp.arange(3)})
    assert host.is_writer() and isinstance(found["x"], np.ndarray)
    assert found["x"].tolist() == [0, 1, 2]
    host.barrier("alone")


CODE = """
import sys, jax
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from t5jax import host
mesh = jax.make_mesh((2,), ("data",), devices=jax.devices())
spread = NamedSharding(mesh, PartitionSpec("data"))
me = jax.process_index()
rows = jax.make_array_from_process_local_data(spread, np.full((1, 2), me))
host.barrier("made")
found = host.gather({"rows": rows, "own": np.array([me])})
print(host.is_writer(), {name: found[name].tolist() for name in sorted(found)})
"""


@pytest.mark.slow
def test_two_processes_gather_the_same_and_one_of_them_writes():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", CODE, address, str(number)],
            stdout=subprocess.PIPE, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"},
        )
        for number in range(2)
    ]  # fmt: skip
    told = [process.communicate(timeout=100)[0] for process in both]
    for number, text in enumerate(told):
        assert f"\n{number == 0} {{'own': [0, 1], 'rows': [[0, 0], [1, 1]]}}\n" in f"\n{text}"
