"""Training: resumed, killed, terminated and sharded runs, through the command that users type."""

import dataclasses
import functools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import t5jax
from scripts import kills
from t5jax import run_folder
from t5jax.batch import Batch
from t5jax.cli.entry import MISTAKES, main
from t5jax.config import OptimizerConfig, TrainingConfig
from t5jax.model.parameters import abstract_params, logical_axes, unstack
from t5jax.model.t5.flops import step_flops
from t5jax.model.t5.network import T5
from t5jax.sharding import make_mesh
from t5jax.training import loop
from t5jax.training.checkpoints import Checkpoints
from t5jax.training.machine import accelerator
from t5jax.training.optimizers import make_optimizer
from t5jax.training.peaks import peak_flops
from t5jax.training.schedules import make_schedule
from t5jax.training.step import init_state, make_step
from tests.support.devices import environment
from tests.support.mistakes import error_of
from tests.support.models import TINY, lively_params, random_ids
from tests.training.test_checkpoints import position, target, tiny_state

CONFIG = {
    "model": {
        "d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 8, "num_layers": 2,
        "num_decoder_layers": 2, "dropout": 0.1,
    },
    "vocabulary": "bytes",
    "data": {
        "mixture": "inflect", "lengths": {"inputs": 48, "targets": 32}, "batch": 16,
        "shuffle_buffer": 100_000,
    },
    "optimizer": {"learning_rate": 0.01, "warmup": 100},
    "training": {"steps": 30, "log_every": 5, "eval_every": 0, "save_every": 10},
}  # fmt: skip


# Layers apart, which checkpoints do not have.
EVALUATED = CONFIG["training"] | {"eval_every": 10, "scan_layers": False}


def write_config(folder: Path, **sections) -> Path:
    tree = {
        k: {**v, **sections.get(k, {})} if isinstance(v, dict) else v for k, v in CONFIG.items()
    }
    tree |= {k: v for k, v in sections.items() if k not in tree}
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump(tree | {"run_dir": str(folder / "run")}))
    return file


def command(*words: str) -> list[str]:
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    return [sys.executable, "-m", "t5jax.cli", *map(str, words)]


