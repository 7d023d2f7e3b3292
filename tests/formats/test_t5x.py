"""T5X checkpoints: read as T5X lays them out, written so that they read again."""

import json

import numpy as np
import pytest
import tensorstore
from flax import serialization
from flax.traverse_util import flatten_dict, unflatten_dict

import t5jax
from t5jax.cli import main
from t5jax.formats import t5x
from t5jax.formats.detect import open_checkpoint
from t5jax.model.t5.config import T5Config
from t5jax.model.t5.t5x import Gin
from t5jax.vocabulary import ByteVocabulary, make_vocabulary, save_vocabulary
from tests.support.models import lively_params
from tests.support.reference import ragged_ids, random_torch, scale_of, torch

SMALL = T5Config(
    vocab_size=384, d_model=64, d_kv=8, d_ff=96, num_heads=4, num_layers=3, num_decoder_layers=2
)
V1_0 = SMALL.replace(feed_forward_proj="relu", tie_word_embeddings=True, scale_decoder_outputs=True)
GLOBAL = SMALL.replace(encoder_attention_type="transient-global")
LOCAL = SMALL.replace(encoder_attention_type="local", local_radius=9)
UMT5 = SMALL.replace(relative_bias="per_layer")


def as_t5x(model, config):
    """transformers' weights under the names and in the layouts of T5X's `t5` example."""
    state = {k: v.numpy() for k, v in model.state_dict().items()}
    tree = {"token_embedder/embedding": state["shared.weight"]}
    if "lm_head.weight" in state and not config.tie_word_embeddings:
        tree["decoder/logits_dense/kernel"] = state["lm_head.weight"].T
    for stack, depth in (("encoder", config.num_layers), ("decoder", config.num_decoder_layers)):
        tree[f"{stack}/{stack}_norm/scale"] = state[f"{stack}.final_layer_norm.weight"]
        own, cross = ("attention", None) if stack == "encoder" else ("self_attention", 1)
        last = 1 if cross is None else 2
        for i in range(depth):
            block, layer = f"{stack}.block.{i}.layer", f"{stack}/layers_{i}"
            encoder = {"full": "", "local": "Local", "transient-global": "TransientGlobal"}
            kind = "" if cross else encoder[config.encoder_attention_type]
            parts = [(0, f"{kind}SelfAttention", own)]
            if cross:
                parts.append((1, "EncDecAttention", "encoder_decoder_attention"))
            norms = {0: f"pre_{own}_layer_norm", 1: "pre_cross_attention_layer_norm"}
            norms[last] = "pre_mlp_layer_norm"
            for j, name in norms.items():
                if j <= last:
                    tree[f"{layer}/{name}/scale"] = state[f"{block}.{j}.layer_norm.weight"]
            for j, theirs, ours in parts:
                for a, b in zip("qkvo", ("query", "key", "value", "out"), strict=True):
                    tree[f"{layer}/{ours}/{b}/kernel"] = state[f"{block}.{j}.{theirs}.{a}.weight"].T
            for name in ("wi", "wi_0", "wi_1", "wo"):
                key = f"{block}.{last}.DenseReluDense.{name}.weight"
                if key in state:
                    tree[f"{layer}/mlp/{name}/kernel"] = state[key].T
            attention = f"{block}.0.{kind}SelfAttention"
            key = f"{attention}.relative_attention_bias.weight"
            if key in state:
                owner = layer if config.relative_bias == "per_layer" else stack
                tree[f"{owner}/relpos_bias/rel_embedding"] = state[key].T
            key = f"{attention}.global_relative_attention_bias.weight"
            if key in state:
                tree["encoder/side_relpos_bias/rel_embedding"] = state[key].T
            key = f"{attention}.global_input_layer_norm.weight"
            if key in state:
                tree[f"{layer}/attention/T5LayerNorm_0/scale"] = state[key]
    return tree


