"""The layout of a run's folder, every name in one place.

config.yaml                      the resolved configuration
model.json, vocabulary/          the model, as in a folder that `Text2Text.save` writes
modules/                         copies of the user's task modules
checksums.json                   of the files above
checkpoints/STEP/params/         Orbax: the parameters
checkpoints/STEP/state/          optimizer state
checkpoints/STEP/data/           the data's position, and metrics of steps not yet logged
checkpoints/STEP/checksums.json
metrics.jsonl                    one object a logged step
tensorboard/                     the same as events, and profiles
eval/TASK/metrics.json, predictions.jsonl
"""

from __future__ import annotations

from pathlib import Path

CONFIG = "config.yaml"
MODEL = "model.json"
VOCABULARY = "vocabulary"
MODULES = "modules"
CHECKSUMS = "checksums.json"
CHECKPOINTS = "checkpoints"
PARAMS, STATE, DATA = "params", "state", "data"
WINDOW = "window.npz"  # in DATA
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
EVALUATIONS = "eval"
RESULTS, PREDICTIONS = "metrics.json", "predictions.jsonl"


def steps(folder: Path) -> list[int]:
    """Steps of the committed checkpoints in `folder`, ascending."""
    root = folder / CHECKPOINTS
    if not root.is_dir():
        return []
    # Orbax writes under another name and renames when all is there, so a number means complete.
    return sorted(int(place.name) for place in root.iterdir() if place.name.isdigit())


def step_of(path: Path) -> tuple[Path, int] | None:
    """(folder, step) of FOLDER/checkpoints/STEP, where FOLDER holds a model."""
    path = path.absolute()
    folder = path.parent.parent
    found = path.parent.name == CHECKPOINTS and path.name.isdigit() and (folder / MODEL).is_file()
    return (folder, int(path.name)) if found else None
