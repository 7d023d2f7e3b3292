"""Tokens that users added to T5's and ByT5's tokenizers: the ids and texts of transformers 4.57.6.

Ids of released vocabularies are what its T5Tokenizer and ByT5Tokenizer give; random folders and
texts are compared with it.
"""

import json
import pickle
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, ByT5Tokenizer

from t5jax.vocabulary import (
    AddedToken,
    AddedTokensVocabulary,
    ByteVocabulary,
    SentencePieceVocabulary,
    from_huggingface,
    load_vocabulary,
    save_vocabulary,
    train_sentencepiece,
    write_huggingface,
)
from t5jax.vocabulary.texts import pieces, token_texts
from tests.support import transformers4
from tests.support.vocabularies import SENTENCES, released


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> SentencePieceVocabulary:
    path = tmp_path_factory.mktemp("trained") / "spiece.model"
    return train_sentencepiece(SENTENCES, path, vocab_size=90)


def slow_folder(folder: Path, model: bytes | None, **files) -> Path:
    """A folder as a tokenizer in Python saves it: no tokenizer.json. Without a model: ByT5's."""
    folder.mkdir(exist_ok=True)
    if model is not None:
        (folder / "spiece.model").write_bytes(model)
    kind = "ByT5Tokenizer" if model is None else "T5Tokenizer"
    config = {"tokenizer_class": kind} | files.pop("tokenizer_config", {})
    for name, content in {"tokenizer_config": config, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


# --- T5's own vocabulary --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "added, legacy, text, ids, decoded",
    [
        (["\n"], False, "return", [1205], "return"),
        (["\n"], True, "return\n  x", [1205, 32100, 3, 226], "return \n x"),
        (["\n"], None, "\n", [32100], "\n"),
        (["new_token_1", "new_token_2"], False, "new_token_1 new_token_2", [32100, 32101], None),
        (["new_token_1", "new_token_2"], True, "new_token_1 new_token_2", [32100, 32101], None),
        (["new_token_1"], False, "a new_token_1 b", [3, 9, 32100, 3, 115], None),
        (["new_token_1"], False, "anew_token_1b", [3, 9, 32100, 115], "a new_token_1 b"),
        (["new_token_1"], True, "anew_token_1b", [3, 9, 32100, 3, 115], "a new_token_1 b"),
        (["<"], True, "a<=5", [3, 9, 32100, 3274, 755], "a < =5"),
        (["<"], None, "a<=5", [3, 9, 32100, 3274, 755], "a < =5"),
        (["<"], False, "a<=5", [3, 9, 32100, 2423, 755], "a < =5"),
    ],
)
def test_t5s_ids_with_added_tokens_are_transformers_4s(tmp_path, added, legacy, text, ids, decoded):
    folder = slow_folder(
        tmp_path,
        released("t5").read_bytes(),
        added_tokens={token: 32100 + i for i, token in enumerate(added)},
        tokenizer_config={} if legacy is None else {"legacy": legacy},
    )
    vocabulary = from_huggingface(folder)
    assert vocabulary.encode(text) == ids
    assert vocabulary.decode([*ids, 1, 0, 0]) == (text if decoded is None else decoded)
    assert (vocabulary.vocab_size, vocabulary.extra_ids) == (32100 + len(added), 100)
    assert vocabulary.encode("The house <extra_id_0>") == [37, 629, 32099]


# --- rules, on a small model ----------------------------------------------------------------------


def small(trained, *tokens: AddedToken, legacy: bool = True) -> AddedTokensVocabulary:
    return AddedTokensVocabulary(
        SentencePieceVocabulary(trained.model, 0),
        [AddedToken("</s>", 1, role="eos_token"), *tokens],
        legacy=legacy,
    )


def test_white_space_beside_a_token_is_dropped_where_it_says_so(trained):
    plain = small(trained, AddedToken("<a>", 90)).encode
    left = small(trained, AddedToken("<a>", 90, lstrip=True), AddedToken("\n", 91)).encode
    right = small(trained, AddedToken("<a>", 90, rstrip=True), AddedToken("\n", 91)).encode
    the = trained.encode("the")
    assert plain("the <a> the") == [*the, 90, *the]
    assert left("the \t<a>") == right("the<a>") == [*the, 90]
    # White space that is a token is dropped too, as transformers does.
    assert left("the\n<a>\n") == [*the, 90, 91] and right("the\n<a>\n") == [*the, 91, 90]


