"""BART's family against transformers' models, and its training network against its serving one."""

import functools
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

import t5jax
from t5jax.config import LengthsConfig
from t5jax.data.packing import ModelIds, to_batch
from t5jax.model.bart.network import Bart
from t5jax.model.bart.variants import VARIANTS
from t5jax.model.family import family_of
from t5jax.model.parameters import (
    abstract_params,
    count_parameters,
    for_serving,
    from_serving,
    unstack,
)
from tests.support.bart import CONFIGS, random_ids, random_prefix, random_torch
from tests.support.reference import torch, transformers

KINDS = pytest.mark.parametrize("kind", CONFIGS)


@functools.cache
def theirs(kind):
    return random_torch(kind)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Each kind's folder as transformers writes it."""

    @functools.cache
    def folder(kind):
        path = tmp_path_factory.mktemp(kind) / "theirs"
        theirs(kind).save_pretrained(path)
        return path

    return folder


@pytest.fixture(scope="module")
def loaded(folders):
    return functools.cache(lambda kind: t5jax.load(folders(kind)))


def outputs(model, inputs, prefix):
    mask = torch.tensor(inputs != model.config.pad_token_id).long()
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(inputs),
            attention_mask=mask,
            decoder_input_ids=torch.tensor(prefix),
        )
    return out.logits.numpy(), out.encoder_last_hidden_state.numpy()


@KINDS
def test_what_transformers_wrote_gives_its_logits_and_hidden_states(kind, loaded):
    t5 = loaded(kind)
    assert t5.config == CONFIGS[kind]
    inputs = random_ids(t5.config, 1, [3, 40, 17])
    prefix = random_prefix(t5.config, 2, 3, 21)
    logits, hidden = outputs(theirs(kind), inputs, prefix)
    assert np.std(logits) > 0.5  # otherwise closeness would say little
    np.testing.assert_allclose(t5.logits(inputs, prefix), logits, atol=1e-4)
    ours = np.asarray(t5.encode_ids(inputs).hidden)[:, : inputs.shape[1]]
    tokens = inputs != t5.config.pad_token_id
    np.testing.assert_allclose(ours[tokens], hidden[tokens], atol=1e-4)


@KINDS
@pytest.mark.parametrize("beams", [1, 3])
def test_ids_are_those_of_transformers(kind, beams, loaded):
    t5, model = loaded(kind), theirs(kind)
    inputs = random_ids(t5.config, 3, [9, 9, 9, 9])
    mask = torch.ones(inputs.shape, dtype=torch.long)
    options = {"num_beams": beams, "max_new_tokens": 14}
    with torch.no_grad():
        expected = model.generate(
            torch.tensor(inputs), attention_mask=mask, do_sample=False, **options
        ).numpy()[:, 1:]
    found = t5.generate_ids(inputs, **options).ids[:, 0]
    width, pad = max(found.shape[1], expected.shape[1]), t5.config.pad_token_id
    found, expected = (
        np.pad(x, ((0, 0), (0, width - x.shape[1])), constant_values=pad) for x in (found, expected)
    )
    same = np.all(found == expected, axis=1)
    assert same.any()
    for row in np.flatnonzero(~same):  # only where rounding may decide
        at = np.argmax(found[row] != expected[row])
        if beams == 1:
            prefix = [[t5.config.decoder_start_token_id, *found[row, :at]]]
            logits = np.asarray(t5.logits(inputs[row : row + 1], prefix))[0, -1]
            assert abs(logits[found[row, at]] - logits[expected[row, at]]) < 1e-4
        else:
            ours, other = (
                t5.score_ids(inputs[row : row + 1], ids[row : row + 1])[0] / (ids[row] != pad).sum()
                for ids in (found, expected)
            )
            assert abs(ours - other) < 1e-4


