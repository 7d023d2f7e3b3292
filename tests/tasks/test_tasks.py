"""The tasks: formats, splits, shards, and evaluation with a run's own vocabulary."""

import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import seqio
import tensorflow as tf

import t5jax.tasks
from t5jax.tasks import inflect, metrics, pronounce, registry, source
from t5jax.vocabulary import (
    AddedToken,
    AddedTokensVocabulary,
    ByteVocabulary,
    SentencePieceVocabulary,
    TokenizerJsonVocabulary,
    train_sentencepiece,
    write_huggingface,
)
from tests.support.vocabularies import equally_probable, released

TASKS = {"pronounce": pronounce.read_pronounce, "inflect": inflect.read_inflect}
LENGTHS = {"inputs": 64, "targets": 64}


def table(name: str) -> source.WordTable:
    try:
        return TASKS[name]()
    except FileNotFoundError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module", params=list(TASKS))
def name(request) -> str:
    """The name of a task whose data is installed."""
    table(request.param)
    return request.param


@pytest.fixture(scope="module")
def whole_test_split(name) -> list[dict]:
    return examples(name, "test")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory) -> SentencePieceVocabulary:
    path = tmp_path_factory.mktemp("vocabulary") / "spiece.model"
    texts = ["pronounce: hello", "HH AH0 L OW1", "past: participle plural: go went", "-'"]
    letters = [" ".join("abcdefghijklmnopqrstuvwxyz"), "B CH D EH ER3 F G IY IH2 JH K NG P SH"]
    more = [" ".join(f"{letter}Z TH V W Y{i}" for letter in "AEOUIRMNST") for i in range(4)]
    return train_sentencepiece(texts + letters + more, path, vocab_size=75)


@pytest.fixture(scope="module")
def tokenizer_json(vocabulary, tmp_path_factory) -> TokenizerJsonVocabulary:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_huggingface(vocabulary, folder)
    return TokenizerJsonVocabulary(folder / "tokenizer.json")


def examples(name: str, split: str, **options) -> list[dict]:
    dataset = registry.get(name).get_dataset(None, split, shuffle=False, **options)
    return list(dataset.as_numpy_iterator())


def by_input(name: str) -> dict[str, source.WordPair]:
    return {f"{r.prefix}: {r.word}": r for rows in table(name).values() for r in rows}


# --- what the tasks ask -----------------------------------------------------------------------


def test_cmudict_lines_become_words_with_all_their_pronunciations():
    lines = [
        "hello HH AH0 L OW1",
        "hello(2) HH EH0 L OW1",
        "hello(3) HH AH0 L OW1",
        "'em AH0 M # slang",
        "# a comment",
        "",
        "dr. D R AY1 V",
        "3d TH R IY1 D IY2",
        "ad-hoc AE1 D HH AA1 K",
        "- D AE1 SH",
    ]
    assert pronounce.parse_cmudict(lines) == {
        "hello": ("HH AH0 L OW1", "HH EH0 L OW1"),
        "'em": ("AH0 M",),
        "ad-hoc": ("AE1 D HH AA1 K",),
    }


def test_table_lines_become_prefixes_and_lemmas_with_all_their_forms():
    lines = [
        "go,noun,go/goes",
        "go,verb,went,gone,going,goes",
        "ox,noun,oxen",
        "well,verb,welled,,welling,wells",
        "well,adj,better,best",
        "well,adv,better,best",
        "Paris,noun,Paris",
        "repulsiveness,noun,repulsiveness",
        "acme,noun,",
        "joyride,verb,joyriding,,,joyrides",
        "vague,adj,vagueer,vagueest",
        "fixable,adj,,",
    ]
    assert inflect.parse_table(lines) == {
        ("plural", "go"): ("go", "goes"),
        ("past", "go"): ("went",),
        ("participle", "go"): ("gone",),
        ("present participle", "go"): ("going",),
        ("plural", "ox"): ("oxen",),
        ("past", "well"): ("welled",),
        ("participle", "well"): ("welled",),
        ("present participle", "well"): ("welling",),
        ("comparative", "well"): ("better",),
        ("superlative", "well"): ("best",),
    }


@pytest.mark.parametrize(
    ("task", "asked", "answer", "also_right"),
    [
        ("pronounce", "pronounce: hello", None, ("HH AH0 L OW1", "HH EH0 L OW1")),
        ("inflect", "past: go", "went", ()),
        ("inflect", "participle: go", "gone", ()),
        ("inflect", "present participle: lie", "lying", ()),
        ("inflect", "plural: child", "children", ()),
        ("inflect", "plural: go", "goes", ("go",)),
        ("inflect", "comparative: good", "better", ()),
        ("inflect", "superlative: good", "best", ()),
    ],
)
def test_known_words_are_asked_and_answered(task, asked, answer, also_right):
    row = by_input(task)[asked]
    assert answer in (None, row.answer)
    assert set(also_right) <= set(row.answers)


