"""What every checkpoint format opens to: a `Checkpoint`, its tensors unread until asked for.

Tensors go by their path in the tree with layers apart (`encoder/layers_0/mlp/wi`), and have the
shapes that training gives them.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from t5jax.formats.assembly import Form, assemble
from t5jax.model.contract import ModelConfig, Params
from t5jax.model.parameters import apart, for_serving, from_serving, is_serving, paths, unstack
from t5jax.model.parameters import quantize as quantize_tree
from t5jax.model.tensors import Tensor, Tensors
from t5jax.ops.quantized import Scheme, map_kernels
from t5jax.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class About:
    """A checkpoint beside its parameters.

    Attributes:
      config: the architecture.
      vocabulary: None where the checkpoint has none with it.
      generation: default options of generation, by name.
      max_input_length: tokens of an input that the model was trained on, where that is known.
      scheme: how the kernels are quantized; None: they are not.
      assumed: fields of `config` that the files do not tell, and what they were taken for.
      unused: tensors that the model has no place for, allowed by the caller.
      missing: parameters that the files do not hold, allowed by the caller: they are zeros.
    """

    config: Any  # a ModelConfig
    vocabulary: Vocabulary | None = None
    generation: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    max_input_length: int | None = None
    scheme: Scheme | None = None
    assumed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unused: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def limit(self) -> int | None:
        """Ids of the vocabulary, where there is one; those past it are never generated."""
        return None if self.vocabulary is None else self.vocabulary.vocab_size


@dataclasses.dataclass(frozen=True)
class Checkpoint(abc.ABC):
    """A model as a format describes it.

    Attributes:
      about: all but the parameters.
      tensors: every parameter by its path with layers apart; none where kernels are quantized.
    """

    about: About
    tensors: Tensors

    @abc.abstractmethod
    def _read(self, form: Form, dtype: Any, mesh: Mesh | None) -> Params:
        """`read`, of a form that this checkpoint can be read in."""

    def read(self, form: Form, dtype: Any = None, mesh: Mesh | None = None) -> Params:
        """The parameters.

        Args:
          form: "training": with stacked layers; "serving": as the serving network takes them; a
            `Scheme`: the same with kernels quantized so. A quantized checkpoint is served as it is.
          dtype: of what is not quantized; None: as it is stored.
          mesh: where they are put; None: the first device.

        Raises:
          ValueError: the checkpoint is quantized, and something else is asked for.
        """
        scheme = self.about.scheme
        if scheme is not None and isinstance(form, Scheme) and form != scheme:
            raise ValueError(
                f"this checkpoint is quantized already, as {scheme}; {form} can only "
                "be made of the one that it was made from"
            )
        if scheme is not None and form == "training":
            raise ValueError(
                "this checkpoint is quantized: it can be loaded and saved as it is, and "
                "neither trained nor converted; take the one that it was made from"
            )
        return self._read(form, dtype, mesh)


@dataclasses.dataclass(frozen=True)
class SingleTensors(Checkpoint):
    """Files of single tensors, read one at a time."""

    def _read(self, form: Form, dtype: Any, mesh: Mesh | None) -> Params:
        dtype = dtype or next(iter(self.tensors.values())).dtype
        return assemble(self.about.config, self.tensors, form, dtype, mesh)


@dataclasses.dataclass(frozen=True)
class InMemory(Checkpoint):
    """A serving tree in memory; `mesh` is ignored."""

    params: Params

    def _read(self, form: Form, dtype: Any, mesh: Mesh | None) -> Params:
        config, params = self.about.config, self.params
        if form == "training":
            params = from_serving(config, params)
        elif isinstance(form, Scheme) and self.about.scheme is None:
            params = quantize_tree(config, params, form)
        return cast(params, dtype)


def served(config: ModelConfig, params: Params, form: Form) -> Params:
    """A training tree in the form that is asked for."""
    return params if form == "training" else _served(config, params, form)


# One program a configuration, however many checkpoints are read.
@functools.partial(jax.jit, static_argnames=("config", "form"))
def _served(config: ModelConfig, params: Params, form: Form) -> Params:
    params = for_serving(config, params)
    return quantize_tree(config, params, form) if isinstance(form, Scheme) else params


def cast(params: Params, dtype: Any) -> Params:
    """What is not quantized in `dtype`; None: as it is."""
    return map_kernels(lambda x: x.astype(dtype), params) if dtype else params


def tensors_of(config: ModelConfig, params: Params) -> Tensors:
    """The tensors of a tree in memory, for training or for serving."""
    params = apart(config, params) if is_serving(params) else unstack(params)
    return {
        path: Tensor(x.shape, np.dtype(x.dtype), functools.partial(np.asarray, x))
        for path, x in flatten_dict(params, sep="/").items()
    }


def completed(
    about: About,
    tensors: Mapping[str, Tensor],
    source: Path,
    unused: Iterable[str],
    allow: tuple[str, ...],
) -> SingleTensors:
    """The checkpoint of the tensors that files hold, with zeros for those they lack.

    Raises:
      ValueError: names the first unused or missing name that no regular expression in `allow`
        matches, and how many there are.
    """
    shapes = paths(about.config)
    lacking = sorted(set(shapes) - set(tensors))
    about = dataclasses.replace(about, unused=tuple(sorted(unused)), missing=tuple(lacking))
    for kind, names, cure in (
        ("has no place in this model", about.unused, "to leave it out"),
        ("is missing", about.missing, "to start it from zeros"),
    ):
        wrong = [name for name in names if not matches(name, allow)]
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            raise ValueError(
                f"{source}: {wrong[0]}{more} {kind}; {cure}, allow={wrong[0]!r} (a pattern)"
            )
    return SingleTensors(about, {**tensors, **{name: _zeros(shapes[name]) for name in lacking}})


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the regular expressions matches the whole name."""
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _zeros(shape: tuple[int, ...]) -> Tensor:
    return Tensor(shape, np.dtype(np.float32), lambda: np.zeros(shape, np.float32))


@contextlib.contextmanager
def complete_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which takes its name `path` when all is written.

    Raises:
      FileExistsError: `path` exists.
    """
    path = path.absolute()
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another folder or delete it")
    temporary = path.with_name(f"{path.name}.incomplete-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
