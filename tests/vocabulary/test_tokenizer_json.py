"""tokenizer.json: the ids are Hugging Face's, and SentencePiece's where no special token stands."""

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import seqio
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from t5jax.tasks import registry
from t5jax.text2text import Text2Text
from t5jax.vocabulary import (
    SentencePieceVocabulary,
    TokenizerJsonVocabulary,
    from_huggingface,
    load_vocabulary,
    make_vocabulary,
    save_vocabulary,
    train_sentencepiece,
    write_huggingface,
)
from tests.support.models import TINY, lively_params
from tests.support.vocabularies import (
    ODD,
    SENTENCES,
    equally_probable,
    plain_texts,
    released,
    without_clusters,
)

MODELS = {
    "unigram": {"vocab_size": 90},
    "symbols": {"vocab_size": 95, "symbols": ["▁AH0", "OW1"]},
    "bytes beside": {"vocab_size": 400, "byte_fallback": True},
    "bpe": {"vocab_size": 120, "model_type": "bpe"},
    "bpe, bytes beside": {"vocab_size": 400, "model_type": "bpe", "byte_fallback": True},
}

special_pieces = st.sampled_from(
    ["<extra_id_0>", " <extra_id_1> ", "<extra_id_100>", "</s>", "<pad>", "<unk>", "the ", *ODD]
)
any_texts = st.lists(st.one_of(plain_texts, special_pieces), max_size=6).map("".join)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> SentencePieceVocabulary:
    path = tmp_path_factory.mktemp("trained") / "spiece.model"
    return train_sentencepiece(SENTENCES, path, vocab_size=90)


@pytest.fixture(scope="module")
def small(trained, tmp_path_factory) -> Path:
    """The file of a small vocabulary."""
    folder = tmp_path_factory.mktemp("small")
    write_huggingface(trained, folder)
    return folder / "tokenizer.json"


@pytest.fixture(scope="module", params=["small", "t5"])
def file(request) -> Path:
    if request.param == "small":
        return request.getfixturevalue("small")
    return released("t5", "tokenizer.json")


@pytest.fixture(scope="module")
def pair(file):
    """A vocabulary of ours and transformers' tokenizer of the same file."""
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(file), **special)
    return TokenizerJsonVocabulary(file), theirs


def changed(file: Path, change) -> bytes:
    """The file's content after `change` was applied to what it says."""
    content = json.loads(file.read_bytes())
    change(content)
    return json.dumps(content).encode("utf-8")


def test_t5s_published_ids():
    vocabulary = TokenizerJsonVocabulary(released("t5", "tokenizer.json"))
    text = "translate English to German: The house is wonderful."
    assert (vocabulary.vocab_size, vocabulary.extra_ids) == (32100, 100)
    assert vocabulary.encode(text) == [13959, 1566, 12, 2968, 10, 37, 629, 19, 1627, 5]
    assert vocabulary.encode("<extra_id_0> <extra_id_99>") == [32099, 32000]
    assert vocabulary.decode([*vocabulary.encode(text), 1, 37, 0, 0]) == text


def test_sizes_and_special_ids_are_transformers(pair):
    ours, theirs = pair
    assert (ours.vocab_size, ours.extra_ids) == (len(theirs), 100)
    special = (ours.pad_id, ours.eos_id, ours.unk_id)
    assert special == (theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id) == (0, 1, 2)


@settings(deadline=None)
@given(text=any_texts)
def test_any_text_has_transformers_ids_without_its_eos(pair, text):
    ours, theirs = pair
    assert [*ours.encode(text), ours.eos_id] == theirs(text).input_ids


@settings(deadline=None)
@given(data=st.data())
def test_ids_up_to_eos_are_decoded_as_transformers_does(pair, data):
    ours, theirs = pair
    ids = data.draw(st.lists(st.integers(3, ours.vocab_size - 1), max_size=20))
    text = theirs.decode(ids, skip_special_tokens=False)
    assert ours.decode(ids) == ours.decode(np.array([*ids, 1, 5], np.int32)) == text
    assert ours.decode([0, *ids, 0, 0]) == text


def test_unknown_ids_give_the_unknown_token(pair):
    ours, _ = pair
    assert ours.decode([2]) == ours.decode([ours.vocab_size + 7]) == "<unk>"
    assert ours.decode([]) == ours.decode([0, 0]) == ours.decode([1]) == ""


def test_decode_refuses_a_batch(pair):
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        pair[0].decode(np.zeros((2, 3), np.int32))


@pytest.fixture(scope="module", params=[*MODELS, "t5", "mt5"])
def converted(request, tmp_path_factory):
    """A SentencePiece vocabulary, and the tokenizer.json that is written for it."""
    folder = tmp_path_factory.mktemp("converted")
    if request.param in MODELS:
        options = MODELS[request.param]
        vocabulary = train_sentencepiece(SENTENCES, folder / "x.model", **options)
    else:
        vocabulary = SentencePieceVocabulary(released(request.param))
    write_huggingface(vocabulary, folder)
    return vocabulary, TokenizerJsonVocabulary(folder / "tokenizer.json")