def test_a_single_word_is_no_token_inside_a_word(trained):
    encode = small(trained, AddedToken("ho", 90, single_word=True)).encode
    assert encode("the ho the") == [*trained.encode("the"), 90, *trained.encode("the")]
    assert encode("house") == trained.encode("house")
    assert encode("the house") == trained.encode("the house")


def test_of_tokens_that_overlap_the_first_and_then_the_longest_counts(trained):
    encode = small(trained, *(AddedToken(t, 90 + i) for i, t in enumerate(["bc", "ab", "abc"])))
    assert encode.encode("abcd") == [92, *trained.encode("d")]
    assert encode.encode("abab") == [91, 91] and encode.encode("bcbc") == [90, 90]


def test_a_piece_that_was_added_keeps_its_id_and_is_found_in_words(trained):
    piece = trained.encode("the house")[-1]
    text = trained.processor.id_to_piece(piece)
    vocabulary = small(trained, AddedToken(text, piece))
    assert vocabulary.vocab_size == 90
    assert vocabulary.encode(f"x{text}") == [*trained.encode("x"), piece]


def test_bytes_with_an_added_token_encode_count_and_decode_it(tmp_path):
    tokenizer = ByT5Tokenizer()
    tokenizer.add_tokens(["<sep>"])
    tokenizer.save_pretrained(tmp_path)
    vocabulary = from_huggingface(tmp_path)
    assert vocabulary.vocab_size == len(tokenizer) == 385 and vocabulary.extra_ids == 125
    for text in ("a<sep>b", "a <sep> b", "<sep>", "é<sep>é", "x<extra_id_0>y"):
        ids = tokenizer(text).input_ids
        assert [*vocabulary.encode(text), 1] == ids
        assert vocabulary.decode(ids) == tokenizer.decode(ids[:-1]) == text
    assert vocabulary.encode("a<sep>b") == [100, 384, 101]
    assert token_texts(vocabulary)[384] == b"<sep>" and token_texts(vocabulary)[100] == b"a"
    assert "".join(pieces(vocabulary, iter([[100], [384], [198], [172]]))) == "a<sep>é"


@pytest.mark.parametrize(
    "files, text, last",
    [
        ({"special_tokens_map": {"sep_token": "<sep>"}}, "the<sep>", 190),
        ({"special_tokens_map": {"sep_token": {"content": "<sep>", "lstrip": True}}}, "<sep>", 190),
        ({"tokenizer_config": {"bos_token": "<s>"}}, "<s>", 190),
        # transformers 4.57 gives sentinels that the list lacks ids after those that it has.
        ({"special_tokens_map": {"additional_special_tokens": ["<sep>"]}}, "<sep>", 90),
        ({"tokenizer_config": {"added_tokens_decoder": {"190": {"content": "<x>"}}}}, "<x>", 190),
        # added_tokens_decoder is complete: what older files say beside it is not read.
        (
            {
                "tokenizer_config": {"added_tokens_decoder": {"190": {"content": "<x>"}}},
                "added_tokens": {"<sep>": 190},
            },
            "<x>",
            190,
        ),
    ],
)
def test_tokens_are_known_from_every_file_that_transformers_4_reads(
    trained, tmp_path, files, text, last
):
    vocabulary = from_huggingface(slow_folder(tmp_path, trained.model, **files))
    assert vocabulary.encode(text)[-1] == last


def test_an_added_token_keeps_its_id_whatever_sentinels_there_are(trained, tmp_path):
    # Sentinels that go up, as an added list may have them.
    up = {f"<extra_id_{i}>": 90 + i for i in range(100)}
    vocabulary = from_huggingface(slow_folder(tmp_path, trained.model, added_tokens=up))
    assert vocabulary.encode("<extra_id_0> <extra_id_1>") == [90, 91]


