"""Vocabularies: the ids are seqio's, saved ones survive copying, mistakes get one clear line."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import seqio
from hypothesis import given, settings
from hypothesis import strategies as st

import t5jax
from t5jax.vocabulary import (
    ByteVocabulary,
    SentencePieceVocabulary,
    load_vocabulary,
    make_vocabulary,
    save_vocabulary,
    train_sentencepiece,
)
from tests.support.vocabularies import ODD, SENTENCES, released

SENTINELS = [
    "<extra_id_0>",
    "a <extra_id_0> b",
    "a<extra_id_0>b",
    " <extra_id_0> <extra_id_1>",
    "<extra_id_0><extra_id_1>.",
    "<extra_id_99> <extra_id_100> <extra_id_",
    "▁<extra_id_3>",
]
SPECIAL = ["</s> <pad>"]

pieces = st.sampled_from([*SENTINELS, *ODD, *SPECIAL, "the", "house", " ", "</s>", "<unk>"])
texts = st.lists(st.one_of(st.text(max_size=20), pieces), max_size=6).map("".join)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> SentencePieceVocabulary:
    path = tmp_path_factory.mktemp("trained") / "spiece.model"
    return train_sentencepiece(SENTENCES, path, vocab_size=90)


@pytest.fixture(scope="module", params=["trained", "t5", "mt5"])
def pair(request, trained):
    """A vocabulary of ours and seqio's of the same file."""
    path = trained.path if request.param == "trained" else released(request.param)
    extra_ids = 0 if request.param == "mt5" else 100  # mT5's model holds its own sentinels
    return SentencePieceVocabulary(path), seqio.SentencePieceVocabulary(str(path), extra_ids)


def test_sentencepiece_has_seqios_sizes_and_special_ids(pair):
    ours, theirs = pair
    assert (ours.vocab_size, ours.pad_id) == (theirs.vocab_size, theirs.pad_id)
    assert (ours.eos_id, ours.unk_id) == (theirs.eos_id, theirs.unk_id) == (1, 2)
    last = ours.vocab_size - 1
    assert ours.encode("<extra_id_0>") == [last]
    assert ours.encode("<extra_id_99>") == [last - 99]


@pytest.mark.parametrize("text", SENTINELS + ODD + SPECIAL + SENTENCES[:2])
def test_sentencepiece_encodes_odd_texts_as_seqio_does(pair, text):
    ours, theirs = pair
    ids = ours.encode(text)
    assert ids == theirs.encode(text) == theirs.encode_tf(text).numpy().tolist()
    assert ours.decode(ids) == theirs.decode(ids)


@settings(deadline=None)
@given(text=texts)
def test_sentencepiece_encodes_any_text_as_seqio_does(pair, text):
    ours, theirs = pair
    ids = ours.encode(text)
    assert ids == list(theirs.encode(text))
    assert ours.decode(ids) == theirs.decode(ids)


@settings(deadline=None)
@given(data=st.data())
def test_sentencepiece_decodes_any_ids_as_seqio_does(pair, data):
    ours, theirs = pair
    size = ours.vocab_size
    some = st.one_of(
        st.integers(0, size + 50), st.integers(0, 3), st.integers(size - 101, size + 1)
    )
    ids = data.draw(st.lists(some, max_size=20))
    assert ours.decode(ids) == ours.decode(np.array(ids, np.int32)) == theirs.decode(ids)


@settings(deadline=None)
@given(text=texts, ids=st.lists(st.integers(0, 400), max_size=30), extra=st.sampled_from([0, 125]))
def test_bytes_are_seqios(text, ids, extra):
    ours, theirs = ByteVocabulary(extra), seqio.ByteVocabulary(extra)
    assert ours.vocab_size == theirs.vocab_size
    assert (ours.pad_id, ours.eos_id, ours.unk_id) == (theirs.pad_id, theirs.eos_id, theirs.unk_id)
    assert ours.encode(text) == theirs.encode(text)
    assert ours.decode(ours.encode(text)) == text
    assert ours.decode(ids) == theirs.decode(ids)