@KINDS
def test_transformers_loads_what_we_wrote_and_gives_the_same_logits(kind, loaded, tmp_path):
    t5, model = loaded(kind), theirs(kind)
    t5.save(tmp_path / "ours", format="hf")
    again, info = type(model).from_pretrained(tmp_path / "ours", output_loading_info=True)
    sines = {f"model.{stack}.embed_positions.weight" for stack in ("encoder", "decoder")}
    assert set(info["missing_keys"]) <= sines and not info["unexpected_keys"]
    inputs = random_ids(t5.config, 4, [12, 7])
    prefix = random_prefix(t5.config, 5, 2, 9)
    expected, _ = outputs(model, inputs, prefix)
    np.testing.assert_array_equal(outputs(again.eval(), inputs, prefix)[0], expected)
    for option in ("forced_eos_token_id", "forced_bos_token_id"):
        assert getattr(again.generation_config, option) is None
    assert t5jax.load(tmp_path / "ours").config == t5.config


@KINDS
def test_the_training_network_is_the_serving_network_step_by_step(kind, loaded):
    t5 = loaded(kind)
    config, params = t5.config, t5.params
    inputs = random_ids(config, 6, [11, 5])
    options = {"max_new_tokens": 9, "suppress_tokens": [config.pad_token_id]}
    found = t5.generate_ids(inputs, **options)
    np.testing.assert_allclose(found.scores[:, 0], t5.score_ids(inputs, found.ids[:, 0]), atol=1e-3)
    prefix = random_prefix(config, 7, 2, 8)
    logits = Bart(config).apply({"params": params}, inputs, prefix)
    np.testing.assert_allclose(t5.logits(inputs, prefix), logits, atol=1e-4)
    apart = Bart(config, scan=False).apply({"params": unstack(params)}, inputs, prefix)
    np.testing.assert_allclose(apart, logits, atol=1e-5)
    back = from_serving(config, for_serving(config, params))
    jax.tree.map(np.testing.assert_array_equal, back, params)


@KINDS
def test_gradients_of_a_step_are_those_of_transformers(kind, loaded):
    t5, model = loaded(kind), theirs(kind)
    config, params = t5.config, t5.params
    inputs, labels = random_ids(config, 8, [9, 6]), random_ids(config, 9, [7, 7])
    prefix = np.roll(labels, 1, axis=1)
    prefix[:, 0] = config.decoder_start_token_id
    model.zero_grad()
    out = model(
        input_ids=torch.tensor(inputs),
        attention_mask=torch.tensor(inputs != config.pad_token_id).long(),
        decoder_input_ids=torch.tensor(prefix),
        labels=torch.tensor(labels),
    )
    out.loss.backward()

    @jax.jit
    def loss(params):
        logits = Bart(config).apply({"params": params}, inputs, prefix)
        log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], -1)
        return -jnp.mean(log_p)

    value, gradient = jax.value_and_grad(loss)(params)
    np.testing.assert_allclose(value, out.loss.item(), rtol=1e-5)
    named = {k: p.grad for k, p in model.named_parameters() if p.grad is not None}
    expected = named["model.shared.weight"].numpy()
    np.testing.assert_allclose(
        gradient["token_embedder"]["embedding"], expected, atol=1e-5 * np.abs(expected).max() + 1e-6
    )
    mlp = gradient["decoder"]["layers"]["mlp"]
    for i in range(config.decoder_layers):
        for ours, name in (("wi", "fc1.weight"), ("wi_bias", "fc1.bias"), ("wo", "fc2.weight")):
            expected = named[f"model.decoder.layers.{i}.{name}"].numpy().T
            scale = np.abs(expected).max()
            np.testing.assert_allclose(mlp[ours][i], expected, atol=2e-5 * scale + 1e-6)


