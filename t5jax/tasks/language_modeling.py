"""Pre-training on C4: T5's and UL2's objectives, under the names of T5's tasks."""

from __future__ import annotations

import functools

import seqio
import tensorflow as tf

from t5jax.tasks import ablations, objectives
from t5jax.tasks.text import Preprocessor, RawExample, add_task, each

_EOS = (seqio.preprocessors.append_eos_after_trim,)
_DATASET = "c4/en:2.2.0"


def _iid(density: float) -> Preprocessor:
    return functools.partial(objectives.iid_denoising, density=density)


def _span(span: float) -> Preprocessor:
    return functools.partial(objectives.span_corruption, span=span)


# Task, objective, and the preprocessors that end its sequences; `full_lm` ends documents itself.
TASKS: tuple[tuple[str, Preprocessor, tuple[Preprocessor, ...]], ...] = (
    ("c4_v220_span_corruption", objectives.span_corruption, _EOS),
    ("c4_v220_iid_denoising", objectives.iid_denoising, _EOS),
    ("c4_v220_prefix_lm", objectives.prefix_lm, _EOS),
    ("c4_v220_full_lm", objectives.full_lm, ()),
    ("c4_v220_ul2", objectives.mixture_of_denoisers, _EOS),
)
# Objectives that T5's paper compares, under the names of its gin files: the noise, its percentage,
# and the form of inputs and targets (u: a sentinel for each span; m: a mask for each id; r10s90:
# 10 % random ids, 90 % masks; d: dropped; f: the full text).
ABLATIONS: dict[str, Preprocessor] = {
    "all_permute": ablations.deshuffling,
    "iid_15_d_d": ablations.with_dropped,
    "iid_15_m_f": ablations.masked,
    "iid_15_r10s90_f": functools.partial(ablations.masked, random=0.1),
    **{f"iid_{percent}_u_u": _iid(percent / 100) for percent in (10, 15, 25, 50)},
    **{f"span_{span}_15_u_u": _span(span) for span in (2, 3, 5, 10)},
}
# T5's gin files set the objective of these; for the released checkpoints it is span corruption.
UNSUPERVISED = {
    "c4_v020_unsupervised": "c4/en:2.2.0",
    "c4_noclean_v020_unsupervised": "c4/en.noclean:2.2.0",
    "c4_realnewslike_v020_unsupervised": "c4/en.realnewslike:2.2.0",
    "c4_webtextlike_v020_unsupervised": "c4/en.webtextlike:2.2.0",
}


def document(row: RawExample) -> dict[str, tf.Tensor]:
    """A row of C4 -> its text as `targets`, which the objective corrupts."""
    return {"targets": row["text"]}


def _add(name: str, dataset: str, objective: Preprocessor, end: tuple[Preprocessor, ...]) -> None:
    add_task(
        name,
        dataset,
        [each(document)],
        splits=("train", "validation"),
        on_ids=[objective],
        end=end,
    )


for _name, _objective, _end in TASKS:
    _add(_name, _DATASET, _objective, _end)
for _name, _objective in ABLATIONS.items():
    _add(f"c4_v220_{_name}", _DATASET, _objective, _EOS)
for _name, _dataset in UNSUPERVISED.items():
    _add(_name, _dataset, objectives.span_corruption, _EOS)
