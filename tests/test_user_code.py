"""A mistake in a user's function is told with its file, line and function, and its task."""

import numpy as np
import pytest
import seqio

from t5jax import user_code
from t5jax.cli import main
from t5jax.config import DataConfig, LengthsConfig
from t5jax.data import TrainData
from t5jax.tasks import registry
from tests.support.mistakes import error_of
from tests.support.models import shared_text2text

MODULE = """
import seqio
import tensorflow as tf

def in_graph(row):
    found = row["inputs"] == "a"
    text = row.inputs
    return {"inputs": text, "targets": row["targets"], "found": found}

def in_python(text):
    return text.decode().foo

def traced(dataset):
    return dataset.map(in_graph)

def called(dataset):
    def call(row):
        text = tf.numpy_function(in_python, [row["inputs"]], tf.string)
        return {"inputs": tf.ensure_shape(text, []), "targets": row["targets"]}
    return dataset.map(call)

def outside(dataset):
    return dataset.foo()

def read(split, shuffle_files=False, seed=None):
    return tf.data.Dataset.from_tensor_slices({"inputs": ["a"] * 8, "targets": ["b"] * 8})

features = {name: seqio.Feature(seqio.ByteVocabulary()) for name in ("inputs", "targets")}
for step in (traced, called, outside):
    seqio.TaskRegistry.add(
        f"broken_{step.__name__}",
        source=seqio.FunctionDataSource(read, splits=["train", "validation"]),
        preprocessors=[step, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features=features,
        metric_fns=[lambda targets, predictions: {"zero": 0}],
    )
"""
PLACES = {
    "broken_traced": "mine.py, line 7, in in_graph: AttributeError: 'dict' object has no attribute",
    "broken_called": "mine.py, line 11, in in_python: AttributeError: 'str' object has no attribu",
    "broken_outside": "mine.py, line 23, in outside: AttributeError: '_TensorSliceDataset' object",
}


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    registry.load_modules(["mine.py"])
    yield
    for name in PLACES:
        seqio.TaskRegistry.remove(name)


@pytest.mark.parametrize("task", list(PLACES))
def test_a_preprocessor_is_named_wherever_it_runs(mine, task, capsys):
    error = error_of(capsys, "tasks", task)
    assert error.startswith(f"error: task {task}: {PLACES[task]}")
    assert error.endswith("T5JAX_TRACEBACK=1 shows the whole traceback")
    provider = registry.with_vocabulary(task, seqio.ByteVocabulary())
    for buffer in (100, 4):  # held in memory; read as it goes
        config = DataConfig(
            mixture=task, batch=2, streams=1, shuffle_buffer=buffer, lengths=LengthsConfig(8, 8)
        )
        with pytest.raises(user_code.UserCodeError) as raised:
            next(TrainData(provider, config))
        assert str(raised.value).startswith(f"task {task}: {PLACES[task]}")


def test_the_whole_traceback_is_to_be_had(mine, monkeypatch):
    monkeypatch.setenv("T5JAX_TRACEBACK", "1")
    with pytest.raises(user_code.UserCodeError) as raised:
        main(["tasks", "broken_outside"])
    assert isinstance(raised.value.__cause__, AttributeError)


def test_a_logits_processor_is_named():
    def wrong(ids, logits):
        return logits.foo

    with pytest.raises(
        ValueError, match=r"logits_processor: .*test_user_code.py, line \d+, in wrong: Attri"
    ):
        shared_text2text().generate("a", logits_processor=wrong, max_new_tokens=2)


def test_the_innermost_line_of_the_users_is_named_and_the_first_error():
    def inner():
        np.zeros(3).reshape(2)

    def outer():
        try:
            inner()
        except ValueError as error:
            raise RuntimeError("it did not work") from error

    told = pytest.raises(ValueError, match=r"in inner: ValueError: cannot reshape array of size 3")
    with told, user_code.running("f"):
        outer()


def test_what_was_told_from_nearer_by_stays_and_ctrl_c_passes():
    with (
        pytest.raises(user_code.UserCodeError) as raised,
        user_code.running("outer"),
        user_code.running("inner"),
    ):
        {}["key"]
    assert str(raised.value).startswith("inner: ") and "outer" not in str(raised.value)
    with pytest.raises(KeyboardInterrupt), user_code.running("f"):
        raise KeyboardInterrupt


def test_a_package_that_is_installed_is_a_users_once_it_is_named_as_a_module(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "installed_tasks"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "more.py").write_text("def f(x):\n    return x.foo\n")
    (package / "tasks.py").write_text("from installed_tasks.more import f\n")
    monkeypatch.syspath_prepend(str(package.parent))
    f = registry.load_modules(["installed_tasks.tasks"])["installed_tasks.tasks"].f
    told = pytest.raises(ValueError, match=r"more.py, line 2, in f: AttributeError")
    with told, user_code.running("f"):
        f(1)


def test_a_module_that_fails_or_does_nothing_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fails.py").write_text("import numpy\n\n\ndef f():\n    numpy.foo\n\n\nf()\n")
    error = error_of(capsys, "tasks", "--modules", "fails.py")
    assert "'fails.py': fails.py, line 5, in f: AttributeError: module 'numpy' has no" in error
    (tmp_path / "syntax.py").write_text("x = 1\ndef (:\n")
    assert "syntax.py, line 2" in error_of(capsys, "tasks", "--modules", "syntax.py")
    (tmp_path / "nothing.py").write_text("x = 1\n")
    main(["tasks", "inflect", "--n", "1", "--modules", "nothing.py"])
    assert "warning: the module 'nothing.py' registers no task" in capsys.readouterr().err
    (tmp_path / "answers.py").write_text(
        "from t5jax.tasks.ranking import set_answers\nset_answers('of_a_module', ('a', 'b'))\n"
    )
    main(["tasks", "inflect", "--n", "1", "--modules", "answers.py"])
    assert capsys.readouterr().err == ""


def test_unknown_tasks_show_near_names_or_say_that_none_is_near(capsys):
    assert "did you mean inflect?" in error_of(capsys, "tasks", "inflekt")
    error = error_of(capsys, "tasks", "zzz")
    assert "nor anything near it" in error and "--modules FILE.py" in error
    assert "did you mean" not in error
