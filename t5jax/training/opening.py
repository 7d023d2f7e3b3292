"""Opening a run: its resolved configuration and vocabulary, and its folder."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from t5jax import run_folder
from t5jax.config import RunConfig
from t5jax.config_files import auto_lengths, build_config, differences, stored_config, to_yaml
from t5jax.data import row_lengths
from t5jax.formats import native
from t5jax.formats.checkpoint import About, Checkpoint
from t5jax.formats.detect import open_checkpoint, report_assumed
from t5jax.model.family import family_of
from t5jax.paths import user_path
from t5jax.tasks import registry, run_modules
from t5jax.vocabulary import Vocabulary, load_vocabulary, make_vocabulary

# Fixed once a run has a checkpoint, which depends on them.
FIXED = ("model", "vocabulary", "data", "optimizer.name", "optimizer.freeze", "training.seed")
FREE = ("data.prefetch", "data.modules")


def resolve(tree: Mapping[str, Any]) -> tuple[RunConfig, Vocabulary]:
    """The typed configuration and its vocabulary, which a run folder's copy overrides.

    Raises:
      ValueError: an invalid configuration, or a vocabulary that does not fit the model.
    """
    tree, chosen = auto_lengths(tree)
    early = build_config(tree)
    if not early.run_dir:
        raise ValueError("run_dir is empty; name the folder that the run is to fill")
    if not early.data.mixture:
        raise ValueError("data.mixture is empty; `t5jax tasks` lists what there is")
    vocabulary, initial, assumed = _vocabulary_and_init(early, tree.get("model") or ())
    config = build_config(tree, vocabulary, initial, assumed)
    data = dataclasses.replace(config.data, modules=run_modules.absolute(config.data.modules))
    config = dataclasses.replace(config, data=data)
    if chosen:
        config = _with_lengths(config, vocabulary, chosen)
    _check(config, vocabulary)
    return config, vocabulary


def _with_lengths(config: RunConfig, vocabulary: Vocabulary, chosen: set[str]) -> RunConfig:
    """With the `chosen` lengths: those of the run, once it has a checkpoint, or what costs least.

    The choice is printed.
    """
    data, run_dir = config.data, user_path(config.run_dir)
    if run_folder.steps(run_dir):
        stored = stored_config(run_dir / run_folder.CONFIG).data.lengths
        kept = {name: getattr(stored, name) for name in chosen}
        lengths = dataclasses.replace(data.lengths, **kept)
    else:
        registry.load_modules(run_modules.there(run_dir, data.modules))
        provider = registry.with_vocabulary(data.mixture, registry.seqio_vocabulary(vocabulary))
        found = row_lengths.choose(
            row_lengths.look(provider, data.split, data.seed),
            functools.partial(family_of(config.model).step_flops, config.model, 1),
            together=row_lengths.rows_together(data),
            given={k: v for k, v in dataclasses.asdict(data.lengths).items() if k not in chosen},
            longest=(config.model.longest_input, config.model.longest_output),
        )
        print(f"data.lengths: {found}", flush=True)
        lengths = found.lengths
    return dataclasses.replace(config, data=dataclasses.replace(data, lengths=lengths))


def _vocabulary_and_init(early: RunConfig, given: Any) -> tuple[Vocabulary, Any, tuple[str, ...]]:
    """The vocabulary, the model configuration of `init`, and that one's assumed fields."""
    run_dir = user_path(early.run_dir)
    if run_folder.steps(run_dir):
        native.verify_text(run_dir)
        # The checkpoint `init` may have been deleted since.
        initial = native.read_model(run_dir).config if early.init else None
        return load_vocabulary(run_dir / run_folder.VOCABULARY), initial, ()
    if not early.init:
        return make_vocabulary(early.vocabulary or "bytes"), None, ()
    checkpoint = open_checkpoint(early.init, vocabulary=early.vocabulary or None)
    if checkpoint.about.vocabulary is None:
        raise ValueError(
            f"init={early.init} came without a vocabulary; name it: `vocabulary: bytes`, or a "
            "SentencePiece file"
        )
    report_assumed(early.init, checkpoint, given)
    return checkpoint.about.vocabulary, checkpoint.about.config, tuple(checkpoint.about.assumed)


def _check(config: RunConfig, vocabulary: Vocabulary) -> None:
    """Raises ValueError for settings that conflict."""
    model, lengths = config.model, config.data.lengths
    if model.encoder_only:
        raise ValueError("the model is an encoder alone: there is no decoder to train")
    if model.vocab_size < vocabulary.vocab_size:
        raise ValueError(
            f"model.vocab_size={model.vocab_size} is smaller than the vocabulary's "
            f"{vocabulary.vocab_size} ids; leave it out, or give it at least as many"
        )
    for name, longest in (("inputs", model.longest_input), ("targets", model.longest_output)):
        length = getattr(lengths, name)
        if longest is not None and length > longest:
            raise ValueError(
                f"data.lengths.{name}={length} is more than the model's {longest} positions; "
                f"use at most {longest}"
            )
    if config.data.batch % config.training.micro_batches:
        raise ValueError(
            f"data.batch={config.data.batch} does not divide into "
            f"training.micro_batches={config.training.micro_batches}"
        )


def open_init(config: RunConfig) -> Checkpoint:
    """The checkpoint `init`; fields that it would have to assume come from the configuration."""
    checkpoint = open_checkpoint(config.init or "")
    told = {name: getattr(config.model, name) for name in checkpoint.about.assumed}
    return open_checkpoint(config.init or "", **told) if told else checkpoint


def check_run(run_dir: Path, config: RunConfig) -> None:
    """Raises ValueError if `run_dir` has checkpoints of a run with other `FIXED` settings."""
    file = run_dir / run_folder.CONFIG
    if not (file.exists() and run_folder.steps(run_dir)):
        return
    for name, old, new in differences(stored_config(file), config):
        if name.startswith(FIXED) and not name.startswith(FREE):
            raise ValueError(
                f"{name}={new} but the run in {run_dir} has {old}; "
                f"set it to {old}, or choose another run_dir"
            )


def write_run(run_dir: Path, config: RunConfig, vocabulary: Vocabulary) -> None:
    """Writes the run's config.yaml and model files."""
    lengths = config.data.lengths
    generation = {"max_new_tokens": config.eval.max_new_tokens or lengths.targets}
    model = About(config.model, vocabulary, generation, lengths.inputs)
    files = {run_folder.CONFIG: to_yaml(config).encode(), **run_modules.copies(config.data.modules)}
    native.write_model(run_dir, model, files)