@pytest.mark.parametrize("legacy", [True, False])
def test_what_is_saved_is_read_as_equal_and_transformers_5_gives_its_ids(trained, tmp_path, legacy):
    tokens = {
        str(190): {"content": "<sep>", "lstrip": True},
        str(191): {"content": "<hl>", "special": True},
    }
    config = {"legacy": legacy, "added_tokens_decoder": tokens}
    ours = from_huggingface(slow_folder(tmp_path / "0", trained.model, tokenizer_config=config))
    assert isinstance(ours, AddedTokensVocabulary)
    save_vocabulary(ours, tmp_path / "native")
    write_huggingface(ours, tmp_path / "hf")
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "t5"}')
    assert load_vocabulary(tmp_path / "native") == from_huggingface(tmp_path / "hf") == ours
    assert pickle.loads(pickle.dumps(ours)) == ours and hash(ours) == hash(ours)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    # Of legacy=False it knows less: behind a sentinel it puts a space.
    for text in ("the <sep> house", "<hl> the", *["the <extra_id_0> house"] * legacy):
        assert theirs(text).input_ids == [*ours.encode(text), 1]
    with pytest.raises(ValueError, match="has 100 of its own"):
        load_vocabulary(tmp_path / "native", 7)


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_a_streams_pieces_join_to_the_whole_text(trained, data):
    vocabulary = small(trained, AddedToken("<a>", 90), AddedToken("\n", 91))
    ids = data.draw(st.lists(st.integers(2, 91), max_size=12))
    assert "".join(pieces(vocabulary, iter([[i] for i in ids]))) == vocabulary.decode(ids)


@pytest.mark.parametrize(
    "tokens, wrong",
    [
        ([AddedToken("x", 91)], "'x' was added as id 91, but .* leave 90"),
        ([AddedToken("x", 90), AddedToken("y", 90)], "'y' has id 90, as another has"),
        ([AddedToken("x", 90), AddedToken("x", 91)], "'x' is empty, or there twice"),
        ([AddedToken("", 90)], "'' is empty, or there twice"),
    ],
)
def test_tokens_that_contradict_each_other_are_refused(trained, tokens, wrong):
    with pytest.raises(ValueError, match=wrong):
        small(trained, *tokens)


# --- transformers 4 itself ------------------------------------------------------------------------

_REFERENCE = """
import json, sys, transformers
transformers.logging.set_verbosity_error()
answers = []
for folder, kind, texts, ids in json.load(sys.stdin):
    tokenizer = getattr(transformers, kind).from_pretrained(folder)
    answers.append({
        "version": transformers.__version__,
        "ids": [tokenizer(text, add_special_tokens=False).input_ids for text in texts],
        "texts": [tokenizer.decode(some, clean_up_tokenization_spaces=False) for some in ids],
    })
json.dump(answers, sys.stdout)
"""


_TOKENS = ["\n", "<sep>", "new_1", "new_10", "he", "house", "▁the", "<", "<=", " x", "é", "日本"]
_TOKENS += ["\t", "ab", "abc", "bcd", "ou", "▁h"]
_OTHER = ["the house", " ", "  ", " is", "a", "The", "日本語", "x", "b", "c", "d", "number 3", "▁"]
_OTHER += ["<sep2>", "<extra_id_0>", "</s>"]


