"""Configurations: what is accepted, what is refused, and in which words."""

import dataclasses
import math
import re
import typing

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5jax.config import DataConfig, RunConfig
from t5jax.config_files import (
    build_config,
    differences,
    knobs,
    read_config,
    stored_config,
    to_yaml,
)
from t5jax.knobs import LARGEST, Range, declared
from t5jax.model.t5.config import T5Config
from t5jax.model.t5.variants import VARIANTS
from t5jax.vocabulary import ByteVocabulary
from t5jax.yaml_files import DEEPEST, MOST_VALUES, parse_yaml, write_yaml


def test_overrides_win_over_the_file_and_the_file_over_the_variant(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("model: {variant: t5_1_1_small, dropout: 0.1}\ndata: {batch: 8}\n")
    tree = read_config(file, ["--data.batch=16", "--optimizer.learning_rate=1e-3"])
    config = build_config(tree)
    assert config.model == VARIANTS["t5_1_1_small"].replace(dropout=0.1)
    assert (config.data.batch, config.optimizer.learning_rate) == (16, 1e-3)


def test_resolved_config_reads_back_as_itself():
    config = build_config({"model": {"variant": "byt5_small"}, "eval": {"tasks": ["a", "b"]}})
    again = build_config(parse_yaml(to_yaml(config), "test"))
    assert again == config
    assert list(differences(config, again)) == []
    assert list(differences(config, build_config({}))) != []


def test_vocabulary_decides_the_embedding_unless_told():
    assert build_config({}, ByteVocabulary()).model.vocab_size == 384
    assert build_config({}, ByteVocabulary(extra_ids=0)).model.vocab_size == 384
    assert build_config({"model": {"vocab_size": 512}}, ByteVocabulary()).model.vocab_size == 512


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        ({"data": {"bach": 3}}, r"data\.bach; did you mean batch"),
        ({"trainin": {}}, "did you mean training"),
        ({"data": {"batch": "many"}}, "data.batch='many' must be a whole number, at least 1"),
        ({"data": {"batch": 1.5}}, "data.batch=1.5 must be a whole number"),
        ({"optimizer": {"name": "sgd"}}, "optimizer.name='sgd' must be adafactor or adamw"),
        ({"model": {"variant": "t5_1_1_smal"}}, "did you mean t5_1_1_small"),
        ({"data": 3}, "data=3 must be a section"),
        ({"data": []}, r"data=\[\] must be a section"),
        ({"model": [1]}, r"model=\[1\] must be a section"),
        ({"model": {"variant": [1]}}, r"model.variant=\[1\] is unknown"),
        ({"data": {"lengths": {"inputs": [1]}}}, r"data.lengths.inputs=\[1\] must be a whole"),
        (
            {"model": {"eos_token_id": 384, "vocab_size": 384}},
            "model.eos_token_id=384 must be less",
        ),
        ({"model": {"relative_attention_max_distance": 16}}, "must be more than 16, half of"),
        ({1: 2}, "unknown key 1"),
        ([1], "must hold sections"),
        (None, "must hold sections"),
        ({"model": {"d_model": -4}}, "d_model=-4"),
    ],
)
def test_mistakes_are_named(tree, words):
    with pytest.raises(ValueError, match=words):
        build_config(tree)


def test_every_knob_has_a_meaning():
    rows = list(knobs(RunConfig))
    assert len(rows) > 50
    assert all(len(meaning) > 5 for _, _, meaning in rows)


def leaves(cls=RunConfig, prefix="") -> typing.Iterator[tuple[str, typing.Any, Range | None]]:
    for name, (kind, within) in declared(cls).items():
        if dataclasses.is_dataclass(default := getattr(cls(), name)):
            yield from leaves(type(default), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", kind, within


LEAVES = list(leaves())
ANYTHING = {
    "null": None, "bool": True, "float": 384.5, "whole float": 384.0, "text": "x", "list": [1],
    "mapping": {"a": 1}, "nested": [[["x"]]], "set": {1}, "bytes": b"x", "huge": 10**5000,
    "nan": math.nan, "inf": math.inf, "-inf": -math.inf,
}  # fmt: skip


def tree_of(name: str, value: object) -> dict:
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def fits(kind: object, word: str) -> bool:
    text = str(kind)
    return (
        ("None" in text and word == "null")
        or (kind is bool and word == "bool")
        or ("float" in text and word in ("float", "whole float"))
        or ("str" in text and word == "text")  # of a list of names: divided by commas
        or (kind is dict and word == "mapping")
    )


@pytest.mark.parametrize(("name", "kind", "within"), LEAVES, ids=[leaf[0] for leaf in LEAVES])
def test_every_knob_refuses_what_it_is_not_declared_to_be(name, kind, within):
    for word, value in ANYTHING.items():
        if fits(kind, word) and not (within and isinstance(value, float) and value not in within):
            continue
        with pytest.raises(ValueError, match=re.escape(name)) as error:
            build_config(tree_of(name, value))
        assert "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("name", "kind", "within"), [leaf for leaf in LEAVES if leaf[2]], ids=lambda leaf: str(leaf)
)
def test_every_number_has_a_range_that_is_refused_by_name_and_holds_its_default(name, kind, within):
    config = build_config({})
    default = config
    for part in name.split("."):
        default = getattr(default, part)
    assert default is None or default in within
    steps = 1 if "int" in str(kind) else 1e-6
    outside = [x - steps for x in (within.least,) if x is not None]
    outside += [x + steps for x in (within.most,) if x is not None]
    outside += [x for x in (within.above, within.below) if x is not None]
    outside += [10**12] if steps == 1 else []
    for value in outside:
        if value in within.also:
            continue
        with pytest.raises(ValueError, match=re.escape(f"{name}={value}")) as error:
            build_config(tree_of(name, value))
        assert str(within) in str(error.value) or str(LARGEST) in str(error.value)


