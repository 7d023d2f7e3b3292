"""A user's own task and metric in a run: known at the start, found again, all from the commands."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import seqio
import yaml

import t5jax
from t5jax.config_files import build_config, read_config
from t5jax.evaluate import Evaluation, write_results
from t5jax.tasks import registry, run_modules
from t5jax.training.evaluation import TRAINED, generation_options, make_evaluation
from t5jax.training.loop import train
from t5jax.training.opening import resolve
from t5jax.vocabulary import ByteVocabulary

MODULE = """
import seqio
import tensorflow as tf

WORDS = [f"{a}{b}" for a in "bdgklm" for b in ("at", "en", "ig", "op", "um")]

def read(split, shuffle_files=False, seed=None):
    words = WORDS[::3] if split == "validation" else WORDS
    return tf.data.Dataset.from_tensor_slices(
        {"inputs": [f"shout: {w}" for w in words], "targets": [w.upper() for w in words]}
    )

def accuracy(targets, predictions):
    right = [t[:1] == p[:1] for t, p in zip(targets, predictions)]
    return {"accuracy": sum(right) / len(right)}

features = {name: seqio.Feature(seqio.ByteVocabulary()) for name in ("inputs", "targets")}
seqio.TaskRegistry.add(
    "own_shout",
    source=seqio.FunctionDataSource(read, splits=["train", "validation"]),
    preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
    output_features=features,
    metric_fns=[accuracy],
)
"""
SMALL = dict(d_model=16, d_kv=8, d_ff=32, num_heads=2, num_layers=1, num_decoder_layers=1)


def tree(run_dir, module="shout.py", **sections):
    """A run of a few steps of the user's task."""
    base = {
        "model": SMALL,
        "data": {
            "mixture": "own_shout",
            "modules": [str(module)],
            "lengths": {"inputs": 16, "targets": 8},
            "batch": 4,
            "streams": 2,
        },
        "optimizer": {"learning_rate": 0.003, "schedule": "constant", "warmup": 0},
        "training": {"steps": 4, "log_every": 2, "tensorboard": False},
        "eval": {"tasks": ["own_shout"]},
        "run_dir": str(run_dir),
    }
    return {k: {**v, **sections.get(k, {})} if isinstance(v, dict) else v for k, v in base.items()}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "shout.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    registry.load_modules(["shout.py"])
    yield
    seqio.TaskRegistry.remove("own_shout")


def evaluation_of(*args, **sections):
    config, vocabulary = resolve(tree(*args, **sections))
    return make_evaluation(config, vocabulary)


def test_a_best_metric_that_nothing_computes_is_refused_at_the_start(mine):
    for best in ("own_shout/accuracy", "grad_norm"):
        evaluation_of("x", training={"keep_best": best})
    for best, message in {
        "own_shout/nonsense": "'own_shout/nonsense' is no metric of this run; it has own_shout/acc",
        "own_shot/accuracy": "did you mean own_shout/accuracy",
    }.items():
        with pytest.raises(ValueError, match=message):
            evaluation_of("x", training={"keep_best": best})
    with pytest.raises(ValueError, match=r"own_shout/accuracy' is no metric.*eval.tasks is empty"):
        evaluation_of("x", training={"keep_best": "own_shout/accuracy"}, eval={"tasks": []})


def test_tasks_and_modules_are_lists_or_divided_by_commas(tmp_path):
    (tmp_path / "c.yaml").write_text("eval: {tasks: mine}\ndata: {modules: [a.py]}\n")
    overrides = ["--eval.tasks=mine, other,", "--data.modules=a.py,b.c"]
    for given, tasks, modules in (
        ([], ("mine",), ("a.py",)),
        (overrides, ("mine", "other"), ("a.py", "b.c")),
        (["--eval.tasks=[x,y]"], ("x", "y"), ("a.py",)),
    ):
        config = build_config(read_config(tmp_path / "c.yaml", given))
        assert (config.eval.tasks, config.data.modules) == (tasks, modules)
    assert [
        each.eval_tasks[0].name
        for each in Evaluation("pronounce,inflect", ByteVocabulary(), examples=2).evaluators
    ] == ["pronounce", "inflect"]
    with pytest.raises(ValueError, match="no task to evaluate is named"):
        Evaluation(" , ", ByteVocabulary())
    for options in ({"examples": 0}, {"examples": -1}, {"batch": 0}):
        with pytest.raises(ValueError, match="must be at least 1"):
            Evaluation("inflect", ByteVocabulary(), **options)


def test_options_of_a_runs_evaluation_are_checked_at_the_start(tmp_path):
    def options(**more):
        config = build_config(tree("x", eval={"options": more}), ByteVocabulary())
        return generation_options(config, ByteVocabulary())

    assert options() == {"max_new_tokens": 8}
    assert options(num_beams=4, length_penalty=0.6, max_new_tokens=5) == {
        "max_new_tokens": 5, "num_beams": 4, "length_penalty": 0.6,
    }  # fmt: skip
    for given, message in (
        (
            {"num_beam": 4},
            "eval.options: unknown generation option 'num_beam'; did you",
        ),
        ({"num_beams": 0}, "eval.options: num_beams=0 must be"),
        ({"top_k": 4}, "eval.options: top_k=4 needs do_sample=True"),
        ({"suppress_tokens": [999]}, "eval.options: suppress_tokens holds id 999"),
        ({5: 4}, "5 is no option's name"),
    ):
        config = build_config(tree("x", eval={"options": given}), ByteVocabulary())
        with pytest.raises(ValueError, match=message):
            generation_options(config, ByteVocabulary())
    with pytest.raises(ValueError, match="must be a section of names and values"):
        build_config(tree("x", eval={"options": [1]}))
    both = tree("x", eval={"options": {"max_new_tokens": 5}, "max_new_tokens": 4})
    with pytest.raises(ValueError, match="say the same; give one of them"):
        generation_options(build_config(both, ByteVocabulary()), ByteVocabulary())
    (tmp_path / "c.yaml").write_text("eval: {options: {num_beams: 2}}\n")
    config = read_config(tmp_path / "c.yaml", ["--eval.options.length_penalty=0.6"])
    assert config["eval"]["options"] == {"num_beams": 2, "length_penalty": 0.6}