def test_vocabularies_need_no_tensorflow_seqio_protobuf_or_jax():
    # Under an empty t5jax, since the package's __init__ imports jax.
    code = (
        "import sys, types\n"
        "t5jax = sys.modules['t5jax'] = types.ModuleType('t5jax')\n"
        "t5jax.__path__ = [sys.argv[1]]\n"
        "import t5jax.vocabulary\n"
        "heavy = 'tensorflow', 'seqio', 'google.protobuf', 'jax', 'torch', 'transformers'\n"
        "print([module for module in heavy if module in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(Path(t5jax.__file__).parent)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_byte_vocabulary_has_byt5s_size():
    assert ByteVocabulary().vocab_size == 384


def test_t5s_published_ids():
    vocabulary = SentencePieceVocabulary(released("t5"))
    text = "translate English to German: The house is wonderful."
    assert vocabulary.vocab_size == 32100
    assert vocabulary.encode(text) == [13959, 1566, 12, 2968, 10, 37, 629, 19, 1627, 5]
    assert vocabulary.decode([*vocabulary.encode(text), 1, 37, 0, 0]) == text


def test_decode_refuses_a_batch():
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        ByteVocabulary().decode(np.zeros((2, 3), np.int32))


def test_decode_of_nothing_is_empty(trained):
    assert trained.decode([]) == ByteVocabulary().decode([]) == ""


def test_saved_folder_survives_copying(trained, tmp_path):
    for name, vocabulary in {"sp": trained, "bytes": ByteVocabulary(7)}.items():
        save_vocabulary(vocabulary, tmp_path / name)
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
        loaded = load_vocabulary(tmp_path / "elsewhere" / name)
        assert loaded == vocabulary and hash(loaded) == hash(vocabulary)
        assert loaded.encode("the house <extra_id_0>") == vocabulary.encode(
            "the house <extra_id_0>"
        )


def test_vocabularies_pickle(trained):
    for vocabulary in (trained, ByteVocabulary()):
        copy = pickle.loads(pickle.dumps(vocabulary))
        assert copy == vocabulary and copy.encode("the house") == vocabulary.encode("the house")


def test_make_vocabulary_takes_bytes_a_model_or_a_folder(trained, tmp_path):
    save_vocabulary(SentencePieceVocabulary(trained.model, 5), tmp_path)
    assert make_vocabulary("bytes") == ByteVocabulary(125)
    assert make_vocabulary("bytes", 0) == ByteVocabulary(0)
    assert make_vocabulary(str(trained.path)) == trained
    assert make_vocabulary(trained.path, 5) == make_vocabulary(str(tmp_path)) != trained
    assert make_vocabulary(tmp_path, 100) == trained


def test_missing_vocabularies_are_named(tmp_path):
    missing = str(tmp_path / "no.model")
    with pytest.raises(FileNotFoundError, match=r"no\.model.*'bytes'.*\.model file.*folder"):
        make_vocabulary(missing)
    with pytest.raises(FileNotFoundError, match=r"no\.model"):
        SentencePieceVocabulary(missing)
    with pytest.raises(FileNotFoundError, match=r"vocabulary\.json"):
        make_vocabulary(tmp_path)


@pytest.mark.parametrize("description", ["", "{}", "[]", '{"kind": "words", "extra_ids": 1}'])
def test_unreadable_descriptions_are_named(tmp_path, description):
    (tmp_path / "vocabulary.json").write_text(description)
    with pytest.raises(ValueError, match=r"vocabulary\.json\b"):
        load_vocabulary(tmp_path)


def piece_boundary(model: bytes) -> int:
    """The position after the model's tenth piece (each is shorter than 128 bytes)."""
    position = 0
    for _ in range(10):
        position += 2 + model[position + 1]
    return position


@pytest.mark.parametrize("damage", ["empty", "garbage", "half", "between pieces", "last byte"])
def test_corrupt_models_are_one_clear_line_with_the_path(trained, tmp_path, damage):
    model = trained.model
    damaged = {
        "empty": b"",
        "garbage": b"not a model at all" * 50,
        "half": model[: len(model) // 2],
        "between pieces": model[: piece_boundary(model)],
        "last byte": model[:-1],
    }[damage]
    path = tmp_path / "broken.model"
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"broken\.model: [^\n]*$"):
        SentencePieceVocabulary(path)


def test_a_models_own_sentinels_are_found_and_doubled_ones_refused(trained, tmp_path):
    own = train_sentencepiece(
        SENTENCES, tmp_path / "own.model", vocab_size=90, symbols=["▁<extra_id_0>"], extra_ids=0
    )
    assert own.encode("<extra_id_0>") == [3]
    assert SentencePieceVocabulary(own.path) == make_vocabulary(own.path) == own
    with pytest.raises(ValueError, match=r"own\.model: cannot load with extra_ids=100.*extra_id_0"):
        SentencePieceVocabulary(own.path, 100)


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_training_twice_gives_the_same_file(tmp_path, model_type):
    options = {"vocab_size": 90, "model_type": model_type}
    first = train_sentencepiece(SENTENCES, tmp_path / "a" / "one.model", **options)
    second = train_sentencepiece(iter(SENTENCES), tmp_path / "two.model", **options)
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.vocab_size == 90 + 100


def test_symbols_are_pieces_of_their_own(tmp_path):
    symbols = ["▁AH0", "OW1", "OW1", "a,b"]
    vocabulary = train_sentencepiece(
        SENTENCES, tmp_path / "s.model", vocab_size=95, symbols=symbols
    )
    encode = vocabulary.processor.encode_as_pieces
    assert "▁AH0" in encode("HH AH0 L")
    assert "OW1" in encode("LOW1L") and "a,b" in encode("xa,by")


def test_pieces_may_join_letters_and_digits(tmp_path):
    phonemes = ["AH0 OW1 AH0 AE2", "AE2 AH0 OW1"] * 30
    vocabulary = train_sentencepiece(phonemes, tmp_path / "p.model", vocab_size=15)
    assert "▁OW1" in vocabulary.processor.encode_as_pieces("AE2 OW1")


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_impossible_vocab_sizes_say_which_would_do(tmp_path, model_type):
    def train(vocab_size: int) -> SentencePieceVocabulary:
        path = tmp_path / "x.model"
        return train_sentencepiece(SENTENCES, path, vocab_size=vocab_size, model_type=model_type)

    for size, side in ((5, "at least that"), (50_000, "at most")):
        with pytest.raises(
            ValueError, match=rf"^vocab_size={size} is too [^\n]*{side}[^\n]*$"
        ) as e:
            train(size)
        right = int("".join(c if c.isdigit() else " " for c in str(e.value)).split()[1])
        assert train(right).vocab_size == right + 100


def test_training_mistakes_are_one_line(tmp_path):
    with pytest.raises(ValueError, match="there is no text"):
        train_sentencepiece([], tmp_path / "x.model", vocab_size=30)
    with pytest.raises(ValueError, match="model_type='word'; use 'unigram' or 'bpe'"):
        train_sentencepiece(SENTENCES, tmp_path / "x.model", vocab_size=30, model_type="word")
    assert not (tmp_path / "x.model").exists()


def test_negative_extra_ids_are_refused():
    with pytest.raises(ValueError, match="extra_ids=-1"):
        ByteVocabulary(-1)


# --- arguments ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece"])
def test_wrong_arguments_name_themselves(trained, kind):
    vocabulary = ByteVocabulary() if kind == "bytes" else trained
    for wrong in (None, 5, b"x", ["a"]):
        with pytest.raises(TypeError, match=r"^text=.* must be a string, not "):
            vocabulary.encode(wrong)
    with pytest.raises(ValueError, match=r"^text='a\\ud800' holds a lone surrogate at 1"):
        vocabulary.encode("a\ud800")
    for wrong in (None, 5, "x", ["a"], [1.5], [None], [True], [10**30]):
        with pytest.raises(TypeError, match=r"^ids=.* must be one sequence of whole numbers"):
            vocabulary.decode(wrong)
    with pytest.raises(ValueError, match=r"^ids holds -100; ids are 0 or more"):
        vocabulary.decode([5, -100])


def test_wrong_arguments_of_makers_name_themselves(trained, tmp_path):
    for wrong in (10**12, -1):
        for make in (ByteVocabulary, lambda n: SentencePieceVocabulary(trained.model, n)):
            with pytest.raises(ValueError, match=rf"^extra_ids={wrong}; use 0 to 65536"):
                make(wrong)
    for wrong in (1.0, "7", True, [1]):
        with pytest.raises(TypeError, match=r"^extra_ids=.* must be a whole number"):
            SentencePieceVocabulary(trained.model, wrong)
    for make in (make_vocabulary, load_vocabulary, SentencePieceVocabulary):
        for wrong in (None, 5, ["x"]):
            with pytest.raises(TypeError, match=r"=.* must be a path, not "):
                make(wrong)


@pytest.mark.parametrize(
    "description",
    [
        '{"kind": "bytes", "extra_ids": 1000000000000}',
        '{"kind": "bytes", "extra_ids": true}',
        '{"kind": ["bytes"], "extra_ids": 1}',
        '{"kind": "added_tokens", "extra_ids": 1}',
        '{"kind": "added_tokens", "extra_ids": 0, "base": "bytes", "legacy": true, "tokens": [7]}',
        "[" * 100_000,
        "null",
    ],
)
def test_descriptions_of_wrong_types_are_named_in_one_line(tmp_path, description):
    (tmp_path / "vocabulary.json").write_text(description)
    with pytest.raises(ValueError, match=r"^[^\n]*vocabulary\.json\b[^\n]*$"):
        load_vocabulary(tmp_path)