@KINDS
def test_packed_examples_are_what_each_is_alone(kind, loaded):
    t5 = loaded(kind)
    config, params = t5.config, t5.params
    pairs = [
        (random_ids(config, 10 + i, [n])[0], random_ids(config, 20 + i, [m])[0])
        for i, (n, m) in enumerate([(7, 5), (9, 6), (4, 3)])
    ]
    lengths = LengthsConfig(inputs=24, targets=16)
    batch = to_batch([pairs], lengths, ModelIds.of(config))
    apply = jax.jit(Bart(config).apply)
    logits = apply(
        {"params": params},
        batch.encoder_input_tokens,
        batch.decoder_input_tokens,
        batch.encoder_segment_ids,
        batch.decoder_segment_ids,
    )
    start = 0
    for x, y in pairs:
        alone = to_batch([[(x, y)]], lengths, ModelIds.of(config))
        expected = t5.logits(x[None], alone.decoder_input_tokens[:, : len(y)])
        np.testing.assert_allclose(logits[0, start : start + len(y)], expected[0], atol=1e-4)
        start += len(y)


def test_dropout_and_skipped_layers_depend_on_the_key_and_scan_does_not_matter():
    config = CONFIGS["mbart"].replace(
        dropout=0.1, attention_dropout=0.1, activation_dropout=0.1, encoder_layerdrop=0.5
    )
    params = family_of(config).training(config).init(jax.random.key(0), method="define")["params"]
    params = jax.tree.map(lambda x: x.value, params, is_leaf=lambda x: hasattr(x, "value"))
    inputs, prefix = random_ids(config, 1, [9, 9]), random_prefix(config, 2, 2, 5)
    keys = jax.random.split(jax.random.key(1), 2)
    found = [
        Bart(config, scan=scan).apply(
            {"params": params if scan else unstack(params)}, inputs, prefix, dropout_key=key
        )
        for scan, key in ((True, keys[0]), (False, keys[0]), (True, keys[1]))
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert np.abs(found[0] - found[2]).max() > 1e-3


def test_a_stored_table_of_sines_that_differs_is_used_as_stored(tmp_path):
    model = random_torch("pegasus")
    with torch.no_grad():
        table = model.model.encoder.embed_positions.weight
        table.copy_(torch.randn(table.shape, generator=torch.Generator().manual_seed(0)))
    model.save_pretrained(tmp_path / "theirs")
    t5 = t5jax.load(tmp_path / "theirs")
    assert t5.config.positions == "learned"
    inputs, prefix = random_ids(t5.config, 1, [9, 5]), random_prefix(t5.config, 2, 2, 6)
    expected, _ = outputs(model, inputs, prefix)
    np.testing.assert_allclose(t5.logits(inputs, prefix), expected, atol=1e-4)
    t5.save(tmp_path / "ours", format="hf")
    again = type(model).from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_allclose(outputs(again, inputs, prefix)[0], expected, atol=1e-5)


def test_tensors_without_prefix_and_copies_are_read(folders, tmp_path):
    """A folder of the model without its head: no prefix, and no bias of the logits."""
    model = theirs("mbart")
    model.model.save_pretrained(tmp_path / "base")
    assert not any(name.startswith("model.") for name in model.model.state_dict())
    t5 = t5jax.load(tmp_path / "base")
    inputs, prefix = random_ids(t5.config, 1, [9, 5]), random_prefix(t5.config, 2, 2, 6)
    np.testing.assert_allclose(
        t5.logits(inputs, prefix), outputs(model, inputs, prefix)[0], atol=1e-4
    )


def test_quantized_and_own_formats(loaded, tmp_path):
    t5 = loaded("marian")
    inputs = random_ids(t5.config, 1, [9, 5])
    t5.save(tmp_path / "own")
    again = t5jax.load(tmp_path / "own")
    assert again.config == t5.config
    np.testing.assert_array_equal(again.generate_ids(inputs).ids, t5.generate_ids(inputs).ids)
    small = t5.quantize("int8")
    targets = random_ids(t5.config, 2, [6, 6])
    np.testing.assert_allclose(
        small.score_ids(inputs, targets), t5.score_ids(inputs, targets), rtol=0.1
    )


def test_positions_end_where_the_model_says(loaded):
    t5 = loaded("bart")
    with pytest.raises(ValueError, match=r"an input has 65 tokens; .* longest_input is 64"):
        t5.encode_ids(random_ids(t5.config, 1, [65]))
    assert loaded("m2m_100").encode_ids(random_ids(CONFIGS["m2m_100"], 1, [70])).hidden.size


def tokenizer(folder, config, *, suffix, mask):
    """A tokenizer.json of letters, with special tokens as BART's."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    ids = {token: i for i, token in enumerate([*special, *"abcdefgh"])} | {"<mask>": mask}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(ids, [], unk_token="<unk>"))
    made.add_special_tokens([*special, "<mask>"])
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"<s> $A {suffix}", special_tokens=[(t, ids[t]) for t in special]
    )
    made.save(str(folder / "tokenizer.json"))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    ).save_pretrained(folder)


def test_texts_begin_and_end_as_tokenizer_json_says(folders, tmp_path, capsys):
    shutil.copytree(folders("bart"), tmp_path / "bart")
    config = CONFIGS["bart"]
    tokenizer(tmp_path / "bart", config, suffix="</s>", mask=config.vocab_size)
    t5 = t5jax.load(tmp_path / "bart")
    theirs_ids = transformers.AutoTokenizer.from_pretrained(tmp_path / "bart")("abba")["input_ids"]
    assert t5.text_ids("abba").tolist() == [theirs_ids] == [[0, 4, 5, 5, 4, 2]]
    # The embedding has no row for <mask>.
    assert t5.vocabulary.vocab_size <= config.vocab_size
    text = t5.generate("abba", max_new_tokens=8)
    assert text == t5.vocabulary.decode(
        t5.generate_ids(t5.text_ids("abba"), max_new_tokens=8).ids[0, 0]
    )
    tokenizer(tmp_path / "bart", config, suffix="</s> <s>", mask=12)
    assert t5jax.load(tmp_path / "bart")._vocabulary is None
    assert "no text, only ids" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"forced_eos_token_id": 2}, {"forced_eos_token_id": (2,)}),
        ({}, {"forced_eos_token_id": (2,)}),  # the class's default
        (
            {"force_bos_token_to_be_generated": True, "num_beams": 4, "min_length": 12},
            {"forced_bos_token_id": 0, "num_beams": 4, "min_new_tokens": 11},
        ),
    ],
)
def test_options_of_config_json_count_where_there_is_no_other_file(
    fields, expected, folders, tmp_path
):
    shutil.copytree(folders("bart"), tmp_path / "bart")
    (tmp_path / "bart" / "generation_config.json").unlink()
    file = tmp_path / "bart" / "config.json"
    content = json.loads(file.read_text())
    content.pop("forced_eos_token_id", None)
    file.write_text(json.dumps(content | fields))
    options = t5jax.load(tmp_path / "bart").generation
    assert {name: getattr(options, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"architectures": ["BartForQuestionAnswering"]}, "BartForQuestionAnswering"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ({"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings=False"),
        ({"decoder_vocab_size": 7}, "decoder_vocab_size=7"),
        ({"activation_function": "tanh"}, "tanh"),
        ({"encoder_attention_heads": 5}, "d_model=48 does not divide over"),
        ({"attention_window": 5}, "attention_window=5"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(fields, words, folders, tmp_path):
    shutil.copytree(folders("bart"), tmp_path / "bart")
    file = tmp_path / "bart" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        t5jax.load(tmp_path / "bart")
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


def test_variants_have_the_published_numbers_of_parameters():
    published = {
        "bart_base": 139, "bart_large": 406, "mbart_large_cc25": 611, "mbart_large_50": 611,
        "pegasus_large": 569, "opus_mt": 74, "m2m100_418m": 484, "m2m100_1_2b": 1239,
        "nllb_600m": 615, "nllb_1_3b": 1371, "nllb_3_3b": 3345,
    }  # fmt: skip
    found = {
        name: count_parameters(abstract_params(config)) / 1e6 for name, config in VARIANTS.items()
    }
    assert {name: round(count) for name, count in found.items()} == published