def as_scalable(tree, config):
    """The layout of T5X's `scalable_t5`: layers on the second axis, heads and kv apart."""
    out, stacks = {}, {}
    for name, array in tree.items():
        stack, *rest = name.split("/")
        if not rest[0].startswith("layers_"):
            out[name] = array
            continue
        if rest[-2] in ("query", "key", "value"):
            array = array.reshape(-1, config.num_heads, config.d_kv)
        elif rest[-2] == "out":
            array = array.reshape(config.num_heads, config.d_kv, -1)
        layers = stacks.setdefault("/".join((stack, stack, *rest[1:])), {})
        layers[int(rest[0].split("_")[1])] = array
    for name, layers in stacks.items():
        out[name] = np.stack([layers[i] for i in sorted(layers)], axis=1)
    return out


def write(folder, tree, *, dtype="float32", driver="file", optimizer=False):
    """A checkpoint as T5X writes it: chunked zarr arrays, msgpack that points to them."""
    folder.mkdir(parents=True)
    specs = {}
    for name, array in tree.items():
        path = f"target.{name.replace('/', '.')}"
        metadata = {
            "compressor": {"id": "gzip", "level": 1},
            "shape": list(array.shape),
            "chunks": [max(1, n // 2) for n in array.shape],
        }
        place = {"driver": "file", "path": str(folder / path)}
        spec = {"driver": "zarr", "dtype": dtype, "metadata": metadata}
        store = tensorstore.open(spec | {"kvstore": place}, create=True).result()
        store.write(array.astype(store.dtype.numpy_dtype)).result()
        if driver == "gcs":
            bucket = {"driver": "gcs", "bucket": "t5x-dummy-bucket"}
            specs[name] = spec | {"kvstore": bucket, "path": path}
        else:
            specs[name] = spec | {"kvstore": {"driver": driver, "path": f"{path}/"}}
    state = {"step": np.int32(1000), "param_states": {}}
    if optimizer:
        states = {
            n: {"m": np.zeros(1), "v": np.zeros(a.shape, np.float32)} for n, a in tree.items()
        }
        state["param_states"] = unflatten_dict(states, sep="/")
    target = unflatten_dict(specs, sep="/")
    content = {"version": 3, "optimizer": {"target": target, "state": state}}
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(content))
    return folder


def check(t5, model):
    rng = np.random.default_rng(0)
    inputs, prefix = ragged_ids(rng, [3, 40, 17], 384), ragged_ids(rng, [9, 2, 5], 384)
    prefix[:, 0] = 0
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor(inputs),
            attention_mask=torch.tensor(inputs != 0).long(),
            decoder_input_ids=torch.tensor(prefix),
        ).logits.numpy()
    np.testing.assert_allclose(t5.logits(inputs, prefix), logits * scale_of(model), atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "config", "stacked"),
    [
        ("t5", V1_0, False),
        ("t5", SMALL, False),
        ("umt5", UMT5, False),
        ("umt5", UMT5, True),
        ("longt5", GLOBAL, False),
    ],
    ids=["t5_1_0", "t5_1_1", "umt5", "umt5-stacked", "longt5"],
)
def test_checkpoints_of_t5x_give_the_logits_of_transformers(tmp_path, kind, config, stacked):
    model = random_torch(config, kind=kind)
    tree = as_t5x(model, config)
    tree = as_scalable(tree, config) if stacked else tree
    t5 = t5jax.load(write(tmp_path / "checkpoint_1000", tree))
    assert t5.config == config
    check(t5, model)
    stacked_ = open_checkpoint(tmp_path / "checkpoint_1000").read("training")
    expected = flatten_dict(t5.params, sep="/")
    for name, array in flatten_dict(stacked_, sep="/").items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("driver", ["gfile", "gcs"])
def test_checkpoints_of_other_stores_and_with_optimizer_state_read_alike(tmp_path, driver):
    model = random_torch(SMALL)
    tree = as_t5x(model, SMALL)
    t5 = t5jax.load(write(tmp_path / "a", tree, driver=driver, optimizer=True))
    check(t5, model)


