"""The training loop: `train(config)` starts a run, or goes on with the one in `run_dir`."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from t5jax import host, run_folder, sharding
from t5jax.config import RunConfig
from t5jax.config_files import build_config, differences, stored_config, to_yaml
from t5jax.data import TrainData
from t5jax.data.loader import Cut
from t5jax.evaluate import write_results
from t5jax.formats import native
from t5jax.formats.checkpoint import Checkpoint
from t5jax.formats.detect import open_checkpoint, report_assumed
from t5jax.model.contract import ModelConfig
from t5jax.model.family import family_of
from t5jax.model.parameters import abstract_params, count_parameters, logical_axes, stack
from t5jax.paths import user_path
from t5jax.sizes import check_training
from t5jax.tasks import registry, run_modules
from t5jax.text2text import Text2Text, keep_compiled_programs
from t5jax.training.checkpoints import Checkpoints
from t5jax.training.evaluation import generation_options, make_evaluation
from t5jax.training.layout import make_layout, stack_state, unstack_state
from t5jax.training.losses import LossSums
from t5jax.training.machine import accelerator
from t5jax.training.peaks import peak_flops
from t5jax.training.profile import Profile
from t5jax.training.report import Report
from t5jax.training.schedules import make_schedule
from t5jax.training.signals import Interrupted, noted
from t5jax.training.step import StepMetrics, TrainState, make_step
from t5jax.vocabulary import Vocabulary, load_vocabulary, make_vocabulary

# What a run cannot change once it has begun: parameters, data order or optimizer state would no
# longer be the run's. Everything else may differ when it goes on.
FIXED = ("model", "vocabulary", "data", "optimizer.name", "optimizer.freeze", "training.seed")
FREE = ("data.prefetch", "data.modules")

SNAPSHOT_EVERY = 1000  # batches between kept positions, where training.save_every is 0


def train(tree: dict[str, Any]) -> None:
    """Trains as the configuration `tree` (nested dictionaries) says.

    Raises:
      ValueError: a bad configuration, a run folder that belongs to another one, or one whose
        files are damaged.
      FloatingPointError: the loss is no longer finite; the last checkpoint stays.
      Interrupted: SIGTERM or Ctrl-C; a KeyboardInterrupt. The step that the run was at is saved.
    """
    config, vocabulary = resolve(tree)
    run_dir, steps = user_path(config.run_dir), config.training.steps
    check_run(run_dir, config)
    registry.load_modules(run_modules.there(run_dir, config.data.modules))
    mesh = sharding.make_mesh(config.mesh)
    with contextlib.closing(Checkpoints(run_dir, config.training)) as checkpoints:
        start = checkpoints.whole(say)
        checkpoints.clean()
        if start is not None and start >= steps:
            say(f"nothing to do: step {start} of {steps}; raise training.steps")
            return
        check_training(config, list(mesh.devices.flat))
        print_devices(mesh)
        keep_compiled_programs()
        if host.is_writer():
            write_run(run_dir, config, vocabulary)
        host.barrier("run folder")
        with Run(config, vocabulary, mesh, run_dir, checkpoints, start) as run:
            run.train()


def resolve(tree: dict[str, Any]) -> tuple[RunConfig, Vocabulary]:
    """The typed configuration and its vocabulary; a run's own copy of it comes first."""
    early = build_config(tree)
    if not early.run_dir:
        raise ValueError("run_dir is empty; name the folder that the run is to fill")
    if not early.data.mixture:
        raise ValueError("data.mixture is empty; `t5jax tasks` lists what there is")
    run_dir = user_path(early.run_dir)
    begun = run_folder.steps(run_dir)
    own = run_dir / run_folder.VOCABULARY
    initial: ModelConfig | None = None
    assumed: tuple[str, ...] = ()
    if begun:
        native.verify_text(run_dir)
        vocabulary = load_vocabulary(own)
        # The checkpoint that the run started from need not be there any more.
        initial = native.read_model(run_dir).config if early.init else None
    elif early.init:
        checkpoint = open_checkpoint(early.init, vocabulary=early.vocabulary or None)
        if checkpoint.vocabulary is None:
            raise ValueError(
                f"init={early.init} came without a vocabulary; name it: `vocabulary: bytes`, or a "
                "SentencePiece file"
            )
        initial, vocabulary = checkpoint.config, checkpoint.vocabulary
        assumed = tuple(checkpoint.assumed)
        report_assumed(early.init, checkpoint, tree.get("model") or ())
    else:
        vocabulary = make_vocabulary(early.vocabulary or "bytes")
    config = build_config(tree, vocabulary, initial, assumed)
    data = dataclasses.replace(config.data, modules=run_modules.absolute(config.data.modules))
    config = dataclasses.replace(config, data=data)
    if config.model.encoder_only:
        raise ValueError("model.num_decoder_layers=0: there is nothing to train without a decoder")
    if config.model.vocab_size < vocabulary.vocab_size:
        raise ValueError(
            f"model.vocab_size={config.model.vocab_size} is smaller than the vocabulary's "
            f"{vocabulary.vocab_size} ids; leave it out, or give it at least as many"
        )
    if config.data.batch % config.training.micro_batches:
        raise ValueError(
            f"data.batch={config.data.batch} does not divide into "
            f"training.micro_batches={config.training.micro_batches}"
        )
    return config, vocabulary