def random_folder(folder: Path, rng: random.Random, model: SentencePieceVocabulary | None) -> Path:
    tokens = rng.sample(_TOKENS, rng.randint(1, 6))
    if model is None:
        first, find = 259, lambda text: None
        sentinels = {f"<extra_id_{i}>": 259 + i for i in range(125)}
    else:
        unk, piece = model.unk_id, model.processor.piece_to_id
        first, find = 90, lambda text: None if piece(text) == unk else piece(text)
        sentinels = {f"<extra_id_{i}>": 189 - i for i in range(100)}
    names = ("lstrip", "rstrip", "single_word", "special", "normalized")
    flags = lambda: {name: rng.random() < 0.3 for name in names}  # noqa: E731
    new = [token for token in tokens if find(token) is None]
    listed = {token: first + len(sentinels) + i for i, token in enumerate(new)}
    config: dict = {"extra_ids": 0} if model is None else {"extra_ids": 100}
    if rng.random() < 0.7:
        config["legacy"] = rng.random() < 0.5
    match rng.choice(["added", "decoder", "special"]):
        case "added":
            return slow_folder(
                folder, model and model.model, tokenizer_config=config,
                added_tokens=sentinels | listed,
            )  # fmt: skip
        case "decoder":
            ids = sentinels | {t: i for t in tokens if (i := find(t)) is not None} | listed
            config["added_tokens_decoder"] = {
                str(i): {"content": token} | ({"special": True} if "extra" in token else flags())
                for token, i in ids.items()
            }
            return slow_folder(folder, model and model.model, tokenizer_config=config)
    special = {"additional_special_tokens": [*sentinels, *tokens], "sep_token": "<sep2>"}
    if rng.random() < 0.5:
        special["additional_special_tokens"][-1] = {"content": tokens[-1]} | flags()
    if model is None:
        config["extra_ids"] = 125
    return slow_folder(
        folder, model and model.model, tokenizer_config=config, special_tokens_map=special
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["T5Tokenizer", "ByT5Tokenizer"])
def test_random_folders_and_texts_have_transformers_4s_ids_and_texts(trained, tmp_path, kind):
    rng = random.Random(0)
    cases = []
    for n in range(40):
        model = trained if kind == "T5Tokenizer" else None
        folder = random_folder(tmp_path / str(n), rng, model)
        texts = ["".join(rng.choices(_TOKENS + _OTHER, k=rng.randint(0, 8))) for _ in range(25)]
        ids = [[rng.randint(2, 190) for _ in range(rng.randint(0, 9))] for _ in range(10)]
        cases.append([str(folder), kind, texts, ids if model else []])
    answers = transformers4.run(["-c", _REFERENCE], cases)
    for (folder, _, texts, ids), theirs in zip(cases, answers, strict=True):
        ours = from_huggingface(folder)
        assert theirs["version"].startswith("4.")
        assert [ours.encode(text) for text in texts] == theirs["ids"]
        known = [[i for i in some if i < ours.vocab_size] for some in ids]
        for some, full, text in zip(known, ids, theirs["texts"], strict=True):
            # It writes a space behind the last token where a piece without text follows.
            assert some != full or ours.decode(some) == text.rstrip(" ")


@pytest.mark.slow
def test_transformers_4_gives_our_ids_for_what_we_write(trained, tmp_path):
    tokens = {"190": {"content": "<sep>", "lstrip": True}, "191": {"content": "\n"}}
    cases = []
    for legacy in (True, False):
        config = {"legacy": legacy, "added_tokens_decoder": tokens}
        folder = slow_folder(tmp_path / str(legacy), trained.model, tokenizer_config=config)
        write_huggingface(from_huggingface(folder), tmp_path / f"{legacy} written")
        texts = ["the <sep> house\n the", "a<sep>b", "<extra_id_0> x</s>"]
        cases.append([str(tmp_path / f"{legacy} written"), "T5Tokenizer", texts, []])
    answers = transformers4.run(["-c", _REFERENCE], cases)
    for (folder, _, texts, _), theirs in zip(cases, answers, strict=True):
        assert [from_huggingface(folder).encode(text) for text in texts] == theirs["ids"]
    folder = slow_folder(tmp_path / "bytes", None, added_tokens={"<sep>": 384})
    assert from_huggingface(folder).encode("<extra_id_0>") == [259]
    written = tmp_path / "bytes written"
    write_huggingface(from_huggingface(folder), written)
    texts = ["a<sep>b</s>", "<extra_id_0>x"]
    (theirs,) = transformers4.run(["-c", _REFERENCE], [[str(written), "ByT5Tokenizer", texts, []]])
    assert [from_huggingface(written).encode(text) for text in texts] == theirs["ids"]
    assert from_huggingface(written).vocab_size == 385 and ByteVocabulary().vocab_size == 384
