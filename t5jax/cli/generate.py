"""`t5jax generate`."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from t5jax import standard_streams
from t5jax.cli.arguments import place
from t5jax.cli.heavy import import_heavy
from t5jax.cli.loading import Generating
from t5jax.knobs import knob
from t5jax.text_files import lines_of, read_lines

if TYPE_CHECKING:
    from t5jax.engine.results import Generation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate(Generating):
    """Text in, text out.

    Writes one line an input. Several outputs of one (--num_return_sequences) stand in its line,
    divided by a TAB.
    """

    checkpoint: str = place("CHECKPOINT")
    texts: tuple[str, ...] = place("TEXT", default=())
    input: str | None = knob(None, "a file with one input a line; - for stdin")
    output: str | None = knob(
        None,
        "file to write; default: stdout. Stopped and called again, the command goes on after its "
        "last whole line; a finished file is written anew",
    )
    batch: int = knob(64, "inputs decoded at a time", least=1)
    batch_tokens: int = knob(32_768, "tokens decoded at a time: input, output and padding", least=1)
    assistant_model: str | None = knob(
        None,
        "a smaller model of the same vocabulary, which guesses ahead; the output is the same",
        word="CHECKPOINT",
    )
    decoder_prefix: str | None = knob(
        None, "text that every output begins with; it is part of the output", word="TEXT"
    )

    def run(self) -> None:
        """Writes the outputs, and tells on stderr how long those of a file took."""
        self._check_files()
        import_heavy("t5jax.bulk")
        from t5jax.bulk import generate_each
        from t5jax.compiled import ProgramCount

        t5 = self.load(self.checkpoint)
        more: dict[str, Any] = {"decoder_prefix": self.decoder_prefix}
        if self.assistant_model:
            more["assistant_model"] = self.load(self.assistant_model, assistant=True)
        t5.check_options(self.options, **more)  # a wrong option should not touch the output
        guesses, programs, began = _Guesses(), ProgramCount(), time.monotonic()
        # A person who types waits for an answer to each line, a program perhaps for some.
        typed = self.input == "-" and sys.stdin.isatty()
        batch = 1 if typed else self.batch
        count = 0
        with contextlib.ExitStack() as stack:
            output, done = self._open_output(stack)
            lines = itertools.islice(_lines(self.input) if self.input else self.texts, done, None)
            advance = stack.enter_context(self._progress(done))
            results = generate_each(
                t5,
                lines,
                batch_size=batch,
                batch_tokens=self.batch_tokens,
                window=batch if self.input == "-" else None,
                **more,
                on_batch=guesses.add,
                progress=False,
                **self.options,
            )
            for count, result in enumerate(results, 1):
                print(_one_line(result), file=output, flush=True)
                advance(count)
        guesses.report()
        if self.input and not typed:
            before = f" after {done} that were there" if done else ""
            print(
                f"{count} inputs{before} in {time.monotonic() - began:.1f} s; {programs.count} "
                "programs compiled or read from disk",
                file=sys.stderr,
            )

    def _check_files(self) -> None:
        """Raises ValueError or OSError for inputs or outputs that cannot be read or written."""
        if bool(self.texts) == bool(self.input):
            raise ValueError("give texts, or --input FILE (- for stdin), and not both")
        if self.input == "-" and sys.stdin is None:
            raise OSError("--input -: standard input is closed")
        if self.input not in (None, "-") and not Path(self.input).is_file():
            raise FileNotFoundError(f"--input {self.input}: no such file")
        if not self.output:
            standard_streams.need_stdout("; write to a file with --output")
        elif Path(self.output).is_dir():
            raise IsADirectoryError(f"--output {self.output} is a folder; name a file")
        elif not Path(self.output).parent.is_dir():
            raise FileNotFoundError(f"--output {self.output}: there is no such folder")
        if _same_file(self.input, self.output):
            raise ValueError(f"--output {self.output} is the input; write to another file")

    def _open_output(self, stack: contextlib.ExitStack) -> tuple[TextIO, int]:
        """The output, which `stack` closes, and the lines that an earlier call wrote into it."""
        from t5jax.bulk import unfinished

        stack.enter_context(standard_streams.writing(self.output or "standard output"))
        if not self.output:
            return sys.stdout, 0
        if Path(self.output).is_char_device():  # /dev/null and the like
            return stack.enter_context(open(self.output, "w", encoding="utf-8")), 0
        return stack.enter_context(unfinished(self.output, self._job()))

    def _job(self) -> dict[str, Any]:
        """The values that must be equal for a call to go on with another's output."""
        told = ("output", "texts", "input", "batch", "batch_tokens")
        job = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in told
        }
        size = None if self.input in (None, "-") else os.path.getsize(self.input)
        return {**job, "input": self.input or self.texts, "input_bytes": size}

    @contextlib.contextmanager
    def _progress(self, done: int) -> Iterator[Callable[[int], None]]:
        """A bar on stderr while a file is read, where that is a terminal and shows nothing else."""
        written = self.output or not sys.stdout.isatty()
        if self.input in (None, "-") or not sys.stderr.isatty() or not written:
            yield lambda count: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

        with open(self.input, "rb") as stream:
            total = sum(1 for _ in stream)
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task("generate", total=total, completed=done)
            yield lambda count: progress.update(task, completed=done + count)


class _Guesses:
    """Counts an assistant's guesses over batches."""

    def __init__(self) -> None:
        self.made = self.right = 0

    def add(self, result: Generation) -> None:
        if result.guesses:
            self.made += result.guesses.made
            self.right += result.guesses.right

    def report(self) -> None:
        if self.made:
            share = f"{self.right / self.made:.0%} of {self.made:,} guesses were right"
            print(f"assistant: {share}", file=sys.stderr)


def _one_line(result: str | list[str]) -> str:
    """One line an input, one column a sequence, whatever the model says."""
    if isinstance(result, str):
        return " ".join(result.splitlines())
    return "\t".join(" ".join(each.splitlines()).replace("\t", " ") for each in result)


def _same_file(source: str | None, target: str | None) -> bool:
    """Whether the input, perhaps stdin, is the regular file that is to be written."""
    if source is None or target is None or not os.path.isfile(target):
        return False
    try:
        given = os.fstat(sys.stdin.fileno()) if source == "-" else os.stat(source)
    except OSError:  # a stdin that is no file of the system's
        return False
    return os.path.samestat(given, os.stat(target))


def _lines(source: str) -> Iterator[str]:
    if source != "-":
        return read_lines(source)
    # As bytes, so that a line ends where it does in a file.
    given = getattr(sys.stdin, "buffer", None)
    return lines_of(given or (line.encode() for line in sys.stdin), "standard input")
