"""t5jax's own format: a folder that a training run fills, or `Text2Text.save` writes.

    model.json            family, architecture, quantization, generation options, max_input_length
    vocabulary/           see `t5jax.vocabulary`
    checksums.json        of these, see `t5jax.formats.checksums`
    checkpoints/STEP/params/   Orbax: the parameter tree with stacked layers; where it is quantized,
                          the serving tree
    checkpoints/STEP/checksums.json

A run has more beside it (config.yaml, metrics, optimizer state), which loading does not need.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh
from pydantic import Field

from t5jax.formats import checksums
from t5jax.formats.assembly import Form, placements
from t5jax.formats.checkpoint import (
    About,
    Checkpoint,
    cast,
    complete_folder,
    served,
    tensors_of,
)
from t5jax.model.contract import ModelConfig, Params
from t5jax.model.family import default_family, family_of, named
from t5jax.model.parameters import abstract_params, paths
from t5jax.model.parameters import quantize as quantize_tree
from t5jax.model.tensors import Tensor, Tensors
from t5jax.ops.quantized import Quantized, Scheme, map_kernels
from t5jax.run_folder import CHECKPOINTS, CHECKSUMS, MODEL, PARAMS, VOCABULARY, step_of, steps
from t5jax.schema import Schema, read_json
from t5jax.vocabulary import load_vocabulary, save_vocabulary


class ModelJson(Schema):
    """The content of model.json."""

    class Quantized(Schema):
        kind: Literal["int8", "int4"]
        head: bool = True

    family: str | None = None
    model: dict[str, Any]
    generation: dict[str, Any] | None = None
    max_input_length: Annotated[int, Field(ge=1)] | None = None
    quantized: Quantized | None = None


def detect(path: Path) -> bool:
    """Whether `path` is a folder of this format, or one step of its checkpoints."""
    return (path / MODEL).is_file() or step_of(path) is not None


def write_model(folder: Path, about: About, files: Mapping[str, bytes] | None = None) -> None:
    """Writes what `read_model` reads, and other text `files`, all with their checksums."""
    family = family_of(about.config)
    content = json.dumps(
        {
            # The default family is not written.
            **({} if family is default_family() else {"family": family.name}),
            "model": dataclasses.asdict(about.config),
            "generation": dict(about.generation),
            "max_input_length": about.max_input_length,
            "quantized": about.scheme and dataclasses.asdict(about.scheme),
        },
        indent=2,
    )
    contents = {MODEL: f"{content}\n".encode(), **(files or {})}
    if about.vocabulary is not None:
        with tempfile.TemporaryDirectory() as made:
            save_vocabulary(about.vocabulary, made)
            for file in sorted(Path(made).iterdir()):
                contents[f"{VOCABULARY}/{file.name}"] = file.read_bytes()
    checksums.replace_files(folder, contents)


def verify_text(folder: Path, *names: str) -> None:
    """Verifies text files that `write_model` wrote, or folders of them.

    Raises:
      checksums.Damaged: says what to do.
    """
    try:
        checksums.verify(folder, *names)
    except checksums.Damaged as error:
        raise checksums.Damaged(
            f"{error}; put the file back from a copy, or delete {folder / CHECKSUMS} if you "
            "changed it yourself"
        ) from None


def read_model(folder: Path) -> About:
    """Raises ValueError where a file is damaged, or model.json names an unknown field."""
    verify_text(folder, MODEL, VOCABULARY)
    file = folder / MODEL
    content = read_json(file, ModelJson)
    try:
        family = default_family() if content.family is None else named(content.family)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    known = {field.name for field in dataclasses.fields(family.config)}
    unknown = sorted(set(content.model) - known)
    if unknown:
        raise ValueError(f"{file}: unknown model field {unknown[0]!r}; a newer t5jax wrote it?")
    try:
        config = family.config(**content.model)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    quantized = content.quantized
    return About(
        config,
        load_vocabulary(folder / VOCABULARY) if (folder / VOCABULARY).is_dir() else None,
        content.generation or {},
        content.max_input_length,
        Scheme(quantized.kind, quantized.head) if quantized else None,
    )


def _source(path: Path) -> Path:
    """The folder of the parameters of a folder's latest step, or of one step's folder."""
    found = step_of(path)
    folder, step = found if found else (path.absolute(), None)
    available = steps(folder)
    if step is None and available:
        step = available[-1]
    if step not in available:
        have = f"steps there: {available}" if available else "there is none yet"
        raise FileNotFoundError(f"no checkpoint {'' if step is None else step} in {folder}; {have}")
    return folder / CHECKPOINTS / str(step) / PARAMS


def _verify(source: Path, *, quickly: bool) -> None:
    """Verifies a step's parameters; where they are damaged, names an earlier step that is whole."""
    folder = source.parent
    try:
        checksums.verify(folder, PARAMS, quickly=quickly)
    except checksums.Damaged as error:
        before = [folder.with_name(str(step)) for step in steps(folder.parent.parent)]
        before = [each for each in before if int(each.name) < int(folder.name)]
        whole = next(filter(_is_whole, reversed(before)), None)
        cure = f"{whole} is whole: take that" if whole else "no earlier checkpoint is whole"
        raise checksums.Damaged(f"{error}; {cure}") from None


def _is_whole(folder: Path) -> bool:
    try:
        if checksums.read(folder) is None:
            return False
        checksums.verify(folder, PARAMS)
    except checksums.Damaged:
        return False
    return True


def _checkpointer() -> Any:
    # Imported where it is needed: it takes as long as the rest of t5jax.
    import orbax.checkpoint as ocp

    return ocp.StandardCheckpointer()


