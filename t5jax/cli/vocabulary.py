"""`t5jax vocabulary`."""

from __future__ import annotations

import dataclasses

from t5jax.cli.arguments import Command, place
from t5jax.cli.heavy import import_heavy
from t5jax.knobs import Names, knob


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary(Command):
    """Train a SentencePiece model on the text of a task's train split."""

    name: str = place("NAME", "task or mixture")
    output: str = place("OUTPUT.model")
    size: int = knob(256, "pieces in the model", least=1)
    words: int = knob(
        0,
        "make the N most frequent words one piece each, whatever else is learnt",
        least=0,
        word="N",
    )
    examples: int = knob(100_000, "examples to learn from", least=1)
    modules: Names = knob((), "your task modules, divided by commas")

    def run(self) -> None:
        """Writes the model, and prints how long texts become."""
        import_heavy("t5jax.data")
        import seqio

        from t5jax.tasks import registry
        from t5jax.tasks.corpus import texts_of
        from t5jax.vocabulary import frequent_words, train_sentencepiece

        registry.load_modules(self.modules)
        # A mixture keeps the ids alone, so the text is read from its tasks, as much from each.
        tasks = seqio.get_subtasks(registry.get(self.name))
        count = self.examples // len(tasks)
        texts = [text for task in tasks for text in texts_of(task, "train", count)]
        vocabulary = train_sentencepiece(
            texts,
            self.output,
            vocab_size=self.size,
            symbols=frequent_words(texts, self.words),
        )
        sample = texts[:: max(1, len(texts) // 2000)]
        ids = sum(len(vocabulary.encode(text)) for text in sample) / len(sample)
        print(f"{self.output}: {self.size} pieces, {ids:.1f} of them in a text on average")