def test_no_row_is_empty_or_badly_formed(name):
    for rows in table(name).values():
        for row in rows:
            assert row.prefix and row.word and row.answer in row.answers
            assert all(answer == " ".join(answer.split()) != "" for answer in row.answers)
            assert not any("/" in answer for answer in row.answers)
            assert row.word == row.word.lower()


def test_train_has_every_pronunciation_and_the_others_every_word_once():
    splits = table("pronounce")
    train = splits["train"]
    listed = {row.word: row.answers for row in train}
    assert Counter((row.word, row.answer) for row in train) == Counter(
        (word, answer) for word, answers in listed.items() for answer in answers
    )
    for split in ("validation", "test"):
        assert set(Counter(row.word for row in splits[split]).values()) == {1}
        assert all(row.answer == row.answers[0] for row in splits[split])
        assert any(len(row.answers) > 1 for row in splits[split])


def test_first_batches_are_a_sample_of_the_alphabet(name):
    for rows in table(name).values():
        assert len({row.word[0] for row in rows[:200]}) > 15


# --- splits -----------------------------------------------------------------------------------


def test_splits_are_disjoint_and_90_5_5(name):
    words = {split: {row.word for row in rows} for split, rows in table(name).items()}
    total = sum(map(len, words.values()))
    assert len(set().union(*words.values())) == total
    for split, share in (("train", 0.9), ("validation", 0.05), ("test", 0.05)):
        assert len(words[split]) / total == pytest.approx(share, abs=0.005)


