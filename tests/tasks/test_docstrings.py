"""Summaries of docstrings: what is cut out of sources, and how it is divided."""

from pathlib import Path

import pytest

from t5jax.config_files import build_config, read_config
from t5jax.tasks import docstrings, registry
from t5jax.vocabulary import SentencePieceVocabulary, train_sentencepiece

CONFIGS = Path(__file__).parents[2] / "configs"
BODY = "It is taken over the flattened array unless an axis is given."
SOURCE = '''
"""A module about nothing at all."""
class A:
    """A class."""
    def f(self):
        "A method."
        def inner():
            """Not part of what is documented."""
def g():
    text = """no docstring"""
async def h(): ...
'''


def test_docstrings_are_those_of_modules_classes_and_functions():
    found = set(docstrings.docstrings(SOURCE))
    assert found == {"A module about nothing at all.", "A class.", "A method."}


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        (f"Compute the\nmean value. {BODY}", ("Compute the mean value.", BODY)),
        (f"Compute the mean value.\n\n{BODY}", ("Compute the mean value.", BODY)),
        (f"Read a file, e.g. a table.\n\n{BODY}", ("Read a file, e.g. a table.", BODY)),
        (f"Compute the mean value\n\n{BODY}", None),
        (f"Too short.\n\n{BODY}", None),
        ("Compute the mean value.\n\nToo little behind it.", None),
        (f"{'Much ' + 'more ' * 30}of this.\n\n{BODY}", None),
    ],
)
def test_the_first_sentence_is_the_summary_of_the_rest(text, pair):
    assert docstrings.divide(text) == pair


def test_what_follows_is_cut():
    _, body = docstrings.divide("Compute the mean value.\n\n" + "word " * 200)
    assert len(body.split()) == 80


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(docstrings, "LICENSES", {"optax": "Apache-2.0", "no-such": "MIT"})
    return docstrings.read_docstrings.__wrapped__()


def test_no_text_comes_twice_and_every_split_has_some(table):
    rows = [row for split in table.values() for row in split]
    assert all(table.values()) and len(rows) > 50
    assert len({row.answer for row in rows}) == len({row.word for row in rows}) == len(rows)


def test_both_tasks_read_the_same_rows(table, monkeypatch, tmp_path):
    for name in (docstrings.NAME, docstrings.PRETRAINING):
        monkeypatch.setattr(registry.get(name).source, "_read", lambda: table)
    texts = [f"{row.answer} {row.word}" for row in table["train"]]
    path = tmp_path / "spiece.model"
    vocabulary = registry.seqio_vocabulary(
        SentencePieceVocabulary(train_sentencepiece(texts, path, vocab_size=300).model)
    )
    task = registry.with_vocabulary(docstrings.NAME, vocabulary)
    lengths = {"inputs": 64, "targets": 40}
    (first,) = task.get_dataset(lengths, "train", shuffle=False).take(1).as_numpy_iterator()
    row = table["train"][0]
    assert first["inputs_pretokenized"].decode() == f"summarize: {row.word}"
    assert first["targets_pretokenized"].decode() == row.answer
    assert len(first["inputs"]) <= 64 and first["inputs"][-1] == 1
    task = registry.with_vocabulary(docstrings.PRETRAINING, vocabulary)
    (noisy,) = task.get_dataset(lengths, "train", shuffle=False).take(1).as_numpy_iterator()
    assert len(noisy["inputs"]) == 64 and noisy["targets"][0] == vocabulary.vocab_size - 1


def test_without_any_of_the_packages_it_says_so(monkeypatch):
    monkeypatch.setattr(docstrings, "LICENSES", {"no-such-package": "MIT"})
    with pytest.raises(FileNotFoundError, match="no-such-package are installed"):
        docstrings.read_docstrings.__wrapped__()


def test_the_config_is_valid():
    config = build_config(read_config(CONFIGS / "summarize_docstrings.yaml"))
    assert config.data.mixture == docstrings.NAME == config.eval.tasks[0]
