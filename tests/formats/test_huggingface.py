"""Hugging Face folders: what transformers writes we read, what we write transformers reads."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization
from flax.traverse_util import unflatten_dict

import t5jax
from t5jax.decoding.options import GenerationOptions
from t5jax.formats.detect import open_checkpoint
from t5jax.model.t5.config import T5Config
from t5jax.model.t5.huggingface import ConfigJson
from t5jax.vocabulary import train_sentencepiece
from tests.support.models import lively_params, tiny_text2text
from tests.support.reference import KINDS, ragged_ids, random_torch, scale_of, torch, transformers

SMALL = T5Config(
    vocab_size=384,
    d_model=64,
    d_kv=16,
    d_ff=96,
    num_heads=4,
    num_layers=2,
    num_decoder_layers=3,
    dropout=0.1,
)
V1_0 = SMALL.replace(feed_forward_proj="relu", tie_word_embeddings=True, scale_decoder_outputs=True)
UL2 = SMALL.replace(feed_forward_proj="gated-silu")
UMT5 = SMALL.replace(relative_bias="per_layer")
ENCODER = V1_0.replace(num_decoder_layers=0, scale_decoder_outputs=True)
# transformers' model_type, and the architecture as we should read it.
VARIANTS = {
    "t5_1_0": ("t5", V1_0),
    "t5_1_1": ("t5", SMALL),
    "tied_unscaled": ("t5", SMALL.replace(tie_word_embeddings=True)),
    "byt5_depths": ("t5", SMALL.replace(num_layers=3, num_decoder_layers=1)),
    "mt5": ("mt5", SMALL),
    "ul2": ("t5", UL2),
    "umt5": ("umt5", UMT5),
    "longt5_local": ("longt5", SMALL.replace(encoder_attention_type="local", local_radius=50)),
    "longt5_tglobal": ("longt5", SMALL.replace(encoder_attention_type="transient-global")),
}


# One with a shared table of biases and one with a table a layer; all of them in the slow tests.
DEFAULT = ("t5_1_1", "umt5")


@pytest.fixture(
    params=[
        pytest.param(name, marks=[] if name in DEFAULT else pytest.mark.slow) for name in VARIANTS
    ]
)
def variant(request, tmp_path):
    """(transformers' model, its folder, the configuration that we should read)."""
    kind, config = VARIANTS[request.param]
    model = random_torch(config, kind=kind)
    model.save_pretrained(tmp_path / "theirs")
    return model, tmp_path / "theirs", config


def ids(seed=1, lengths=(3, 70, 600), targets=(9, 2, 5), vocab=384):
    rng = np.random.default_rng(seed)
    inputs, prefix = ragged_ids(rng, list(lengths), vocab), ragged_ids(rng, list(targets), vocab)
    prefix[:, 0] = 0
    return inputs, prefix


def their_outputs(model, inputs, prefix):
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(inputs),
            attention_mask=torch.tensor(inputs != 0).long(),
            decoder_input_ids=torch.tensor(prefix),
        )
    return out.logits.float().numpy() * scale_of(
        model
    ), out.encoder_last_hidden_state.float().numpy()


def test_what_transformers_wrote_gives_its_logits_hidden_states_and_loss(variant):
    model, folder, config = variant
    t5 = t5jax.load(folder)
    assert t5.config == config
    inputs, prefix = ids()
    logits, hidden = their_outputs(model, inputs, prefix)
    assert np.std(logits) > 0.5  # otherwise closeness would say little
    np.testing.assert_allclose(t5.logits(inputs, prefix), logits, atol=1e-4)
    ours = np.asarray(t5.encode_ids(inputs).hidden)[:, : inputs.shape[1]]
    np.testing.assert_allclose(ours[inputs != 0], hidden[inputs != 0], atol=1e-4)
    log_p = torch.log_softmax(torch.tensor(logits), -1).numpy()
    targets = np.concatenate([prefix[:, 1:], np.zeros((3, 1), int)], 1)
    chosen = np.take_along_axis(log_p, targets[..., None], 2)[..., 0] * (targets != 0)
    # A sum of eight logits' errors.
    np.testing.assert_allclose(t5.score_ids(inputs, targets), chosen.sum(1), atol=8e-4)