def run(*words: str, devices: int = 1, code: int = 0) -> str:
    done = subprocess.run(
        command(*words), env=environment(devices), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == code, done.stderr[-3000:]
    return done.stdout + done.stderr


def metrics(folder: Path) -> list[dict]:
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    # The best by the largest loss: an old one, which the newest does not push out.
    config = write_config(
        folder, eval={"tasks": ["inflect"], "examples": 40},
        training={**EVALUATED, "keep": 1, "keep_best": "inflect/loss", "best_mode": "max",
                  "profile": [2, 3]},
    )  # fmt: skip
    main(["train", str(config)])
    return folder


def test_run_folder_holds_what_it_promises(finished):
    rows = metrics(finished)
    assert [row["step"] for row in rows] == [5, 10, 15, 20, 25, 30]
    assert rows[-1]["loss"] < rows[0]["loss"]
    for name in ("accuracy", "z_loss", "grad_norm", "param_norm", "learning_rate",
                 "examples_per_second", "tokens_per_second", "step_seconds",
                 "model_flops_per_second"):  # fmt: skip
        assert np.isfinite(rows[0][name]), name
    result = json.loads((finished / "run" / "eval" / "inflect" / "metrics.json").read_text())
    assert {"exact_match", "rule_exact_match", "loss"} <= result.keys()
    assert result["step"] == 30 and result["examples"] == 40
    lines = (finished / "run" / "eval" / "inflect" / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == 40
    assert {"inputs", "targets", "prediction"} <= json.loads(lines[0]).keys()
    assert rows[-1]["eval/inflect/exact_match"] == result["exact_match"]
    for tag in ("loss", "tokens_per_second"):
        assert tensorboard_steps(finished, tag) == [5, 10, 15, 20, 25, 30]
    assert tensorboard_steps(finished, "eval/inflect/exact_match") == [10, 20, 30]
    (trace,) = (finished / "run" / "tensorboard" / "plugins").rglob("*.xplane.pb")
    assert trace.stat().st_size
    losses = {row["step"]: row["eval/inflect/loss"] for row in rows if row["step"] % 10 == 0}
    kept = sorted(int(path.name) for path in (finished / "run" / "checkpoints").iterdir())
    assert kept == [max(losses, key=losses.get), 30]


@pytest.mark.slow
def test_a_run_loads_generates_and_evaluates(finished):
    t5 = t5jax.load(finished / "run")
    assert t5.max_input_length == 48 and t5.generation.max_new_tokens == 32
    assert isinstance(t5.generate("past: go"), str)
    output = run("generate", finished / "run", "past: go", "--max_new_tokens", "4")
    assert t5.generate("past: go", max_new_tokens=4) in output
    out = finished / "again"
    run("eval", finished / "run", "--tasks", "inflect", "--examples", "40", "--out", out)
    first = json.loads((finished / "run" / "eval" / "inflect" / "metrics.json").read_text())
    again = json.loads((out / "inflect" / "metrics.json").read_text())
    for name in ("exact_match", "loss"):
        assert again[name] == pytest.approx(first[name], rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_killed_and_resumed_run_equals_an_uninterrupted_one(finished, tmp_path):
    evaluated = {"tasks": ["inflect"], "examples": 40}
    config = write_config(tmp_path, eval=evaluated, training=EVALUATED)
    process = start("train", config)
    # Past the first checkpoint, with steps logged that are not in it.
    wait_for_lines(process, tmp_path, 3)
    process.kill()
    process.communicate()
    run("train", config)
    ours, theirs = t5jax.load(tmp_path / "run"), t5jax.load(finished / "run")
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)
    assert [row["step"] for row in metrics(tmp_path)] == [5, 10, 15, 20, 25, 30]


def tensorboard_steps(folder: Path, tag: str) -> list[int]:
    everything = {"tensors": 0}  # instead of a sample of ten
    events = EventAccumulator(str(folder / "run" / "tensorboard"), everything).Reload()
    return [event.step for event in events.Tensors(tag)]


def start(*words: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(*words), env=environment(), text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for_lines(process: subprocess.Popen, folder: Path, lines: int) -> None:
    """Returns when metrics.jsonl has so many lines, or the process has ended."""
    file = folder / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if file.exists() and len(file.read_text().splitlines()) >= lines:
            return
        time.sleep(0.01)


@pytest.mark.slow
def test_a_run_killed_twice_and_interrupted_equals_one_never_stopped(tmp_path):
    configs = [kills.write_config(tmp_path / name, 202) for name in ("whole", "killed")]
    kills.finish(configs[0])
    kills.kill(configs[1], [(11, 0.1), (30, 0.02)])
    process = kills.start(configs[1])
    wait_for_lines(process, tmp_path / "killed", 40)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130, errors
    assert "interrupted (SIGINT): step" in errors.splitlines()[-1] and "Traceback" not in errors
    output = kills.finish(configs[1])
    assert re.search(r"\d+ inputs of inflect have more than data.lengths.inputs=12", output)
    row = json.loads((tmp_path / "whole/run/metrics.jsonl").read_text().splitlines()[-1])
    assert row["inputs_cut"] > row["targets_cut"] > 0
    assert not kills.differences(*(config.parent / "run" for config in configs))


@pytest.mark.slow
def test_sigterm_saves_and_the_run_goes_on(tmp_path):
    config = write_config(tmp_path, training={"steps": 5000, "save_every": 0})
    process = start("train", config)
    wait_for_lines(process, tmp_path, 2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 143, errors
    step = int(re.search(r"interrupted \(SIGTERM\): step (\d+) is saved", errors)[1])
    output = run("train", config, f"--training.steps={step + 10}")
    assert f"resuming at step {step}" in output
    steps = [row["step"] for row in metrics(tmp_path)]
    assert steps == sorted(set(steps)) and steps[-1] == step + 10
    assert run_folder.steps(tmp_path / "run") == [step, step + 10]


def test_a_finished_run_has_nothing_to_do_and_a_damaged_one_goes_on(finished, tmp_path, capsys):
    folder = Path(shutil.copytree(finished, tmp_path / "copy"))
    # Another folder than the one that it was trained in.
    words = ("train", str(folder / "config.yaml"), f"--run_dir={folder / 'run'}")
    before = (folder / "run" / "metrics.jsonl").read_bytes()
    main(words)
    assert "nothing to do: step 30 of 30; raise training.steps" in capsys.readouterr().err
    assert (folder / "run" / "metrics.jsonl").read_bytes() == before
    name = run_folder.steps(folder / "run")[0]
    for file in (folder / "run" / "checkpoints" / "30" / "data").iterdir():
        file.write_bytes(b"")
    main((*words, "--training.steps=31", "--eval.tasks=[]", "--training.keep_best=null"))
    errors = capsys.readouterr().err
    assert f"step {name} is taken" in errors and f"resuming at step {name}" in errors
    wanted = [step for step in (5, 10, 15, 20, 25) if step <= name]
    wanted += [step for step in (15, 20, 25, 30, 31) if step > name]
    assert [row["step"] for row in metrics(folder)] == wanted
    assert tensorboard_steps(folder, "loss") == wanted
    # A new process that reads the run's own vocabulary from a file that is not as it was.
    (folder / "run" / "vocabulary" / "vocabulary.json").write_text("{}")
    assert "vocabulary.json is damaged" in error_of(capsys, *words)


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint(tmp_path):
    config = write_config(tmp_path, optimizer={"name": "adamw"}, training={"steps": 10})
    run("train", config)
    before = t5jax.load(tmp_path / "run").params
    # Logging and saving come together at step 20; the loss is no number soon after step 10.
    words = ["--training.steps=40", "--training.log_every=10", "--optimizer.learning_rate=1e30"]
    output = run("train", config, *words, code=2)
    (line,) = [line for line in output.splitlines() if line.startswith("error:")]
    step, kept = re.search(r"loss of step (\d+) is .* checkpoint is step (\d+)", line).groups()
    assert 11 <= int(step) < 20 and kept == "10"
    jax.tree.map(np.testing.assert_array_equal, t5jax.load(tmp_path / "run").params, before)


def test_a_full_disk_leaves_the_last_checkpoint_readable(tmp_path):
    checkpoints = Checkpoints(tmp_path, TrainingConfig())
    checkpoints.save(tiny_state(1), 1, position)
    checkpoints.wait()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, before[1]))  # writing more fails
    try:
        with pytest.raises(MISTAKES):
            checkpoints.save(tiny_state(2), 2, position)
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    again = Checkpoints(tmp_path, TrainingConfig())
    assert again.latest() == 1
    state, place = again.restore(1, target())
    np.testing.assert_array_equal(state.params["w"], tiny_state(1).params["w"])
    assert (place / "position").read_text() == "here"


def test_micro_batches_make_the_step_of_the_whole_batch():
    rng = np.random.default_rng(0)
    ids, targets = random_ids(0, 8, 12), random_ids(1, 8, 6)
    for i, (row, wanted) in enumerate(zip(ids, targets, strict=True)):
        row[rng.integers(2, 12) :] = 0
        wanted[1 + i % 6 :] = 0  # so the pieces have different weights
    batch = Batch(
        encoder_input_tokens=ids,
        encoder_segment_ids=(ids != 0).astype(np.int32),
        decoder_input_tokens=np.pad(targets[:, :-1], ((0, 0), (1, 0))),
        decoder_target_tokens=targets,
        decoder_segment_ids=(targets != 0).astype(np.int32),
        decoder_loss_weights=(targets != 0).astype(np.float32),
    )
    knobs = OptimizerConfig(name="adamw", learning_rate=1e-3, warmup=1)
    optimizer = make_optimizer(knobs, logical_axes(TINY), 10)
    results = []
    for pieces in (1, 4):
        training = TrainingConfig(micro_batches=pieces)
        step = jax.jit(make_step(T5(TINY), optimizer, make_schedule(knobs, 10), training))
        results.append(step(init_state(lively_params(TINY), optimizer, 0), batch))
    (one, of_one), (four, of_four) = results
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        (of_one, one.opt_state), (of_four, four.opt_state),
    )  # fmt: skip


@pytest.mark.slow
def test_no_logged_step_is_faster_than_the_device(tmp_path, monkeypatch):
    def work(x):
        square = jnp.full((256, 256), x)
        return jax.lax.fori_loop(0, 100, lambda _, y: jnp.tanh(y @ y), square)[0, 0]

    def make_slow_step(*arguments, **options):
        step = make_step(*arguments, **options)

        def slow_step(state, batch):
            state, metrics = step(state, batch)
            return state, dataclasses.replace(metrics, grad_norm=work(metrics.grad_norm))

        return slow_step

    times = []
    for _ in range(10):
        begun = time.monotonic()
        jax.jit(work)(1.0).block_until_ready()
        times.append(time.monotonic() - begun)
    least = 0.8 * min(times)

    monkeypatch.setattr(loop, "make_step", make_slow_step)
    # Saving, within a window and at its end, lets the device catch up with what was dispatched.
    config = write_config(tmp_path, training={"save_every": 7, "tensorboard": False})
    begun = time.monotonic()
    loop.train(yaml.safe_load(config.read_text()))
    seconds = [row["step_seconds"] for row in metrics(tmp_path)]
    assert len(seconds) == 6 and min(seconds) >= least
    assert sum(seconds) * 5 <= time.monotonic() - begun


@pytest.mark.slow
@pytest.mark.skipif(accelerator() is not None, reason="for machines without an accelerator")
def test_a_training_process_keeps_the_memory_of_a_step():
    script = """
import resource, sys
from t5jax.training.machine import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
import jax, jax.numpy as jnp
x = jnp.ones(2000)
step = jax.jit(lambda x: (jnp.outer(x, x) @ jnp.outer(x, x)).sum())
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        step(x).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
    default, kept = (
        int(subprocess.check_output([sys.executable, "-c", script, word], env=environment(1)))
        for word in ("default", "keep")
    )
    # Each call has 32 MB or more of intermediate results, 4 KB a page.
    assert default > 8 * 8000 > 10 * kept


def test_model_flops_are_those_that_xla_counts():
    config = TINY.replace(d_model=128, d_ff=256, num_heads=4, d_kv=32, vocab_size=512)
    model, ids = T5(config, scan=False), jnp.ones((4, 32), jnp.int32)
    params = jax.eval_shape(unstack, abstract_params(config))
    # Squared, so that no product is with a constant, which XLA would make a sum.
    gradient = jax.grad(lambda p: (model.apply({"params": p}, ids, ids[:, :24]) ** 2).sum())
    counted = jax.jit(gradient).lower(params).compile().cost_analysis()["flops"]
    # XLA also counts norms, softmax and activations.
    assert 1.0 <= counted / step_flops(config, 4, 32, 24) < 1.15


def test_the_peak_of_a_device_is_found_by_its_kind():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("TPU v5 lite") == 197e12 and peak_flops("TPU v5p") == 459e12
    assert peak_flops("cpu") is None


def test_mistakes_are_one_line_and_exit_2(finished, tmp_path, capsys):
    config = write_config(tmp_path)
    nowhere = tmp_path / "nowhere"
    cases = {
        ("train", config, "--data.bach=3"): "did you mean batch",
        ("train", nowhere): "no such file",
        ("generate", nowhere, "x"): "is no folder",
        ("generate", finished / "run"): "give texts",
        (
            "generate",
            finished / "run",
            "x",
            "--temperature",
            "0",
            "--do_sample",
        ): "more than 0;",
        ("train", finished / "config.yaml", "--data.seed=5"): "data.seed",
        ("train", finished / "config.yaml", "--model.d_model=24"): "model.d_model=24",
        (
            "train",
            config,
            f"--init={finished / 'run'}",
            "--model.d_ff=32",
        ): "model.d_ff=32, but the checkpoint",
        ("train", config, "--data.mixture=inflekt"): "did you mean inflect",
        ("train", config, "--eval.tasks=[inflect]", "--eval.split=dev"): "no split 'dev'",
        ("train", config, "--training.steps=many"): "training.steps",
        ("train", config, "--training.profile=[3, 2]"): "training.profile=[3, 2] must be",
        ("train", config, "--training.profile=[3]"): "training.profile=[3] must be",
    }
    for words, expected in cases.items():
        assert expected in error_of(capsys, *words)
    # As a process of its own: the code that it exits with, and what TensorFlow would say.
    output = run("train", config, "--data.mixture=inflekt", code=2)
    assert [line.split(":")[0] for line in output.splitlines()] == ["devices", "error"], output


def losses(folder: Path, monkeypatch, devices: int | None, *words: str, **sections) -> list[float]:
    """What training on so many of this process's devices (None: all) loses, step by step."""
    folder.mkdir(exist_ok=True)
    with monkeypatch.context() as patch:
        make = functools.partial(make_mesh, devices=jax.devices()[:devices])
        patch.setattr(loop.sharding, "make_mesh", make)
        main(["train", str(write_config(folder, **sections)), *words])
    return [row["loss"] for row in metrics(folder)]


@pytest.mark.eight_devices
def test_eight_devices_lose_what_one_loses(tmp_path, monkeypatch):
    training = {"steps": 10, "log_every": 1, "save_every": 10}
    sections = {"model": {"dropout": 0.0}, "training": training}
    one = losses(tmp_path / "one", monkeypatch, 1, "--training.steps=12", **sections)
    meshes = [{"data": 8}, {"data": 1, "fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2}]
    for i, mesh in enumerate(meshes):
        folder = tmp_path / str(i)
        eight = losses(folder, monkeypatch, None, mesh=mesh, **sections)
        np.testing.assert_allclose(eight, one[:10], rtol=1e-5, err_msg=str(mesh))
        # The checkpoint of eight devices goes on, on one.
        again = losses(folder, monkeypatch, 1, "--training.steps=12", **sections)
        assert again[:10] == eight
        np.testing.assert_allclose(again[10:], one[10:], rtol=1e-5, err_msg=str(mesh))


@pytest.mark.parametrize("seconds", [0.5, 5.0])
def test_ctrl_c_while_a_run_starts_shows_no_traceback(seconds, tmp_path):
    process = start("train", write_config(tmp_path))
    time.sleep(seconds)  # while packages are imported
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode in (-signal.SIGINT, 130) and "Traceback" not in errors
