"""`t5jax tasks`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from t5jax import standard_streams
from t5jax.cli.arguments import Command, place
from t5jax.cli.heavy import import_heavy
from t5jax.knobs import Names, knob

if TYPE_CHECKING:
    from t5jax.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tasks(Command):
    """List tasks, or show one task's examples."""

    name: str | None = place("NAME", "a pattern with * lists what fits", default=None)
    split: str = knob("train", "split to show")
    n: int = knob(3, "examples to show", least=1)
    inputs: int | None = knob(None, "tokens to cut inputs to; default: nothing is cut", least=1)
    targets: int | None = knob(None, "tokens to cut targets to", least=1)
    vocabulary: str = knob("bytes", "vocabulary that the ids are shown in, as in a config")
    modules: Names = knob((), "your task modules, divided by commas")

    def run(self) -> None:
        """Prints the list, or the examples."""
        standard_streams.need_stdout()
        from t5jax.vocabulary import make_vocabulary

        vocabulary = make_vocabulary(self.vocabulary)
        import_heavy("t5jax.data")
        from t5jax.tasks import registry

        registry.load_modules(self.modules)
        if self.name is None or "*" in self.name:
            listed = registry.listing(self.name or "*")
            width = max(len(name) for rows in listed.values() for name in rows)
            for heading, rows in listed.items():
                print(heading)
                for name, about in rows.items():
                    print(f"  {name:{width}}  {about}".rstrip())
        else:
            self._show(self.name, vocabulary)

    def _show(self, name: str, vocabulary: Vocabulary) -> None:
        """Prints the first examples of the task, as text and as ids."""
        import seqio

        from t5jax.config import LengthsConfig
        from t5jax.tasks import faults, registry

        provider = registry.with_vocabulary(name, registry.seqio_vocabulary(vocabulary))
        if self.split not in provider.splits:
            raise ValueError(
                f"{name} has no split {self.split!r}; it has {', '.join(sorted(provider.splits))}"
            )
        given = {"inputs": self.inputs, "targets": self.targets}
        lengths = {feature: length for feature, length in given.items() if length is not None}
        if not lengths and registry.needs_lengths(provider):
            lengths = dataclasses.asdict(LengthsConfig())
        for task in seqio.get_subtasks(provider):
            faults.check_features(task, lengths)
        place = (provider, self.split, lengths or None)
        with faults.reading(*place):
            dataset = provider.get_dataset(
                lengths or None, self.split, shuffle=False, seed=0, num_epochs=1
            )
            examples = dataset.take(self.n).as_numpy_iterator()
            for example in faults.checked(*place, examples):
                for feature in ("inputs", "targets"):
                    ids = example[feature].tolist()
                    written = example.get(f"{feature}_pretokenized", b"").decode(errors="replace")
                    text = written or vocabulary.decode(ids)
                    print(f"{feature:8} {text}\n{'':8} {' '.join(map(str, ids))}")
                print()
