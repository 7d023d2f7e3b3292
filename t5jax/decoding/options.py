"""`GenerationOptions`: transformers' names with transformers' meaning."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from t5jax.decoding.samplers import Greedy, Sample
from t5jax.knobs import knob


@dataclasses.dataclass(frozen=True)
class GenerationOptions:
    """How to decode. Greedy unless `do_sample`.

    Raises:
      ValueError: a value is out of range, or two options contradict each other.
    """

    max_new_tokens: int = knob(128, "longest output, its EOS counted")
    min_new_tokens: int = knob(0, "tokens before which EOS is not allowed")
    do_sample: bool = knob(False, "draw from the distribution instead of taking its maximum")
    temperature: float = knob(1.0, "divides the logits before sampling")
    top_k: int = knob(50, "sample among the k likeliest ids; 0: all of them")
    top_p: float = knob(1.0, "sample among the likeliest ids that hold this much probability")
    num_return_sequences: int = knob(1, "samples an input")
    seed: int = knob(0, "seed of sampling; one seed, input and sample number give one output")

    def __post_init__(self) -> None:
        def need(fine: bool, name: str, wanted: str) -> None:
            if not fine:
                raise ValueError(f"{name}={getattr(self, name)} must be {wanted}")

        need(self.max_new_tokens >= 1, "max_new_tokens", "at least 1")
        need(
            0 <= self.min_new_tokens <= self.max_new_tokens,
            "min_new_tokens",
            f"between 0 and max_new_tokens={self.max_new_tokens}",
        )
        need(self.temperature > 0, "temperature", "positive; for the likeliest id, do_sample=False")
        need(self.top_k >= 0, "top_k", "0 (all ids) or more")
        need(0 < self.top_p <= 1, "top_p", "in (0, 1]")
        need(self.num_return_sequences >= 1, "num_return_sequences", "at least 1")
        if self.num_return_sequences > 1 and not self.do_sample:
            raise ValueError(
                f"num_return_sequences={self.num_return_sequences} needs do_sample=True: "
                "greedy decoding has one result"
            )

    @classmethod
    def names(cls) -> list[str]:
        """The options' names."""
        return [field.name for field in dataclasses.fields(cls)]

    def replace(self, options: Mapping[str, Any]) -> GenerationOptions:
        """A copy with `options`; ValueError names an unknown one and the nearest right name."""
        for name in options:
            if name not in self.names():
                near = difflib.get_close_matches(name, self.names(), n=1)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(self.names())}"
                raise ValueError(f"unknown generation option {name!r}; {hint}")
        return dataclasses.replace(self, **options)

    def sampler(self) -> Greedy | Sample:
        """The strategy that picks the next id."""
        if not self.do_sample:
            return Greedy()
        return Sample(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)
