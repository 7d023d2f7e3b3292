"""The configuration of a run: every section a frozen dataclass, every knob declared once.

This module imports nothing heavy, so `--help` and a misspelt key answer at once. Reading YAML and
overrides is in `t5jax.config_files`.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from t5jax.knobs import Kind, Names, check_knobs, knob
from t5jax.model.family import default_family, family_of


class Section:
    """A section that checks its values in `__post_init__`."""

    def __post_init__(self) -> None:
        check_knobs(self)


@dataclasses.dataclass(frozen=True)
class LengthsConfig(Section):
    """Longest sequences in tokens, EOS included.

    A YAML file or the command line may have "auto" for one of them, or for the section: the length
    at which an example costs least, which the run's config.yaml then holds.
    """

    inputs: int = knob(512, "encoder tokens a row, or auto; longer inputs are cut", least=1)
    targets: int = knob(128, "decoder tokens a row, or auto; longer targets are cut", least=1)


@dataclasses.dataclass(frozen=True)
class DataConfig(Section):
    """Training data, and how it becomes batches."""

    mixture: str = knob(
        "",
        "seqio task or mixture to train on (`t5jax tasks` lists them), or pronounce:FILE, of lines "
        "word<TAB>phonemes",
    )
    modules: Names = knob(
        (), "your own task modules (dotted names or .py files), a list or divided by commas"
    )
    split: str = knob("train", "split to train on")
    lengths: LengthsConfig = knob(LengthsConfig(), "row lengths")
    batch: int = knob(128, "rows in a global batch, over all devices and hosts", least=1)
    pack: bool = knob(True, "put several examples into one row, kept apart by segment ids")
    streams: int = knob(
        8,
        "shards of the data, fixed at the first start; each host reads whole shards",
        least=1,
    )
    seed: int = knob(0, "seed of the order of examples", least=0)
    shuffle_buffer: int = knob(10_000, "examples shuffled together, over all streams", least=1)
    prefetch: int = knob(4, "batches prepared ahead of the device", least=1)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Section):
    """The optimizer and its learning-rate schedule."""

    name: Literal["adafactor", "adamw"] = knob("adafactor", "T5's Adafactor, or AdamW")
    schedule: Literal["inverse_sqrt", "constant", "linear", "cosine"] = knob(
        "inverse_sqrt", "learning rate after the warm-up"
    )
    learning_rate: float = knob(0.01, "peak learning rate", least=0)
    warmup: int = knob(
        10_000,
        "warm-up steps: constant at the peak for inverse_sqrt, else linear from zero",
        least=0,
    )
    final_fraction: float = knob(
        0.0, "linear and cosine: final rate as a fraction of the peak", least=0, most=1
    )
    decay_rate: float = knob(0.8, "Adafactor: second-moment decay is 1 - step^-rate", above=0)
    step_offset: int = knob(
        0,
        "steps that `init` was trained for, added to the schedule's step; moments and Adafactor's "
        "decay start fresh",
        least=0,
    )
    clip_threshold: float = knob(1.0, "Adafactor: largest RMS of one parameter's update", above=0)
    min_factored: int = knob(128, "Adafactor: fewest rows and columns that are factored", least=1)
    scale_by_parameter: bool = knob(True, "Adafactor: scale updates by the parameter's RMS")
    b1: float = knob(0.9, "AdamW: decay of the first moment", least=0, below=1)
    b2: float = knob(0.999, "AdamW: decay of the second moment", least=0, below=1)
    epsilon: float = knob(1e-8, "AdamW: added to the denominator", above=0)
    weight_decay: float = knob(
        0.0, "decoupled weight decay, times the learning rate; not norms or biases", least=0
    )
    freeze: Names = knob(
        (),
        "regular expressions of parameters not to train, matched against whole paths: "
        "`encoder/.*`, `.*/layers_0/.*`",
    )
    clip_norm: float | None = knob(
        None, "clip the gradient's global norm; none by default", above=0
    )


@dataclasses.dataclass(frozen=True)
class TrainingConfig(Section):
    """The training loop."""

    steps: int = knob(10_000, "optimizer steps in all", least=1)
    log_every: int = knob(50, "steps between logged lines", least=1)
    eval_every: int = knob(1000, "steps between evaluations; 0: only after the last step", least=0)
    save_every: int = knob(1000, "steps between checkpoints; 0: only after the last step", least=0)
    keep: int = knob(3, "newest checkpoints kept", least=1)
    keep_best: str | None = knob(
        None, "also keep the best one by this metric, as task/name (pronounce/wer) or loss"
    )
    best_mode: Literal["min", "max"] = knob("min", "whether a smaller or larger metric is better")
    dtype: Literal["float32", "bfloat16"] = knob(
        "float32", "compute dtype; parameters stay float32"
    )
    remat: Literal["none", "full", "dots"] = knob(
        "none", "recompute in the backward pass: nothing, whole layers, all but matrix products"
    )
    scan_layers: bool = knob(
        True, "scan over stacked layers; false: unroll them: faster steps, slower compilation"
    )
    micro_batches: int = knob(1, "gradient accumulation: micro-batches a batch", least=1)
    z_loss: float = knob(1e-4, "coefficient of log(Z)^2, which keeps logits small", least=0)
    label_smoothing: float = knob(0.0, "probability spread over the other ids", least=0, below=1)
    seed: int = knob(0, "seed of initial parameters and dropout", least=0)
    tensorboard: bool = knob(True, "write TensorBoard event files")
    profile: tuple[int, ...] | None = knob(
        None, "[first, last]: write a trace of these steps, for TensorBoard's profiler or XProf"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.profile is None:
            return
        if len(self.profile) != 2 or not 1 <= self.profile[0] <= self.profile[1]:
            raise ValueError(f"profile={list(self.profile)} must be [first, last], steps from 1 on")


@dataclasses.dataclass(frozen=True)
class MeshConfig(Section):
    """Devices along each mesh axis. -1, allowed for one axis: all remaining devices."""

    data: int = knob(-1, "data parallelism: shards the batch", least=1, also=(-1,))
    fsdp: int = knob(1, "shards the batch and the parameters", least=1, also=(-1,))
    tensor: int = knob(1, "shards heads, MLP and vocabulary", least=1, also=(-1,))
    sequence: int = knob(1, "shards sequence lengths", least=1, also=(-1,))


@dataclasses.dataclass(frozen=True)
class EvalConfig(Section):
    """Evaluation during training and after it."""

    tasks: Names = knob((), "tasks evaluated, a list or divided by commas; none: no evaluation")
    split: str = knob("validation", "split evaluated")
    batch: int = knob(256, "rows decoded together", least=1)
    examples: int | None = knob(None, "first examples of each task to use; none: all", least=1)
    max_new_tokens: int | None = knob(
        None, "longest prediction; none: the targets' length", least=1
    )
    options: dict = knob(
        {}, "generation options, as {num_beams: 4}; `t5jax generate --help` lists them"
    )


def _model(value: Any) -> Any:
    family_of(value)
    return value


Model = Annotated[Any, Kind(_model, "the configuration of a registered family")]


@dataclasses.dataclass(frozen=True)
class RunConfig(Section):
    """A training run: `t5jax train CONFIG.yaml`."""

    model: Model = knob(
        default_family().config(),
        "`variant: NAME`, or `family: NAME` (t5), and fields that differ from it",
    )
    init: str | None = knob(
        None,
        "checkpoint of any format, or hub id, to start from: its weights, and, unless given, its "
        "architecture and vocabulary; the optimizer starts fresh, at step 0",
    )
    vocabulary: str = knob(
        "",
        "`bytes`, a SentencePiece model, or a Hugging Face folder; default: that of `init`, or "
        "else bytes",
    )
    data: DataConfig = knob(DataConfig(), "training data")
    optimizer: OptimizerConfig = knob(OptimizerConfig(), "optimizer")
    training: TrainingConfig = knob(TrainingConfig(), "training loop")
    mesh: MeshConfig = knob(MeshConfig(), "device mesh")
    eval: EvalConfig = knob(EvalConfig(), "evaluation")
    run_dir: str = knob("", "folder of the run: config, checkpoints, metrics, evaluations")
