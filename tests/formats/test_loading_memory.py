"""Loading holds one parameter at a time: peaks of processes of their own."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from t5jax.formats import huggingface
from t5jax.model.parameters import paths
from t5jax.model.t5.config import T5Config
from t5jax.model.t5.huggingface import config_fields
from t5jax.model.t5.variants import VARIANTS
from t5jax.model.tensors import Tensor
from tests.support.devices import environment

# Loads argv[1] and prints the peak of anonymous pages above the idle process, in bytes.
PROGRAM = """
import sys, threading, jax, t5jax
from t5jax.config import MeshConfig
from t5jax.formats.detect import open_checkpoint
from t5jax.sharding import make_mesh

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(x.split()[1]) for x in status if x.startswith("RssAnon")) * 1024

mesh = make_mesh(MeshConfig(fsdp=-1, data=1)) if jax.device_count() > 1 else None
# What any first use allocates is not loading: a small model has been there before.
jax.block_until_ready(open_checkpoint(sys.argv[2]).read("training", "bfloat16", mesh))
idle, peak, done = anonymous(), 0, threading.Event()

def watch():
    global peak
    while not done.wait(0.001):
        peak = max(peak, anonymous())

watcher = threading.Thread(target=watch)
watcher.start()
if mesh is None:
    model = t5jax.load(sys.argv[1], dtype="bfloat16")
else:
    model = open_checkpoint(sys.argv[1]).read("training", "bfloat16", mesh)
    jax.block_until_ready(model)
done.set()
watcher.join()
print(peak - idle)
"""


def write_empty(folder: Path, config: T5Config) -> int:
    """A Hugging Face folder of float32 zeros that take no room on disk; returns parameters."""
    folder.mkdir()
    offset, header = 0, {}
    tensors = {
        path: Tensor(shape, np.dtype(np.float32), lambda: np.zeros(0))
        for path, shape in paths(config).items()
    }
    for name, tensor in huggingface.to_weights(config, tensors).items():
        size = 4 * int(np.prod(tensor.shape))
        header[name] = {
            "dtype": "F32", "shape": tensor.shape, "data_offsets": [offset, offset + size]
        }  # fmt: skip
        offset += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + offset)
    fields = config_fields(config)
    (folder / "config.json").write_text(json.dumps({"model_type": "t5", **fields}))
    return offset // 4


def peak(tmp_path: Path, config: T5Config, devices: int) -> tuple[int, int]:
    """(peak in bytes, parameters) of loading `config` to bfloat16."""
    count = write_empty(tmp_path / "model", config)
    small = config.replace(d_model=64, d_ff=64, d_kv=8, num_heads=8, vocab_size=128)
    write_empty(tmp_path / "small", small.replace(num_layers=1, num_decoder_layers=1))
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "model"), str(tmp_path / "small")]
    done = subprocess.run(command, env=environment(devices), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout), count


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.slow
def test_base_loads_to_bfloat16_in_one_and_a_half_times_its_size(tmp_path):
    most, count = peak(tmp_path, VARIANTS["t5_base"], 1)
    assert count == 222_903_552
    print(f"peak {most / 1e6:.0f} MB, {most / (2 * count):.2f} x the parameters")
    assert most <= 1.5 * 2 * count


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.slow
def test_a_sharded_11b_needs_its_shards_and_one_stacked_parameter(tmp_path):
    """T5-11B's layers, three of its 24 a stack: on 8 devices of this host, so all its shards."""
    config = VARIANTS["t5_11b"].replace(num_layers=3, num_decoder_layers=3)
    most, count = peak(tmp_path, config, 8)
    largest = 2 * 3 * config.d_model * config.d_ff
    print(f"peak {most / 1e6:.0f} MB: shards {2 * count / 1e6:.0f}, largest {largest / 1e6:.0f}")
    assert most <= 2 * count + largest
