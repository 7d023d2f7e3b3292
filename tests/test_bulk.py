"""Generation over files: in order, in flat memory, in few programs, and gone on with."""

import functools
import gc
import itertools
import json
import tracemalloc

import numpy as np
import pytest
import tqdm
from hypothesis import given, settings
from hypothesis import strategies as st

from t5jax.bulk import generate_each, unfinished
from t5jax.cli import main
from t5jax.compiled import ProgramCount
from t5jax.engine.buckets import bucket
from t5jax.text2text import Text2Text
from tests.support.models import tiny_text2text


def texts(seed: int, count: int, longest: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("abcdef "), n)) for n in rng.integers(0, longest, count)]


@settings(deadline=None, max_examples=6)
@given(st.integers(0, 30), st.integers(1, 9), st.sampled_from([1, 100, 10_000]), st.integers(1, 40))
def test_results_are_those_of_generate_in_the_order_of_the_texts(
    count, batch_size, batch_tokens, window
):
    t5, lines = tiny_text2text(), texts(count, count, 40)
    options = {"max_new_tokens": 5, "do_sample": True, "num_return_sequences": 2}
    found = generate_each(
        t5, iter(lines), batch_size=batch_size, batch_tokens=batch_tokens, window=window, **options
    )
    assert list(found) == (t5.generate(lines, **options) if lines else [])


def test_every_output_begins_with_what_is_given(tmp_path, capsys):
    t5, lines = tiny_text2text(), ["a", "some words", "b c"]
    likes_a = functools.partial(likes, 100)
    options = {"max_new_tokens": 4, "decoder_prefix": "it is "}
    expected = t5.generate(lines, **options)
    assert list(generate_each(t5, lines, **options)) == expected
    assert all(text.startswith("it is ") for text in expected)
    found = list(generate_each(t5, lines, logits_processor=likes_a, **options))
    assert found == ["it is aaaa"] * 3 == t5.generate(lines, logits_processor=likes_a, **options)
    t5.save(tmp_path / "model")
    words = ["generate", str(tmp_path / "model"), *lines, "--decoder_prefix", "it is "]
    main([*words, "--max_new_tokens", "4"])
    assert capsys.readouterr().out.splitlines() == [" ".join(t.splitlines()) for t in expected]
    with pytest.raises(ValueError, match="forced_bos_token_id=5 and decoder_prefix"):
        generate_each(t5, iter(()), forced_bos_token_id=5, **options)
    with pytest.raises(ValueError, match=r"decoder_prefix=\['a'\] must be one text for all"):
        generate_each(t5, iter(()), decoder_prefix=["a"])


def likes(token, ids, logits):
    return logits.at[:, token].set(1e9)


def test_texts_are_read_as_results_are_taken():
    read = itertools.count()
    lines = (f"line {i}" for i in read)  # without an end
    results = generate_each(tiny_text2text(), lines, batch_size=4, window=8, max_new_tokens=2)
    assert len(list(itertools.islice(results, 12))) == 12
    assert next(read) == 16


def test_the_number_of_texts_need_not_be_known(capsys):
    t5, lines = tiny_text2text(), ["a", "b c", "d"]
    options = {"max_new_tokens": 3}
    expected = t5.generate(lines, **options)
    # tqdm has a __len__, which raises where it is over a generator.
    for some in (tqdm.tqdm(line for line in lines), iter(lines), lines):
        assert list(generate_each(t5, some, **options)) == expected