def test_transformers_loads_what_we_wrote_and_gives_the_same_logits(variant, tmp_path):
    model, folder, _ = variant
    t5jax.load(folder).save(tmp_path / "ours", format="hf")
    kind = KINDS[model.config.model_type if model.config.model_type != "mt5" else "t5"]
    again, info = getattr(transformers, f"{kind}ForConditionalGeneration").from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    before, after = model.state_dict(), again.eval().state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    inputs, prefix = ids(lengths=(3, 30, 20))
    np.testing.assert_array_equal(
        their_outputs(model, inputs, prefix)[0], their_outputs(again, inputs, prefix)[0]
    )


def test_through_every_format_and_back_is_bit_exact(variant, tmp_path):
    model, folder, config = variant
    source = folder
    formats = ["t5jax", "t5x", "t5jax", "hf"]
    if config.tie_word_embeddings != config.scale_decoder_outputs:
        formats.remove("t5x")  # which has no such model
    for i, format in enumerate(formats):
        target = tmp_path / f"{i}-{format}"
        t5jax.load(source).save(target, format=format)
        source = target
        assert open_checkpoint(source).about.config == config
    weights = transformers.AutoModelForSeq2SeqLM.from_pretrained(source).state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_bfloat16_is_as_close_to_its_own_weights_as_transformers_bfloat16(variant, tmp_path):
    model, folder, _ = variant
    inputs, prefix = ids(lengths=(3, 30, 20))
    # float32 mathematics on weights rounded to bfloat16: what casting the weights alone explains.
    rounded = model.to(torch.bfloat16).to(torch.float32)
    exact, _ = their_outputs(rounded, inputs, prefix)
    theirs, _ = their_outputs(model.to(torch.bfloat16), inputs, prefix)
    ours = t5jax.load(folder, dtype="bfloat16").logits(inputs, prefix)
    assert ours.dtype == jnp.float32
    wrong = np.sqrt(np.mean((theirs - exact) ** 2))
    assert np.sqrt(np.mean((np.asarray(ours) - exact) ** 2)) < 1.1 * wrong


def test_encoder_alone_loads_encodes_and_is_written(tmp_path):
    model = random_torch(ENCODER, part="EncoderModel")
    model.save_pretrained(tmp_path / "theirs")
    t5 = t5jax.load(tmp_path / "theirs")
    assert t5.config == ENCODER
    inputs, _ = ids(lengths=(3, 30, 20))
    with torch.no_grad():
        expected = model(torch.tensor(inputs), attention_mask=torch.tensor(inputs != 0))
    hidden = np.asarray(t5.encode_ids(inputs).hidden)[:, :30]
    np.testing.assert_allclose(
        hidden[inputs != 0], expected.last_hidden_state.numpy()[inputs != 0], atol=1e-4
    )
    for call in (
        lambda: t5.generate_ids(inputs),
        lambda: t5.generate("a"),
        lambda: t5.score("a", "b"),
    ):
        with pytest.raises(ValueError, match="encoder alone"):
            call()
    for format in ("hf", "t5x", "t5jax"):
        t5.save(tmp_path / format, format=format)
        again = t5jax.load(tmp_path / format)
        assert again.config.encoder_only
        np.testing.assert_array_equal(again.encode_ids(inputs).hidden, t5.encode_ids(inputs).hidden)
    transformers.T5EncoderModel.from_pretrained(tmp_path / "hf")


def test_the_encoder_of_a_checkpoint_with_its_own_head_loads_alone(tmp_path):
    model = random_torch(SMALL)
    model.save_pretrained(tmp_path)
    inputs, _ = ids(lengths=(3, 20))
    whole = t5jax.load(tmp_path)
    encoder = t5jax.load(tmp_path, num_decoder_layers=0, allow=("decoder.*", "lm_head.*"))
    expected = whole.encode_ids(inputs).hidden
    np.testing.assert_array_equal(encoder.encode_ids(inputs).hidden, expected)
    with pytest.raises(ValueError, match="has no place"):
        t5jax.load(tmp_path, num_decoder_layers=0, allow="decoder.*")


# Files of other ages and kinds


def write_folder(folder, model, *, weights="safetensors", **config):
    """transformers' model as a folder of another time: fields of None are left out."""
    folder.mkdir()
    fields = json.loads(model.config.to_json_string(use_diff=False)) | config
    fields = {k: v for k, v in fields.items() if v is not None}
    (folder / "config.json").write_text(json.dumps(fields))
    state = {k: v.contiguous().clone() for k, v in model.state_dict().items()}
    if weights == "torch":
        torch.save(state, folder / "pytorch_model.bin")
    elif weights == "old torch":
        torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    elif weights == "flax":
        (folder / "flax_model.msgpack").write_bytes(serialization.to_bytes(as_flax(state)))
    elif weights == "safetensors":
        from safetensors.torch import save_file

        save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder


