"""Training checkpoints: Orbax, asynchronous, with the data's position in the same commit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from t5jax.config import TrainingConfig
from t5jax.formats.native import CHECKPOINTS, PARAMS
from t5jax.training.step import TrainState

STATE, DATA = "state", "data"


class _DataHandler(ocp.CheckpointHandler):
    """Lets the data loader write its own files into the checkpoint's folder."""

    def save(self, directory: epath.Path, args: _SaveData) -> None:
        args.write(directory)

    def restore(self, directory: epath.Path, args: _RestoreData | None = None) -> epath.Path:
        return directory


@ocp.args.register_with_handler(_DataHandler, for_save=True)
class _SaveData(ocp.args.CheckpointArgs):
    def __init__(self, write: Callable[[epath.Path], None]) -> None:
        self.write = write


@ocp.args.register_with_handler(_DataHandler, for_restore=True)
class _RestoreData(ocp.args.CheckpointArgs):
    pass


class Checkpoints:
    """The checkpoints of one run: the newest `keep`, and the best by a metric if one is named.

    What is evaluated at a step must be known when that step is saved.
    """

    def __init__(self, run_dir: Path, config: TrainingConfig) -> None:
        policies: list[Any] = [checkpoint_managers.LatestN(config.keep)]
        if config.keep_best:
            name = config.keep_best
            policies.append(
                checkpoint_managers.BestN(
                    get_metric_fn=lambda metrics: metrics[name],
                    reverse=config.best_mode == "min",
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
        self.best = config.keep_best
        self.manager = ocp.CheckpointManager(
            run_dir.absolute() / CHECKPOINTS,
            options=ocp.CheckpointManagerOptions(
                # Not max_to_keep with best_fn: that one deletes the latest.
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            ),
        )

    def latest(self) -> int | None:
        """The last committed step."""
        return self.manager.latest_step()

    def save(
        self,
        state: TrainState,
        step: int,
        write_data: Callable[[epath.Path], None],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts writing `step`; returns when the state may be overwritten.

        Raises:
          OSError or another error of the write before this one, such as a full disk; what was
          committed before stays readable.
        """
        if step in self.manager.all_steps():
            return
        rest = {"step": state.step, "opt_state": state.opt_state, "key": state.key}
        best = None
        if self.best is not None and metrics is not None and self.best in metrics:
            best = {self.best: metrics[self.best]}
        self.manager.save(
            step,
            args=ocp.args.Composite(
                **{
                    PARAMS: ocp.args.StandardSave(state.params),
                    STATE: ocp.args.StandardSave(rest),
                    DATA: _SaveData(write_data),
                }
            ),
            metrics=best,
            force=True,
        )

    def restore(self, step: int, target: TrainState) -> tuple[TrainState, epath.Path]:
        """The state of `step`, placed as the abstract `target` says, and the data's folder."""
        rest = {"step": target.step, "opt_state": target.opt_state, "key": target.key}
        restored = self.manager.restore(
            step,
            args=ocp.args.Composite(
                **{
                    PARAMS: ocp.args.StandardRestore(target.params),
                    STATE: ocp.args.StandardRestore(rest),
                    DATA: _RestoreData(),
                }
            ),
        )
        state = TrainState(params=restored[PARAMS], **restored[STATE])
        return state, restored[DATA]

    def wait(self) -> None:
        """Returns when everything is written; raises what went wrong."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends the writing threads."""
        self.manager.close()


def abstract_state(state: Any, shardings: Any) -> Any:
    """Shapes with their places, for `restore`."""
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), state, shardings
    )
