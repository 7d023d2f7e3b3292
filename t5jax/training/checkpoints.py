"""Training checkpoints: asynchronous Orbax; the state and the data's position commit together."""

from __future__ import annotations

import contextlib
import math
import operator
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from t5jax.config import TrainingConfig
from t5jax.formats import checksums
from t5jax.formats.native import first_line
from t5jax.run_folder import CHECKPOINTS, DATA, PARAMS, STATE
from t5jax.training.step import TrainState

TMP_DIR_SUFFIX = ".orbax-checkpoint-tmp"  # of a step's folder until Orbax commits it
COMMIT_FILES = ("_CHECKPOINT_METADATA", "commit_success.txt")  # Orbax writes them after checksums


class _DataHandler(ocp.CheckpointHandler):
    """Lets the data loader write its files into the checkpoint's folder."""

    def save(self, directory: epath.Path, args: _SaveData) -> None:
        args.write(directory)

    def restore(self, directory: epath.Path, args: Any = None) -> epath.Path:
        return directory


@ocp.args.register_with_handler(_DataHandler, for_save=True)
class _SaveData(ocp.args.CheckpointArgs):
    def __init__(self, write: Callable[[epath.Path], None]) -> None:
        self.write = write


@ocp.args.register_with_handler(_DataHandler, for_restore=True)
class _RestoreData(ocp.args.CheckpointArgs):
    """Orbax requires restore arguments for each handler."""


class _Kept:
    """Orbax preservation policy: the newest `keep` steps, and the step with the best value."""

    def __init__(self, keep: int, better: Callable[[float, float], bool]) -> None:
        self.keep, self.better = keep, better
        self.values: dict[int, float] = {}

    def of(self, steps: Iterable[int]) -> set[int]:
        """The steps to keep, among `steps`."""
        steps = sorted(steps)
        best: int | None = None
        for step in steps:
            value = self.values.get(step, math.nan)
            if math.isnan(value):
                continue
            if best is None or not self.better(self.values[best], value):
                best = step
        return {*steps[-self.keep :], *(() if best is None else (best,))}

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        kept = self.of(each.step for each in checkpoints)
        return [each.step in kept for each in checkpoints]


class Checkpoints:
    """The checkpoints of one run: the newest `keep`, and the best by `keep_best` if that is set.

    A step is evaluated before it is saved. Its checksums (`t5jax.formats.checksums`) are written
    before Orbax commits it by renaming its folder.
    """

    def __init__(self, run_dir: Path, config: TrainingConfig) -> None:
        self.root = run_dir.absolute() / CHECKPOINTS
        self.best = config.keep_best
        self.policy = _Kept(config.keep, operator.lt if config.best_mode == "min" else operator.gt)
        self.saving: tuple[int, dict[str, float]] | None = None
        self.manager = ocp.CheckpointManager(
            self.root,
            options=ocp.CheckpointManagerOptions(
                # max_to_keep with best_fn would delete the latest step.
                preservation_policy=self.policy,
                cleanup_tmp_directories=True,  # of a killed save
                lightweight_initialize=True,  # do not read every step's metadata
                async_options=ocp.AsyncOptions(post_finalization_callback=self._protect),
            ),
        )

    def _protect(self) -> None:
        """Writes checksums into the folder that Orbax is about to rename."""
        assert self.saving is not None
        step, best = self.saving
        (folder,) = self.root.glob(f"{step}{TMP_DIR_SUFFIX}*")
        checksums.write(folder, {"step": step, "metrics": best}, without=COMMIT_FILES)

    def latest(self) -> int | None:
        """The last committed step."""
        return self.manager.latest_step()

    def whole(self, say: Callable[[str], None]) -> int | None:
        """The last step whose files match their checksums; None if the run has no step.

        Later, damaged steps are reported and moved aside, because training saves them again.

        Raises:
          ValueError: every step is damaged.
        """
        steps = sorted(self.manager.all_steps(), reverse=True)
        damaged: dict[int, str] = {}
        for step in steps:
            try:
                checksums.verify(self.root / str(step))
                break
            except checksums.Damaged as error:
                damaged[step] = str(error)
        else:
            if damaged:
                raise ValueError(
                    f"{damaged[steps[0]]}, and no earlier checkpoint is whole; put the files back, "
                    f"or delete {self.root} to start anew"
                )
            return None
        for number, fault in damaged.items():
            aside = self.root / f"{number}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(self.root / str(number), aside)
            say(f"warning: {fault}: checkpoint {number} is moved to {aside}, step {step} is taken")
        if damaged:
            self.manager.reload()
        return step

    def clean(self) -> None:
        """Deletes steps that a killed process left, and reads the best metric of the rest."""
        steps = self.manager.all_steps()
        for step in steps if self.best else ():
            with contextlib.suppress(checksums.Damaged):
                sums = checksums.read(self.root / str(step))
                value = sums.about.get("metrics", {}).get(self.best) if sums else None
                if isinstance(value, int | float):
                    self.policy.values[step] = float(value)
        for step in set(steps) - self.policy.of(steps):
            self.manager.delete(step)

    def save(
        self,
        state: TrainState,
        step: int,
        write_data: Callable[[epath.Path], None],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts writing `step`; returns when the state may be overwritten.

        Raises:
          OSError or another error of the previous write, such as a full disk. Committed steps stay
          readable.
        """
        if step in self.manager.all_steps():
            return
        self.manager.wait_until_finished()
        best = {}
        if self.best is not None and metrics is not None and self.best in metrics:
            best[self.best] = self.policy.values[step] = float(metrics[self.best])
        self.saving = step, best
        rest = {"step": state.step, "opt_state": state.opt_state, "key": state.key}
        self.manager.save(
            step,
            args=ocp.args.Composite(
                **{
                    PARAMS: ocp.args.StandardSave(state.params),
                    STATE: ocp.args.StandardSave(rest),
                    DATA: _SaveData(write_data),
                }
            ),
            force=True,
        )

    def restore(self, step: int, target: TrainState) -> tuple[TrainState, Path]:
        """The state of `step`, sharded like the abstract `target`, and the data's folder.

        Raises:
          ValueError: the step holds other arrays, or is damaged and has no checksums.
        """
        folder = self.root / str(step)
        rest = {"step": target.step, "opt_state": target.opt_state, "key": target.key}
        try:
            # The manager would also read files that have no checksums.
            with ocp.StandardCheckpointer() as checkpointer:
                params = checkpointer.restore(folder / PARAMS, target.params)
                restored = checkpointer.restore(folder / STATE, rest)
        except Exception as error:  # Orbax and TensorStore raise many kinds
            before = [each for each in self.manager.all_steps() if each < step]
            cure = f"move it away to go on from step {max(before)}" if before else "start a new run"
            raise ValueError(
                f"{folder} does not hold this run's state or cannot be read ("
                f"{first_line(error)}); undo changes of the optimizer, or {cure}"
            ) from error
        return TrainState(params=params, **restored), folder / DATA

    def wait(self) -> None:
        """Waits for the pending write, and raises its error."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the pending write, and ends Orbax's threads."""
        self.manager.close()


def abstract_state(state: Any, shardings: Any) -> Any:
    """jax.ShapeDtypeStructs with `shardings`, for `Checkpoints.restore`."""
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state, shardings
    )