def as_flax(state):
    flat = {}
    for name, tensor in state.items():
        path, array = name.split("."), tensor.numpy()
        if path[-2] in ("shared", "embed_tokens", "relative_attention_bias"):
            path[-1] = "embedding"
        elif "layer_norm" not in path[-2]:
            path[-1], array = "kernel", array.T
        flat[tuple(path)] = array
    return unflatten_dict(flat)


@pytest.mark.parametrize("weights", ["torch", "old torch", "flax"])
def test_other_kinds_of_weights_give_the_same_parameters(tmp_path, weights):
    model = random_torch(SMALL)
    one = t5jax.load(write_folder(tmp_path / "a", model))
    other = t5jax.load(write_folder(tmp_path / "b", model, weights=weights))
    assert one.config == other.config
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)


def test_bfloat16_weights_are_read_exactly(tmp_path):
    model = random_torch(SMALL).to(torch.bfloat16)
    one = t5jax.load(write_folder(tmp_path / "a", model))
    other = t5jax.load(write_folder(tmp_path / "b", model, weights="torch"))
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    expected = model.state_dict()["shared.weight"].float().numpy()
    np.testing.assert_array_equal(one.params["token_embedder"]["embedding"], expected)


def test_shards_are_written_and_read_with_their_index(tmp_path):
    from t5jax.formats import huggingface

    model = random_torch(SMALL)
    source = write_folder(tmp_path / "a", model)
    huggingface.write(tmp_path / "b", open_checkpoint(source), shard_bytes=100_000)
    shards = sorted(tmp_path.glob("b/*.safetensors"))
    assert len(shards) > 3 and all(f.stat().st_size < 120_000 for f in shards)
    one, other = t5jax.load(source), t5jax.load(tmp_path / "b")
    jax.tree.map(np.testing.assert_array_equal, one.params, other.params)
    again = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "b")
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize(
    "names",
    [
        ["encoder.embed_tokens.weight"],
        ["decoder.embed_tokens.weight"],
        ["shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight"],
    ],
)
def test_embedding_is_found_under_each_of_its_names(tmp_path, names):
    from safetensors.torch import load_file, save_file

    model = random_torch(SMALL)
    folder = write_folder(tmp_path / "a", model)
    state = load_file(folder / "model.safetensors")
    embedding = state.pop("shared.weight")
    for name in ("encoder", "decoder"):
        state.pop(f"{name}.embed_tokens.weight", None)
    save_file(state | {n: embedding.clone() for n in names}, folder / "model.safetensors")
    loaded = t5jax.load(folder).params["token_embedder"]["embedding"]
    np.testing.assert_array_equal(loaded, embedding.numpy())


@pytest.mark.parametrize(
    ("kind", "fields", "tied", "scaled"),
    [
        # transformers 3 and 4: one field for both facts, absent in T5 1.0's files
        ("t5", {"tie_word_embeddings": None, "scale_decoder_outputs": None}, True, True),
        ("t5", {"tie_word_embeddings": False, "scale_decoder_outputs": None}, False, False),
        # transformers 5: says that all are tied, and whether to scale
        ("t5", {"tie_word_embeddings": True, "scale_decoder_outputs": False}, False, False),
        ("t5", {"tie_word_embeddings": True, "scale_decoder_outputs": True}, True, True),
        ("mt5", {"tie_word_embeddings": True, "scale_decoder_outputs": None}, False, False),
        ("umt5", {"tie_word_embeddings": True, "scale_decoder_outputs": None}, False, False),
    ],
)
def test_head_and_scaling_of_every_age_of_config(tmp_path, kind, fields, tied, scaled):
    config = SMALL.replace(
        tie_word_embeddings=tied, relative_bias="per_layer" if kind == "umt5" else "shared"
    )
    model = random_torch(config, kind=kind)
    read = open_checkpoint(write_folder(tmp_path / "a", model, **fields)).about.config
    assert (read.tie_word_embeddings, read.scale_decoder_outputs) == (tied, scaled)


