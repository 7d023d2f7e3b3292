"""What we write for transformers generates there, in versions 4 and 5, the ids that we give."""

import json
from pathlib import Path

import numpy as np
import pytest

import t5jax
from t5jax.decoding.options import GenerationOptions
from t5jax.formats.assembly import assemble
from t5jax.formats.detect import open_checkpoint, write_checkpoint
from t5jax.model.parameters import paths
from t5jax.model.t5.config import T5Config
from t5jax.model.t5.variants import VARIANTS
from t5jax.model.tensors import Tensor
from t5jax.text2text import Text2Text
from t5jax.vocabulary import ByteVocabulary
from tests.support import their_generate, transformers4
from tests.support.reference import ragged_ids

# One of each kind of the family. transformers 5 cannot generate where the decoder is the deeper.
SMALL = {
    "vocab_size": 384, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "num_layers": 1,
    "num_decoder_layers": 1,
}  # fmt: skip
KINDS = {
    "t5_small": {},
    "t5_1_1_small": {},
    "mt5_small": {},
    "byt5_small": {"num_layers": 3},
    "ul2": {},
    "umt5_small": {},
    "longt5_local_base": {"local_radius": 5},
    "longt5_tglobal_base": {"local_radius": 5, "global_block_size": 4},
    "madlad400_3b": {"pad_token_id": 1},
}
BEAMS = {"num_beams": 3, "length_penalty": 0.6, "no_repeat_ngram_size": 2, "max_new_tokens": 12}

# Not encoder_repetition_penalty: transformers takes padding for ids of the input.
_OPTIONS = {
    "max_new_tokens": 20, "min_new_tokens": 3, "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 3,
    "bad_words_ids": ((9, 10), (11,)), "suppress_tokens": (12, 13), "begin_suppress_tokens": (20,),
    "sequence_bias": (((40,), 2.0), ((41, 42), -3.0)),
    "exponential_decay_length_penalty": (3, 1.2), "forced_eos_token_id": (1,),
    "eos_token_id": (1, 50),
}  # fmt: skip
EVERY_OPTION = {
    "greedy options": _OPTIONS | {"forced_bos_token_id": 20, "begin_suppress_tokens": ()},
    "beam options": _OPTIONS
    | {"num_beams": 2, "length_penalty": 2.0, "early_stopping": True, "renormalize_logits": True},
}


def model_of(config: T5Config, **options) -> Text2Text:
    """Random weights that end now and then; 25 ids are past the vocabulary's."""
    rng = np.random.default_rng(0)

    def tensor(path: str, shape: tuple[int, ...]) -> Tensor:
        x = rng.normal(size=shape).astype("f")
        if path.endswith("scale"):
            x = 1 + 0.3 * x
        elif "rel_embedding" not in path:
            x *= 1.0 if "embedder" in path else shape[0] ** -0.5
        if path.startswith("token_embedder") and config.tie_word_embeddings:
            x[config.eos_token_id] = x[100:112].max(axis=0)
        if path.startswith("head"):
            x[:, config.eos_token_id] = x[:, 100:112].max(axis=1)
        return Tensor(shape, x.dtype, lambda: x)

    tensors = {path: tensor(path, shape) for path, shape in paths(config).items()}
    params = assemble(config, tensors, "serving", np.float32)
    return Text2Text(config, params, ByteVocabulary(100), **options)


def inputs_of(config: T5Config) -> list[list[int]]:
    ids = ragged_ids(np.random.default_rng(1), [17, 3, 40], 359)
    return np.where(ids == 0, config.pad_token_id, ids).tolist()


def in_version_4(jobs: list[dict]) -> list:
    result = transformers4.run([their_generate.__file__], jobs)
    assert result["version"].startswith("4.")
    return result["ids"]


