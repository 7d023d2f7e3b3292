"""Other libraries' models, for benchmarks."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

import t5jax
from t5jax.formats.assembly import assemble
from t5jax.formats.checkpoint import tensors_of
from t5jax.formats.huggingface import from_weights
from t5jax.model.t5 import t5x
from t5jax.model.t5.huggingface import config_fields
from t5jax.model.tensors import Tensor


def has_transformers() -> bool:
    """Whether transformers and PyTorch are installed."""
    return all(importlib.util.find_spec(name) for name in ("torch", "transformers"))


def random_torch_t5(config: t5jax.T5Config):
    """transformers' T5ForConditionalGeneration with its random initial weights.

    The decoder's final norm is random too: with scales of 1, a tied model of random weights repeats
    its input id.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(**config_fields(config))
    ).eval()
    model.decoder.final_layer_norm.weight.data.normal_()
    return model


def on_device(model, device: str, dtype: str):
    """transformers' model on "cpu" or "cuda", in PyTorch's dtype of that name."""
    import torch

    return model.to(device, getattr(torch, dtype))


def params_of(config: t5jax.T5Config, model):
    """The weights of transformers' model as our training tree."""
    weights = {k: v.numpy() for k, v in model.state_dict().items()}
    tensors, _ = from_weights(
        config, {k: Tensor(v.shape, v.dtype, lambda v=v: v) for k, v in weights.items()}
    )
    return assemble(config, tensors, "training", np.float32)


Decode = Callable[[np.ndarray, int, int], np.ndarray]


def transformers_decoder(model, compiled: bool = False) -> Decode:
    """`decode(ids, outputs, beams)` -> int[B, outputs], with transformers' generate.

    Args:
      model: on its device, in its dtype.
      compiled: use a static cache and torch.compile, as transformers' documentation advises.
    """
    import torch
    import transformers

    options = {}
    if compiled:
        # On a GPU, generate compiles by itself with a static cache; on a CPU it has to be told.
        options = {"cache_implementation": "static"}
        if model.device.type == "cpu":
            config = transformers.CompileConfig(mode="default", fullgraph=False)
            config._compile_all_devices = True
            options["compile_config"] = config

    def decode(ids: np.ndarray, outputs: int, beams: int) -> np.ndarray:
        inputs = torch.tensor(ids, device=model.device)
        with torch.inference_mode():
            out = model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                do_sample=False,
                num_beams=beams,
                max_new_tokens=outputs,
                min_new_tokens=outputs,
                **options,
            )
        return out[:, 1:].cpu().numpy()

    return decode


def has_ctranslate2() -> bool:
    """Whether CTranslate2 is installed."""
    return importlib.util.find_spec("ctranslate2") is not None


def ctranslate2_decoders(
    model, folder: str, kinds: tuple[str, ...], device: str = "cpu"
) -> dict[str, Decode]:
    """Like `transformers_decoder`, by CTranslate2's compute type; writes into `folder`.

    `device` is "cpu" or "cuda". Types of `kinds` that it does not support there are skipped.
    """
    import ctranslate2
    import transformers
    from tokenizers import Tokenizer, models

    # The converter needs a tokenizer; here each id is a word.
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    words |= {f"w{i}": i for i in range(3, model.config.vocab_size)}
    names = {i: word for word, i in words.items()}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    ).save_pretrained(folder)
    model.save_pretrained(folder)
    converted = os.path.join(folder, "ctranslate2")
    ctranslate2.converters.TransformersConverter(folder).convert(converted)

    def decoder(kind: str) -> Decode:
        translator = ctranslate2.Translator(
            converted, device=device, compute_type=kind, intra_threads=os.cpu_count()
        )

        def decode(ids: np.ndarray, outputs: int, beams: int) -> np.ndarray:
            results = translator.translate_batch(
                [[names[i] for i in row] for row in ids.tolist()],
                beam_size=beams,
                min_decoding_length=outputs,
                max_decoding_length=outputs,
                max_batch_size=0,
            )
            return np.array([[words[w] for w in r.hypotheses[0]] for r in results])

        return decode

    able = ctranslate2.get_supported_compute_types(device)
    return {kind: decoder(kind) for kind in kinds if kind in able}


def has_t5x() -> bool:
    """Whether T5X can be imported."""
    return importlib.util.find_spec("t5x") is not None


def t5x_decoder(config: t5jax.T5Config, params, dtype: str) -> Decode:
    """Like `transformers_decoder`, with T5X's own network, sampling and beam search.

    Only its network and decoding modules are imported; the package needs libraries that are not
    released, or do not run with current JAX.
    """
    package = types.ModuleType("t5x")
    package.__path__ = list(importlib.util.find_spec("t5x").submodule_search_locations)
    sys.modules.setdefault("t5x", package)
    decoding = importlib.import_module("t5x.decoding")
    network = importlib.import_module("t5x.examples.t5.network")

    fields = t5x.network_fields(config) | {"dtype": jnp.dtype(dtype)}
    model = network.Transformer(network.T5Config(**fields))
    tensors = tensors_of(config, params)
    weights = {
        row.names[0]: row.transform.write(tensors[row.path].read())
        for row in t5x.rows(config, stacked=False)
    }
    tree = jax.device_put(unflatten_dict(weights, sep="/"))

    @partial(jax.jit, static_argnames=("outputs", "beams"))
    def decode(tree, ids: jax.Array, outputs: int, beams: int) -> jax.Array:
        apply = partial(model.apply, enable_dropout=False)
        prompt = jnp.zeros((len(ids), outputs), jnp.int32)
        encoded = apply({"params": tree}, ids, method=model.encode)
        ones = jnp.ones_like(prompt)
        _, start = apply(
            {"params": tree}, jnp.ones_like(ids), ones, ones, decode=True, mutable=["cache"]
        )
        repeat = partial(jnp.repeat, repeats=beams, axis=0)

        def logits(state):
            found, changed = apply(
                {"params": tree, "cache": state.cache},
                repeat(encoded),
                repeat(ids),
                state.cur_token,
                state.cur_token,
                decode=True,
                max_decode_length=outputs,
                mutable=["cache"],
                method=model.decode,
            )
            # Never EOS.
            return found[:, 0].at[:, config.eos_token_id].set(-1e9), changed["cache"]

        options = {"eos_id": config.eos_token_id, "num_decodes": beams}
        if beams > 1:
            found, _ = decoding.beam_search(prompt, start["cache"], logits, **options)
        else:
            found, _ = decoding.temperature_sample(
                prompt, start["cache"], logits, temperature=0.0, **options
            )
        return found[:, -1]  # the best beam

    return lambda ids, outputs, beams: np.asarray(decode(tree, ids, outputs, beams))[:, -outputs:]