def test_fields_that_old_configs_lack_have_their_defaults(tmp_path):
    model = random_torch(V1_0.replace(num_decoder_layers=2))
    old = dict.fromkeys(
        "num_decoder_layers feed_forward_proj layer_norm_epsilon dense_act_fn is_gated_act "
        "relative_attention_max_distance scale_decoder_outputs tie_word_embeddings".split()
    )
    folder = write_folder(
        tmp_path / "a", model, architectures=["T5WithLMHeadModel"], n_positions=512, **old
    )
    assert open_checkpoint(folder).about.config == V1_0.replace(num_decoder_layers=2)


def test_a_bias_that_nothing_uses_is_left_alone(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = write_folder(tmp_path / "a", random_torch(V1_0))
    state = load_file(folder / "model.safetensors")
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    save_file(state | {name: torch.zeros(32, 4)}, folder / "model.safetensors")
    assert not open_checkpoint(folder).about.unused


def test_generation_config_gives_default_options(tmp_path, capsys):
    folder = write_folder(tmp_path / "a", random_torch(SMALL))
    options = {"max_new_tokens": 7, "do_sample": True, "top_k": 3, "no_such_thing": 4}
    content = options | {"eos_token_id": 1, "transformers_version": "4.1"}
    (folder / "generation_config.json").write_text(json.dumps(content))
    t5 = t5jax.load(folder)
    assert (t5.generation.max_new_tokens, t5.generation.do_sample, t5.generation.top_k) == (
        7,
        True,
        3,
    )
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "no_such_thing=4" in err
    t5.save(tmp_path / "b", format="hf")
    assert t5jax.load(tmp_path / "b").generation == t5.generation
    transformers.GenerationConfig.from_pretrained(tmp_path / "b")


def test_a_generation_config_may_say_how_to_search(tmp_path, capsys):
    """What transformers writes; that length_penalty needs beams is for those who call."""
    folder = write_folder(tmp_path / "a", random_torch(SMALL))
    content = {
        "length_penalty": 2.0,
        "no_repeat_ngram_size": 3,
        "forced_eos_token_id": 1,
        "bad_words_ids": [[5, 6]],
        "early_stopping": True,
        "eos_token_id": [1, 7],
        "suppress_tokens": None,
    }
    (folder / "generation_config.json").write_text(json.dumps(content))
    t5 = t5jax.load(folder)
    assert capsys.readouterr().err == ""
    expected = GenerationOptions(**{k: v for k, v in content.items() if v is not None})
    assert t5.generation == expected
    t5.save(tmp_path / "b", format="hf")
    assert t5jax.load(tmp_path / "b").generation == expected
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path / "b")
    assert (theirs.length_penalty, theirs.eos_token_id) == (2.0, [1, 7])


def test_lengths_of_a_generation_config_count_the_start_id_and_nonsense_does_not_stop(
    tmp_path, capsys
):
    model = random_torch(SMALL.replace(num_decoder_layers=2))
    folder = write_folder(tmp_path / "a", model)
    (folder / "generation_config.json").write_text('{"max_length": 9, "min_length": 7}')
    t5 = t5jax.load(folder)
    assert t5.generation == GenerationOptions(max_new_tokens=8, min_new_tokens=6)
    ids = np.random.default_rng(0).integers(3, t5.config.vocab_size, (4, 6))
    theirs = model.generate(torch.tensor(ids), max_length=9, min_length=7, do_sample=False)
    width = theirs.shape[1] - 1
    np.testing.assert_array_equal(t5.generate_ids(ids).ids[:, 0, :width], theirs[:, 1:])
    (folder / "generation_config.json").write_text('{"max_length": 9, "max_new_tokens": 5}')
    assert t5jax.load(folder).generation.max_new_tokens == 5
    assert capsys.readouterr().err == ""
    (folder / "generation_config.json").write_text('{"max_length": "long"}')
    assert t5jax.load(folder).generation == GenerationOptions()
    assert "max_length='long' is not supported" in capsys.readouterr().err
    content = {
        "num_return_sequences": 2,
        "num_beams": 3,
        "temperature": 0.0,
        "min_length": 200,
        "max_length": 9,
        "suppress_tokens": 1.5,
    }
    (folder / "generation_config.json").write_text(json.dumps(content))
    expected = GenerationOptions(
        num_return_sequences=2, num_beams=3, max_new_tokens=8, min_new_tokens=8
    )
    assert t5jax.load(folder).generation == expected
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2 and all("of the checkpoint has no effect" in line for line in err)
    assert "temperature=0.0 must be more than 0" in err[0] and "suppress_tokens=1.5" in err[1]


