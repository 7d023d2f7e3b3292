"""Configurations: what is accepted, what is refused, and in which words."""

import pytest

from t5jax.config import RunConfig
from t5jax.config_files import build_config, differences, knobs, parse_yaml, read_config, to_yaml
from t5jax.model.config import VARIANTS
from t5jax.vocabulary import ByteVocabulary


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
        ({"data": {"batch": "many"}}, r"data\.batch: 'many'"),
        ({"data": {"batch": 1.5}}, r"data\.batch: 1\.5"),
        ({"optimizer": {"name": "sgd"}}, r"optimizer\.name: 'sgd'"),
        ({"model": {"variant": "t5_1_1_smal"}}, "did you mean t5_1_1_small"),
        ({"data": 3}, "data: 3 must be a section"),
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