@settings(deadline=None)
@given(text=without_clusters)
@example(text="lll")
def test_a_written_tokenizer_json_has_sentencepieces_ids(converted, text):
    pieces, written = converted
    assert equally_probable(pieces, written.encode(text), pieces.encode(text))


@pytest.mark.parametrize(
    "text", ["<extra_id_0>", "a <extra_id_0> b", " <extra_id_0>. <extra_id_1>"]
)
def test_its_sentinels_where_words_begin_have_sentencepieces_ids(converted, text):
    pieces, written = converted
    assert written.vocab_size == pieces.vocab_size
    assert written.encode(text) == pieces.encode(text)


@pytest.mark.parametrize("text", ["The house number 3 is wonderful, and jelly costs 7.", "L OW1"])
def test_what_it_can_express_comes_back(converted, text):
    _, written = converted
    assert written.decode(written.encode(text)) == text


@pytest.mark.parametrize("name", ["bytes beside", "bpe, bytes beside"])
def test_what_only_bytes_express_comes_back(tmp_path, name):
    pieces = train_sentencepiece(SENTENCES, tmp_path / "x.model", **MODELS[name])
    write_huggingface(pieces, tmp_path)
    written = TokenizerJsonVocabulary(tmp_path / "tokenizer.json")
    assert written.decode(written.encode("日本語 the 😀")) == "日本語 the 😀"


def test_released_files_of_t5_agree_on_ordinary_text():
    pieces = SentencePieceVocabulary(released("t5"))
    theirs = TokenizerJsonVocabulary(released("t5", "tokenizer.json"))
    for text in [*SENTENCES, "  two  spaces ", "\ttab\nline\r\n", "日本語 😀"]:
        assert theirs.encode(text) == pieces.encode(text)


def test_where_ids_differ_from_sentencepieces(small, trained):
    ours, last = TokenizerJsonVocabulary(small), trained.vocab_size - 1
    assert ours.encode("a <extra_id_0>") == ours.encode("a<extra_id_0>")
    assert last not in trained.encode("a<extra_id_0>")
    assert ours.decode(ours.encode("a <extra_id_0> b")) == "a<extra_id_0> b"
    assert ours.encode("</s>") == [1] != trained.encode("</s>")
    assert ours.encode("²\u0301") == trained.encode("2") != trained.encode("²\u0301")
    assert (ours.decode([2]), trained.decode([2])) == ("<unk>", " ⁇ ")


def test_truncation_and_padding_that_a_file_asks_for_are_not_done(small):
    def shorten(content: dict) -> None:
        content["truncation"] = {
            "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0,
        }  # fmt: skip
        content["padding"] = {
            "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>",
        }  # fmt: skip

    ours = TokenizerJsonVocabulary(changed(small, shorten))
    for text in ("a", "the house number 7 is wonderful"):
        assert ours.encode(text) == TokenizerJsonVocabulary(small).encode(text)


def test_a_saved_one_is_equal_and_survives_pickling(file, tmp_path):
    vocabulary = TokenizerJsonVocabulary(file)
    save_vocabulary(vocabulary, tmp_path / "saved")
    loaded = load_vocabulary(tmp_path / "saved")
    for copy in (loaded, pickle.loads(pickle.dumps(vocabulary))):
        assert copy == vocabulary and hash(copy) == hash(vocabulary)
        assert copy.encode("the house <extra_id_0>") == vocabulary.encode("the house <extra_id_0>")
    assert make_vocabulary(tmp_path / "saved") == make_vocabulary(str(file)) == vocabulary


def test_another_content_is_another_vocabulary(small, trained):
    def rename(content: dict) -> None:
        content["model"]["vocab"][-101][0] = "another"

    vocabulary = TokenizerJsonVocabulary(small)
    assert vocabulary != TokenizerJsonVocabulary(changed(small, rename))
    assert vocabulary != trained and trained != vocabulary


def test_its_number_of_sentinels_is_its_own(small, tmp_path):
    save_vocabulary(TokenizerJsonVocabulary(small), tmp_path)
    assert load_vocabulary(tmp_path, 100) == make_vocabulary(small, 100)
    for make in (load_vocabulary, make_vocabulary):
        with pytest.raises(ValueError, match=r"^extra_ids=7, but .*has 100 of its own$"):
            make(tmp_path, 7)


def drop_charsmap(content: dict) -> None:
    content["normalizer"]["normalizers"][0]["precompiled_charsmap"] = "AAAA"


def drop_vocabulary(content: dict) -> None:
    del content["model"]["vocab"]


