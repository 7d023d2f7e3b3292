"""The training loop: `train(tree)` starts the run in `run_dir`, or resumes it."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from t5jax import host, run_folder, sharding
from t5jax.compiled import keep_compiled_programs
from t5jax.config import RunConfig
from t5jax.data import TrainData
from t5jax.data.packing import ModelIds
from t5jax.evaluate import write_results
from t5jax.model.family import family_of
from t5jax.model.parameters import abstract_params, count_parameters, logical_axes, stack
from t5jax.paths import user_path
from t5jax.sizes import check_training
from t5jax.tasks import registry, run_modules
from t5jax.text2text import Text2Text
from t5jax.training.checkpoints import Checkpoints
from t5jax.training.evaluation import generation_options, make_evaluation
from t5jax.training.layout import make_layout, stack_state, unstack_state
from t5jax.training.machine import accelerator
from t5jax.training.opening import check_run, open_init, resolve, write_run
from t5jax.training.peaks import peak_flops
from t5jax.training.profile import Profile
from t5jax.training.report import Report
from t5jax.training.schedules import make_schedule
from t5jax.training.signals import Interrupted, noted
from t5jax.training.step import StepMetrics, TrainState, make_step
from t5jax.training.window import Notices, Window, read_window, summarize, write_window
from t5jax.vocabulary import Vocabulary

SNAPSHOT_EVERY = 1000  # batches between data snapshots where training.save_every is 0


def train(tree: dict[str, Any]) -> None:
    """Trains with the configuration `tree` (nested dictionaries).

    Raises:
      ValueError: an invalid configuration, or a run folder of another run or with damaged files.
      FloatingPointError: the loss is not finite; the last checkpoint stays.
      Interrupted: SIGTERM or Ctrl-C, after the current step is saved.
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


def say(line: str) -> None:
    """A line on stderr, before the run has a `Report`."""
    print(line, file=sys.stderr, flush=True)


def print_devices(mesh: Mesh) -> None:
    """Prints the run's devices, and a warning if JAX does not see an accelerator."""
    device = mesh.devices.flat[0]
    cut = ", ".join(f"{k} {v}" for k, v in mesh.shape.items() if v > 1)
    print(f"devices: {mesh.size} x {device.device_kind} ({device.platform})", cut, flush=True)
    if device.platform == "cpu" and (found := accelerator()):
        what, extra = found
        print(f"warning: there {what} that JAX does not use: install t5jax[{extra}]")