def test_generation_options_of_config_json_count_where_there_is_no_other_file(tmp_path, capsys):
    """As in transformers; task_specific_params do not count there either."""
    options = {
        "num_beams": 4,
        "max_length": 10,
        "min_length": 3,
        "no_repeat_ngram_size": 2,
        "length_penalty": 0.6,
        "early_stopping": True,
        "eos_token_id": [1, 7],
        "diversity_penalty": 0.0,
        "num_beam_groups": 1,
        "task_specific_params": {"summarization": {"num_beams": 6}},
    }
    model = random_torch(SMALL.replace(num_decoder_layers=2))
    folder = write_folder(tmp_path / "a", model, **options)
    t5 = t5jax.load(folder)
    expected = GenerationOptions(
        num_beams=4,
        max_new_tokens=9,
        min_new_tokens=2,
        no_repeat_ngram_size=2,
        length_penalty=0.6,
        early_stopping=True,
        eos_token_id=(1, 7),
    )
    assert t5.generation == expected and t5.config.eos_token_id == 1
    assert capsys.readouterr().err == ""
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).generation_config
    for name in ("num_beams", "max_length", "no_repeat_ngram_size", "length_penalty"):
        assert getattr(theirs, name) == options[name]
    # What we write says the same, in the other file.
    t5.save(tmp_path / "b", format="hf")
    assert t5jax.load(tmp_path / "b").generation == expected
    # A generation_config.json is all that transformers 5 looks at, but that we do end.
    (folder / "generation_config.json").write_text('{"decoder_start_token_id": 4}')
    t5 = t5jax.load(folder)
    assert t5.generation == GenerationOptions(eos_token_id=(1, 7))
    assert t5.config.decoder_start_token_id == 4
    # What has no effect is said in one line.
    edit(folder, diversity_penalty=0.5, num_beam_groups=2)
    (folder / "generation_config.json").unlink()
    capsys.readouterr()
    t5jax.load(folder)
    assert capsys.readouterr().err == (
        "warning: of the checkpoint's generation options diversity_penalty=0.5, num_beam_groups=2 "
        "are not supported and have no effect\n"
    )


def test_the_vocabulary_comes_with_the_model_and_goes_with_it(tmp_path):
    """Text in, ids out, as transformers' tokenizer of the folder that we write gives them."""
    model = tmp_path / "spiece.model"
    vocabulary = train_sentencepiece(["the cat sat on the mat", "a dog"], model, vocab_size=16)
    # transformers 5.23 cannot generate where the decoder is the deeper one.
    config = SMALL.replace(vocab_size=128, num_decoder_layers=2)
    t5 = t5jax.Text2Text(config, lively_params(config), vocabulary)
    t5.save(tmp_path / "hf", format="hf")
    again = t5jax.load(tmp_path / "hf")
    assert again.vocabulary == vocabulary
    texts = ["a cat sat on the dog", "the mat"]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    np.testing.assert_array_equal(theirs(texts, padding=True).input_ids, t5.text_ids(texts))
    torch_model = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "hf")
    inputs = theirs(texts, padding=True, return_tensors="pt")
    out = torch_model.generate(**inputs, max_new_tokens=9)
    ours = t5.generate_ids(t5.text_ids(texts), max_new_tokens=9).ids[:, 0]
    np.testing.assert_array_equal(ours, out[:, 1:].numpy())
    small = SMALL.replace(vocab_size=112)
    t5jax.Text2Text(small, lively_params(small), None).save(tmp_path / "small", format="hf")
    shutil.copy(tmp_path / "hf" / "spiece.model", tmp_path / "small")
    assert "116 ids, the embedding only 112 rows" in broken(tmp_path / "small")


# Mistakes


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "model", random_torch(SMALL))