@pytest.mark.slow
def test_splits_are_the_same_in_another_process():
    words = [f"word{i}" for i in range(200)]
    code = (
        "from t5jax.tasks.source import split_of\n"
        "print(*(split_of(f'word{i}') for i in range(200)))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.split() == [source.split_of(word) for word in words]


def test_a_missing_distribution_says_what_to_install():
    with pytest.raises(
        FileNotFoundError, match=r"no-such-package.*pip install 't5jax\[examples\]'"
    ):
        source.data_file("no-such-package", "x/y")


# --- what seqio makes of them -------------------------------------------------------------------


def test_examples_hold_ids_ended_by_eos_texts_and_references(name):
    vocabulary = seqio.ByteVocabulary()
    by_text = by_input(name)
    for example in examples(name, "validation")[:300]:
        for feature in ("inputs", "targets"):
            ids = example[feature].tolist()
            text = example[f"{feature}_pretokenized"].decode()
            assert ids == [*vocabulary.encode(text), 1]
        row = by_text[example["inputs_pretokenized"].decode()]
        assert source.references(example) == row.answers
        assert example["targets_pretokenized"].decode() == row.answer


def test_shards_partition_the_examples(name, whole_test_split):
    whole = [(e["inputs_pretokenized"], e["targets_pretokenized"]) for e in whole_test_split]
    parts = [
        (e["inputs_pretokenized"], e["targets_pretokenized"])
        for i in range(8)
        for e in examples(name, "test", shard_info=seqio.ShardInfo(i, 8))
    ]
    assert Counter(parts) == Counter(whole)
    assert len(whole) == registry.get(name).num_input_examples("test")


def test_shuffled_shards_partition_the_examples_too(name, whole_test_split):
    task = registry.get(name)
    parts = Counter(
        e["inputs_pretokenized"]
        for i in range(3)
        for e in task.get_dataset(
            LENGTHS, "test", shuffle=True, shard_info=seqio.ShardInfo(i, 3)
        ).as_numpy_iterator()
    )
    assert parts == Counter(e["inputs_pretokenized"] for e in whole_test_split)


def test_more_shards_than_rows_leave_some_empty():
    few = source.TableSource(lambda: {"test": [source.WordPair("p", "w", "a", ("a", "b"))]})
    sizes = [len(list(few.get_dataset("test", shard_info=seqio.ShardInfo(i, 3)))) for i in range(3)]
    assert sizes == [1, 0, 0]


@pytest.mark.parametrize("changed", [False, True])
def test_words_mixes_seven_to_three(vocabulary, changed):
    for task in TASKS:
        table(task)
    mixture = registry.get("words")
    if changed:
        mixture = registry.with_vocabulary("words", registry.seqio_vocabulary(vocabulary))
    dataset = mixture.get_dataset(
        LENGTHS, "validation", shuffle=False, seed=1, copy_pretokenized=True
    )
    texts = [e["inputs_pretokenized"] for e in dataset.take(2000).as_numpy_iterator()]
    share = sum(text.startswith(b"pronounce: ") for text in texts) / len(texts)
    assert share == pytest.approx(0.7, abs=0.04)


# --- the registry -------------------------------------------------------------------------------


def test_importing_registers_the_tasks_and_the_mixture():
    assert {"pronounce", "inflect", "words"} <= set(registry.task_names())
    assert t5jax.tasks and registry.get("words") is seqio.MixtureRegistry.get("words")


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(ValueError, match=r"'pronunce'; did you mean pronounce"):
        registry.get("pronunce")
    with pytest.raises(ValueError, match=r"'pronunce'"):
        registry.with_vocabulary("pronunce", seqio.ByteVocabulary())


def test_a_vocabulary_replaces_every_features_and_leaves_the_registered_task(vocabulary):
    theirs = registry.seqio_vocabulary(vocabulary)
    for task in ("pronounce", "inflect", "words"):
        changed = registry.with_vocabulary(task, theirs)
        assert changed.name == task
        assert {f.vocabulary.vocab_size for f in changed.output_features.values()} == {175}
        registered = registry.get(task)
        assert {f.vocabulary.vocab_size for f in registered.output_features.values()} == {384}


def test_the_vocabulary_of_registration_changes_nothing():
    same = registry.seqio_vocabulary(ByteVocabulary())
    assert registry.with_vocabulary("pronounce", same) is registry.get("pronounce")


def number_source() -> seqio.FunctionDataSource:
    def numbers(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices({"inputs": ["1", "22"], "targets": ["3", "4"]})

    return seqio.FunctionDataSource(numbers, splits=["train"])


def number_task(name: str, *, steps: list, features: dict | None = None, cls=seqio.Task):
    default = {k: seqio.Feature(seqio.ByteVocabulary(125)) for k in ("inputs", "targets")}
    return cls(name, number_source(), features or default, preprocessors=steps)


@pytest.fixture
def registered():
    """Registers providers for one test."""
    added = []

    def add(provider):
        is_task = isinstance(provider, seqio.Task)
        kind = seqio.TaskRegistry if is_task else seqio.MixtureRegistry
        kind.add_provider(provider.name, provider)
        added.append((kind, provider.name))
        return provider

    yield add
    for kind, name in added:
        kind.remove(name)


def test_nested_mixtures_keep_the_rates_of_all_tasks(registered, vocabulary):
    tokenize = [seqio.preprocessors.tokenize]
    a, b, c = (registered(number_task(f"number_{x}", steps=tokenize)) for x in "abc")
    inner = registered(seqio.Mixture("inner", [("number_a", 1), ("number_b", lambda task: 3)]))
    outer = registered(seqio.Mixture("outer", [(inner, 2), ("number_c", 6), ("number_a", 0.5)]))
    changed = registry.with_vocabulary("outer", registry.seqio_vocabulary(vocabulary))
    rates = {task.name: changed.get_rate(task) for task in changed.tasks}
    assert rates == {t.name: outer.get_rate(t) for t in (a, b, c)}
    assert rates == {"number_a": 1.0, "number_b": 1.5, "number_c": 6.0}


def test_an_offline_cache_of_ids_is_not_read_with_another_vocabulary(registered):
    tokenize, cache = seqio.preprocessors.tokenize, seqio.CacheDatasetPlaceholder()
    registered(number_task("cached_ids", steps=[tokenize, cache]))
    registered(number_task("cached_text", steps=[cache, tokenize]))
    must = seqio.CacheDatasetPlaceholder(required=True)
    registered(number_task("must_be_cached", steps=[tokenize, must]))
    other = seqio.ByteVocabulary(7)
    assert not registry.with_vocabulary("cached_ids", other).supports_caching
    assert registry.with_vocabulary("cached_text", other).supports_caching
    assert registry.with_vocabulary("cached_ids", seqio.ByteVocabulary(125)).supports_caching
    with pytest.raises(ValueError, match="'must_be_cached' requires its offline cache"):
        registry.with_vocabulary("must_be_cached", other)


def test_features_without_tokens_keep_their_vocabulary(registered):
    passed = seqio.Feature(seqio.PassThroughVocabulary(5))
    features = {"inputs": passed, "targets": seqio.Feature(seqio.ByteVocabulary())}
    registered(number_task("half", steps=[], features=features))
    changed = registry.with_vocabulary("half", seqio.ByteVocabulary(9))
    assert changed.output_features["inputs"] == passed
    assert changed.output_features["targets"].vocabulary == seqio.ByteVocabulary(9)


def test_a_task_class_that_replace_would_lose_is_refused(registered):
    class Special(seqio.Task):
        pass

    registered(number_task("special", steps=[], cls=Special))
    with pytest.raises(ValueError, match=r"'special' is a Special.*override replace"):
        registry.with_vocabulary("special", seqio.ByteVocabulary(9))


def test_seqio_vocabulary_has_the_same_ids(vocabulary, tokenizer_json):
    text = "past: go <extra_id_0> HH AH0"
    seven = SentencePieceVocabulary(vocabulary.model, 7)
    bare = SentencePieceVocabulary(vocabulary.model, 0)
    added = AddedTokensVocabulary(bare, [AddedToken("go", bare.vocab_size)])
    for ours in (vocabulary, seven, ByteVocabulary(3), tokenizer_json, added):
        theirs = registry.seqio_vocabulary(ours)
        assert theirs.encode(text) == ours.encode(text)
        assert (theirs.vocab_size, theirs.extra_ids) == (ours.vocab_size, ours.extra_ids)


def test_training_cuts_a_text_otherwise_only_where_that_is_as_probable():
    ours = SentencePieceVocabulary(released("t5"))
    op = registry.seqio_vocabulary(ours).encode_tf
    assert (op("----").numpy().tolist(), ours.encode("----")) == ([3, 14817, 18], [3, 18, 14817])
    # Runs of one character have the most such ways, and this many of them.
    runs = [c * n for c in "-._=*#0123456789aoeh!?x" for n in range(1, 24)]
    different = 0
    for text in runs:
        theirs, here = op(text).numpy().tolist(), ours.encode(text)
        different += theirs != here
        assert equally_probable(ours, theirs, here)
    assert 0 < different < 0.2 * len(runs)


def test_seqio_vocabulary_reads_no_stale_model(tmp_path):
    path = tmp_path / "spiece.model"
    first = train_sentencepiece(["aaa bbb ab"] * 9, path, vocab_size=7)
    assert registry.seqio_vocabulary(first).sentencepiece_model_file == str(path)
    second = train_sentencepiece(["xxx yyy xy"] * 9, path, vocab_size=8)
    assert registry.seqio_vocabulary(second).encode("xy x") == second.encode("xy x")
    assert registry.seqio_vocabulary(first).encode("ab a") == first.encode("ab a")


@pytest.mark.parametrize("text", ["past: go <extra_id_0>", "", "日本\0"])
def test_a_wrapped_vocabulary_tokenizes_in_tensorflow_as_in_python(tokenizer_json, text):
    theirs = registry.seqio_vocabulary(tokenizer_json)
    ids = tokenizer_json.encode(text)
    for dataset in ([text], [[text, "go"]]):
        for encoded in tf.data.Dataset.from_tensor_slices(dataset).map(theirs.encode_tf):
            first = encoded if encoded.shape.rank == 1 else encoded[0]
            assert first.dtype == tf.int32 and first.numpy().tolist() == ids
    assert theirs.encode_tf(tf.constant(text)).numpy().tolist() == ids
    ended = [*ids, 1, 5, 0]
    assert theirs.decode(ended) == tokenizer_json.decode(ended) == tokenizer_json.decode(ids)
    batch = theirs.decode_tf(tf.constant([ended, ended], tf.int32)).numpy().tolist()
    assert batch == [theirs.decode_tf(tf.constant(ended, tf.int32)).numpy()] * 2
    assert batch[0].decode("utf-8") == tokenizer_json.decode(ids)


def test_wrapped_vocabularies_are_equal_where_what_they_wrap_is(tokenizer_json):
    wrap = registry.seqio_vocabulary
    copy = TokenizerJsonVocabulary(tokenizer_json.json)
    other = TokenizerJsonVocabulary(tokenizer_json.json + b"\n")
    assert wrap(tokenizer_json) == wrap(copy) and hash(wrap(tokenizer_json)) == hash(wrap(copy))
    assert wrap(tokenizer_json) != wrap(other)


def test_a_kind_that_seqio_lacks_is_refused():
    with pytest.raises(TypeError, match="seqio has no vocabulary like 7"):
        registry.seqio_vocabulary(7)


def test_task_modules_are_imported_once_by_path_or_name(tmp_path, monkeypatch):
    path = tmp_path / "my_tasks.py"
    path.write_text(
        "import pathlib\nwith open(__file__ + '.log', 'a') as f: f.write('run ')\nX = 1\n"
    )
    monkeypatch.chdir(tmp_path)
    modules = registry.load_modules([str(path), "my_tasks.py", "json"])
    assert modules[str(path)].X == 1 and modules["my_tasks.py"] is modules[str(path)]
    assert modules["json"] is json
    assert (tmp_path / "my_tasks.py.log").read_text() == "run "


@pytest.mark.parametrize(
    ("module", "cause"),
    [
        ("no_such_module.tasks", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("missing.py", "FileNotFoundError: no such file: .*missing.py"),
        ("wrong.py", "ZeroDivisionError"),
        ("bad_syntax.py", "SyntaxError"),
    ],
)
def test_modules_that_do_not_import_are_one_line_with_the_cause(
    tmp_path, monkeypatch, module, cause
):
    (tmp_path / "wrong.py").write_text("1 / 0\n")
    (tmp_path / "bad_syntax.py").write_text("def (\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=rf"cannot import the task module '{module}'.*{cause}"
    ) as e:
        registry.load_modules([module])
    assert "\n" not in str(e.value)


# --- evaluation -----------------------------------------------------------------------------------


def gold(dataset: tf.data.Dataset) -> list[tuple[int, np.ndarray]]:
    return [(i, e["decoder_target_tokens"]) for i, e in dataset.as_numpy_iterator()]


def wrong(dataset: tf.data.Dataset) -> list[tuple[int, np.ndarray]]:
    """The first answer is replaced by one of a single byte or piece."""
    answers = gold(dataset)
    spoiled = np.zeros_like(answers[0][1])
    spoiled[:2] = 50, 1
    return [(i, spoiled if i == 0 else ids) for i, ids in answers]


def evaluated(name: str, vocabulary, predict_fn, **options) -> dict:
    for needed in TASKS if name == "words" else [name]:
        table(needed)
    evaluator = registry.evaluator(
        registry.with_vocabulary(name, registry.seqio_vocabulary(vocabulary)),
        seqio.EncDecFeatureConverter(pack=False),
        eval_split="validation",
        num_examples=20,
        **options,
    )
    results, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict_fn, step=7)
    return results.result()


@pytest.fixture(params=["bytes", "vocabulary", "tokenizer_json"])
def any_vocabulary(request):
    return ByteVocabulary() if request.param == "bytes" else request.getfixturevalue(request.param)


def test_gold_answers_are_evaluated_as_exact_under_the_tasks_own_names(any_vocabulary):
    results = evaluated("words", any_vocabulary, gold)
    assert set(results) == {"pronounce", "inflect"}
    assert results["pronounce"] == {"wer": 0.0, "per": 0.0}
    assert results["inflect"]["exact_match"] == results["inflect"]["exact_match_regular"] == 1.0
    assert 0 < results["inflect"]["rule_exact_match"] <= 1.0


def test_one_wrong_answer_of_twenty_is_counted(any_vocabulary):
    result = evaluated("pronounce", any_vocabulary, wrong)["pronounce"]
    assert result["wer"] == 0.05 and 0 < result["per"] < 0.2
    assert evaluated("inflect", any_vocabulary, wrong)["inflect"]["exact_match"] == 0.95


def test_another_listed_pronunciation_is_right():
    name = "pronounce"
    table(name)
    converter = seqio.EncDecFeatureConverter(pack=False)
    evaluator = registry.evaluator(registry.get(name), converter, num_examples=200)
    cached = evaluator.cached_task_datasets[name].as_numpy_iterator()
    listed = [source.references(example) for example in cached]
    assert any(len(answers) > 1 for answers in listed)

    def last_listed(dataset: tf.data.Dataset) -> list[tuple[int, np.ndarray]]:
        ids = np.zeros((len(listed), 100), np.int32)
        for row, answers in zip(ids, listed, strict=True):
            encoded = ByteVocabulary().encode(answers[-1])
            row[: len(encoded)] = encoded
        return list(enumerate(ids))

    results, _ = evaluator.evaluate(compute_metrics=True, predict_fn=last_listed)
    assert results.result()[name]["wer"] == 0.0


def test_an_evaluator_leaves_the_registries_as_they_were(any_vocabulary):
    before = registry.task_names()
    evaluated("words", any_vocabulary, gold)
    assert registry.task_names() == before


def test_seqios_json_logger_writes_the_targets(name, tmp_path):
    options = {"logger_cls": [seqio.JSONLogger], "log_dir": str(tmp_path)}
    evaluated(name, ByteVocabulary(), gold, **options)
    lines = (tmp_path / f"{name}-000007.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    row = table(name)["validation"][0]
    assert len(lines) == 20
    if name == "pronounce":
        assert first["target"] == list(row.answers)
    else:
        expected = metrics.Inflection(row.prefix, row.word, list(row.answers))
        assert first["target"] == list(expected)