def check(folders: list[Path], *generates) -> set[int]:
    """With no option named: what the folders say is all that there is. The outputs' lengths."""
    configs = [open_checkpoint(folder).about.config for folder in folders]
    jobs = [
        {"folder": str(folder), "ids": inputs_of(config)}
        for folder, config in zip(folders, configs, strict=True)
    ]
    ours = [t5jax.load(job["folder"]).generate_ids(job["ids"]) for job in jobs]
    for generate in generates:
        for job, config, result, theirs in zip(jobs, configs, ours, generate(jobs), strict=True):
            lengths = result.lengths[:, 0]
            for row, length, their_row in zip(result.ids[:, 0], lengths, theirs, strict=True):
                assert row[:length].tolist() == their_row[:length], job["folder"]
                # What is left is padding, or in beam search EOS.
                assert set(their_row[length:]) <= {config.pad_token_id, config.eos_token_id}
    return {int(n) for result in ours for n in result.lengths.flat}


def write_each(folder: Path, kind: str) -> list[Path]:
    """A model as it is, and one with default options that is converted from our format."""
    config = VARIANTS[kind].replace(**{**SMALL, **KINDS[kind]})
    plain, beams = folder / f"{kind}-plain", folder / f"{kind}-beams"
    model_of(config).save(plain, format="hf")
    model = model_of(config, generation=GenerationOptions(**BEAMS))
    model.save(folder / f"{kind}-ours")
    write_checkpoint(beams, open_checkpoint(folder / f"{kind}-ours"), "hf")
    return [plain, beams]


def test_transformers_generates_what_we_do_from_what_we_wrote(tmp_path):
    """Beam search by default; greedy, and version 4, are in the slow test."""
    check(write_each(tmp_path, "t5_small")[1:], their_generate.generate)


@pytest.mark.slow
def test_transformers_4_and_5_generate_what_we_do_of_every_kind(tmp_path):
    folders = [folder for kind in KINDS for folder in write_each(tmp_path, kind)]
    config = VARIANTS["t5_1_1_small"].replace(**SMALL)
    for name, options in EVERY_OPTION.items():
        model = model_of(config, generation=GenerationOptions(**options))
        model.save(tmp_path / name, format="hf")
        folders.append(tmp_path / name)
    assert len(check(folders, their_generate.generate, in_version_4)) > 2  # some ended early


def test_every_id_that_transformers_looks_for_is_written(tmp_path):
    config = VARIANTS["madlad400_3b"].replace(**SMALL, pad_token_id=1, decoder_start_token_id=3)
    options = GenerationOptions(eos_token_id=(2, 7), num_beams=2, suppress_tokens=(9,))
    model = model_of(config, generation=options)
    model.save(tmp_path / "a", format="hf")
    written = json.loads((tmp_path / "a" / "generation_config.json").read_text())
    assert written == {
        "decoder_start_token_id": 3,
        "eos_token_id": [2, 7],
        "pad_token_id": 1,
        "max_new_tokens": 128,
        "num_beams": 2,
        "suppress_tokens": [9, *range(359, 384)],
    }
    again = t5jax.load(tmp_path / "a")
    assert again.generation == options and again.config == config


def test_what_transformers_lacks_is_kept_for_us_and_said(tmp_path, capsys):
    options = GenerationOptions(stop_strings=("ab",), answers=("yes", "no"), seed=3)
    config = VARIANTS["t5_small"].replace(**SMALL)
    model_of(config, generation=options).save(tmp_path / "a", format="hf")
    err = capsys.readouterr().err
    assert (
        err.count("\n") == 1 and "transformers cannot follow answers=['yes', 'no'], seed=3" in err
    )
    assert t5jax.load(tmp_path / "a").generation == options
    assert capsys.readouterr().err == ""
    # It generates all the same.
    options = {"max_new_tokens": 3, "min_new_tokens": 3}
    job = {"folder": str(tmp_path / "a"), "ids": [[5, 6, 1]], "options": options}
    (ids,) = their_generate.generate([job])
    assert len(ids[0]) == 3