def test_numbers_of_configs_all_have_a_range_and_help_shows_it():
    assert sum(within is not None for _, _, within in LEAVES) >= 50
    meanings = {name: meaning for name, _, meaning in knobs()}
    assert meanings["training.log_every"].endswith("(at least 1)")
    assert meanings["model.dropout"].endswith("(at least 0 and less than 1)")
    assert meanings["mesh.data"].endswith("(at least 1 or -1)")

    @dataclasses.dataclass(frozen=True)
    class Bare:
        size: int = 3

    with pytest.raises(TypeError, match=r"Bare\.size is a number without a range"):
        declared(Bare)

    @dataclasses.dataclass(frozen=True)
    class Either:
        size: int | str | None = "small"

    with pytest.raises(TypeError, match="is several types; annotate it with a Kind"):
        declared(Either)


def test_sections_made_in_python_are_checked_too_and_take_numpys_scalars():
    with pytest.raises(ValueError, match="batch=0 must be at least 1"):
        DataConfig(batch=0)
    with pytest.raises(ValueError, match=r"vocab_size=384\.0 must be a whole number"):
        T5Config(vocab_size=384.0)
    with pytest.raises(ValueError, match="vocab_size=True must be a whole number"):
        T5Config(vocab_size=True)
    with pytest.raises(ValueError, match="layer_norm_epsilon=nan must be a number"):
        T5Config(layer_norm_epsilon=float("nan"))
    with pytest.raises(ValueError, match=r"layer_norm_epsilon=1e-300 must be .* float32 can hold"):
        T5Config(layer_norm_epsilon=1e-300)
    assert type(T5Config(vocab_size=np.int64(384)).vocab_size) is int


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4), ("1e5", 1e5), (".5", 0.5), ("1_000", 1000), ("010", 10), ("'1e5'", "1e5"),
        ("2026-11-25", "2026-11-25"), ("1:30", "1:30"), ("yes", True), ("~", None),
        ("-.inf", -math.inf),
        ("{a: &x {b: 1}, c: {<<: *x, d: 2}}", {"a": {"b": 1}, "c": {"b": 1, "d": 2}}),
    ],
)  # fmt: skip
def test_yaml_reads_numbers_as_people_write_them_and_quoted_text_as_text(text, value):
    found = parse_yaml(text, "test")
    assert found == value and type(found) is type(value)


NUMBERS = st.integers() | st.floats(allow_nan=False)


@given(
    st.recursive(
        st.none() | st.booleans() | NUMBERS | st.text("e1.-_0 :x"),
        lambda inner: st.lists(inner) | st.dictionaries(st.text("ab1e", min_size=1), inner),
        max_leaves=8,
    )
)
def test_written_yaml_reads_back_as_itself(value):
    assert parse_yaml(write_yaml({"value": value}), "test")["value"] == value


LAUGHS = "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 9)}]\n" for i in range(10)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: {batch: 1}\ndata: {batch: 2}", "line 2: data is given twice"),
        ("data: {batch: 1, batch: 2}", "line 1: batch is given twice"),
        (LAUGHS, f"line 5: more than {MOST_VALUES:,} values"),
        (f"[{'x, ' * MOST_VALUES}]", f"more than {MOST_VALUES:,} values"),
        ("[" * 100_000, f"more than {DEEPEST} levels"),
        ("- " * 5000, f"more than {DEEPEST} levels"),
        ("a: &a [*a]", r"\*a stands within itself"),
        ("? [1]\n: 2", "a key must be a word"),
        ("a: !!binary aGk=", "tags have no place here"),
        ("a: !!python/object:os.system x", "tags have no place here"),
        ("a: " + "9" * 5000, "4300 digits"),
        ("a: b: c", "mapping values are not allowed"),
        ("a: 1\n---\nb: 2", "a single document"),
        ("- 1", "must hold sections"),
        ("", "must hold sections such as `data:`, not nothing"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused_in_a_line(text, words, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        read_config(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("--data=5", "data=5 must be a section"),
        ("--data.lengths.inputs=[1]", r"data.lengths.inputs=\[1\]"),
        ("--model.variant=[1]", r"model.variant=\[1\] is unknown"),
        ("--model.d_model=384.0", "model.d_model=384.0 must be a whole number"),
        ("--run_dir.x=1", "'--run_dir.x=1': run_dir is no section"),
        ("--data..batch=1", "is no override; write --section.key=value"),
        ("--=1", "is no override"),
        ("--data.batch", "is no override"),
        ("--data.batch=[1", "--data.batch is no YAML"),
        ("--data.modules=[[1]]", "data.modules="),
    ],
)
def test_overrides_of_a_wrong_shape_are_named(override, words, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("run_dir: x\n")
    with pytest.raises(ValueError, match=words):
        build_config(read_config(file, [override]))


def test_an_override_of_one_section_leaves_another_that_shares_an_anchor(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("data:\neval: &x {batch: 4}\ntraining: *x\n")
    tree = read_config(file, ["--eval.batch=8", "--data.batch=2"])
    assert tree == {"data": {"batch": 2}, "eval": {"batch": 8}, "training": {"batch": 4}}


def test_a_damaged_configuration_of_a_run_is_named(tmp_path):
    file = tmp_path / "config.yaml"
    for text in ("data: {batch: [1]}", "data: [", "5", "data: {batsh: 1}"):
        file.write_text(text)
        with pytest.raises(ValueError, match=re.escape(str(file))):
            stored_config(file)
    file.write_text(to_yaml(build_config({"run_dir": "1e5"})))
    assert stored_config(file).run_dir == "1e5"