class Run:
    """A run's state, data, compiled step and report; a context manager."""

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
        self.checkpoints = checkpoints
        training = config.training
        shapes = abstract_params(config.model)
        sharding.check_divisible(shapes, logical_axes(config.model), mesh)
        # The layout of checkpoints, and that of the step: they differ without scan_layers.
        self.stored = make_layout(config, mesh, stacked=True)
        self.layout = self.stored
        if not training.scan_layers:
            self.layout = make_layout(config, mesh, stacked=False)
        rows = sharding.sharding(mesh, "batch", "length")
        self.step = self._compiled_step(rows)
        provider = registry.with_vocabulary(
            config.data.mixture, registry.seqio_vocabulary(vocabulary)
        )
        self.eval_options = generation_options(config, vocabulary)
        self.evaluation = make_evaluation(config, vocabulary)
        self.state, position = self._begin(start)
        # Metrics and seconds of the steps since the last logged one.
        self.window, seconds, written = ([], 0.0, "") if position is None else read_window(position)
        self.start = start or 0
        self.data = TrainData(
            provider,
            config.data,
            sharding=rows,
            snapshot_every=training.save_every or SNAPSHOT_EVERY,
            restore_from=position,
            ids=ModelIds.of(config.model),
        )
        self.report = Report(
            run_dir,
            start=self.start,
            steps=training.steps,
            tensorboard=training.tensorboard,
            written=written,
        )
        self.notices = Notices(config.data.lengths, config.model.pad_token_id)
        self.profile = Profile(run_dir / run_folder.TENSORBOARD, training.profile)
        self.since = time.monotonic() - seconds
        begun = f"resuming at step {start}" if start else "starting"
        self.report.say(
            f"{begun}: {count_parameters(shapes):,} parameters, {config.data.mixture}, "
            f"{training.steps} steps of {config.data.batch} rows, in {run_dir}"
        )

    def _compiled_step(self, rows: jax.sharding.Sharding) -> Any:
        """The jitted training step; `rows` is a batch's sharding."""
        model, training = self.config.model, self.config.training
        network = family_of(model).training(
            model, jnp.dtype(training.dtype), remat=training.remat, scan=training.scan_layers
        )
        step = make_step(
            network,
            self.layout.optimizer,
            make_schedule(self.config.optimizer, training.steps),
            training,
            param_shardings=self.layout.shardings.params,
            trained=self.layout.trained,
        )
        return jax.jit(
            step,
            in_shardings=(self.layout.shardings, rows),
            out_shardings=(self.layout.shardings, sharding.replicated(self.mesh)),
            donate_argnums=0,
        )

    def _begin(self, start: int | None) -> tuple[TrainState, Path | None]:
        """The state after step `start`, and the folder of the data's position."""
        if start is not None:
            state, position = self.checkpoints.restore(start, self.stored.abstract)
            if self.layout is not self.stored:
                state = unstack_state(state, self.layout)
            return state, position
        with sharding.use(self.mesh):
            if self.config.init is None:
                return self.layout.fresh(jax.random.key(self.config.training.seed)), None
            params = open_init(self.config).read("training", np.float32, self.mesh)
            return self.layout.begin(params), None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.profile.close()
        self.data.close()
        self.report.close()

    def train(self) -> None:
        """Trains to the last step.

        Raises:
          Interrupted: SIGTERM or Ctrl-C, after the current step is saved.
        """
        config = self.config.training
        pending: Window | None = None
        with noted() as received, sharding.use(self.mesh):
            for step in range(self.start + 1, config.steps + 1):
                self.profile.before(step)
                self.state, metrics = self.step(self.state, next(self.data))
                self.window.append(metrics)
                self.profile.after(step, metrics)
                # Metrics are fetched one step late, so that dispatch never waits.
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
                if evaluate or save or stop:
                    row = {} if pending is None else self.summary(pending)
                    self.check_finite(step, metrics)
                    self.pause(step, row, bool(evaluate), bool(save or stop))
                    pending = None
                if stop and not last:
                    self.checkpoints.wait()
                    name = signal.Signals(stop).name
                    line = f"interrupted ({name}): step {step} is saved; run again to go on"
                    self.report.say(line)
                    raise Interrupted(line, stop)
        self.checkpoints.wait()
        for line in self.notices.totals(self.data.cut):
            self.report.say(line)

    def pause(self, step: int, row: dict[str, float], evaluate: bool, save: bool) -> None:
        """Evaluates and saves; `row` are the metrics of the step, if it is a logged one."""
        paused = time.monotonic()
        if evaluate and self.evaluation is not None:
            row |= self.evaluate(step)
        if row:
            self.write(step, row)
        if save:
            self.save(step, row, max(paused - self.since, 0.0))
        self.since += time.monotonic() - paused

    def save(self, step: int, metrics: dict[str, float], seconds: float) -> None:
        """Starts a checkpoint of `step`, `seconds` after the last logged step."""
        known = {k.removeprefix("eval/"): v for k, v in metrics.items()}
        window, written = jax.device_get(self.window), self.report.checksum()

        def write_data(folder: epath.Path) -> None:
            self.data.save(folder, step)
            if host.is_writer():
                write_window(folder, window, seconds, written)

        state = self.state
        if self.layout is not self.stored:
            state = stack_state(state, self.stored)
        self.checkpoints.save(state, step, write_data, known)

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
        results = self.evaluation.run(t5, progress=False, **self.eval_options)
        about = {"step": step, "split": self.config.eval.split}
        if host.is_writer():
            write_results(self.run_dir / run_folder.EVALUATIONS, results, about)
        return {
            f"eval/{task}/{name}": value
            for task, result in results.items()
            for name, value in result.metrics.items()
        }

    def write(self, step: int, row: dict[str, float]) -> None:
        """Logs a step, and new warnings of cut and dropped examples."""
        self.report.write(step, row)
        for line in self.notices.news(self.data.cut, self.data.dropped):
            self.report.say(line)

    def summary(self, window: Window) -> dict[str, float]:
        """A window's row; waits for its last step."""
        rows = jax.device_get(window.metrics)
        # Timed after the fetch: at dispatch the device may be many steps behind.
        now = time.monotonic()
        seconds, self.since = max(now - self.since, 1e-9), now
        row = summarize(rows, seconds, window.cut)
        model, data = self.config.model, self.config.data
        step_flops = family_of(model).step_flops(
            model, data.batch, data.lengths.inputs, data.lengths.targets
        )
        row["model_flops_per_second"] = len(rows) * step_flops / seconds
        if peak := peak_flops(self.mesh.devices.flat[0].device_kind):
            row["peak_share"] = row["model_flops_per_second"] / (peak * self.mesh.size)
        first = window.step - len(rows) + 1
        for step, each in enumerate(rows, start=first):
            self.check_finite(step, each)
        return row

    def check_finite(self, step: int, metrics: StepMetrics) -> None:
        """Raises FloatingPointError unless the loss is finite."""
        if not math.isfinite(float(metrics.losses.objective)):
            kept = self.checkpoints.latest()
            raise FloatingPointError(
                f"the loss of step {step} is {float(metrics.losses.objective)}; "
                f"the last good checkpoint is step {kept} of {self.run_dir}; "
                "try a lower optimizer.learning_rate, optimizer.clip_norm, or another data.seed"
            )
