"""`load` and `Text2Text`: texts in, texts out, and what is written can be read."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import t5jax
from t5jax.config import MeshConfig
from t5jax.engine import buckets
from t5jax.engine.encoded import Encoded
from t5jax.formats.detect import open_checkpoint
from t5jax.ops.quantized import Scheme
from t5jax.sharding import make_mesh
from t5jax.text2text import Text2Text
from t5jax.vocabulary import ByteVocabulary
from tests.support.models import TINY, lively_params, random_ids, shared_text2text, tiny_text2text

TEXTS = ["hello", "", "a longer input, with words", "ü"]


def test_kinds_of_results():
    t5 = tiny_text2text()
    one = t5.generate("hello", max_new_tokens=5)
    many = t5.generate(TEXTS, max_new_tokens=5)
    assert isinstance(one, str)
    assert many[0] == one and len(many) == 4
    several = t5.generate(
        TEXTS, max_new_tokens=5, do_sample=True, num_return_sequences=3, temperature=2.0
    )
    assert [len(group) for group in several] == [3] * 4
    assert t5.generate([]) == []
    assert t5.generate_ids(np.zeros((0, 4), np.int32)).ids.shape[:2] == (0, 1)
    assert t5.score([], []).shape == (0,)


def test_encoded_inputs_generate_what_their_texts_do():
    t5 = tiny_text2text()
    encoded = t5.encode(TEXTS)
    assert encoded.hidden.shape == (4, encoded.mask.shape[1], TINY.d_model)
    assert encoded.mask.sum(axis=1).tolist() == [len(t.encode()) + 1 for t in TEXTS]
    for options in ({}, {"do_sample": True, "seed": 3}):
        assert t5.generate(encoded, max_new_tokens=9, **options) == t5.generate(
            TEXTS, max_new_tokens=9, **options
        )


def test_scores_of_texts_count_the_eos():
    t5 = tiny_text2text()
    ids = np.array([[*ByteVocabulary().encode("abc"), 1]])
    inputs = np.array([[*ByteVocabulary().encode("hello"), 1]])
    np.testing.assert_allclose(t5.score("hello", "abc"), t5.score_ids(inputs, ids))
    np.testing.assert_allclose(
        t5.score(TEXTS, ["abc"] * 4)[0], t5.score("hello", "abc")[0], atol=1e-4
    )


def test_params_and_model_give_the_logits():
    t5 = tiny_text2text()
    inputs, prefix = random_ids(0, 2, 8), random_ids(1, 2, 5)
    logits = t5.logits(inputs, prefix)
    assert logits.shape == (2, 5, 384) and logits.dtype == jnp.float32
    expected = jax.jit(t5.model.apply)({"params": t5.params}, inputs, prefix)
    np.testing.assert_allclose(expected, logits, atol=2e-5)
    jax.tree.map(np.testing.assert_array_equal, t5.params, lively_params(TINY))


def test_saved_model_loads_alike(tmp_path):
    t5 = tiny_text2text(max_input_length=20)
    t5.save(tmp_path / "model")
    os.rename(tmp_path / "model", tmp_path / "moved")
    again = t5jax.load(tmp_path / "moved")
    jax.tree.map(np.testing.assert_array_equal, again.params, t5.params)
    assert (again.config, again.generation, again.max_input_length) == (
        t5.config,
        t5.generation,
        20,
    )
    assert again.generate(TEXTS, max_new_tokens=9) == t5.generate(TEXTS, max_new_tokens=9)
    with pytest.raises(FileExistsError, match="moved"):
        t5.save(tmp_path / "moved")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["moved"]


def test_bfloat16_is_stored_and_computed_with(tmp_path):
    t5 = tiny_text2text()
    t5.save(tmp_path / "model")
    low = t5jax.load(tmp_path / "model", dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(low.params)} == {jnp.dtype("bfloat16")}
    inputs, prefix = random_ids(0, 2, 8), random_ids(1, 2, 5)
    assert low.logits(inputs, prefix).dtype == jnp.float32
    np.testing.assert_allclose(low.logits(inputs, prefix), t5.logits(inputs, prefix), atol=0.2)
    t5.save(tmp_path / "small", dtype="bfloat16")
    sizes = [
        sum(f.stat().st_size for f in (tmp_path / n).rglob("*") if f.is_file())
        for n in ("model", "small")
    ]
    assert sizes[1] < 0.6 * sizes[0]


def test_long_input_is_cut_before_its_eos_and_reported_once(capsys):
    t5 = tiny_text2text(max_input_length=10)
    ids = t5.text_ids(["x" * 30, "y" * 40])
    assert ids.shape == (2, 10) and (ids[:, -1] == 1).all()
    warnings = capsys.readouterr().err
    assert warnings.count("warning") == 1
    assert "31 tokens" in warnings and "21 beyond max_input_length=10" in warnings


def test_mistakes_are_named(tmp_path):
    t5 = tiny_text2text()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        t5jax.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"model\.json"):
        t5jax.load(tmp_path)
    with pytest.raises(ValueError, match="384"):
        t5.generate_ids([[5, 384]])
    with pytest.raises(ValueError, match="float16"):
        t5jax.load(tmp_path, dtype="float16")
    with pytest.raises(ValueError, match="vocabulary has 384"):
        Text2Text(TINY.replace(vocab_size=256), lively_params(TINY), ByteVocabulary())
    with pytest.raises(ValueError, match=r"d_ff|mlp/w"):
        Text2Text(TINY.replace(d_ff=64), lively_params(TINY), ByteVocabulary())
    t5.save(tmp_path / "model")
    for file in (tmp_path / "model" / "checkpoints").rglob("*"):
        if file.is_file() and file.stat().st_size > 200:
            file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="damaged"):
        t5jax.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda t5: t5.generate(["a", None]), TypeError, r"texts\[1\]=None must be a str"),
        (lambda t5: t5.generate(b"x"), TypeError, "texts=b'x'"),
        (lambda t5: t5.generate(3), TypeError, "texts=3"),
        (lambda t5: t5.generate("a\ud800"), ValueError, "character 1 is half of a surrogate"),
        (lambda t5: t5.encode({"a": 1}), TypeError, "texts={'a': 1}"),
        (lambda t5: t5.generate("a", assistant_model=5), TypeError, "assistant_model=5"),
        (lambda t5: t5.generate("a", decoder_prefix=5), TypeError, "decoder_prefix=5"),
        (lambda t5: t5.generate("a", batch_size="b"), ValueError, "batch_size='b'"),
        (lambda t5: t5.generate("a", return_scores=True), ValueError, "option 'return_scores'"),
        (lambda t5: t5.generate("a", input_ids=[[1]]), ValueError, "option 'input_ids'"),
        (
            lambda t5: t5.generate("a", return_token_scores=True),
            ValueError,
            "unknown generation option 'return_token_scores'",
        ),
        (
            lambda t5: t5.check_options({}, decoder_prefixes="a"),  # an argument of none
            TypeError,
            "decoder_prefixes",
        ),
        (lambda t5: t5.score(None, "a"), TypeError, "inputs=None"),
        (lambda t5: t5.score("a", [1]), TypeError, r"targets\[0\]=1"),
        (lambda t5: t5.encode_ids(None), ValueError, "input_ids must be int"),
        (lambda t5: t5.encode("a")["b"], TypeError, "inputs' numbers"),
        (lambda t5: t5.encode("a")[1], IndexError, "out of bounds"),
        (lambda t5: Encoded.join([5]), TypeError, "int is no Encoded"),
        (lambda t5: Encoded.join([]), ValueError, "at least one"),
        (lambda t5: t5.cast("float64"), ValueError, "dtype='float64' must be 'float32'"),
        (lambda t5: t5.cast(None), ValueError, "dtype=None"),
        (lambda t5: t5.quantize("int3"), ValueError, "int3"),
        (lambda t5: t5.save("x", format="y"), ValueError, "format='y'"),
        (lambda t5: t5.save(5), TypeError, "path=5"),
        (lambda t5: t5jax.load(5), TypeError, "path=5"),
        (lambda t5: t5jax.load("x", dtype=np.float64), ValueError, "float64"),
        (lambda t5: t5jax.load("x", dtype=[]), ValueError, "dtype="),
        (lambda t5: t5jax.load("x", mesh=5), TypeError, "mesh=5"),
        (lambda t5: t5jax.load("x", quantize_head=False), ValueError, "needs quantize"),
        (lambda t5: t5jax.load("x", allow="("), ValueError, "no regular expression"),
    ],
)
def test_an_argument_of_another_type_is_named(call, error, said):
    with pytest.raises(error, match=said) as caught:
        call(shared_text2text())
    assert "\n" not in str(caught.value)


def test_no_value_of_model_json_is_a_traceback(tmp_path):
    tiny_text2text().save(tmp_path / "m")
    file = tmp_path / "m" / "model.json"
    (tmp_path / "m" / "checksums.json").unlink()  # as an editor would
    content = json.loads(file.read_text())
    paths = [("model",), ("generation",), ("max_input_length",), ("quantized",)]
    paths += [("model", name) for name in content["model"]]
    for path in paths:
        for value in ([], {}, [[]], "x", 1.5, True, 10**10, 10**400, -1, None):
            changed = json.loads(json.dumps(content))
            (changed if len(path) == 1 else changed["model"])[path[-1]] = value
            file.write_text(json.dumps(changed))
            try:
                with pytest.warns(UserWarning, match="no checksums"):
                    open_checkpoint(tmp_path / "m")
            except ValueError as error:
                assert "\n" not in str(error) and str(tmp_path) in str(error), (path, value)
    for text in ("[]", "", "{", "[" * 10**5, "null"):
        file.write_text(text)
        with (
            pytest.warns(UserWarning, match="no checksums"),
            pytest.raises(ValueError, match=r"model\.json"),
        ):
            open_checkpoint(tmp_path / "m")


def test_dtypes_are_names_or_dtypes(tmp_path):
    t5 = tiny_text2text()
    t5.save(tmp_path / "m")
    for dtype in (jnp.bfloat16, np.dtype("bfloat16"), "bfloat16"):
        assert t5jax.load(tmp_path / "m", dtype=dtype).dtype == jnp.bfloat16
    assert t5jax.load(tmp_path / "m", dtype=np.float32).dtype == np.float32
    assert t5.nbytes == sum(x.nbytes for x in jax.tree.leaves(t5.params))
    assert t5.cast(np.float32).nbytes == 2 * t5.cast(jnp.bfloat16).nbytes == t5.nbytes


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_cast_and_quantize_give_what_load_gives(tmp_path, kind):
    t5 = tiny_text2text()
    t5.save(tmp_path / "m")

    def same(one, other):
        assert (one.dtype, one.quantization, one.nbytes) == (
            other.dtype,
            other.quantization,
            other.nbytes,
        )
        jax.tree.map(np.testing.assert_array_equal, one.decoder.params, other.decoder.params)

    same(t5.cast("bfloat16"), t5jax.load(tmp_path / "m", dtype="bfloat16"))
    small = t5.quantize(kind, head=False)
    same(small, t5jax.load(tmp_path / "m", quantize=kind, quantize_head=False))
    assert small.quantization == Scheme(kind, head=False)
    assert small.nbytes < t5.nbytes and t5.quantization is None
    low = t5jax.load(tmp_path / "m", quantize=kind, dtype="bfloat16")
    same(t5.quantize(kind).cast("bfloat16"), low)
    same(small.quantize(kind, head=False), small)
    with pytest.raises(ValueError, match="quantized already"):
        small.quantize(kind)


def test_encoded_inputs_are_taken_apart_and_joined():
    t5 = shared_text2text()
    texts = ["abc", "de" * 30, "f", "g"]
    encoded = t5.encode(texts)
    for index in (1, -1, slice(1, 3), [2, 0], np.array([True, False, True, False]), []):
        part = encoded[index]
        index = np.array(index, int) if isinstance(index, list) else index
        expected = np.atleast_1d(np.array(texts)[index])
        assert t5.generate(part, max_new_tokens=5) == t5.generate(
            expected.tolist(), max_new_tokens=5
        )
    assert "".join(t5.stream(encoded[0], max_new_tokens=5)) == t5.generate("abc", max_new_tokens=5)
    joined = Encoded.join([encoded[3], t5.encode("x" * 80), *encoded[:2]])
    expected = ["g", "x" * 80, "abc", "de" * 30]
    assert joined.hidden.shape[:2] == (4, 128)
    for options in ({}, {"do_sample": True}, {"encoder_no_repeat_ngram_size": 1}):
        assert t5.generate(joined, max_new_tokens=5, **options) == t5.generate(
            expected, max_new_tokens=5, **options
        )


def test_import_is_light_and_quick():
    code = (
        "import time, jax, flax; a = time.process_time(); import t5jax, sys;"
        "b = time.process_time(); heavy = {'tensorflow', 'seqio', 'torch', 'tensorflow_datasets'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); print(b - a)"
    )
    command = [sys.executable, "-c", code]
    # Once is enough where nothing else slows it down.
    assert any(
        float(subprocess.run(command, check=True, capture_output=True).stdout) < 1.0
        for _ in range(3)
    )


def parts(array: jax.Array) -> int:
    """How many pieces the devices hold of it."""
    return array.size // array.addressable_shards[0].data.size


@pytest.mark.eight_devices
def test_a_mesh_of_eight_devices_gives_what_one_gives(tmp_path, monkeypatch):
    path = str(tmp_path / "model")
    tiny_text2text().save(path)
    tiny_text2text().save(f"{path}-hf", format="hf")
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    one, eight = t5jax.load(path), t5jax.load(path, mesh=mesh)
    beams = {"num_beams": 3, "no_repeat_ngram_size": 2, "decoder_prefix": "ab"}
    monkeypatch.setattr(buckets, "ROOMS", (4,))  # the cache grows once
    for options in ({}, {"do_sample": True}, beams):
        options["max_new_tokens"] = 7
        assert eight.generate(TEXTS, **options) == one.generate(TEXTS, **options)
    stream = eight.stream("hello", max_new_tokens=7)
    assert "".join(stream) == one.generate("hello", max_new_tokens=7)
    np.testing.assert_allclose(eight.score(TEXTS, TEXTS), one.score(TEXTS, TEXTS), rtol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, eight.params, one.params)
    for format in ("", "-hf"):
        again = t5jax.load(path + format, mesh=mesh)
        assert again.generate(TEXTS, max_new_tokens=7) == one.generate(TEXTS, max_new_tokens=7)
        jax.tree.map(np.testing.assert_array_equal, again.params, one.params)
        assert (
            parts(again.decoder.params["encoder"]["layers_1"]["self_attention"]["query_key_value"])
            == 4
        )
        assert (
            parts(again.decoder.params["decoder"]["layers_0"]["mlp"]["wi"]) == 4
        )  # fsdp and tensor
    for kind in ("int8", "int4"):
        small, spread = (t5jax.load(path, quantize=kind, mesh=m) for m in (None, mesh))
        jax.tree.map(np.testing.assert_array_equal, spread.params, small.params)
        # Whole numbers are the same but where the last bit of a sum rounds an activation otherwise.
        expected = np.asarray(small.logits([[5, 6, 1, 0]] * 4, [[0, 7]] * 4))
        error = np.asarray(spread.logits([[5, 6, 1, 0]] * 4, [[0, 7]] * 4)) - expected
        assert error.std() < 0.01 * expected.std(), error.std() / expected.std()
        kernel = spread.decoder.params["encoder"]["layers_1"]["self_attention"]["query_key_value"]
        assert parts(kernel.digits) == 4


@pytest.mark.eight_devices
@pytest.mark.parametrize("names", [("data",), ("tensor", "data"), ("fsdp", "sequence"), None])
def test_a_mesh_with_some_of_the_axes_gives_what_one_device_gives(names):
    sizes = (8,) if names and len(names) == 1 else (2, 4)
    mesh = jax.make_mesh(sizes, names) if names else {"data": 4, "tensor": 2}
    one, many = tiny_text2text(), tiny_text2text(mesh=mesh)
    assert many.generate(TEXTS, max_new_tokens=7) == one.generate(TEXTS, max_new_tokens=7)
    np.testing.assert_allclose(many.score(TEXTS, TEXTS), one.score(TEXTS, TEXTS), rtol=1e-4)
    assert "8 device(s)" in repr(many)


def test_editing_the_parameters_does_not_change_the_model():
    t5 = tiny_text2text()
    before = t5.logits([[5, 6, 1]], [[0, 7]])
    params = t5.params
    for tree in (params["encoder"]["relpos_bias"], params["decoder"]["norm"], params["head"]):
        for name in tree:
            tree[name] = tree[name] * 0
    np.testing.assert_array_equal(t5.logits([[5, 6, 1]], [[0, 7]]), before)


def test_a_model_that_pads_with_another_id_pads_and_masks_with_it():
    """As MADLAD-400's: padding 1, end 2."""
    ids = random_ids(3, 3, 9)
    ids[ids < 3] = 3
    ids[0, 4:] = ids[1, 7:] = 0
    usual = tiny_text2text()
    config = TINY.replace(pad_token_id=1, eos_token_id=2)
    other = Text2Text(config, usual.params, ByteVocabulary())
    renamed = np.where(ids == 0, 1, ids)
    prefix = [[0, 5, 7]] * 3
    np.testing.assert_allclose(other.logits(renamed, prefix), usual.logits(ids, prefix), atol=1e-5)
    np.testing.assert_allclose(
        other.score_ids(renamed, renamed), usual.score_ids(ids, ids), atol=1e-4
    )
    out = other.generate_ids(renamed, max_new_tokens=5)
    alone = [other.generate_ids(row[row != 1][None], max_new_tokens=5) for row in renamed]
    for row, length, single in zip(out.ids, out.lengths, alone, strict=True):
        np.testing.assert_array_equal(row[0, : length[0]], single.ids[0, 0])
        assert (row[0, length[0] :] == 1).all()