def test_bfloat16_and_arrays_inside_the_msgpack_are_read(tmp_path):
    tree = as_t5x(random_torch(SMALL), SMALL)
    write(tmp_path / "a", tree, dtype="bfloat16")
    name = "decoder/logits_dense/kernel"
    rounded = tree[name].astype(np.dtype("bfloat16")).astype(np.float32)
    loaded = t5jax.load(tmp_path / "a").params["head"]["kernel"]
    np.testing.assert_array_equal(loaded, rounded)
    content = {"version": 3, "optimizer": {"target": unflatten_dict(tree, sep="/"), "state": {}}}
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "checkpoint").write_bytes(serialization.msgpack_serialize(content))
    np.testing.assert_array_equal(t5jax.load(tmp_path / "b").params["head"]["kernel"], tree[name])


def test_the_latest_of_several_steps_is_taken_and_a_file_names_its_own(tmp_path):
    for step in (900, 1000):
        tree = as_t5x(random_torch(SMALL, seed=step), SMALL)
        write(tmp_path / f"checkpoint_{step}", tree)
    latest = t5jax.load(tmp_path).params["token_embedder"]["embedding"]
    np.testing.assert_array_equal(latest, tree["token_embedder/embedding"])
    first = t5jax.load(tmp_path / "checkpoint_900" / "checkpoint")
    assert not np.array_equal(first.params["token_embedder"]["embedding"], latest)


def test_a_gin_file_or_an_option_says_what_shapes_cannot(tmp_path):
    tree = as_t5x(random_torch(SMALL), SMALL)
    write(tmp_path / "run" / "checkpoint_1", tree)
    assert open_checkpoint(tmp_path / "run").about.config.feed_forward_proj == "gated-gelu"
    text = (
        "network.T5Config:\n  mlp_activations = ('silu', 'linear')  # UL2\n  dropout_rate = 0.1\n"
    )
    (tmp_path / "run" / "model.gin").write_text(text)
    config = open_checkpoint(tmp_path / "run").about.config
    assert (config.feed_forward_proj, config.dropout) == ("gated-silu", 0.1)
    assert open_checkpoint(tmp_path / "run", feed_forward_proj="gated-gelu").about.config.gated
    (tmp_path / "run" / "model.gin").write_text("mlp_activations = ('swish', 'swish')")
    with pytest.raises(ValueError, match=r"model\.gin"):
        open_checkpoint(tmp_path / "run")


def test_what_neither_arrays_nor_gin_tell_is_said_once_and_can_be_set(tmp_path, capsys):
    config = SMALL.replace(feed_forward_proj="gated-silu")
    model = random_torch(config)
    folder = write(tmp_path / "a", as_t5x(model, config))
    wrong = t5jax.load(folder)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and wrong.config.feed_forward_proj == "gated-gelu"
    assert "taken as feed_forward_proj=gated-gelu encoder_attention_type=full" in err
    assert "--set FIELD=VALUE" in err
    told = {"feed_forward_proj": "gated-silu", "encoder_attention_type": "full"}
    check(t5jax.load(folder, **told), model)
    assert capsys.readouterr().err == ""
    words = [f"--set={name}={value}" for name, value in told.items()]
    main(["convert", str(folder), str(tmp_path / "b"), "--format", "hf", *words])
    assert open_checkpoint(tmp_path / "b").about.config.feed_forward_proj == "gated-silu"
    call = ["generate", str(folder), "a", "--vocabulary=bytes", "--max_new_tokens=2"]
    main([*call, *words])
    assert "warning" not in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*call, "--set=feed_forward_proj=gated-tanh"])
    assert "error: feed_forward_proj='gated-tanh' must be" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*call, "--set=feed_forward_proj=relu"])
    assert "mlp/wi_0/kernel (and 9 more) has no place in this model" in capsys.readouterr().err