def open_init(config: RunConfig) -> Checkpoint:
    """The checkpoint that a run starts from, with what the configuration says and it does not."""
    checkpoint = open_checkpoint(config.init or "")
    told = {name: getattr(config.model, name) for name in checkpoint.assumed}
    return open_checkpoint(config.init or "", **told) if told else checkpoint


def check_run(run_dir: Path, config: RunConfig) -> None:
    """Refuses a folder of another run: raises ValueError.

    Before its first checkpoint a run has nothing to lose, and may be started otherwise.
    """
    file = run_dir / run_folder.CONFIG
    if file.exists() and run_folder.steps(run_dir):
        before = stored_config(file)
        for name, old, new in differences(before, config):
            if name.startswith(FIXED) and not name.startswith(FREE):
                raise ValueError(
                    f"{name}={new} but the run in {run_dir} has {old}; "
                    f"set it to {old}, or choose another run_dir"
                )


def write_run(run_dir: Path, config: RunConfig, vocabulary: Vocabulary) -> None:
    """Writes the run's config.yaml and model files."""
    lengths = config.data.lengths
    generation = {"max_new_tokens": config.eval.max_new_tokens or lengths.targets}
    model = native.Model(config.model, vocabulary, generation, lengths.inputs)
    files = {run_folder.CONFIG: to_yaml(config).encode(), **run_modules.copies(config.data.modules)}
    native.write_model(run_dir, model, files)


def say(line: str) -> None:
    """A line on stderr, before there is a report."""
    print(line, file=sys.stderr, flush=True)


def print_devices(mesh: Mesh) -> None:
    """One line on what the run computes with, and a warning where an accelerator lies idle."""
    device = mesh.devices.flat[0]
    cut = ", ".join(f"{k} {v}" for k, v in mesh.shape.items() if v > 1)
    print(f"devices: {mesh.size} x {device.device_kind} ({device.platform})", cut, flush=True)
    if device.platform == "cpu" and (found := accelerator()):
        what, extra = found
        print(f"warning: there {what} that JAX does not use: install t5jax[{extra}]")


@dataclasses.dataclass
class Window:
    """Metrics of the steps since the last logged one, still on the device, and what is cut."""

    step: int
    metrics: list[StepMetrics]
    cut: Cut


