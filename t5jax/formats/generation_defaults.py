"""A checkpoint's default options of generation: transformers' fields, and what they mean here.

transformers takes them from generation_config.json; from config.json where there is no such file.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from t5jax.decoding.options import GenerationOptions
from t5jax.knobs import short
from t5jax.model.contract import ModelConfig

# Options of t5jax alone are written below this name: transformers' `generate` raises an error at
# some, and gives the others another meaning.
OURS = "t5jax"
_OURS_ALONE = ("answers", "brevity_penalty", "force_words_ids", "seed", "stop_strings")
# Ids that the architecture has too, and what changes no id that is generated.
_NO_OPTIONS = frozenset(
    """
    _from_model_config _commit_hash transformers_version decoder_start_token_id pad_token_id
    bos_token_id use_cache output_attentions output_hidden_states output_scores output_logits
    return_dict_in_generate cache_implementation cache_config return_legacy_cache
    """.split()
)
# Options that we do not have, with the values that turn them off.
_OFF: dict[str, Any] = {
    "num_beam_groups": 1, "diversity_penalty": 0.0, "remove_invalid_values": False,
    "guidance_scale": 1.0, "low_memory": False, "penalty_alpha": 0.0, "token_healing": False,
    "is_assistant": False, "constraints": None, "dola_layers": None,
    "watermarking_config": None, "forced_decoder_ids": None,
    "prompt_lookup_num_tokens": None, "top_h": None,
}  # fmt: skip
# Every field of config.json that transformers reads an option from.
NAMES = frozenset(
    {*GenerationOptions.names(), *_OFF, "max_length", "min_length"} - {*_OURS_ALONE, OURS}
)


def of_model(config: ModelConfig) -> GenerationOptions:
    """Greedy, with 128 tokens or as many as the decoder has positions."""
    options = GenerationOptions()
    most = min(options.max_new_tokens, config.longest_output or options.max_new_tokens)
    return options.replace({"max_new_tokens": most})


def read(fields: Mapping[str, Any], config: ModelConfig, limit: int | None) -> GenerationOptions:
    """The options that a checkpoint's fields ask for; what has no effect is said on stderr.

    Args:
      fields: of a generation_config.json, or options by name.
      config: the architecture, whose EOS need not be said again.
      limit: ids of the vocabulary, where there is one: those past it are never generated.
    """
    known = GenerationOptions.names()
    fields = {**fields, **_mapping(fields.get(OURS))}
    options = {
        name: value
        for name, value in fields.items()
        if name not in (*_NO_OPTIONS, OURS) and value is not None
    }
    if options.get("eos_token_id") in (config.eos_token_id, [config.eos_token_id]):
        del options["eos_token_id"]
    suppressed = options.get("suppress_tokens")
    if limit is not None and isinstance(suppressed, list | tuple):
        options["suppress_tokens"] = [
            i for i in suppressed if not (isinstance(i, int) and limit <= i < config.vocab_size)
        ]
    for theirs, ours in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        # transformers' lengths count the start id; its new tokens go before them.
        length = options.get(theirs)
        if isinstance(length, int) and not isinstance(length, bool):
            del options[theirs]
            if length > 1:
                options.setdefault(ours, length - 1)
    in_vain = [
        f"{name}={short(options[name])}"
        for name in sorted(set(options) - set(known))
        if not (name in _OFF and options[name] == _OFF[name])
    ]
    if in_vain:
        end = "is not supported and has" if len(in_vain) == 1 else "are not supported and have"
        _warn(f"of the checkpoint's generation options {', '.join(in_vain)} {end} no effect")
    # A file's options need no `num_beams` or `do_sample` beside them, as a call's do.
    found = of_model(config)
    # num_return_sequences comes last: what it may be depends on the others.
    for name in sorted(known, key="num_return_sequences".__eq__):
        if name not in options:
            continue
        value = options[name]
        if name == "min_new_tokens" and isinstance(value, int):
            # To transformers more than the longest means no end before that.
            value = min(value, found.max_new_tokens)
        try:
            found = dataclasses.replace(found, **{name: value})
        except ValueError as error:
            _warn(f"a generation option of the checkpoint has no effect: {error}")
    return found


def write(fields: Mapping[str, Any], config: ModelConfig, limit: int | None) -> dict[str, Any]:
    """The generation_config.json with which transformers generates what we would.

    It has every id that transformers looks for, for where there is such a file it does not look
    into config.json, and all that it would do otherwise by default: our longest output, and the
    ids past the vocabulary's, which we never generate. Options that transformers lacks go below a
    name of ours. What we do not know is kept.

    Args: as `read`.
    """
    options = read(fields, config, limit)
    default = GenerationOptions()
    given = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(options).items()
        if value != getattr(default, name)
    }
    alone = {name: given.pop(name) for name in _OURS_ALONE if name in given}
    if alone:
        said = ", ".join(f"{name}={value!r}" for name, value in alone.items())
        _warn(f"transformers cannot follow {said}; t5jax finds it in the written folder")
    past = () if limit is None else range(limit, config.vocab_size)
    suppressed = sorted({*options.suppress_tokens, *past})
    kept = {
        name: value
        for name, value in fields.items()
        if name not in {*NAMES, *_OURS_ALONE, *_NO_OPTIONS, OURS} or name in _OFF
    }
    return {
        "decoder_start_token_id": config.decoder_start_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
        "max_new_tokens": options.max_new_tokens,
        **kept,
        **given,
        **({"suppress_tokens": suppressed} if suppressed else {}),
        **({OURS: alone} if alone else {}),
    }


def of_config(content: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config.json that count where there is no generation_config.json."""
    return {name: content[name] for name in sorted(NAMES & set(content))}


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
