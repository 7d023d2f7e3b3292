"""Hugging Face's folders: what they hold is read exactly, what is written transformers reads."""

import io
import json
import random
from pathlib import Path

import pytest
import sentencepiece
from transformers import AutoTokenizer, ByT5Tokenizer

from t5jax.vocabulary import (
    ByteVocabulary,
    SentencePieceVocabulary,
    TokenizerJsonVocabulary,
    Vocabulary,
    from_huggingface,
    make_vocabulary,
    train_sentencepiece,
    write_huggingface,
)
from tests.support.vocabularies import SENTENCES, released

TEXTS = [
    *SENTENCES[:2],
    *SENTENCES[-3:],
    "translate English to German: The house is wonderful.",
    "  two  spaces ",
    "日本語 x 😀",
    "",
]
SENTINELS = ["a <extra_id_0> b <extra_id_1>", "<extra_id_0> the house <extra_id_99>"]


def folder_of(folder: Path, **files: str | bytes | dict) -> Path:
    """Writes files, `spiece.model` and JSON files, by their names without suffix."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / ("spiece.model" if name == "spiece_model" else f"{name}.json")
        if isinstance(content, dict):
            content = json.dumps(content)
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return folder


def auto_tokenizer(folder: Path, model_type: str = "t5"):
    folder_of(folder, config={"model_type": model_type})
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> SentencePieceVocabulary:
    path = tmp_path_factory.mktemp("trained") / "spiece.model"
    return train_sentencepiece(SENTENCES, path, vocab_size=90)


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> SentencePieceVocabulary:
    """A model that holds sentinels of its own, as mT5's does."""
    path = tmp_path_factory.mktemp("own") / "spiece.model"
    symbols = [f"▁<extra_id_{i}>" for i in reversed(range(100))]
    return train_sentencepiece(SENTENCES, path, vocab_size=190, symbols=symbols, extra_ids=0)


@pytest.fixture(
    scope="module", params=["trained", "seven", "own", "bpe", "fallback", "json", "t5", "mt5"]
)
def pieces(request, trained, own, tmp_path_factory) -> Vocabulary:
    """Vocabularies of all kinds that are made of pieces."""
    folder = tmp_path_factory.mktemp("pieces")
    match request.param:
        case "trained":
            return trained
        case "seven":
            return SentencePieceVocabulary(trained.model, 7)
        case "own":
            return own
        case "bpe":
            return train_sentencepiece(
                SENTENCES, folder / "x.model", vocab_size=120, model_type="bpe"
            )
        case "fallback":
            return train_sentencepiece(
                SENTENCES, folder / "x.model", vocab_size=400, byte_fallback=True
            )
        case "json":
            write_huggingface(trained, folder)
            return TokenizerJsonVocabulary(folder / "tokenizer.json")
        case name:
            return SentencePieceVocabulary(released(name))


# --- written ----------------------------------------------------------------------------------


def test_auto_tokenizer_gives_our_ids_and_eos_whatever_the_model(pieces, tmp_path):
    write_huggingface(pieces, tmp_path)
    for model_type in ("t5", "mt5", "umt5", "longt5"):
        theirs = auto_tokenizer(tmp_path, model_type)
        assert len(theirs) == pieces.vocab_size
        for text in TEXTS if pieces.extra_ids == 7 else TEXTS + SENTINELS:
            assert theirs(text).input_ids == [*pieces.encode(text), pieces.eos_id]
        assert theirs("<extra_id_0>").input_ids == [*pieces.encode("<extra_id_0>"), 1]


def test_auto_tokenizer_gives_our_bytes_and_eos(tmp_path):
    ours = ByteVocabulary()
    write_huggingface(ours, tmp_path)
    theirs = auto_tokenizer(tmp_path)
    assert len(theirs) == ours.vocab_size == 384
    for text in TEXTS:
        assert theirs(text).input_ids == [*ours.encode(text), ours.eos_id]
    assert theirs("<extra_id_0><extra_id_1>").input_ids == [383, 382, 1]


def test_auto_tokenizer_makes_what_t5_takes(pieces, tmp_path):
    write_huggingface(pieces, tmp_path)
    theirs = auto_tokenizer(tmp_path)
    assert set(theirs(["a", "the house"], padding=True)) == {"input_ids", "attention_mask"}
    assert (theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id) == (0, 1, 2)