class Run:
    """Everything one run holds open; use it as a context."""

    def __init__(
        self,
        config: RunConfig,
        vocabulary: Vocabulary,
        mesh: Mesh,
        run_dir: Path,
        checkpoints: Checkpoints,
        start: int | None,
    ) -> None:
        self.config, self.vocabulary, self.mesh, self.run_dir = config, vocabulary, mesh, run_dir
        training = config.training
        self.model = family_of(config.model).training(
            config.model,
            jnp.dtype(training.dtype),
            remat=training.remat,
            scan=training.scan_layers,
        )
        shapes = abstract_params(config.model)
        sharding.check_divisible(shapes, logical_axes(config.model), mesh)
        self.schedule = make_schedule(config.optimizer, training.steps)
        # As checkpoints have it, and as the step wants it: often the same.
        self.stored = make_layout(config, mesh, stacked=True)
        self.layout = self.stored
        if not training.scan_layers:
            self.layout = make_layout(config, mesh, stacked=False)
        rows = sharding.sharding(mesh, "batch", "length")
        self.step = jax.jit(
            make_step(
                self.model,
                self.layout.optimizer,
                self.schedule,
                training,
                param_shardings=self.layout.shardings.params,
                trained=self.layout.trained,
            ),
            in_shardings=(self.layout.shardings, rows),
            out_shardings=(self.layout.shardings, sharding.replicated(mesh)),
            donate_argnums=0,
        )
        provider = registry.with_vocabulary(
            config.data.mixture, registry.seqio_vocabulary(vocabulary)
        )
        self.eval_options = generation_options(config, vocabulary)
        self.evaluation = make_evaluation(config, vocabulary)
        self.checkpoints = checkpoints
        position = None
        # Of the steps since the last logged one, and the seconds that they took.
        self.window: list[StepMetrics] = []
        seconds, written = 0.0, ""
        if start is None:
            with sharding.use(mesh):
                if config.init is None:
                    self.state = self.layout.fresh(jax.random.key(training.seed))
                else:
                    params = open_init(config).params(np.float32, mesh)
                    self.state = self.layout.begin(params)
        else:
            self.state, position = self.checkpoints.restore(start, self.stored.abstract)
            self.window, seconds, written = read_window(position)
            if self.layout is not self.stored:
                self.state = unstack_state(self.state, self.layout)
        self.start = start or 0
        self.data = TrainData(
            provider,
            config.data,
            sharding=rows,
            snapshot_every=training.save_every or SNAPSHOT_EVERY,
            restore_from=position,
            vocabulary_size=config.model.vocab_size,
        )
        self.report = Report(
            run_dir,
            start=self.start,
            steps=training.steps,
            tensorboard=training.tensorboard,
            written=written,
        )
        self.told: set[tuple[str, str]] = set()
        self.profile = Profile(run_dir / run_folder.TENSORBOARD, training.profile)
        self.since = time.monotonic() - seconds
        begun = f"resuming at step {start}" if start else "starting"
        self.report.say(
            f"{begun}: {count_parameters(shapes):,} parameters, {config.data.mixture}, "
            f"{training.steps} steps of {config.data.batch} rows, in {run_dir}"
        )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.profile.close()
        self.data.close()
        self.report.close()

    def train(self) -> None:
        """Steps from where the run is to its end.

        Raises:
          Interrupted: SIGTERM or Ctrl-C came, and the step that the run was at is saved.
        """
        config = self.config.training
        pending: Window | None = None
        with noted() as received, sharding.use(self.mesh):
            for step in range(self.start + 1, config.steps + 1):
                self.profile.before(step)
                self.state, metrics = self.step(self.state, next(self.data))
                self.window.append(metrics)
                self.profile.after(step, metrics)
                # The step before is done, or nearly, when its successor has been dispatched:
                # fetching its metrics now keeps the device busy meanwhile.
                if pending is not None:
                    self.write(pending.step, self.summary(pending))
                    pending = None
                if step % config.log_every == 0 or step == config.steps:
                    pending, self.window = Window(step, self.window, self.data.cut), []
                self.report.advance(step)
                last = step == config.steps
                evaluate = last or (config.eval_every and step % config.eval_every == 0)
                save = last or (config.save_every and step % config.save_every == 0)
                stop = received()
                if not (evaluate or save or stop):
                    continue
                # What is saved must be good, so here the loop does wait.
                row = self.summary(pending) if pending is not None else {}
                self.check_finite(step, metrics)
                paused = time.monotonic()
                if evaluate and self.evaluation is not None:
                    row |= self.evaluate(step)
                if row:
                    self.write(step, row)
                pending = None
                if save or stop:
                    self.save(step, row, max(paused - self.since, 0.0))
                self.since += time.monotonic() - paused
                if stop and not last:
                    self.checkpoints.wait()
                    name = signal.Signals(stop).name
                    line = f"interrupted ({name}): step {step} is saved; run again to go on"
                    self.report.say(line)
                    raise Interrupted(line, stop)
        self.checkpoints.wait()
        for line in self.cut_lines(self.data.cut):
            self.report.say(line)

    def save(self, step: int, metrics: dict[str, float], seconds: float) -> None:
        """Starts a checkpoint of `step`, `seconds` after the last logged one."""
        known = {k.removeprefix("eval/"): v for k, v in metrics.items()}
        window, written = host.gather(self.window), self.report.checksum()

        def write_data(folder: epath.Path) -> None:
            self.data.save(folder, step)
            if host.is_writer():
                write_window(folder, window, seconds, written)

        self.checkpoints.save(self.stored_state(), step, write_data, known)

    def stored_state(self) -> TrainState:
        """The state as checkpoints have it."""
        if self.layout is self.stored:
            return self.state
        return stack_state(self.state, self.stored)

    def evaluate(self, step: int) -> dict[str, float]:
        """Evaluates the current parameters, writes eval/, returns `eval/task/metric` values."""
        assert self.evaluation is not None
        params = self.state.params
        if self.layout is not self.stored:
            params = jax.jit(stack, out_shardings=self.stored.shardings.params)(params)
        t5 = Text2Text(
            self.config.model,
            params,
            self.vocabulary,
            dtype=self.config.training.dtype,
            mesh=self.mesh if self.mesh.size > 1 else None,
        )
        results = self.evaluation.run(t5, **self.eval_options)
        about = {"step": step, "split": self.config.eval.split}
        if host.is_writer():
            write_results(self.run_dir / run_folder.EVALUATIONS, results, about)
        return {
            f"eval/{task}/{name}": value
            for task, result in results.items()
            for name, value in result.metrics.items()
        }

    def write(self, step: int, row: dict[str, float]) -> None:
        """Logs a step, and tells of each task once what does not fit, or is left out."""
        self.report.write(step, row)
        cut = {
            feature: {task: n for task, n in counts.items() if (feature, task) not in self.told}
            for feature, counts in self.data.cut.items()
        }
        for line in self.cut_lines(cut):
            self.report.say(f"warning: so far {line}")
        self.told |= {(feature, task) for feature in cut for task, n in cut[feature].items() if n}
        for task, count in self.data.dropped.items():
            if count and ("left out", task) not in self.told:
                self.told.add(("left out", task))
                self.report.say(
                    f"warning: so far {count} examples of {task} were left out: no inputs, no "
                    f"targets, or an id 0 (padding) in them; `t5jax tasks {task}` shows them"
                )

    def cut_lines(self, cut: Cut) -> Iterator[str]:
        """One for each feature and task with examples that do not fit."""
        for feature, counts in cut.items():
            longest = getattr(self.config.data.lengths, feature)
            for task, count in counts.items():
                if count:
                    yield (
                        f"{count} {feature} of {task} have more than "
                        f"data.lengths.{feature}={longest} tokens and were cut"
                    )

    def summary(self, window: Window) -> dict[str, float]:
        """A window's metrics, per token and per second; waits for its last step."""
        rows = host.gather(window.metrics)
        # Now that the window's last step is done: when it was dispatched, the device may have been
        # many steps behind.
        now = time.monotonic()
        seconds, self.since = max(now - self.since, 1e-9), now
        total = jax.tree.map(lambda *x: float(np.sum(x)), *rows)
        last = rows[-1]
        losses, weight = total.losses, max(total.losses.weight, 1.0)
        steps = len(rows)
        data = self.config.data
        flops = steps * family_of(self.config.model).step_flops(
            self.config.model, data.batch, data.lengths.inputs, data.lengths.targets
        )
        row = {
            "loss": losses.nll / weight,
            "accuracy": losses.correct / weight,
            "z_loss": losses.z_loss / weight,
            "grad_norm": float(last.grad_norm),
            "param_norm": float(last.param_norm),
            "learning_rate": float(last.learning_rate),
            "examples_per_second": total.examples / seconds,
            "tokens_per_second": total.tokens / seconds,
            "step_seconds": seconds / steps,
            "model_flops_per_second": flops / seconds,
        }
        peak = peak_flops(self.mesh.devices.flat[0].device_kind)
        if peak:
            row["peak_share"] = flops / seconds / (peak * self.mesh.size)
        for feature, counts in window.cut.items():
            if count := sum(counts.values()):
                row[f"{feature}_cut"] = count
        for step, each in zip(range(window.step - steps + 1, window.step + 1), rows, strict=True):
            self.check_finite(step, each)
        return row

    def check_finite(self, step: int, metrics: StepMetrics) -> None:
        """Stops the run at a loss that is no number."""
        if not math.isfinite(float(metrics.losses.objective)):
            kept = self.checkpoints.latest()
            raise FloatingPointError(
                f"the loss of step {step} is {float(metrics.losses.objective)}; "
                f"the last good checkpoint is step {kept} of {self.run_dir}; "
                "try a lower optimizer.learning_rate, optimizer.clip_norm, or another data.seed"
            )


def write_window(
    folder: epath.Path, window: Sequence[StepMetrics], seconds: float, written: str
) -> None:
    """Writes the metrics of steps that no logged row has yet, and the seconds that they took.

    With them goes `written`, the checksum of the rows that there are.
    """
    leaves = jax.tree.leaves_with_path(window)
    arrays: Any = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}
    about: Any = {"seconds": seconds, "steps": len(window), "written": written}
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **about, **arrays)
    (folder / run_folder.WINDOW).write_bytes(content.getvalue())


def read_window(folder: Path) -> tuple[list[StepMetrics], float, str]:
    """What `write_window` wrote; nothing of an older checkpoint, which has no such file."""
    file = folder / run_folder.WINDOW
    if not file.is_file():
        return [], 0.0, ""
    with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as saved:
        zero: Any = 0
        fields = StepMetrics(LossSums(*5 * (zero,)), *5 * (zero,))
        window = jax.tree.map_with_path(
            lambda path, _: saved[jax.tree_util.keystr(path, simple=True, separator="/")],
            [fields] * int(saved["steps"]),
        )
        return window, float(saved["seconds"]), str(saved["written"])