def _stored(source: Path) -> Any:
    """Shapes and dtypes of what is there."""
    import orbax.checkpoint as ocp
    from etils import epath

    _verify(source, quickly=True)
    try:
        # Asked of the handler: a checkpointer warns that an item of a step has no metadata of
        # a step.
        return ocp.StandardCheckpointHandler().metadata(epath.Path(source)).tree
    except Exception as error:
        raise ValueError(f"{source} is damaged or incomplete: {first_line(error)}") from error


def _restore(source: Path, config: ModelConfig, dtype: Any, mesh: Mesh | None) -> Params:
    """The training tree, cast and placed."""
    shapes = abstract_params(config)
    _verify(source, quickly=False)
    _check_shapes(source, _stored(source), shapes)
    places = placements(config, mesh)
    return _restored(
        source,
        jax.tree.map(
            lambda x, place: jax.ShapeDtypeStruct(x.shape, dtype, sharding=place), shapes, places
        ),
    )


def _restored(source: Path, target: Any) -> Params:
    with _checkpointer() as checkpointer:
        try:
            return checkpointer.restore(source, target)
        except Exception as error:
            raise ValueError(f"{source} is damaged or incomplete: {first_line(error)}") from error


@dataclasses.dataclass(frozen=True)
class TrainingTree(Checkpoint):
    """A step's parameters with stacked layers, at `source`."""

    source: Path

    def _read(self, form: Form, dtype: Any, mesh: Mesh | None) -> Params:
        config, stored = self.about.config, next(iter(self.tensors.values())).dtype
        if not isinstance(form, Scheme):
            return served(config, _restore(self.source, config, dtype or stored, mesh), form)
        # Kernels are quantized as they are stored: what is rounded twice is further off.
        return cast(served(config, _restore(self.source, config, stored, mesh), form), dtype)


@dataclasses.dataclass(frozen=True)
class QuantizedTree(Checkpoint):
    """A serving tree with quantized kernels, at `source`."""

    source: Path

    def _read(self, form: Form, dtype: Any, mesh: Mesh | None) -> Params:
        config: Any = self.about.config
        scheme: Any = self.about.scheme
        _verify(self.source, quickly=False)
        abstract = abstract_params(config, serving=True)
        shapes = jax.eval_shape(lambda x: quantize_tree(config, x, scheme), abstract)
        if dtype is None:
            float_leaf = next(
                k for k, x in _by_name(shapes).items() if not isinstance(x, Quantized)
            )
            dtype = _by_name(_stored(self.source))[float_leaf].dtype
        places = placements(config, mesh, serving=True)

        def target(x: Any, where: Any) -> Any:
            if isinstance(x, Quantized):
                return jax.tree.map(
                    lambda part, where: part.update(sharding=where), x, x.places(where)
                )
            return jax.ShapeDtypeStruct(x.shape, dtype, sharding=where)

        return _restored(self.source, map_kernels(target, shapes, places))


def first_line(error: Exception) -> str:
    """An exception's message, cut to one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _by_name(tree: Any) -> dict[str, Any]:
    """Whatever has a shape by its path; a quantized kernel is one."""
    leaves = jax.tree.leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}


def _check_shapes(source: Path, stored: Any, target: Params) -> None:
    theirs = {name: tuple(leaf.shape) for name, leaf in _by_name(stored).items()}
    ours = {name: leaf.shape for name, leaf in _by_name(target).items()}
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            raise ValueError(
                f"{source}: {name} is {theirs.get(name, 'missing')} there and "
                f"{ours.get(name, 'unknown')} in the model's configuration"
            )


def read(path: Path, **changes: Any) -> Checkpoint:
    """Opens a folder's latest step, or one step's folder.

    Args:
      path: the folder.
      changes: fields of the configuration that are to be otherwise than the folder says.

    Raises:
      FileNotFoundError: there is no checkpoint yet.
      ValueError: what is there is damaged, or does not fit the configuration.
    """
    found = step_of(path)
    about = read_model(found[0] if found else path)
    about = dataclasses.replace(about, config=about.config.replace(**changes))
    source = _source(path)
    if about.scheme is not None:
        return QuantizedTree(about, {}, source)
    stored = _stored(source)
    _check_shapes(source, stored, abstract_params(about.config))
    dtype = np.dtype(next(iter(_by_name(stored).values())).dtype)

    @functools.cache
    def tensors() -> Tensors:
        return tensors_of(about.config, _restore(source, about.config, dtype, None))

    def read_one(name: str) -> np.ndarray:
        return tensors()[name].read()

    lazily = {
        name: Tensor(shape, dtype, functools.partial(read_one, name))
        for name, shape in paths(about.config).items()
    }
    return TrainingTree(about, lazily, source)


def write(
    path: Path, checkpoint: Checkpoint, *, dtype: Any = None, quantize: Scheme | None = None
) -> None:
    """Writes a folder that `read` reads, its kernels quantized or not; complete or not there.

    Raises:
      FileExistsError: `path` exists.
    """
    about = checkpoint.about
    with complete_folder(path) as folder:
        if quantize is not None:
            about = dataclasses.replace(about, scheme=quantize)
            params = checkpoint.read(quantize, dtype or np.float32)
        else:
            params = checkpoint.read(about.scheme or "training", dtype)
        write_model(folder, about)
        with _checkpointer() as checkpointer:
            checkpointer.save(folder / CHECKPOINTS / "0" / PARAMS, params)
        checksums.write(folder / CHECKPOINTS / "0")