def test_what_was_written_is_read_as_equal(pieces, tmp_path):
    write_huggingface(pieces, tmp_path)
    assert from_huggingface(tmp_path) == make_vocabulary(tmp_path) == pieces
    for vocabulary in (ByteVocabulary(), ByteVocabulary(7), ByteVocabulary(0)):
        write_huggingface(vocabulary, tmp_path / str(vocabulary.extra_ids))
        assert from_huggingface(tmp_path / str(vocabulary.extra_ids)) == vocabulary


def test_files_are_those_of_transformers_4(trained, tmp_path):
    write_huggingface(trained, tmp_path / "t5")
    config = json.loads((tmp_path / "t5" / "tokenizer_config.json").read_text())
    special = json.loads((tmp_path / "t5" / "special_tokens_map.json").read_text())
    assert (tmp_path / "t5" / "spiece.model").read_bytes() == trained.model
    assert (config["tokenizer_class"], config["extra_ids"]) == ("T5Tokenizer", 100)
    # Its T5Tokenizer refuses another number of them than extra_ids.
    assert len(config["additional_special_tokens"]) == 100
    assert special["additional_special_tokens"] == config["additional_special_tokens"]
    # It makes token_type_ids, which T5 refuses, and takes spaces out of texts, unless told not to.
    assert config["model_input_names"] == ["input_ids", "attention_mask"]
    assert config["clean_up_tokenization_spaces"] is False
    write_huggingface(ByteVocabulary(), tmp_path / "byt5")
    config = json.loads((tmp_path / "byt5" / "tokenizer_config.json").read_text())
    assert (config["tokenizer_class"], config["extra_ids"]) == ("ByT5Tokenizer", 125)
    assert len(config["additional_special_tokens"]) == 125


