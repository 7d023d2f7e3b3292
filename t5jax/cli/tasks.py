"""`t5jax tasks`."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from t5jax import standard_streams
from t5jax.cli.arguments import Command, place
from t5jax.cli.heavy import import_heavy
from t5jax.knobs import Names, knob, nearest, short

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
    lengths_for: str | None = knob(
        None,
        "a model's variant: also show the row lengths at which training it costs least",
        word="VARIANT",
    )
    modules: Names = knob((), "your task modules, divided by commas")

    def run(self) -> None:
        """Prints the list, or the examples."""
        standard_streams.need_stdout()
        from t5jax.model.family import variants
        from t5jax.vocabulary import make_vocabulary

        if self.lengths_for is not None and (self.name is None or "*" in self.name):
            raise ValueError("--lengths_for needs the name of a task, whose examples it looks at")
        if self.lengths_for not in (None, *variants()):
            raise ValueError(
                f"--lengths_for {short(self.lengths_for)} is no variant; "
                f"{nearest(self.lengths_for, variants())}"
            )
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
        if self.lengths_for is not None:
            self._show_lengths(provider, vocabulary)

    def _show_lengths(self, provider: Any, vocabulary: Vocabulary) -> None:
        """Prints row lengths for the task, packed and padded."""
        from t5jax.config import DataConfig
        from t5jax.config_files import vocabulary_fields
        from t5jax.data import row_lengths
        from t5jax.model.family import family_of, variants

        config = variants()[self.lengths_for or ""]
        config = config.replace(**vocabulary_fields(config, vocabulary))
        given = {"inputs": self.inputs, "targets": self.targets}
        data = DataConfig(split=self.split)
        sizes = row_lengths.look(provider, self.split, data.seed)
        for way, together in (("packed", row_lengths.rows_together(data)), ("an example a row", 0)):
            found = row_lengths.choose(
                sizes,
                functools.partial(family_of(config).step_flops, config, 1),
                together=together,
                given={name: length for name, length in given.items() if length is not None},
                longest=(config.longest_input, config.longest_output),
            )
            print(f"{way}: {found}; {found.cost / 1e9:.3g} GFLOPs an example")
