"""T5's mixtures. Rates are equal, or proportional to numbers of examples, up to T5's limit.

A mixture with another limit or a temperature:

    rates = mixtures.proportional(mixtures.ALL, maximum=2**21, temperature=2)
    seqio.MixtureRegistry.add("mine", list(rates.items()))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import seqio

# Tasks must be registered before their mixtures.
from t5jax.tasks import (  # noqa: F401
    glue,
    language_modeling,
    question_answering,
    summarization,
    super_glue,
    translation,
)
from t5jax.tasks.behind_sentinel import sentinel_name

# Without WNLI, as in T5: WSC and DPR train the same. Diagnostic sets are only evaluated.
GLUE = {
    "glue_cola_v002": 8_551,
    "glue_sst2_v002": 67_349,
    "glue_mrpc_v002": 3_668,
    "glue_qqp_v002": 363_849,
    "glue_stsb_v002": 5_749,
    "glue_mnli_v002": 392_702,
    "glue_qnli_v002": 104_743,
    "glue_rte_v002": 2_490,
    "glue_mnli_mismatched_v002": 0,
    "glue_mnli_matched_v002": 0,
    "glue_ax_v002": 0,
}
WSC = {
    "dpr_v001_simple": 1_322,
    "super_glue_wsc_v102_simple_train": 259,
    "super_glue_wsc_v102_simple_eval": 0,
}
SUPER_GLUE = WSC | {
    "super_glue_boolq_v102": 9_427,
    "super_glue_cb_v102": 250,
    "super_glue_copa_v102": 400,
    "super_glue_multirc_v102": 27_243,
    "super_glue_record_v102": 138_854,
    "super_glue_rte_v102": 2_490,
    "super_glue_wic_v102": 5_428,
    "super_glue_axb_v102": 0,
    "super_glue_axg_v102": 0,
}
OTHERS = {
    "cnn_dailymail_v002": 287_113,
    "squad_v010_allanswers": 87_599,
    "wmt_t2t_ende_v003": 4_592_289,
    "wmt15_enfr_v003": 40_853_137,
    "wmt16_enro_v003": 610_320,
}
# T5's gin files set the objective of this task: span corruption for all released checkpoints.
_C4 = 364_868_892
UNSUPERVISED = {"c4_v020_unsupervised": _C4}
# Its name in t5jax's oldest mixtures; a run's saved data position names its tasks.
_UNSUPERVISED = {"c4_v220_span_corruption": _C4}
SUPERVISED = GLUE | SUPER_GLUE | OTHERS
ALL = SUPERVISED | UNSUPERVISED

# Largest rate of a data set in T5's multi-task training (arXiv:1910.10683, section 3.5.3).
LIMIT = 2**19
# Largest rate in pre-training of the released checkpoints (section 3.7), where C4's rate grows with
# the model; C4's default rate in T5's code.
PRETRAINING = 1_000_000


def rate(
    examples: float, maximum: float | None = None, temperature: float = 1.0, scale: float = 1.0
) -> float:
    """min(scale · examples, maximum)^(1 / temperature): T5's and seqio's mixing rate.

    Raises:
      ValueError: a maximum, temperature or scale that is not above 0.
    """
    for name, value in (("maximum", maximum), ("temperature", temperature), ("scale", scale)):
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value!r} must be above 0")
    scaled = examples * scale
    return (scaled if maximum is None else min(scaled, maximum)) ** (1 / temperature)


def proportional(
    sizes: Mapping[str, float],
    maximum: float | None = None,
    temperature: float = 1.0,
    scale: float = 1.0,
) -> dict[str, float]:
    """Tasks' sizes -> rates. GLUE's RTE is halved if SuperGLUE's, the same data, is there too."""
    share = 0.5 if {"glue_rte_v002", "super_glue_rte_v102"} <= set(sizes) else 1
    return {
        name: rate(size, maximum, temperature, scale) * (share if "glue_rte" in name else 1)
        for name, size in sizes.items()
    }


def equal(names: Iterable[str]) -> dict[str, float]:
    return dict.fromkeys(names, 1.0)


def without(left_out: str) -> dict[str, float]:
    """Rates of all tasks except one for fine-tuning; GLUE and SuperGLUE each count as one."""
    groups = {"glue_v002_proportional": GLUE, "super_glue_v102_proportional": SUPER_GLUE}
    left = groups.get(left_out, {left_out})
    sizes = SUPERVISED | _UNSUPERVISED
    return proportional({name: size for name, size in sizes.items() if name not in left}, LIMIT)


def _of(*names: str) -> dict[str, int]:
    return {name: ALL[name] for name in names}


_LARGE_TRANSLATION = _of("wmt_t2t_ende_v003", "wmt15_enfr_v003")
_LARGE = _LARGE_TRANSLATION | _of("cnn_dailymail_v002")

MIXTURES: dict[str, dict[str, float]] = {
    "glue_v002_proportional": dict(GLUE),
    "glue_mnli_and_dev_v002": equal(name for name in GLUE if "mnli" in name),
    "super_glue_v102_proportional": dict(SUPER_GLUE),
    "super_glue_v102_proportional_sentinel": {
        sentinel_name(name): size for name, size in SUPER_GLUE.items()
    },
    "wsc_dpr_simple_proportional": dict(WSC),
    "en_mix": {
        "c4_v220_span_corruption": PRETRAINING,
        **GLUE,
        **SUPER_GLUE,
        "squad_v010_allanswers": OTHERS["squad_v010_allanswers"],
    },
    "all_equal": equal(ALL),
    "all_proportional": proportional(ALL, LIMIT),
    "all_mix": proportional(ALL, PRETRAINING),
    "large_supervised_equal": equal(_LARGE),
    "large_supervised_proportional": proportional(_LARGE, LIMIT),
    "large_translation_equal": equal(_LARGE_TRANSLATION),
    "squad_trivia_qa_equal": equal(("squad_v010_allanswers", "trivia_qa_v010")),
    **{
        f"leave_one_out_{name}": without(name)
        for name in ("glue_v002_proportional", "super_glue_v102_proportional", *OTHERS)
    },
}

for _name, _rates in MIXTURES.items():
    seqio.MixtureRegistry.add(_name, list(_rates.items()))
