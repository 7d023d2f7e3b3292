"""`GenerationOptions`, with transformers' names and meaning."""

from __future__ import annotations

import dataclasses
import inspect
import math
import textwrap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from t5jax.decoding.option_values import (
    Answers,
    Biases,
    Decay,
    EarlyStopping,
    IdList,
    Phrases,
    Sequences,
    Texts,
)
from t5jax.knobs import check_knobs, declared, knob, nearest, short

if TYPE_CHECKING:
    from t5jax.decoding.samplers import Greedy, Sample

# Options that have no effect without sampling, or without beam search.
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
_BEAMS = ("length_penalty", "early_stopping", "brevity_penalty", "force_words_ids")

# Options of transformers that are refused, and the option to use instead.
_ELSEWHERE = {
    "max_length": "give max_new_tokens, which does not count the start id: one less",
    "min_length": "give min_new_tokens, which does not count the start id: one less",
}
Function = TypeVar("Function", bound=Callable[..., Any])

# Largest length_penalty: scores are divided by length to this power, in float32.
_POWER = 36


@dataclasses.dataclass(frozen=True)
class GenerationOptions:
    """How to decode: greedily, unless `do_sample` or `num_beams` is set.

    Lists become tuples. None turns an option off if it can be off, else sets its default.

    Raises:
      ValueError: a value has the wrong type or is out of range, or two options conflict.
    """

    max_new_tokens: int = knob(128, "longest output in tokens, EOS included", least=1)
    min_new_tokens: int = knob(0, "tokens before EOS is allowed", least=0)
    num_beams: int = knob(1, "beams of beam search; 1: no beam search", least=1)
    num_return_sequences: int = knob(1, "outputs per input: samples, or the best beams", least=1)
    length_penalty: float = knob(
        1.0,
        "beams: scores are log p / length^this; larger values favour longer outputs",
        least=-_POWER,
        most=_POWER,
    )
    early_stopping: EarlyStopping = knob(
        False,
        "beams: true stops at num_beams finished beams, false when better beams are unlikely, "
        "never when they are impossible",
    )
    brevity_penalty: float | None = knob(
        None,
        "beams: search and score as T5X does, log p / ((5 + length) / 6)^this; T5X's value is 0.6",
        least=-_POWER,
        most=_POWER,
    )
    do_sample: bool = knob(False, "sample from the distribution instead of its maximum")
    temperature: float = knob(
        1.0,
        "divides the logits before sampling",
        above=0,
        remedy="for the likeliest id, do_sample=False",
    )
    top_k: int = knob(50, "sample among the k likeliest ids; 0: all ids", least=0)
    top_p: float = knob(
        1.0, "sample among the likeliest ids that hold this much probability", above=0, most=1
    )
    min_p: float = knob(
        0.0,
        "sample among ids with at least this fraction of the largest probability",
        least=0,
        most=1,
    )
    typical_p: float = knob(
        1.0, "sample among the most typical ids that hold this probability", above=0, most=1
    )
    epsilon_cutoff: float = knob(
        0.0, "sample among ids of at least this probability", least=0, below=1
    )
    eta_cutoff: float = knob(
        0.0,
        "sample among ids of at least this probability, or less where the entropy is large",
        least=0,
        below=1,
    )
    renormalize_logits: bool = knob(
        False, "beams: probabilities sum to 1 again after all other options"
    )
    seed: int = knob(
        0,
        "seed of sampling; one seed, input and sample number give one output",
        least=-(2**63),
        most=2**63 - 1,
    )
    repetition_penalty: float = knob(
        1.0, "above 1: ids that the output already has are less likely", above=0
    )
    encoder_repetition_penalty: float = knob(1.0, "above 1: ids of the input are likelier", above=0)
    no_repeat_ngram_size: int = knob(
        0, "no n-gram of this size twice in an output; 0: no limit", least=0
    )
    encoder_no_repeat_ngram_size: int = knob(
        0, "no n-gram of this size from the input; 0: no limit", least=0
    )
    bad_words_ids: Sequences = knob((), "sequences of ids that must not be generated")
    suppress_tokens: IdList = knob((), "ids that must not be generated")
    begin_suppress_tokens: IdList = knob((), "ids that must not come first")
    sequence_bias: Biases = knob(
        (), "sequences of ids, each with a bias for the logit of its last id after its other ids"
    )
    exponential_decay_length_penalty: Decay | None = knob(
        None, "start and factor: after `start` tokens, EOS grows likelier by powers of the factor"
    )
    forced_bos_token_id: int | None = knob(None, "the first id", least=0)
    forced_eos_token_id: IdList = knob((), "the id, or ids, to end with at max_new_tokens")
    eos_token_id: IdList = knob((), "ids that end an output, in place of the model's EOS")
    stop_strings: Texts = knob((), "texts that end an output once they are in it")
    force_words_ids: Phrases = knob(
        (), "beams: phrases that every output contains, or one of a phrase's alternatives"
    )
    answers: Answers = knob((), "the only outputs allowed, as texts or as ids")
    num_assistant_tokens: int = knob(5, "tokens that an assistant guesses at a time", least=1)
    max_time: float | None = knob(
        None,
        "seconds per batch, checked every eight tokens; then the tokens so far are the output",
        above=0,
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) is None:
                off = 0 if field.name == "top_k" else field.default
                object.__setattr__(self, field.name, off)
        check_knobs(self)
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens={self.min_new_tokens} must be between 0 and "
                f"max_new_tokens={self.max_new_tokens}"
            )
        for name in ("length_penalty", "brevity_penalty"):
            # The exponent of two: float32's largest is 127, and scores need room.
            power = abs(getattr(self, name) or 0) * math.log2(self.max_new_tokens + 6)
            if power >= 100:
                raise ValueError(
                    f"{name}={getattr(self, name)} must be nearer to 0: float32 cannot hold "
                    "lengths to this power"
                )
        if self.num_return_sequences > 1 and not self.do_sample and self.num_beams == 1:
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} needs do_sample=True, or as "
                "many num_beams: greedy decoding has one result"
            )
        if 1 < self.num_beams < self.num_return_sequences:
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} must be at most "
                f"num_beams={self.num_beams}: beam search has no more results"
            )
        first, last = self.forced_bos_token_id, self.forced_eos_token_id
        forced = {"forced_bos_token_id": () if first is None else (first,)}
        for name, ids in {**forced, "forced_eos_token_id": last}.items():
            if ids and set(ids) <= set(self.suppress_tokens):
                raise ValueError(
                    f"{name}={getattr(self, name)} is forbidden by suppress_tokens; take it out of "
                    "one of them"
                )
        if self.force_words_ids:
            self._check_phrases()
        if self.brevity_penalty is not None and self.length_penalty != 1.0:
            raise ValueError(
                f"brevity_penalty={self.brevity_penalty} and "
                f"length_penalty={self.length_penalty} are two ways to score; give one of them"
            )
        if self.brevity_penalty is not None and self.early_stopping is not False:
            raise ValueError(
                f"early_stopping={self.early_stopping!r} has no meaning beside "
                f"brevity_penalty={self.brevity_penalty}: T5X's search has a rule of its own"
            )

    def _check_phrases(self) -> None:
        if self.do_sample:
            raise ValueError("force_words_ids needs do_sample=False: phrases are searched for")
        if self.answers:
            raise ValueError(
                "force_words_ids and answers both say what an output holds; give one of them"
            )
        for phrase in self.force_words_ids:
            if all(set(word) & set(self.suppress_tokens) for word in phrase):
                raise ValueError(
                    f"force_words_ids holds {short(phrase)}, which suppress_tokens forbids; take "
                    "it out of one of them"
                )
        least = sum(min(map(len, phrase)) for phrase in self.force_words_ids)
        if least > self.max_new_tokens:
            raise ValueError(
                f"max_new_tokens={self.max_new_tokens} has no room for force_words_ids, which has "
                f"{least} ids"
            )

    @classmethod
    def names(cls) -> list[str]:
        """The options' names."""
        return [field.name for field in dataclasses.fields(cls)]

    def replace(self, options: Mapping[str, Any]) -> GenerationOptions:
        """A copy with the options of a call.

        Raises:
          ValueError: an unknown option (the message has the nearest name); an option of sampling or
            beam search without either (allowed, without effect, if `options` turn it off
            explicitly); `answers=[]`.
        """
        for name in options:
            if name not in self.names():
                hint = _ELSEWHERE.get(name) or nearest(name, self.names())
                raise ValueError(f"unknown generation option {name!r}; {hint}")
        if "max_new_tokens" in options and "min_new_tokens" not in options:
            # The call's max_new_tokens limits the checkpoint's min_new_tokens.
            longest = dataclasses.replace(self, min_new_tokens=0, **options).max_new_tokens
            options = {"min_new_tokens": min(self.min_new_tokens, longest), **options}
        new = dataclasses.replace(self, **options)
        switches = (
            (_SAMPLING, new.do_sample, "do_sample", "do_sample=True"),
            (_BEAMS, new.num_beams > 1, "num_beams", "num_beams of 2 or more"),
        )
        for names, on, switch, remedy in switches:
            for name in names:
                default = GenerationOptions.__dataclass_fields__[name].default
                given = name in options and switch not in options
                if given and not on and getattr(new, name) != default:
                    raise ValueError(f"{name}={short(options[name])} needs {remedy}")
        if options.get("answers") is not None and not new.answers:
            raise ValueError("answers=[] allows no output at all; give at least one answer")
        return new

    def sampler(self) -> Greedy | Sample:
        """The strategy that chooses the next id."""
        # Imported here, so that the command line reads options without JAX.
        from t5jax.decoding.samplers import Greedy, Sample

        if not self.do_sample:
            return Greedy()
        # Beam search needs an id that continues beside all EOS ids.
        keep = 1 if self.num_beams == 1 else max(1, len(self.eos_token_id)) + 1
        return Sample(
            temperature=self.temperature,
            top_k=max(self.top_k, keep) if self.top_k else 0,
            top_p=self.top_p if self.top_p < 1 else None,
            min_p=self.min_p or None,
            typical_p=self.typical_p if self.typical_p < 1 else None,
            epsilon_cutoff=self.epsilon_cutoff or None,
            eta_cutoff=self.eta_cutoff or None,
            keep=keep,
        )


def with_options(function: Function) -> Function:
    """Adds every option with its default, meaning and range to a function's docstring."""
    lines = []
    for field in dataclasses.fields(GenerationOptions):
        within = declared(GenerationOptions)[field.name][1]
        about = f"{field.name}={field.default!r}: {field.metadata['help']}"
        about += f" ({within})" if within else ""
        lines.append(textwrap.fill(about, 98, initial_indent="  ", subsequent_indent="    "))
    options = "\n".join(["Options, where the checkpoint has no default of its own:", *lines])
    function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n{options}"
    return function