def test_a_runs_modules_are_found_from_anywhere_and_in_a_copy_of_it(mine, tmp_path, monkeypatch):
    config, _ = resolve(tree("run"))
    run = tmp_path / "run"
    run.mkdir()
    assert config.data.modules == (str(tmp_path / "shout.py"),)
    for name, content in run_modules.copies(config.data.modules).items():
        (run / name).parent.mkdir()
        (run / name).write_bytes(content)
    (run / "config.yaml").write_text(yaml.safe_dump({"data": {"modules": [*config.data.modules]}}))
    (run / "model.json").write_text("{}")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def again(checkpoint):
        seqio.TaskRegistry.remove("own_shout")
        for name in [name for name in sys.modules if name.startswith("t5jax_user_shout")]:
            del sys.modules[name]
        run_modules.load_of_run(checkpoint, ["own_shout"])
        assert registry.is_known("own_shout")

    again(run)
    again(run / "checkpoints" / "4")
    shutil.move(run, tmp_path / "copy")
    (tmp_path / "shout.py").unlink()
    again(tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "modules")
    run_modules.load_of_run(tmp_path / "copy", ["inflect", "pronounce:FILE"])  # needs none
    with pytest.raises(ValueError, match=r"shout.py, a module of the run .*--modules FILE.py"):
        run_modules.load_of_run(tmp_path / "copy", ["another"])
    with pytest.raises(ValueError, match=r"no task or mixture is called 'another'"):
        registry.get("another")


@pytest.mark.slow
def test_a_run_evaluates_with_its_options_and_says_so(mine, tmp_path):
    train(
        tree(
            "run", training={"keep_best": "own_shout/accuracy"}, eval={"options": {"num_beams": 2}}
        )
    )
    metrics = json.loads((tmp_path / "run" / "eval" / "own_shout" / "metrics.json").read_text())
    assert metrics["options"] == {"max_new_tokens": 8, "num_beams": 2}
    assert metrics["per_example"] == {"accuracy": "scores"}
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert set(TRAINED) <= set(row)
    stored = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert stored["eval"]["options"] == {"num_beams": 2}
    # In a notebook, on the model that was trained; with the options it is the same evaluation.
    t5 = t5jax.load("run")
    results = Evaluation("own_shout", t5.vocabulary).run(t5, num_beams=2, max_new_tokens=8)
    assert results["own_shout"].metrics["accuracy"] == metrics["accuracy"]
    write_results("mine", results)
    again = json.loads((tmp_path / "mine" / "own_shout" / "metrics.json").read_text())
    assert again["loss"] == pytest.approx(metrics["loss"], rel=1e-5)


def command(*words, cwd, **options):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", "t5jax.cli", *map(str, words)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, **options,
    )  # fmt: skip


@pytest.mark.slow
def test_a_users_task_is_trained_stopped_resumed_evaluated_elsewhere_and_compared(tmp_path):
    home, away = tmp_path / "home", tmp_path / "away"
    home.mkdir()
    away.mkdir()
    (home / "shout.py").write_text(MODULE)
    config = tree("runs/own", training={"steps": 2000, "keep_best": "own_shout/accuracy"})
    config["training"] |= {"eval_every": 0, "save_every": 500}
    (home / "own.yaml").write_text(yaml.safe_dump(config))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        [sys.executable, "-m", "t5jax.cli", "train", "own.yaml"],
        cwd=home, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    log = home / "runs" / "own" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (log.is_file() and log.read_text().count("\n") >= 3):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    steps = [int(path.name) for path in (home / "runs/own/checkpoints").iterdir()]
    assert "Traceback" not in out and len(steps) == 1 and steps[0] < 2000, out
    assert process.returncode == 130
    done = command("train", "own.yaml", f"--training.steps={steps[0] + 300}", cwd=home)
    assert done.returncode == 0 and f"resuming at step {steps[0]}" in done.stderr, done.stderr
    # From another folder, without a word of the module; the first model is the one that was saved.
    run = home / "runs" / "own"
    for out_dir, options in (("a", ()), ("b", ("--do_sample", "--seed", 1))):
        done = command("eval", run, "--tasks", "own_shout", "--out", out_dir, *options, cwd=away)
        assert done.returncode == 0 and "accuracy" in done.stdout, done.stderr
    done = command("compare", run, away / "b", cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    printed = next(line for line in done.stdout.splitlines() if line.startswith("accuracy"))
    values = [
        json.loads((place / "own_shout" / "metrics.json").read_text())["accuracy"]
        for place in (run / "eval", away / "b")
    ]
    assert printed.split()[1:3] == [f"{value:.4f}" for value in values]
    again = json.loads((away / "a" / "own_shout" / "metrics.json").read_text())
    assert again["accuracy"] == values[0]