def test_batches_keep_to_their_budget_of_tokens(monkeypatch):
    t5, lines = tiny_text2text(), texts(0, 60, 100)
    rows, plain = [], Text2Text.generate_ids

    def watched(self, ids, **options):
        longest = int((ids != 0).sum(axis=1).max())
        rows.append((len(ids), bucket(longest)))
        return plain(self, ids, **options)

    monkeypatch.setattr(Text2Text, "generate_ids", watched)
    options = {"batch_size": 16, "batch_tokens": 1000, "max_new_tokens": 3}
    # 128, 64 or 32 tokens in: with 32 out, 1,000 tokens have room for 6, 10 and 15 rows; with 128
    # for 3, 5 and 6.
    for prefix, out, sizes in ((None, 32, {4, 8}), ("a" * 70, 128, {2, 4})):
        list(generate_each(t5, lines, decoder_prefix=prefix, **options))
        assert {n for n, _ in rows} == sizes
        assert max(n * (length + out) for n, length in rows) <= 1000
        rows.clear()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_texts():
    t5 = tiny_text2text()
    results = generate_each(t5, (f"{i}" for i in itertools.count()), window=512, max_new_tokens=1)

    def taken(count: int) -> int:
        for _ in itertools.islice(results, count):
            pass
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = taken(2_000)
        assert taken(20_000) - before < 100_000  # five bytes a text would be more
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_thousand_inputs_of_mixed_length_compile_twelve_programs():
    t5 = tiny_text2text()
    programs = ProgramCount()
    results = generate_each(t5, texts(0, 1000, 511), max_new_tokens=17)
    assert len(list(results)) == 1000
    print(f"1,000 inputs of 1 to 511 tokens: {programs.count} programs")
    assert programs.count <= 12


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 0}, "batch_size=0"), ({"top_q": 1}, "top_q"), ({"max_new_tokens": 0}, "max_")],
)
def test_a_bad_option_is_refused_before_a_text_is_read(options, message):
    with pytest.raises(ValueError, match=message):
        generate_each(tiny_text2text(), iter(()), **options)


def test_an_unfinished_file_keeps_its_whole_lines(tmp_path):
    path, job = tmp_path / "out.txt", {"input": "a", "options": {"ids": (1, 2)}}
    with pytest.raises(KeyboardInterrupt), unfinished(path, job) as (stream, done):
        assert done == 0
        stream.write("one\ntwo\nthr")
        raise KeyboardInterrupt
    assert (tmp_path / "out.txt.unfinished").exists()
    other = unfinished(path, {**job, "input": "b"})
    with pytest.raises(ValueError, match=r"input was 'a', now it is 'b'.*delete"), other:
        pass
    with unfinished(path, job) as (stream, done):
        assert done == 2
        stream.write("three\n")
    assert path.read_text() == "one\ntwo\nthree\n"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]
    with unfinished(path, job) as (_, done):
        assert done == 0  # what is finished is written anew
    assert path.read_text() == ""


def test_a_stopped_command_goes_on_after_its_last_line(tmp_path, monkeypatch, capsys):
    saved, source, target = (str(tmp_path / name) for name in ("model", "in.txt", "out.txt"))
    t5, lines = tiny_text2text(), texts(1, 90, 30)
    t5.save(saved)
    (tmp_path / "in.txt").write_text("\n".join(lines) + "\n")
    words = ["generate", saved, "--input", source, "--output", target, "--batch", "2",
             "--max_new_tokens", "4"]  # fmt: skip
    plain, calls = Text2Text.generate_ids, []

    def counted(self, ids, **options):
        calls.append(len(ids))
        if len(calls) == 40:
            raise KeyboardInterrupt
        return plain(self, ids, **options)

    monkeypatch.setattr(Text2Text, "generate_ids", counted)
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 130
    written = (tmp_path / "out.txt").read_text().splitlines()
    assert 0 < len(written) < 90
    assert json.loads((tmp_path / "out.txt.unfinished").read_text())["input"] == source
    calls.clear()
    calls += [0] * 50  # never at 40 again
    (tmp_path / "in.txt").write_text("\n".join([*lines, "another"]) + "\n")
    with pytest.raises(SystemExit):
        main(words)
    assert "unfinished work of another call: input_bytes was" in capsys.readouterr().err
    (tmp_path / "in.txt").write_text("\n".join(lines) + "\n")
    main(words)
    assert sum(calls) == 90 - len(written)
    expected = [" ".join(t.splitlines()) for t in t5.generate(lines, max_new_tokens=4)]
    assert (tmp_path / "out.txt").read_text().splitlines() == expected
    assert (
        f"{90 - len(written)} inputs after {len(written)} that were there"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("texts", ["go", b"go", {"go": 1}, None, 5])
def test_one_text_is_not_taken_for_its_letters(texts):
    with pytest.raises(TypeError, match="must be several texts, such as a list"):
        generate_each(tiny_text2text(), texts)