def test_models_that_no_tokenizer_reads_are_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "x.model"
    bpe = train_sentencepiece(SENTENCES, path, vocab_size=120, model_type="bpe", symbols=["▁AH0"])
    with pytest.raises(ValueError, match=r"^a SentencePiece model of the type bpe with symbols"):
        write_huggingface(bpe, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- read -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sentencepiece", "bytes"])
def test_what_transformers_5_saves_has_the_same_ids(trained, tmp_path, kind):
    ours = trained if kind == "sentencepiece" else ByteVocabulary()
    write_huggingface(ours, tmp_path / "ours")
    auto_tokenizer(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "theirs" / "spiece.model").exists()
    read = from_huggingface(tmp_path / "theirs")
    assert (read.vocab_size, read.extra_ids) == (ours.vocab_size, ours.extra_ids)
    for text in TEXTS + SENTINELS:
        assert read.encode(text) == ours.encode(text)


def test_transformers_own_byt5_is_bytes_with_its_sentinels(tmp_path):
    ByT5Tokenizer().save_pretrained(tmp_path / "125")
    ByT5Tokenizer(extra_ids=3).save_pretrained(tmp_path / "3")
    assert from_huggingface(tmp_path / "125") == ByteVocabulary(125)
    assert from_huggingface(tmp_path / "3") == ByteVocabulary(3)


LISTED = [f"<extra_id_{i}>" for i in range(5)]


@pytest.mark.parametrize(
    "files, extra_ids",
    [
        ({}, 100),
        ({"tokenizer_config": {"tokenizer_class": "T5Tokenizer"}}, 100),
        ({"tokenizer_config": {"extra_ids": 7}}, 7),
        ({"tokenizer_config": {"extra_ids": 0}}, 0),
        ({"tokenizer_config": {"additional_special_tokens": LISTED}}, 5),
        ({"tokenizer_config": {"extra_special_tokens": ["<pad>", "</s>", *LISTED]}}, 5),
        (
            {"special_tokens_map": {"additional_special_tokens": [{"content": t} for t in LISTED]}},
            5,
        ),
        ({"added_tokens": {token: 94 - i for i, token in enumerate(LISTED)}}, 5),
        (
            {
                "tokenizer_config": {
                    "extra_ids": 0,
                    "added_tokens_decoder": {
                        str(94 - i): {"content": token} for i, token in enumerate(LISTED)
                    },
                }
            },
            5,
        ),
    ],
)
def test_the_files_beside_a_model_say_how_many_sentinels(trained, tmp_path, files, extra_ids):
    folder = folder_of(tmp_path, spiece_model=trained.model, **files)
    assert from_huggingface(folder) == SentencePieceVocabulary(trained.model, extra_ids)


@pytest.mark.parametrize(
    "config", [{}, {"extra_ids": 100}, {"additional_special_tokens": ["▁<extra_id_0>"]}]
)
def test_a_model_with_sentinels_of_its_own_gets_no_more(own, tmp_path, config):
    assert from_huggingface(folder_of(tmp_path, spiece_model=own.model)) == own
    folder = folder_of(tmp_path, spiece_model=own.model, tokenizer_config=config)
    assert from_huggingface(folder) == own


@pytest.mark.parametrize("name", ["t5", "mt5"])
def test_released_folders_are_read_as_their_models(name):
    model = released(name)
    assert from_huggingface(model.parent) == SentencePieceVocabulary(model)


def test_spiece_model_comes_before_tokenizer_json(trained, tmp_path):
    other = train_sentencepiece(SENTENCES, tmp_path / "other.model", vocab_size=80)
    write_huggingface(trained, tmp_path)
    (tmp_path / "spiece.model").write_bytes(other.model)
    assert from_huggingface(tmp_path) == other
    (tmp_path / "spiece.model").unlink()
    assert from_huggingface(tmp_path) == TokenizerJsonVocabulary(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("file", ["tokenizer_config", "config"])
def test_byt5_is_known_by_its_tokenizers_class(trained, tmp_path, file):
    folder = folder_of(tmp_path, **{file: {"tokenizer_class": "ByT5Tokenizer"}})
    assert from_huggingface(folder) == ByteVocabulary()
    folder_of(folder, spiece_model=trained.model)
    assert from_huggingface(folder) == ByteVocabulary()


def test_byte_level_is_believed_where_no_file_tells(trained, tmp_path):
    folder = folder_of(tmp_path, config={"model_type": "t5"})
    assert from_huggingface(folder, byte_level=True) == ByteVocabulary()
    folder_of(folder, spiece_model=trained.model)
    assert from_huggingface(folder, byte_level=True) == trained


# --- tokens that were added to a model --------------------------------------------------------


ADDED = {"<sep>": 190, "<hl>": 191}


def test_added_tokens_are_ids_after_the_models(trained, tmp_path):
    vocabulary = from_huggingface(
        folder_of(tmp_path, spiece_model=trained.model, added_tokens=ADDED)
    )
    assert vocabulary.vocab_size == 192
    the, house = trained.encode("the"), trained.encode("house")
    assert vocabulary.encode("the<hl>") == [*the, 191]
    assert vocabulary.encode("the <sep> house") == [*the, 190, *house]
    assert vocabulary.decode([*the, 191]) == "the <hl>"
    for text in TEXTS + SENTINELS:
        assert vocabulary.encode(text) == trained.encode(text)


def test_tokenizer_json_is_read_where_the_model_lacks_tokens(trained, tmp_path):
    write_huggingface(trained, tmp_path)
    theirs = auto_tokenizer(tmp_path)
    theirs.add_tokens(["<sep>"])
    theirs.save_pretrained(tmp_path)
    read = from_huggingface(tmp_path)
    assert read == TokenizerJsonVocabulary(tmp_path / "tokenizer.json")
    assert [*read.encode("a <sep>"), 1] == theirs("a <sep>").input_ids


def test_added_tokens_that_do_not_follow_the_model_are_refused(trained, tmp_path):
    folder = folder_of(tmp_path, spiece_model=trained.model, added_tokens={"<hl>": 32100})
    with pytest.raises(ValueError, match=rf"^{tmp_path}: '<hl>' .* id 32100, .* leave 190"):
        from_huggingface(folder)


# --- mistakes ---------------------------------------------------------------------------------


def test_a_folder_without_a_tokenizer_is_one_clear_line(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^[^\n]*none: no such folder$"):
        from_huggingface(tmp_path / "none")
    folder = folder_of(tmp_path, config={"model_type": "t5"}, tokenizer_config={"extra_ids": 100})
    with pytest.raises(FileNotFoundError, match=r"no tokenizer; expected spiece\.model[^\n]*ByT5"):
        from_huggingface(folder)
    with pytest.raises(FileNotFoundError, match=r"^[^\n]*spiece\.model[^\n]*vocabulary\.json"):
        make_vocabulary(folder)


@pytest.mark.parametrize(
    "name, content",
    [
        ("tokenizer_config", "{"),
        ("tokenizer_config", "[]"),
        ("tokenizer_config", {"extra_ids": "many"}),
        ("tokenizer_config", {"additional_special_tokens": 7}),
        ("tokenizer_config", {"additional_special_tokens": [{"text": "<extra_id_0>"}]}),
        ("tokenizer_config", {"added_tokens_decoder": {"three": {"content": "x"}}}),
        ("special_tokens_map", b"\xff\xfe"),
        ("added_tokens", {"<hl>": "last"}),
        ("config", "{"),
        ("spiece_model", b"not a model"),
    ],
)
def test_a_damaged_file_is_one_clear_line_that_names_it(trained, tmp_path, name, content):
    folder = folder_of(tmp_path, spiece_model=trained.model)
    folder_of(folder, **{name: content})
    file = "spiece.model" if name == "spiece_model" else f"{name}.json"
    with pytest.raises(ValueError, match=rf"^[^\n]*/{file}\b[^\n]*$"):
        from_huggingface(folder)


DEEP = "[" * 100_000 + "]" * 100_000
WRONG = [None, True, 7, -1, 0.5, "x", [], [None], [[]], {}, {"a": None}, 10**12, 10**400]


@pytest.mark.parametrize("bytes_too", [False, True])
def test_any_type_in_any_field_is_read_or_refused_in_one_line(trained, tmp_path, bytes_too):
    token = {"content": "<x>", "lstrip": True}
    fields = {
        "tokenizer_config": {
            "tokenizer_class": "ByT5Tokenizer" if bytes_too else "T5Tokenizer",
            "extra_ids": 100, "legacy": False, "added_tokens_decoder": {"190": token},
            "pad_token": "<pad>", "bos_token": token, "additional_special_tokens": ["<a>", token],
            "extra_special_tokens": {"image": "<i>"},
        },
        "special_tokens_map": {"sep_token": "<sep>", "additional_special_tokens": ["<a>"]},
        "added_tokens": {"<x>": 190},
        "config": {"tokenizer_class": "T5Tokenizer"},
        "tokenizer": {"added_tokens": [token | {"id": 3}]},
    }  # fmt: skip
    refused = 0
    for name, right in fields.items():
        changes = [json.dumps(right | {field: wrong}) for field in right for wrong in WRONG]
        changes += [json.dumps(wrong) for wrong in WRONG] + [DEEP, '{"a": ' + DEEP + "}", "", "{"]
        for flag in token:
            changes += [json.dumps(right | {"unk_token": token | {flag: w}}) for w in WRONG]
        for change in changes:
            folder = folder_of(tmp_path / name, spiece_model=trained.model, **{name: change})
            try:
                assert isinstance(from_huggingface(folder), Vocabulary)
            except ValueError as error:
                refused += 1
                assert str(tmp_path) in str(error) and "\n" not in str(error)
                assert len(str(error)) < 600
    assert refused > 200


def test_a_damaged_model_is_read_or_refused_in_one_line(trained, tmp_path):
    # Before the compiled rules of the characters, which are most of the file: pieces and options.
    draw = random.Random(0)
    folder_of(tmp_path, added_tokens={"<x>": 190})
    end = trained.model.index(b"nmt_nfkc")
    for _ in range(60):
        damaged = bytearray(trained.model)
        damaged[draw.randrange(end)] ^= 1 << draw.randrange(8)
        (tmp_path / "spiece.model").write_bytes(bytes(damaged))
        try:
            vocabulary = from_huggingface(tmp_path)
            vocabulary.decode(vocabulary.encode("the house <x>"))
            write_huggingface(vocabulary, tmp_path / "out")
        except ValueError as error:
            assert "\n" not in str(error)


def test_a_damaged_tokenizer_json_is_named(trained, tmp_path):
    write_huggingface(trained, tmp_path)
    (tmp_path / "spiece.model").unlink()
    file = tmp_path / "tokenizer.json"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"^[^\n]*/tokenizer\.json\b[^\n]*$"):
        from_huggingface(tmp_path)


def test_madlads_special_ids_come_and_go(tmp_path):
    """Unknown 0, <s> 1, which it pads with, EOS 2, and no <pad>."""
    output = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat", "a dog ran home"] * 5),
        model_writer=output,
        vocab_size=20,
        hard_vocab_limit=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    vocabulary = SentencePieceVocabulary(output.getvalue(), 0)
    write_huggingface(vocabulary, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ids = theirs(["the cat ran", "a"], padding=True).input_ids
    ours = [[*vocabulary.encode(text), 2] for text in ("the cat ran", "a")]
    assert ids == [ours[0], ours[1] + [1] * (len(ours[0]) - len(ours[1]))]
    assert from_huggingface(tmp_path) == vocabulary
    # transformers 5 saves nothing but a tokenizer.json, and says in its config what pads.
    theirs.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "spiece.model").exists()
    saved = from_huggingface(tmp_path / "saved")
    assert (saved.pad_id, saved.eos_id, saved.unk_id) == (1, 2, 0)
    assert [*saved.encode("the cat ran"), 2] == ours[0]
    assert saved.decode([*ours[1], 1, 1]) == saved.decode([1, *ours[1]]) == "a"