def test_paths_with_dots_and_a_home_are_read_and_written(tmp_path, monkeypatch):
    t5 = t5jax.Text2Text(SMALL, lively_params(SMALL), None)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    for format in ("t5x", "hf", "t5jax"):
        t5.save(f"../{format}", format=format)
        for path in (f"../{format}", f"~/{format}"):
            loaded = t5jax.load(path).params["head"]["kernel"]
            np.testing.assert_array_equal(loaded, t5.params["head"]["kernel"])
    save_vocabulary(ByteVocabulary(), tmp_path / "vocabulary")
    assert make_vocabulary("~/vocabulary") == make_vocabulary("../vocabulary") == ByteVocabulary()
    main(["convert", "../t5x", "../here/../b", "--format", "t5x"])
    assert (tmp_path / "b" / "checkpoint").is_file()


@pytest.mark.parametrize("kind", ["silu", "gelu_new", "gated-relu"])
def test_other_mlps_go_through_t5x_and_back(tmp_path, kind):
    config = SMALL.replace(feed_forward_proj=kind, num_layers=1, num_decoder_layers=1)
    t5 = t5jax.Text2Text(config, lively_params(config), None)
    t5.save(tmp_path / "a", format="t5x")
    assert open_checkpoint(tmp_path / "a").about.config == config


def test_an_mlp_that_t5x_lacks_is_not_written(tmp_path):
    config = SMALL.replace(feed_forward_proj="gelu", num_layers=1, num_decoder_layers=1)
    t5 = t5jax.Text2Text(config, lively_params(config), None)
    with pytest.raises(ValueError, match="T5X has no feed_forward_proj='gelu'"):
        t5.save(tmp_path / "a", format="t5x")


WRONG = ([], {}, "x", 1.5, True, 10**10, -1, [[]], None)


def test_no_value_of_a_checkpoints_file_is_a_traceback(tmp_path):
    """Of one array's description, and of gin's bindings."""
    tree = as_t5x(random_torch(SMALL), SMALL)
    folder = write(tmp_path / "a", tree)
    content = serialization.msgpack_restore((folder / "checkpoint").read_bytes())
    flat = flatten_dict(content, sep="/")
    names = [name for name in flat if "token_embedder" in name or "query" in name][:20]
    for name in ["optimizer", "optimizer/target", *names]:
        for value in WRONG:
            rest = {k: v for k, v in flat.items() if not k.startswith(f"{name}/")}
            value = str(value) if value == 10**10 else value
            changed = unflatten_dict(rest | {name: value}, sep="/")
            (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(changed))
            try:
                checkpoint = open_checkpoint(folder)
                checkpoint.tensors["token_embedder/embedding"].read()
            except ValueError as error:
                assert "\n" not in str(error) and str(folder) in str(error), (name, value)
    (folder / "checkpoint").write_bytes(serialization.msgpack_serialize(content))
    for name in Gin.model_fields:
        for value in (*WRONG, "(" * 10**5, "['gelu', 3]", "(1, 2"):
            text = value if isinstance(value, str) and "(" in value else repr(value)
            (folder / "model.gin").write_text(f"{name} = {text}\n")
            try:
                open_checkpoint(folder)
            except ValueError as error:
                assert "\n" not in str(error), (name, value)


def test_an_array_too_large_for_its_bytes_is_damage(tmp_path):
    folder = write(tmp_path / "a", as_t5x(random_torch(SMALL), SMALL))
    name = "decoder/logits_dense/kernel"
    array = folder / f"target.{name.replace('/', '.')}"
    whole = json.loads((array / ".zarray").read_text())
    (array / ".zarray").write_text(json.dumps(whole | {"shape": [64, 10**9]}))
    with pytest.raises(ValueError, match=f"{name}.* cannot be an array of 256000000000"):
        t5x._read_array(array, name, (64, 10**9))
    # A chunk is made whole: this one ended the process.
    (array / ".zarray").write_text(json.dumps(whole | {"chunks": [64, 10**12]}))
    with pytest.raises(ValueError, match=f"{name}.* cannot be an array of 256000000000000"):
        t5x._read_array(array, name, tuple(whole["shape"]))


