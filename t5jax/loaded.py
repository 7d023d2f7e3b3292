"""`LoadedModel`: a model with its parameters and vocabulary, as it is held in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax
from jax.sharding import Mesh

from t5jax import sharding
from t5jax.decoding.options import GenerationOptions
from t5jax.engine.arguments import dtype_of, need_type
from t5jax.engine.decoder import BatchDecoder
from t5jax.formats import generation_defaults
from t5jax.formats.checkpoint import About, InMemory, tensors_of
from t5jax.formats.detect import write_checkpoint
from t5jax.formats.placement import check_params, placed
from t5jax.model.contract import ModelConfig, Params
from t5jax.model.family import family_of
from t5jax.model.parameters import (
    abstract_params,
    axis_sizes,
    count_parameters,
    from_serving,
    scheme_of,
)
from t5jax.model.parameters import quantize as quantize_tree
from t5jax.ops.quantized import QuantizedKind, Scheme, dequantize
from t5jax.sizes import amount
from t5jax.vocabulary import Vocabulary


class LoadedModel:
    """A model, its parameters and its vocabulary.

    Wherever ids go in or out, rows are padded with `config.pad_token_id`.

    Args:
      config: the architecture.
      params: the parameter tree with stacked layers, as `t5jax.model.parameters.init_params`
        makes it, or the serving tree of `for_serving`; leaves may lie on host or device.
      vocabulary: turns text to ids and back. Without one (None) all that works on ids works.
      dtype: "float32" or "bfloat16", or such a dtype: what parameters are stored in and computed
        with. Norms, softmax and logits are float32.
      mesh: devices to spread the parameters over, as `load` takes it; default: one device.
      generation: default options of `generate`.
      max_input_length: tokens of a text that are used, its EOS counted; None: all.

    Attributes:
      dtype: np.dtype of what is not quantized, and of computation.
      generation: default options of `generate`.
      max_input_length: as given.
      mesh: the `Mesh`, or None.
      decoder: the serving network with its parameters.

    Raises:
      ValueError: a parameter is missing or does not fit the configuration. TypeError: an argument
        is of another type.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        vocabulary: Vocabulary | None,
        *,
        dtype: Any = "float32",
        mesh: Mesh | Mapping[str, int] | None = None,
        generation: GenerationOptions | None = None,
        max_input_length: int | None = None,
    ) -> None:
        dtype = dtype_of(dtype)
        need_type("vocabulary", vocabulary, Vocabulary | None, "a Vocabulary, or None")
        if vocabulary is not None and vocabulary.vocab_size > config.vocab_size:
            raise ValueError(
                f"the vocabulary has {vocabulary.vocab_size} ids, the embedding only "
                f"{config.vocab_size} rows; they do not belong together"
            )
        check_params(config, params)
        self.config = config
        self._vocabulary = vocabulary
        self.dtype = dtype
        family = family_of(config)
        self.model = family.training(config, self.dtype)
        self.generation = generation or generation_defaults.of_model(config)
        self.max_input_length = max_input_length
        self.mesh = sharding.mesh_of(mesh)
        params = placed(config, params, self.dtype, self.mesh)
        self.decoder = BatchDecoder(family.serving(config, self.dtype), params, self.mesh)

    def __repr__(self) -> str:
        """Family, sizes, parameters, dtype, quantization, vocabulary and devices."""
        config, family = self.config, family_of(self.config)
        names = [name for name, known in family.variants.items() if known == config]
        sizes = [f"{n} layers of the {name}" for name, n in family.depths(config).items() if n]
        axes = axis_sizes(config)
        sizes += [
            f"{label} {axes[axis]}"
            for axis, label in (("embed", "width"), ("heads", "heads"))
            if axis in axes
        ]
        parameters = count_parameters(abstract_params(config))
        vocabulary = "no vocabulary"
        if self._vocabulary is not None:
            vocabulary = f"{type(self._vocabulary).__name__} of {self._vocabulary.vocab_size} ids"
        scheme, devices = self.quantization, self.decoder.devices
        held = "not quantized"
        if scheme is not None:
            held = f"kernels in {scheme.kind}" + ("" if scheme.head else " but for the head")
        spread = "" if self.mesh is None else f", mesh {dict(self.mesh.shape)}"
        return (
            f"{type(self).__name__}: {' '.join([family.name, *names[:1]])}\n"
            f"  {', '.join(sizes)}; {parameters:,} parameters\n"
            f"  {self.dtype.name}, {held}, {amount(self.nbytes)}\n"
            f"  {vocabulary}\n"
            f"  {len(devices)} device(s): {devices[0].device_kind}{spread}"
        )

    @property
    def params(self) -> Params:
        """The parameter tree with stacked layers, in `dtype`; made anew at each access.

        Kernels of a quantized model are expanded to float32 each time: four times the memory that
        an int8 model holds, eight times that of an int4 one.
        """
        # Decoding wants another layout, and holding both would double the memory.
        # New dictionaries all through: whoever edits the tree does not edit this model.
        return jax.tree.map(lambda x: x, from_serving(self.config, dequantize(self.decoder.params)))

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokenizer; ValueError where the checkpoint came without one."""
        if self._vocabulary is None:
            raise ValueError(
                "this checkpoint came without a vocabulary; load(…, vocabulary='bytes' or a "
                "SentencePiece file) gives it one, and ids work without"
            )
        return self._vocabulary

    @property
    def quantization(self) -> Scheme | None:
        """How kernels are held: kind ("int8" or "int4") and whether the head is; None: in dtype."""
        return scheme_of(self.config, self.decoder.params)

    @property
    def nbytes(self) -> int:
        """Bytes of the parameters as they are held, counted once however many devices have them."""
        return sum(x.nbytes for x in jax.tree.leaves(self.decoder.params))

    def cast(self, dtype: Any) -> Self:
        """A new model that holds what is not quantized, and computes, in `dtype`.

        It generates what `load(…, dtype=dtype)` would. Casting bfloat16 to float32 does not restore
        what rounding lost. Arrays that are in `dtype` already are shared, not copied.
        """
        return self._with(self.decoder.params, dtype)

    def quantize(self, kind: QuantizedKind, *, head: bool = True) -> Self:
        """A new model with kernels in "int8" or "int4".

        Of a float32 model it generates what `load(…, quantize=kind, quantize_head=head)` would.

        Raises:
          ValueError: an unknown kind; or this model is quantized already, in another way.
        """
        scheme, have = Scheme(kind, head), self.quantization
        if have == scheme:
            return self._with(self.decoder.params, self.dtype)
        if have is not None:
            raise ValueError(
                f"this model is quantized already, as {have}; {scheme} can only be made of the one "
                "that it was made from"
            )
        with sharding.use(self.mesh):
            params = jax.jit(lambda x: quantize_tree(self.config, x, scheme))(self.decoder.params)
        return self._with(params, self.dtype)

    def _with(self, params: Params, dtype: Any) -> Self:
        return type(self)(
            self.config,
            params,
            self._vocabulary,
            dtype=dtype,
            mesh=self.mesh,
            generation=self.generation,
            max_input_length=self.max_input_length,
        )

    def save(self, path: str | Path, format: str = "t5jax", dtype: Any = None) -> None:
        """Writes the model to a folder that does not exist yet; `load` reads it.

        Args:
          path: the folder.
          format: "t5jax", "hf" (transformers reads it) or "t5x".
          dtype: "float32", "bfloat16" or "float16", of the written parameters; None: as they are.

        Raises:
          ValueError: unknown format, or one that has no such model; with float16 a value past
            65,504, its largest.
          FileExistsError: `path` exists.
        """
        dtype = None if dtype is None else dtype_of(dtype, also="float16")
        generation = dataclasses.asdict(self.generation)
        default = dataclasses.asdict(GenerationOptions())
        about = About(
            self.config,
            self._vocabulary,
            # Defaults are left out.
            generation={k: v for k, v in generation.items() if v != default[k]},
            max_input_length=self.max_input_length,
            scheme=self.quantization,
        )
        params = self.decoder.params
        tensors = {} if about.scheme else tensors_of(self.config, params)
        checkpoint = InMemory(about, tensors, params)
        write_checkpoint(path, checkpoint, format, dtype=dtype)