@pytest.mark.parametrize(
    "damage", ["empty", "half", "list", "binary", drop_charsmap, drop_vocabulary]
)
def test_damaged_files_are_one_clear_line_with_the_path(small, tmp_path, damage):
    content = small.read_bytes()
    damaged = {
        "empty": b"",
        "half": content[: len(content) // 2],
        "list": b"[]",
        "binary": b"\xff\xfe\x00",
    }
    path = tmp_path / "tokenizer.json"
    path.write_bytes(damaged[damage] if damage in damaged else changed(small, damage))
    with pytest.raises(ValueError, match=r"^[^\n]*tokenizer\.json: not a [^\n]*$"):
        TokenizerJsonVocabulary(path)


def rename_eos(content: dict) -> None:
    content["added_tokens"][1]["content"] = content["model"]["vocab"][1][0] = "<end>"
    content["post_processor"] = None


def test_files_without_t5s_special_tokens_are_refused(small):
    with pytest.raises(ValueError, match=r"^tokenizer\.json: no token '</s>'"):
        TokenizerJsonVocabulary(changed(small, rename_eos))
    with pytest.raises(ValueError, match=r"tokenizer\.json: no token '<none>'"):
        TokenizerJsonVocabulary(small, pad_token="<none>")


def swap_padding_and_eos(content: dict) -> None:
    for tokens in (content["model"]["vocab"], content["added_tokens"]):
        tokens[:2] = tokens[1::-1]
    for i, token in enumerate(content["added_tokens"][:2]):
        token["id"] = i
    content["post_processor"]["special_tokens"]["</s>"]["ids"] = [0]


def test_padding_may_have_another_id_and_name(small, trained):
    swapped = TokenizerJsonVocabulary(changed(small, swap_padding_and_eos))
    assert (swapped.pad_id, swapped.eos_id) == (1, 0)
    assert swapped.decode([*swapped.encode("the house"), 1, 1]) == "the house"


# --- what a post-processor puts before a text ---------------------------------------------------

CODE = ["def add(a, b): return a + b", "def sub(a, b):\n    return a - b", "class Adder: pass"] * 4


def code_tokenizer(folder: Path, processor: str) -> PreTrainedTokenizerFast:
    """A folder like CodeT5's: byte-level BPE, <pad> 0, <s> 1, </s> 2, <unk> 3."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<unk>", "<extra_id_0>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CODE,
        trainers.BpeTrainer(
            vocab_size=290, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer.post_processor = {
        "roberta": processors.RobertaProcessing(("</s>", 2), ("<s>", 1)),
        "template": processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        ),
        "end": processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)]),
        "none": processors.TemplateProcessing(single="$A"),
        "other": processors.TemplateProcessing(
            single="$A </s> <s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        ),
    }[processor]
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        unk_token="<unk>",
    )  # fmt: skip
    theirs.save_pretrained(folder)
    return theirs


def test_a_file_that_puts_s_first_does_so_in_inputs_targets_and_training(tmp_path):
    theirs = code_tokenizer(tmp_path, "roberta")
    ours = from_huggingface(tmp_path)
    config = dataclasses.replace(TINY, eos_token_id=2)
    t5 = Text2Text(config, lively_params(config), ours)
    text = "def add"
    ids = theirs(text).input_ids
    assert ids[0] == 1 and ids[-1] == 2 and len(ids) == 4
    assert [*ours.encode(text), 2] == ids and ours.decode(ids) == text
    assert t5.text_ids(text).tolist() == t5.target_ids(text).tolist() == [ids]
    np.testing.assert_allclose(
        t5.score(text, "sub"), t5.score_ids([ids], [theirs("sub").input_ids])
    )
    feature = seqio.Feature(registry.seqio_vocabulary(ours), add_eos=True)
    dataset = tf.data.Dataset.from_tensors({"targets": text})
    tokenized = seqio.preprocessors.tokenize(dataset, {"targets": feature})
    (trained,) = seqio.preprocessors.append_eos(tokenized, {"targets": feature})
    assert trained["targets"].numpy().tolist() == ids
    write_huggingface(ours, tmp_path / "written")
    assert from_huggingface(tmp_path / "written") == ours
    save_vocabulary(ours, tmp_path / "saved")
    assert load_vocabulary(tmp_path / "saved") == ours


@pytest.mark.parametrize("processor", ["roberta", "template", "end", "none"])
def test_every_post_processors_ids_are_transformers(tmp_path, processor):
    theirs = code_tokenizer(tmp_path, processor)
    ours = from_huggingface(tmp_path)
    for text in ("def add", "", " x\n", "é <extra_id_0> </s>"):
        ids = theirs(text).input_ids
        assert [*ours.encode(text), 2] == (ids if processor != "none" else [*ids, 2])


def test_a_post_processor_that_puts_more_than_eos_behind_a_text_is_refused(tmp_path):
    code_tokenizer(tmp_path, "other")
    with pytest.raises(ValueError, match=r"^[^\n]*tokenizer\.json: .* the ids \[2, 1\]; .* EOS, 2"):
        from_huggingface(tmp_path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.json: no such tokenizer\.json"):
        TokenizerJsonVocabulary(tmp_path / "nothing.json")
    (tmp_path / "vocabulary.json").write_text('{"kind": "tokenizer_json", "extra_ids": 100}')
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json: no such"):
        load_vocabulary(tmp_path)