def test_longt5_without_global_tokens_is_told_by_its_gin_file(tmp_path):
    model = random_torch(LOCAL)
    write(tmp_path / "run" / "checkpoint_1", as_t5x(model, LOCAL))
    text = "long_attention.LocalSelfAttention:\n  local_radius = 9\n"
    (tmp_path / "run" / "checkpoint_1" / "config.gin").write_text(text)
    t5 = t5jax.load(tmp_path / "run")
    assert t5.config == LOCAL
    check(t5, model)


@pytest.mark.parametrize("stacked", [False, True])
def test_what_we_write_has_the_arrays_of_t5x_bit_for_bit(tmp_path, stacked):
    model = random_torch(UMT5, kind="umt5")
    tree = as_t5x(model, UMT5)
    tree = as_scalable(tree, UMT5) if stacked else tree
    source = open_checkpoint(write(tmp_path / "a", tree))
    t5x.write(tmp_path / "b", source, stacked=stacked)
    content = serialization.msgpack_restore((tmp_path / "b" / "checkpoint").read_bytes())
    # Nothing but the step: T5X stops at an empty `param_states`.
    assert content["version"] == 3 and content["optimizer"]["state"] == {"step": 0}
    specs = flatten_dict(
        content["optimizer"]["target"], sep="/", is_leaf=lambda _, x: "driver" in x
    )
    assert specs.keys() == tree.keys()
    for name, spec in specs.items():
        assert spec["metadata"]["compressor"]["id"] == "gzip"
        # As T5X opens it: its own spec, with the path made absolute.
        path = tmp_path / "b" / spec["kvstore"]["path"]
        store = {**spec, "kvstore": {"driver": "file", "path": str(path)}}
        array = tensorstore.open(store, open=True).result().read().result()
        np.testing.assert_array_equal(array, tree[name], err_msg=name)


def test_large_arrays_are_written_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(t5x, "CHUNK_BYTES", 10_000)
    t5 = t5jax.Text2Text(SMALL, lively_params(SMALL), None)
    t5.save(tmp_path / "a", format="t5x", dtype="bfloat16")
    assert len(list((tmp_path / "a" / "target.token_embedder.embedding").iterdir())) > 4
    again = t5jax.load(tmp_path / "a", dtype="bfloat16")
    expected = t5.params["token_embedder"]["embedding"].astype("bfloat16")
    np.testing.assert_array_equal(again.params["token_embedder"]["embedding"], expected)


def test_a_model_that_t5x_does_not_have_is_not_written(tmp_path):
    config = SMALL.replace(tie_word_embeddings=True)
    t5 = t5jax.Text2Text(config, lively_params(config), None)
    with pytest.raises(ValueError, match="scales the decoder's output"):
        t5.save(tmp_path / "a", format="t5x")
    assert not list(tmp_path.iterdir())


def test_damage_is_named(tmp_path):
    tree = as_t5x(random_torch(SMALL), SMALL)
    folder = write(tmp_path / "a", tree)
    (folder / "target.decoder.logits_dense.kernel" / "0.0").unlink()
    with pytest.raises(ValueError, match="decoder/logits_dense/kernel"):
        t5jax.load(folder)
    del tree["decoder/layers_1/mlp/wo/kernel"]
    with pytest.raises(ValueError, match="decoder/layers_1/mlp/wo is missing"):
        t5jax.load(write(tmp_path / "b", tree))
    tree["decoder/layers_1/mlp/wo/kernel"] = np.zeros((3, 3))
    with pytest.raises(ValueError, match=r"mlp/wo/kernel has shape \(3, 3\)"):
        t5jax.load(write(tmp_path / "c", tree))
    (folder / "checkpoint").write_bytes((folder / "checkpoint").read_bytes()[:200])
    with pytest.raises(ValueError, match="damaged"):
        t5jax.load(folder)