def broken(path, error=ValueError, **options):
    with pytest.raises(error) as caught:
        t5jax.load(path, **options)
    message = str(caught.value)
    assert "\n" not in message.strip()
    return message


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_file_cut_short_is_named(folder, file):
    data = (folder / file).read_bytes()
    (folder / file).write_bytes(data[: len(data) // 2])
    assert str(folder / file) in broken(folder)


@pytest.mark.parametrize("weights", ["torch", "old torch", "flax"])
def test_a_weights_file_cut_short_is_named(tmp_path, weights):
    folder = write_folder(tmp_path / "a", random_torch(SMALL), weights=weights)
    (file,) = (f for f in folder.iterdir() if f.name != "config.json")
    file.write_bytes(file.read_bytes()[:5000])
    assert str(file) in broken(folder)


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    folder = write_folder(tmp_path / "a", random_torch(SMALL), weights="none")
    torch.save({"shared.weight": Evil()}, folder / "pytorch_model.bin")
    assert "more than weights" in broken(folder)
    assert not (tmp_path / "ran").exists()


def test_torchs_file_without_torch_says_what_to_install(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "a", random_torch(SMALL), weights="torch")
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it fails
    assert "pip install torch" in broken(folder)


def test_a_missing_shard_and_a_shard_without_its_tensor_are_named(folder):
    index = {"weight_map": {"shared.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00002-of-00002" in broken(folder, FileNotFoundError)
    index["weight_map"] = {"nowhere": "model-00001-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks nowhere" in broken(folder)
    (folder / "model.safetensors.index.json").write_text("{")
    assert "index.json is not JSON" in broken(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": 3}}')
    assert "weight_map.a: 3: input should be a valid string" in broken(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b"}}')
    assert "'../b' must be the name of a file beside it" in broken(folder)


def edit(folder, **fields):
    content = json.loads((folder / "config.json").read_text()) | fields
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"d_ff": 128}, "has shape (96, 64); the configuration asks for (128, 64)"),
        ({"model_type": "blenderbot"}, "supported: t5, mt5, umt5"),
        ({"architectures": ["T5ForTokenClassification"]}, "T5ForTokenClassification"),
        ({"attention_window": 64}, "attention_window=64"),
        ({"feed_forward_proj": "gated-tanh", "dense_act_fn": None}, "gated-tanh"),
        ({"dense_act_fn": "relu"}, "dense_act_fn='relu' is another non-linearity"),
        ({"is_gated_act": False}, "is_gated_act=False does not go with"),
        ({"num_layers": 5}, "encoder/layers_2/"),
        ({"num_layers": 1}, "encoder.block.1.layer.0"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(folder, fields, said):
    edit(folder, **fields)
    assert said in broken(folder)


def test_unused_and_missing_names_can_be_allowed(folder):
    edit(folder, num_layers=1)
    checkpoint = open_checkpoint(folder, allow=r"encoder\.block\.1\..*")
    assert len(checkpoint.about.unused) == 9 and not checkpoint.about.missing
    edit(folder, num_layers=3)
    checkpoint = open_checkpoint(folder, allow=r"encoder/layers_2/.*")
    assert len(checkpoint.about.missing) == 9
    assert not checkpoint.read("training")["encoder"]["layers"]["mlp"]["wo"][2].any()


WRONG = ([], {}, [[]], "x", 1.5, True, 10**10, 10**400, -1, [None], {"a": {}})


@pytest.mark.parametrize("name", [*ConfigJson.model_fields, "max_length", "num_beams"])
def test_no_value_of_a_config_is_a_traceback(folder, name):
    """It loads, or one line says what is wrong with which file."""
    for value in WRONG:
        edit(folder, **{name: value})
        try:
            open_checkpoint(folder)
        except ValueError as error:
            assert "\n" not in str(error) and str(folder) in str(error), (name, value)
            assert len(str(error)) < 400


@pytest.mark.parametrize("text", ["[]", "3", "null", "", "{", "[" * 10**5, '{"a":' * 10**5])
@pytest.mark.parametrize("file", ["config.json", "generation_config.json"])
def test_what_is_no_object_is_named_by_its_file(folder, file, text):
    (folder / file).write_text(text)
    message = broken(folder)
    assert file in message and len(message) < 400


def test_sizes_are_compared_with_the_files_before_there_is_memory_for_them(folder):
    for name in ("vocab_size", "num_layers", "num_decoder_layers", "d_ff", "num_heads", "d_model"):
        for value in (10**4, 10**12):
            edit(folder, **{name: value})
            began = time.monotonic()
            assert str(folder) in broken(folder)
            assert time.monotonic() - began < 20
        edit(folder, **{name: getattr(SMALL, name)})


def test_the_header_of_a_safetensors_file_is_checked(folder):
    from safetensors.numpy import save_file

    edit(folder, tie_word_embeddings=False)
    file = folder / "model.safetensors"
    save_file({"shared.weight": np.zeros((3, 3), np.int8)}, file)
    assert "shared.weight is I8; tensors of float64, float32" in broken(folder)


# Copies of one tensor


def with_tensors(folder, **tensors):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    save_file(state | tensors, folder / "model.safetensors")


def test_tables_that_differ_are_refused(folder):
    table = torch.zeros(384, 64)
    with_tensors(folder, **{"decoder.embed_tokens.weight": table})
    assert "decoder.embed_tokens.weight differs from shared.weight" in broken(folder)


def test_a_shared_bias_may_be_there_for_every_layer_and_must_be_the_same(folder):
    from safetensors.torch import load_file

    name = "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"
    bias = load_file(folder / "model.safetensors")[name.format(0)]
    with_tensors(folder, **{name.format(1): bias.clone()})
    assert not open_checkpoint(folder).about.unused
    bias[3, 1] += 1
    with_tensors(folder, **{name.format(1): bias})
    assert f"{name.format(1)} differs from {name.format(0)}" in broken(folder)


def test_a_head_that_is_to_be_the_embedding_and_is_not_is_refused(folder):
    """Where the caller says so; by itself a head in the file is one of its own."""
    assert not open_checkpoint(folder).about.config.tie_word_embeddings
    assert "lm_head.weight differs from shared.weight" in broken(folder, tie_word_embeddings=True)


# Files of torch's


@pytest.mark.parametrize("key", ["state_dict", "model", None])
def test_a_state_dict_is_found_where_trainers_put_it(tmp_path, key):
    model = random_torch(SMALL)
    folder = write_folder(tmp_path / "a", model, weights="none")
    state = dict(model.named_parameters())  # which require gradients
    torch.save({key: state, "epoch": 3} if key else state, folder / "pytorch_model.bin")
    read = open_checkpoint(folder).tensors["head/kernel"].read()
    np.testing.assert_array_equal(read, model.lm_head.weight.detach().numpy().T)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (lambda x: x.to_sparse(), "sparse"),
        (lambda x: x.to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda x: x.to(torch.int8), "int8"),
        (lambda x: 3, "a int"),
        (lambda x: [x], "a list"),
    ],
)
def test_a_tensor_of_another_kind_is_named(tmp_path, value, said):
    model = random_torch(SMALL)
    folder = write_folder(tmp_path / "a", model, weights="none")
    state = model.state_dict() | {"lm_head.weight": value(model.state_dict()["lm_head.weight"])}
    torch.save(state, folder / "pytorch_model.bin")
    message = broken(folder)
    assert "lm_head.weight is" in message and said in message


def test_a_file_without_a_state_dict_is_named(tmp_path):
    folder = write_folder(tmp_path / "a", random_torch(SMALL), weights="none")
    torch.save([torch.zeros(3)], folder / "pytorch_model.bin")
    assert "holds 'list', no state dict" in broken(folder)


def test_float16_is_read_exactly_and_written_where_it_fits(tmp_path):
    model = random_torch(SMALL).to(torch.float16)
    folder = write_folder(tmp_path / "a", model)
    expected = model.lm_head.weight.detach().float().numpy().T
    for dtype in ("float32", "bfloat16"):
        kernel = t5jax.load(folder, dtype=dtype).params["head"]["kernel"]
        np.testing.assert_array_equal(kernel, expected.astype(kernel.dtype))
    t5 = t5jax.load(folder)
    t5.save(tmp_path / "b", format="hf", dtype="float16")
    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "b", dtype="auto")
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    params = t5.params
    params["decoder"]["layers"]["mlp"]["wo"] = params["decoder"]["layers"]["mlp"]["wo"] * 1e6
    large = t5jax.Text2Text(t5.config, params, None)
    for format in ("hf", "t5x", "t5jax"):
        with pytest.raises(ValueError, match=r"decoder/layers_0/mlp/wo holds .*65,504.*bfloat16"):
            large.save(tmp_path / "c", format=format, dtype="float16")
    large.save(tmp_path / "c", format="hf", dtype="bfloat16")
    with pytest.raises(ValueError, match="float16's largest, 65,504; bfloat16"):
        t5jax.load(tmp_path / "c", dtype="float16")


def test_fields_can_be_changed_and_unknown_ones_are_named(folder):
    t5 = t5jax.load(folder, feed_forward_proj="gated-silu")
    assert t5.config.feed_forward_proj == "gated-silu"
    assert "no_field" in broken(folder, no_field=1)


def test_what_is_no_checkpoint_is_told_apart(tmp_path):
    assert "is no folder, and no id of the Hugging Face hub" in broken(
        tmp_path / "a" / "c", FileNotFoundError
    )
    (tmp_path / "empty").mkdir()
    assert "holds no model" in broken(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{}")
    assert "holds no weights" in broken(tmp_path / "empty", FileNotFoundError)


@pytest.mark.slow
def test_a_hub_id_out_of_reach_fails_at_once_and_a_cached_one_loads(folder, tmp_path):
    """In processes of their own: the hub's library reads its environment when it is imported."""
    script = "import sys, t5jax; print(t5jax.load(sys.argv[1]).config.d_ff)"

    def load(name, **setting):
        environment = {**os.environ, **setting, "HF_HOME": str(tmp_path / "hf")}
        command = [sys.executable, "-c", script, name]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    for setting in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        result = load("someone/small", **setting)
        assert "someone/small is no folder here, the hub is out of reach" in result.stderr
        assert "Retrying" not in result.stderr
    # The cache as the hub's library lays it out.
    repo = tmp_path / "hf" / "hub" / "models--someone--small"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("1" * 40)
    shutil.copytree(folder, repo / "snapshots" / ("1" * 40))
    assert load("someone/small", HF_HUB_OFFLINE="1").stdout.strip() == "96"


def test_a_model_without_a_vocabulary_works_on_ids_and_says_how_to_get_one(tmp_path):
    folder = write_folder(tmp_path / "a", random_torch(SMALL.replace(vocab_size=400)))
    t5 = t5jax.load(folder)
    inputs, _ = ids(lengths=(3, 5, 4))
    assert t5.generate_ids(inputs, max_new_tokens=3).ids.shape == (3, 1, 3)
    with pytest.raises(ValueError, match="without a vocabulary"):
        t5.generate("hello")
    t5 = t5jax.load(folder, vocabulary="bytes")
    assert isinstance(t5.generate("hello", max_new_tokens=3), str)


def test_writing_is_complete_or_not_there(folder, tmp_path, monkeypatch):
    from t5jax.formats import huggingface

    t5 = t5jax.load(folder)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(huggingface, "write_safetensors", fail)
    with pytest.raises(OSError, match="disk full"):
        t5.save(tmp_path / "out", format="hf")
    assert {p.name for p in tmp_path.iterdir()} == {"model"}
    with pytest.raises(FileExistsError):
        t5.save(folder, format="hf")
    with pytest.raises(ValueError, match="'t5jax', 'hf', 't5x'"):
        t5.save(tmp_path / "out", format="onnx")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_was_written_is_used_where_it_lies(tmp_path, dtype):
    """In the pages of the mapped file, where a parameter needs no rearranging."""
    tiny_text2text().save(tmp_path / "model", format="hf", dtype=dtype)
    file = tmp_path / "model" / "model.safetensors"
    with file.open("rb") as stream:
        assert (8 + int.from_bytes(stream.read(8), "little")) % 64 == 0
    t5 = t5jax.load(tmp_path / "model", vocabulary="bytes", dtype=dtype)

    def mapped(x) -> bool:
        lines = map(str.split, Path("/proc/self/maps").read_text().splitlines())
        places = [words[0].split("-") for words in lines if words[-1] == str(file)]
        return any(int(a, 16) <= x.unsafe_buffer_pointer() < int(b, 16) for a, b in places)

    layer = t5.decoder.params["decoder"]["layers_0"]
    assert mapped(t5.decoder.params["token_embedder"]["embedding"]) and mapped(layer["mlp"]["wo"])
    assert not mapped(layer["self_attention"]["query_key_value"])
    other = t5jax.load(tmp_path / "model", vocabulary="bytes", dtype="float32")
    assert mapped(other.decoder.params["token_embedder"]["embedding"]) == (dtype == "float32")
    np.testing.assert_array_equal(
        other.decoder.params["token_embedder"]["embedding"],
        np.asarray(t5.decoder.params["token_embedder"]["embedding"], np.float32),
    )
