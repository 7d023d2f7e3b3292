"""Faults of users' data are told in one line, with the task, the file and the example."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import seqio
import tensorflow as tf
import yaml

from t5jax.cli import main
from t5jax.config import DataConfig, LengthsConfig
from t5jax.data import TrainData
from t5jax.data.packing import ModelIds
from t5jax.evaluate import Evaluation
from t5jax.tasks import faults, registry
from t5jax.tasks.metrics import exact_match
from t5jax.vocabulary import ByteVocabulary
from tests.support.mistakes import error_of

LENGTHS = LengthsConfig(16, 16)
BYTES = registry.seqio_vocabulary(ByteVocabulary())
TEXT = {name: seqio.Feature(BYTES, add_eos=True) for name in ("inputs", "targets")}
IDS = {
    name: seqio.Feature(seqio.PassThroughVocabulary(1000), add_eos=False)
    for name in ("inputs", "targets")
}
TOKENIZED = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim]


def fields(dataset: tf.data.Dataset) -> tf.data.Dataset:
    def split(line):
        parts = tf.strings.split(line, "\t")
        return {"inputs": parts[0], "targets": parts[1]}

    return dataset.map(split)


def columns(dataset: tf.data.Dataset) -> tf.data.Dataset:
    def split(line):
        parts = tf.io.decode_csv(line, ["", ""], field_delim="\t", use_quote_delim=False)
        return dict(zip(("inputs", "targets"), parts, strict=True))

    return dataset.map(split)


def of_lines(*files: Path) -> seqio.TextLineDataSource:
    paths = list(map(str, files))
    return seqio.TextLineDataSource({"train": paths, "validation": paths})


def of_rows(**values) -> seqio.FunctionDataSource:
    def read(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices(values)

    return seqio.FunctionDataSource(read, splits=["train", "validation"])


def of_python(rows) -> seqio.FunctionDataSource:
    types = {name: tf.TensorSpec([], tf.string) for name in ("inputs", "targets")}

    def read(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        return tf.data.Dataset.from_generator(lambda: iter(rows), output_signature=types)

    return seqio.FunctionDataSource(read, splits=["train", "validation"])


def ids(*rows, dtype=tf.int32) -> seqio.FunctionDataSource:
    """Rows of ids, each both inputs and targets."""

    def read(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        ragged = tf.data.Dataset.from_tensor_slices(tf.ragged.constant(rows, dtype=dtype))
        return ragged.map(lambda row: {"inputs": row, "targets": row})

    return seqio.FunctionDataSource(read, splits=["train", "validation"])


@pytest.fixture
def add():
    """Registers tasks for a test."""
    names = []

    def add(name: str, source, steps=TOKENIZED, features=TEXT) -> str:
        names.append(name)
        seqio.TaskRegistry.add(
            name,
            source=source,
            preprocessors=list(steps),
            output_features=features,
            metric_fns=[exact_match],
        )
        return name

    yield add
    for name in names:
        seqio.TaskRegistry.remove(name)


@pytest.fixture
def tables(tmp_path) -> tuple[Path, Path]:
    """A file of 30 lines with two fields, and one whose line 18 has no tab."""
    good, bad = tmp_path / "good.tsv", tmp_path / "bad.tsv"
    lines = [f"a{i}\tb{i}\n" for i in range(30)]
    good.write_text("".join(lines))
    lines[17] = "alone\n"
    bad.write_text("".join(lines))
    return good, bad


def trained(name: str, *, buffer: int = 1000, vocabulary_size: int | None = None, **lengths) -> str:
    """What training on the task says."""
    config = DataConfig(
        batch=2,
        streams=1,
        shuffle_buffer=buffer,
        prefetch=1,
        lengths=dataclasses.replace(LENGTHS, **lengths),
    )
    provider = registry.with_vocabulary(name, BYTES)

    def train() -> None:
        with TrainData(provider, config, ids=ModelIds(vocabulary_size)) as data:
            for _ in range(20):
                next(data)

    with pytest.raises(ValueError) as raised:
        train()
    return one_line(raised.value)


def evaluated(name: str) -> str:
    """What evaluating the task says."""
    with pytest.raises(ValueError) as raised:
        Evaluation([name], ByteVocabulary(), lengths=LENGTHS)
    return one_line(raised.value)


def one_line(error: Exception) -> str:
    assert "\n" not in str(error) and "node" not in str(error)
    return str(error)


# --- rows -----------------------------------------------------------------------------------------


def test_a_line_without_a_tab_is_named_by_every_command(add, tables, capsys, tmp_path):
    good, bad = tables
    name = add("no_tab", of_lines(good, bad), [fields, *TOKENIZED])
    place = f"task no_tab, split train, {bad}, example 18 ('alone'): "
    assert trained(name, buffer=4).startswith(place)
    assert evaluated(name).startswith(place.replace("train", "validation"))
    for command in (("tasks", name, "--n", "60"), ("vocabulary", name, tmp_path / "v.model")):
        assert error_of(capsys, *command).startswith(f"error: {place}")


def test_a_line_with_too_few_columns_is_named(add, tables):
    name = add("few_columns", of_lines(tables[1]), [columns, *TOKENIZED])
    expected = f"{tables[1]}, example 18 ('alone'): Expect 2 fields but have 1"
    assert expected in trained(name)


def test_a_file_that_is_not_there_is_named(add, tables):
    name = add("no_file", of_lines(tables[0], Path("nofile.tsv")), [fields, *TOKENIZED])
    said = trained(name)
    assert said == "task no_file, split train: nofile.tsv; No such file or directory"


def test_a_none_among_the_rows_is_numbered(add):
    rows = [{"inputs": "a", "targets": "b"}] * 5 + [{"inputs": None, "targets": "b"}]
    assert trained(add("a_none", of_python(rows))) == (
        "task a_none, split train, example 6: Unsupported object type NoneType"
    )


@pytest.mark.slow
def test_rows_that_become_several_examples_or_none_are_numbered_as_rows(add):
    def repeated(dataset):
        kept = dataset.filter(lambda row: row["inputs"] != "skip")
        return kept.flat_map(lambda row: tf.data.Dataset.from_tensors(row).repeat(3))

    def shorter_than_5(dataset):
        def check(row):
            tf.debugging.assert_less(tf.strings.length(row["inputs"]), 5, "a long one")
            return row

        return dataset.map(check)

    texts = ["skip" if i % 3 else "a" for i in range(3000)]
    texts[2222] = "longer"
    source = of_rows(inputs=texts, targets=["b"] * 3000)
    name = add("repeated", source, [repeated, shorter_than_5, *TOKENIZED])
    said = trained(name, buffer=10_000)
    assert said.startswith("task repeated, split train, example 2223 ({'inputs': 'longer',")
    assert "a long one" in said


# --- types and features ---------------------------------------------------------------------------


def test_numbers_where_text_is_tokenized_are_told(add):
    said = trained(add("numbers", of_rows(inputs=[1, 2], targets=["a", "b"])))
    assert said.startswith("task numbers: TypeError: Input 'bytes'")
    assert said.endswith("the preprocessor tokenize is given inputs int32, targets string")


def test_features_that_lack_or_have_another_type_are_told_beside_what_is_there(add, capsys):
    name = add("no_inputs", of_rows(question=["a"], targets=["a"]))
    for said in (trained(name), evaluated(name), error_of(capsys, "tasks", name)):
        assert "task no_inputs: Task dataset is missing expected output feature" in said
        assert "preprocessors make question string" in said
    name = add("float_rows", ids([1.5, 2.0], dtype=tf.float32), [], IDS)
    assert "Got float32, expected int32" in trained(name)
    name = add("flat", of_rows(inputs=[[[3, 4]]], targets=[[3, 4]]), [], IDS)
    assert "task flat: Task dataset has incorrect rank for feature 'inputs'" in trained(name)


def test_features_declared_as_floats_are_refused_where_they_would_be_rounded(add, capsys):
    features = {
        name: seqio.Feature(seqio.PassThroughVocabulary(9), add_eos=False, dtype=tf.float32)
        for name in ("inputs", "targets")
    }
    name = add("floats", ids([1.5, 2.0], dtype=tf.float32), [], features)
    for said in (trained(name), evaluated(name), error_of(capsys, "tasks", name)):
        assert "its inputs are declared as float32" in said and "dtype=tf.int32" in said


# --- ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [-3, 384, 5000])
@pytest.mark.parametrize("buffer", [100, 4])
def test_ids_that_no_vocabulary_has_are_told(add, wrong, buffer):
    name = add("outside", ids(*[[5, 6]] * 8, [5, wrong], *[[7, 8]] * 3), [], TEXT)
    expected = (
        f"task outside, split train, example 9 ({{'inputs': [5, {wrong}], 'targets': [5, {wrong}]}}"
        f"): its inputs have the id {wrong}; ids are 0 to 383"
    )
    assert trained(name, buffer=buffer) == expected


def test_ids_of_a_task_without_a_vocabulary_are_below_the_models(add):
    name = add("given", ids([5, 6], [5, 900]), [], IDS)
    assert "example 2" in trained(name, vocabulary_size=384)
    # Ids that do not fit into 32 bits are not wrapped round to others.
    huge = {name: seqio.Feature(IDS["inputs"].vocabulary, False, dtype=tf.int64) for name in IDS}
    name = add("huge", ids([5, 2**32 + 7], dtype=tf.int64), [], huge)
    assert "its inputs have the id 4294967303; ids are 0 to 999" in trained(name)


def test_padding_inside_a_sequence_is_told_where_nothing_may_be_left_out(add, capsys):
    name = add("padded", ids([5, 6], [5, 0, 7]), [], TEXT)
    said = evaluated(name)
    assert "split validation, example 2" in said
    assert said.endswith("its inputs have the id 0, which is padding, at place 1")
    assert "example 2" in error_of(capsys, "tasks", name)


@pytest.mark.slow
def test_training_tells_once_how_many_examples_it_leaves_out(add, capsys, tmp_path):
    name = add("left_out", ids(*[[5, 6]] * 8, [5, 0, 7], []), [], TEXT)
    tree = {
        "model": {
            "d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2, "num_layers": 1,
            "num_decoder_layers": 1,
        },
        "vocabulary": "bytes",
        "data": {"mixture": name, "lengths": {"inputs": 8, "targets": 8}, "batch": 8},
        "training": {"steps": 2, "log_every": 1, "eval_every": 0, "save_every": 2},
        "run_dir": str(tmp_path / "run"),
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    main(["train", str(tmp_path / "config.yaml")])
    said = capsys.readouterr()
    assert (said.out + said.err).count("2 examples of left_out were left out: no inputs, no") == 1


def test_the_example_that_is_wrong_is_found_in_a_mixture(add, capsys):
    tasks = [add("mixed_good", ids([5, 6])), add("mixed_bad", ids([5, 6], [5, 0, 7]), [])]
    seqio.TaskRegistry.get("mixed_good")
    mixture = seqio.MixtureRegistry.add("mixed_faults", [(task, 1) for task in tasks])
    try:
        wrong = list(faults.checked(mixture, "train", None, [{"inputs": [5], "targets": [6]}]))
        assert len(wrong) == 1
        with pytest.raises(ValueError, match="task mixed_bad, split train, example 2"):
            list(faults.checked(mixture, "train", None, [{"inputs": [5, 0], "targets": [6]}]))
    finally:
        seqio.MixtureRegistry.remove("mixed_faults")


@pytest.mark.parametrize("name", ["inputs", "targets"])
def test_lengths_with_no_room_beside_eos_are_refused(add, name, capsys):
    task = add("short", of_rows(inputs=["a"], targets=["b"]))
    said = trained(task, **{name: 1})
    assert said == (
        f"task short cannot have {name} of 1 tokens, whose EOS would be all that there is; use 2 "
        "or more"
    )
    assert said in error_of(capsys, "tasks", task, f"--{name}=1")
    registered = seqio.TaskRegistry.get(task)
    for length in (0, -1):
        with pytest.raises(ValueError, match=f"cannot have {name} of {length} tokens; use 2 or"):
            faults.check_features(registered, {name: length})


# --- text and sizes -------------------------------------------------------------------------------


def test_a_vocabulary_is_learnt_from_text_alone(add, capsys, tmp_path):
    name = add("only_ids", ids([5, 6]), [], TEXT)
    said = error_of(capsys, "vocabulary", name, tmp_path / "v.model")
    assert "task only_ids has no text to learn from, only ids" in said
    name = add("latin_1", of_rows(inputs=[b"a", b"caf\xe9"], targets=[b"b", b"c"]))
    said = error_of(capsys, "vocabulary", name, tmp_path / "v.model")
    assert "task latin_1, split train, example 2: its inputs are not UTF-8: byte 0xe9 at 3" in said


def test_a_rate_that_is_a_files_number_of_lines_is_counted(add, tables, tmp_path):
    other = tmp_path / "other.tsv"
    other.write_text("a\tb\n" * 12)
    tasks = [
        add("many_lines", of_lines(tables[0]), [fields, *TOKENIZED]),
        add("few_lines", of_lines(other), [fields, *TOKENIZED]),
    ]
    seqio.MixtureRegistry.add("by_lines", tasks, default_rate=seqio.mixing_rate_num_examples)
    try:
        mixture = registry.with_vocabulary("by_lines", BYTES)
        rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
        assert rates == {"many_lines": 30, "few_lines": 12}
        config = DataConfig(batch=2, streams=1, lengths=LENGTHS, shuffle_buffer=100)
        with TrainData(mixture, config) as data:
            assert np.count_nonzero(next(data).decoder_target_tokens)
    finally:
        seqio.MixtureRegistry.remove("by_lines")
