"""The command line: train, eval, compare, generate, convert, tasks, vocabulary."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import importlib
import itertools
import logging
import math
import os
import re
import signal
import sys
import textwrap
import time
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

import jax
import jax.numpy as jnp
import numpy as np

import t5jax
from t5jax import standard_streams, starting
from t5jax.config_files import names_of
from t5jax.decoding.option_values import Bias, Decay, EarlyStopping, Ids, Phrase
from t5jax.decoding.options import GenerationOptions
from t5jax.knobs import add_number
from t5jax.paths import user_path
from t5jax.text_files import lines_of, read_lines

# What a user can mend: one line, no traceback. Set T5JAX_TRACEBACK=1 to see where it came from.
MISTAKES = (ValueError, FloatingPointError, MemoryError, OSError)


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one line; options are given by their whole names."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; see `{self.prog} --help`", file=sys.stderr)
        raise SystemExit(2)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command; a user's mistake prints one line that begins `error:` and exits 2."""
    parser = Parser(prog="t5jax", description="The T5 family in JAX.")
    parser.add_argument("--version", action="version", version=f"t5jax {t5jax.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    for add in (
        _add_train,
        _add_eval,
        _add_compare,
        _add_generate,
        _add_convert,
        _add_tasks,
        _add_vocabulary,
    ):
        add(commands)
    standard_streams.hold_places()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command != "train":
        known = re.findall(r"--\w+", commands.choices[arguments.command].format_help())
        near = difflib.get_close_matches(rest[0].partition("=")[0], known, n=1)
        parser.error(f"unknown argument {rest[0]}" + (f"; did you mean {near[0]}?" if near else ""))
    arguments.rest = rest
    # What TensorFlow's C++ code has to say would bury a command's own lines; its errors reach
    # Python as exceptions.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # it also logs what it then raises
    # One line, as the other messages of a command; where in the code it was raised is no matter.
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    if starting.is_command():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        arguments.run(arguments)
        with standard_streams.writing("standard output"):
            print(end="", flush=True)  # what cannot be written should not wait for the exit
    except KeyboardInterrupt as error:
        # `train` has told what it saved; what else is interrupted has nothing to tell.
        raise SystemExit(128 + getattr(error, "signal", signal.SIGINT)) from None
    except BrokenPipeError:  # `t5jax … | head`; an OSError, so it comes before those
        standard_streams.flush_or_give_up()
    except MISTAKES as error:
        if os.environ.get("T5JAX_TRACEBACK"):
            raise
        standard_streams.flush_or_give_up()
        print(f"error: {_one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None
    except jax.errors.JaxRuntimeError as error:
        if os.environ.get("T5JAX_TRACEBACK") or "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print(f"error: not enough memory; {_one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def _import_tensorflow() -> None:
    """Imports it, and hides the accelerators from it, without the lines it prints of that."""
    sys.stderr.flush()
    stderr = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        importlib.import_module("t5jax.data")
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _one_line(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, MemoryError):
        text = f"not enough memory; {text}".removesuffix("; ")
    elif isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        text = f"{where}{error.strerror[:1].lower()}{error.strerror[1:]}"
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= 500 else text[:500] + "…"


# train


def _add_train(commands: Any) -> None:
    from t5jax.config_files import knobs

    lines = [
        textwrap.fill(
            f"{name}{f' = {default}' if default else ''}",
            96,
            initial_indent="  ",
            subsequent_indent="    ",
        )
        + f"\n      {meaning}"
        for name, default, meaning in knobs()
    ]
    parser = commands.add_parser(
        "train",
        help="train, or go on with a run",
        description="Starts the run that CONFIG describes, or goes on with the one in its "
        "run_dir. Any knob below can be given as --section.key=value. Exits 0 when the last step "
        "is done, 2 after a mistake (`error: …`), 130 after Ctrl-C and 143 after SIGTERM: either "
        "saves the step first, and the same command goes on from it; a second one ends it at once.",
        epilog="knobs and their defaults:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG.yaml")
    parser.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> None:
    from t5jax.config_files import build_config, read_config

    tree = read_config(arguments.config, arguments.rest)
    build_config(tree)  # a misspelt key should not take the seconds that TensorFlow does
    from t5jax.training.host import keep_freed_memory
    from t5jax.training.signals import ending_at_once

    with ending_at_once():
        keep_freed_memory()
        _import_tensorflow()
        from t5jax.training.loop import train

        train(tree)


# eval


def _add_eval(commands: Any) -> None:
    parser = commands.add_parser("eval", help="evaluate a checkpoint on seqio tasks")
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument(
        "--tasks",
        required=True,
        help="tasks or mixtures, divided by commas; pronounce:FILE with --split all takes a file "
        "of lines word<TAB>phonemes as the test set",
    )
    parser.add_argument("--split", default="validation", help="split to evaluate (%(default)s)")
    parser.add_argument("--out", help="folder for results (CHECKPOINT/eval)")
    add_number(parser, "--examples", int, "first examples of each task; default: all", least=1)
    add_number(parser, "--show", int, "predictions to print", default=0, least=0)
    add_number(parser, "--batch", int, "rows at a time", default=256, least=1)
    parser.add_argument(
        "--modules",
        default="",
        help="your task modules, divided by commas (those of the run, where it needs them)",
    )
    parser.add_argument(
        "--rank",
        action="store_true",
        help="of tasks with a fixed set of answers, score every answer too, and take the best: "
        "rank_accuracy beside accuracy",
    )
    add_number(
        parser,
        "--confidence",
        float,
        "bootstrap intervals of every metric, 0.95 for those of 95 %%; default: none",
        above=0,
        below=1,
        metavar="LEVEL",
    )
    _add_resamples(parser)
    _add_loading(parser)
    _add_options(parser)
    parser.set_defaults(run=_eval)


def _eval(arguments: argparse.Namespace) -> None:
    t5 = _load(arguments)
    options = _options(arguments)
    t5.check_options(options)  # a wrong option should not wait for the data
    _import_tensorflow()
    from t5jax.config import LengthsConfig
    from t5jax.evaluate import Evaluation, write_results
    from t5jax.tasks import registry, run_modules

    registry.load_modules(names_of(arguments.modules))
    tasks = names_of(arguments.tasks)
    run_modules.load_of_run(arguments.checkpoint, tasks)
    limit = t5.max_input_length
    evaluation = Evaluation(
        tasks,
        t5.vocabulary,
        split=arguments.split,
        lengths=None if limit is None else LengthsConfig(limit, t5.generation.max_new_tokens),
        examples=arguments.examples,
        batch=arguments.batch,
        rank=arguments.rank,
        confidence=arguments.confidence,
        resamples=arguments.resamples,
    )
    results = evaluation.run(t5, **options)
    out = user_path(arguments.out or Path(arguments.checkpoint) / "eval")
    write_results(out, results, {"checkpoint": arguments.checkpoint, "split": arguments.split})
    for task, result in results.items():
        print(f"{task} ({arguments.split})")
        for line in _metric_lines(result.metrics):
            print(f"  {line}")
        if cut := result.about.get("targets_cut"):
            print(
                f"warning: {cut} targets of {task} are longer than the checkpoint's "
                f"max_new_tokens={t5.generation.max_new_tokens} and were cut",
                file=sys.stderr,
            )
        # Spread over the split: its neighbours are often alike.
        every = max(1, len(result.predictions) // max(arguments.show, 1))
        for row in result.predictions[::every][: arguments.show]:
            mark = "=" if row["prediction"] == row["targets"] else "≠"
            print(f"  {row['inputs']}: {row['prediction']} {mark} {row['targets']}")
    print(f"written to {out}")


def _metric_lines(metrics: Mapping[str, float]) -> Iterator[str]:
    """One a metric, with its interval behind it."""
    for name, value in metrics.items():
        if name == "examples":
            yield f"{name:28} {value}"
        elif f"{name}_low" in metrics:
            low, high = metrics[f"{name}_low"], metrics[f"{name}_high"]
            yield f"{name:28} {value:.4f}  [{low:.4f}, {high:.4f}]"
        elif not (name.endswith(("_low", "_high")) and name.rpartition("_")[0] in metrics):
            yield f"{name:28} {value:.4f}"


def _add_resamples(parser: argparse.ArgumentParser) -> None:
    # At most as many as t5jax.tasks.metrics.resampling.MOST_RESAMPLES.
    add_number(
        parser,
        "--resamples",
        int,
        "of the bootstrap",
        default=1000,
        least=1,
        most=1_000_000,
        metavar="N",
    )


# compare


def _add_compare(commands: Any) -> None:
    parser = commands.add_parser(
        "compare",
        help="whether two models' predictions differ by more than chance",
        description="Reads what `t5jax eval` wrote for the same examples in A and in B (runs, "
        "folders of evaluations, a task's folder, or predictions.jsonl), and tests the difference "
        "of the tasks' own metrics, B - A: its interval and p by paired bootstrap, and p by "
        "approximate randomization. The draws are seeded.",
    )
    parser.add_argument("first", metavar="A")
    parser.add_argument("second", metavar="B")
    parser.add_argument("--tasks", default="", help="divided by commas (all that are in both)")
    parser.add_argument(
        "--metric",
        action="append",
        metavar="NAME",
        help="repeatable: the task's own of that name, or else a built-in one (the task's own)",
    )
    parser.add_argument(
        "--modules",
        default="",
        help="your task modules, divided by commas: for a metric that is not a mean over examples, "
        "and so has no scores in predictions.jsonl",
    )
    parser.add_argument(
        "--ranked", action="store_true", help="compare the ranked answers (eval --rank)"
    )
    add_number(parser, "--confidence", float, "", default=0.95, above=0, below=1, metavar="LEVEL")
    _add_resamples(parser)
    add_number(parser, "--seed", int, "of the draws", default=0, least=0)
    parser.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> None:
    standard_streams.need_stdout()
    _import_tensorflow()
    from t5jax.evaluation.comparison import (
        compare_predictions,
        pair_predictions,
        read_predictions,
        without_parts,
    )
    from t5jax.tasks import registry
    from t5jax.tasks.metrics.resampling import check_bootstrap

    check_bootstrap(arguments.confidence, arguments.resamples, arguments.seed)
    registry.load_modules(names_of(arguments.modules))
    pairs = pair_predictions(arguments.first, arguments.second, names_of(arguments.tasks))
    for number, (task, files) in enumerate(pairs.items()):
        first, second = (read_predictions(file, ranked=arguments.ranked) for file in files)
        differences = compare_predictions(
            first,
            second,
            arguments.metric or (),
            own=bool(arguments.modules),
            level=arguments.confidence,
            resamples=arguments.resamples,
            seed=arguments.seed,
        )
        if number:
            print()
        print(f"A {first.file}\nB {second.file}\n{len(first.inputs)} examples")
        interval = f"{arguments.confidence:.0%} interval"
        print(
            f"{'':28} {'A':>9} {'B':>9} {'B - A':>9}  {interval:20} {'p (bootstrap)':>14} "
            f"{'p (randomization)':>18}"
        )
        for name, each in differences.items():
            bounds = f"[{each.low:.4f}, {each.high:.4f}]"
            print(
                f"{name:28} {each.first:9.4f} {each.second:9.4f} {each.difference:9.4f}  "
                f"{bounds:20} {each.bootstrap_p:14.4f} {each.randomization_p:18.4f}"
            )
        if not arguments.metric and not arguments.modules:
            for name, why in without_parts(first, second).items():
                print(
                    f"warning: {task}: metric {name} is left out ({why}); --modules FILE.py names "
                    "the module that has the task",
                    file=sys.stderr,
                )


# generate


def _add_generate(commands: Any) -> None:
    parser = commands.add_parser(
        "generate",
        help="text in, text out",
        description="Writes one line an input. Several outputs of one (--num_return_sequences) "
        "stand in its line, divided by a TAB.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("texts", metavar="TEXT", nargs="*")
    parser.add_argument("--input", help="a file with one input a line; - for stdin")
    parser.add_argument(
        "--output",
        help="file to write (stdout). Stopped and called again, the command goes on after its last "
        "whole line; a finished file is written anew",
    )
    add_number(parser, "--batch", int, "rows at a time", default=64, least=1)
    add_number(
        parser,
        "--batch_tokens",
        int,
        "tokens at a time, of input and output with their padding",
        default=32_768,
        least=1,
    )
    parser.add_argument(
        "--assistant_model",
        metavar="CHECKPOINT",
        help="a smaller model of the same vocabulary, which guesses ahead; the output is the same",
    )
    parser.add_argument(
        "--decoder_prefix", metavar="TEXT", help="what every output begins with, and is part of it"
    )
    _add_loading(parser)
    _add_options(parser)
    parser.set_defaults(run=_generate)


def _generate(arguments: argparse.Namespace) -> None:
    from t5jax.bulk import Programs, generate_each, unfinished
    from t5jax.engine.generation import Generation

    if bool(arguments.texts) == bool(arguments.input):
        raise ValueError("give texts, or --input FILE (- for stdin), and not both")
    if arguments.input == "-" and sys.stdin is None:
        raise OSError("--input -: standard input is closed")
    if arguments.input not in (None, "-") and not Path(arguments.input).is_file():
        raise FileNotFoundError(f"--input {arguments.input}: no such file")
    if not arguments.output:
        standard_streams.need_stdout("; write to a file with --output")
    elif Path(arguments.output).is_dir():
        raise IsADirectoryError(f"--output {arguments.output} is a folder; name a file")
    elif not Path(arguments.output).parent.is_dir():
        raise FileNotFoundError(f"--output {arguments.output}: there is no such folder")
    if _same_file(arguments.input, arguments.output):
        raise ValueError(f"--output {arguments.output} is the input; write to another file")
    t5 = _load(arguments)
    options = _options(arguments)
    assistant = None
    if arguments.assistant_model:
        assistant = _load(arguments, arguments.assistant_model)
    more = {"decoder_prefix": arguments.decoder_prefix, "assistant_model": assistant}
    t5.check_options(options, **more)  # a wrong option should not touch the output
    made = right = 0

    def count_guesses(result: Generation) -> None:
        nonlocal made, right
        if result.guesses:
            made, right = made + result.guesses.made, right + result.guesses.right

    programs, began = Programs(), time.monotonic()
    lines = iter(arguments.texts) if arguments.texts else _lines(arguments.input)
    output: TextIO = sys.stdout
    done = count = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(standard_streams.writing(arguments.output or "standard output"))
        if arguments.output and Path(arguments.output).is_char_device():  # /dev/null and the like
            output = stack.enter_context(open(arguments.output, "w", encoding="utf-8"))
        elif arguments.output:
            job = {
                "checkpoint": arguments.checkpoint,
                "input": arguments.input or arguments.texts,
                "input_bytes": _size(arguments.input),
                "vocabulary": arguments.vocabulary,
                "assistant_model": arguments.assistant_model,
                "decoder_prefix": arguments.decoder_prefix,
                "dtype": arguments.dtype,
                "quantize": arguments.quantize,
                "float_head": arguments.float_head,
                "set": arguments.set,
                "options": options,
            }
            output, done = stack.enter_context(unfinished(arguments.output, job))
            lines = itertools.islice(lines, done, None)
        advance = stack.enter_context(_progress(arguments, done))
        # A person who types waits for an answer to each line, a program perhaps for some.
        typed = arguments.input == "-" and sys.stdin.isatty()
        window = 1 if typed else arguments.batch if arguments.input == "-" else None
        results = generate_each(
            t5,
            lines,
            batch_size=1 if typed else arguments.batch,
            batch_tokens=arguments.batch_tokens,
            window=window,
            **more,
            on_batch=count_guesses,
            **options,
        )
        for result in results:
            # One line an input, one column a sample, whatever the model says.
            if isinstance(result, str):
                line = " ".join(result.splitlines())
            else:
                line = "\t".join(" ".join(s.splitlines()).replace("\t", " ") for s in result)
            print(line, file=output, flush=True)
            count += 1
            advance(count)
    if made:
        share = f"{right / made:.0%} of {made:,} guesses were right"
        print(f"assistant: {share}", file=sys.stderr)
    if arguments.input and not typed:
        seconds = time.monotonic() - began
        before = f" after {done} that were there" if done else ""
        print(
            f"{count} inputs{before} in {seconds:.1f} s; {programs.count} programs compiled or "
            "read from disk",
            file=sys.stderr,
        )


def _same_file(source: str | None, target: str | None) -> bool:
    """Whether the input, perhaps stdin, is the regular file that is to be written."""
    if source is None or target is None or not os.path.isfile(target):
        return False
    try:
        given = os.fstat(sys.stdin.fileno()) if source == "-" else os.stat(source)
    except OSError:  # a stdin that is no file of the system's
        return False
    return os.path.samestat(given, os.stat(target))


def _size(source: str | None) -> int | None:
    """Bytes of the input file; None of texts and stdin."""
    return os.path.getsize(source) if source not in (None, "-") else None


@contextlib.contextmanager
def _progress(arguments: argparse.Namespace, done: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr while a file is read, where that is a terminal and shows nothing else."""
    written = arguments.output or not sys.stdout.isatty()
    if arguments.input in (None, "-") or not sys.stderr.isatty() or not written:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with open(arguments.input, "rb") as stream:
        total = sum(1 for _ in stream)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("generate", total=total, completed=done)
        yield lambda count: progress.update(task, completed=done + count)


def _lines(source: str) -> Iterator[str]:
    if source != "-":
        return read_lines(source)
    # As bytes, so that a line ends where it does in a file.
    given = getattr(sys.stdin, "buffer", None)
    return lines_of(given or (line.encode() for line in sys.stdin), "standard input")


def _add_loading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    _add_quantization(parser)
    parser.add_argument("--vocabulary", help="`bytes` or a SentencePiece file (the checkpoint's)")
    _add_set(parser, "CHECKPOINT")


def _add_set(parser: argparse.ArgumentParser, source: str) -> None:
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help=f"a field of the architecture that {source} does not tell (T5X: feed_forward_proj); "
        "repeatable",
    )


def _fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """What --set says."""
    from t5jax.yaml_files import parse_yaml

    fields = {}
    for item in arguments.set:
        name, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"--set {item} must be FIELD=VALUE")
        fields[name] = parse_yaml(value, f"--set {item}")
    return fields


def _add_quantization(parser: argparse.ArgumentParser, more: str = "") -> None:
    parser.add_argument(
        "--quantize",
        choices=("int8", "int4"),
        help="kernels in eight or four bits a weight" + more,
    )
    parser.add_argument(
        "--float_head", action="store_true", help="with --quantize: leave the head as it is"
    )


def _check_quantization(arguments: argparse.Namespace) -> None:
    if arguments.float_head and not arguments.quantize:
        raise ValueError("--float_head needs --quantize; without it every head is as it is")


def _load(arguments: argparse.Namespace, path: str | None = None) -> t5jax.Text2Text:
    _check_quantization(arguments)
    return t5jax.load(
        path or arguments.checkpoint,
        dtype=arguments.dtype,
        vocabulary=arguments.vocabulary,
        quantize=arguments.quantize,
        quantize_head=not arguments.float_head,
        # An assistant's files tell, or do not, on their own.
        **({} if path else _fields(arguments)),
    )


def _add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "generation options (default: the checkpoint's)",
        "IDS are numbers divided by commas. What can be given several times makes a list.",
    )
    types = typing.get_type_hints(GenerationOptions)
    for field in dataclasses.fields(GenerationOptions):
        name, meaning = f"--{field.name}", field.metadata["help"]
        kind = types[field.name]
        if kind is bool:
            action = argparse.BooleanOptionalAction
            help = f"{meaning} ({field.default})"
            group.add_argument(name, action=action, default=None, help=help)
            continue
        # (True, False, "never") are words here, and of None or () there is nothing to show.
        default = str(field.default).lower() if field.default not in (None, ()) else "none"
        parse, metavar, several = _KINDS[kind]
        group.add_argument(
            name,
            type=parse,
            metavar=metavar,
            action="append" if several else "store",
            help=f"{meaning} ({default}){'; repeatable' if several else ''}",
        )


def _parse_ids(text: str) -> Ids:
    return tuple(int(word) for word in text.split(","))


def _parse_early_stopping(text: str) -> bool | str:
    words: dict[str, bool | str] = {"true": True, "false": False, "never": "never"}
    if text.lower() not in words:
        raise argparse.ArgumentTypeError(f"{text!r} must be true, false or never")
    return words[text.lower()]


def _parse_decay(text: str) -> Decay:
    start, factor = text.split(",")
    return int(start), float(factor)


def _parse_bias(text: str) -> Bias:
    ids, value = text.split("=")
    return _parse_ids(ids), float(value)


def _parse_phrase(text: str) -> Phrase:
    return tuple(_parse_ids(ids) for ids in text.split("|"))


# What argparse calls a value that it cannot parse.
for _parse, _name in (
    (_parse_ids, "IDS"),
    (_parse_decay, "START,FACTOR"),
    (_parse_bias, "IDS=NUMBER"),
    (_parse_phrase, "IDS|IDS"),
):
    _parse.__name__ = _name
# By an option's type: how a word is read, what --help calls it, whether several make a list.
_KINDS: dict[Any, tuple[Any, str, bool]] = {
    int: (int, "INT", False),
    float: (float, "FLOAT", False),
    int | None: (int, "INT", False),
    float | None: (float, "FLOAT", False),
    EarlyStopping: (_parse_early_stopping, "true|false|never", False),
    Ids: (_parse_ids, "IDS", False),
    tuple[Ids, ...]: (_parse_ids, "IDS", True),
    Decay | None: (_parse_decay, _parse_decay.__name__, False),
    tuple[Bias, ...]: (_parse_bias, _parse_bias.__name__, True),
    tuple[Phrase, ...]: (_parse_phrase, "IDS|IDS|…", True),
    tuple[str, ...]: (str, "TEXT", True),
    tuple[str | Ids, ...]: (str, "TEXT", True),
}


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {name: getattr(arguments, name) for name in GenerationOptions.names()}
    return {name: value for name, value in given.items() if value is not None}


# convert


def _add_convert(commands: Any) -> None:
    from t5jax.formats.detect import FORMATS

    parser = commands.add_parser(
        "convert",
        help="write a checkpoint in another format",
        description="Reads a checkpoint of any format, one parameter at a time, and writes it in "
        "another. Every tensor of the source must find its place, and every parameter its tensor.",
    )
    parser.add_argument("source", metavar="SRC", help="a folder, or an id of the Hugging Face hub")
    parser.add_argument("target", metavar="DST", help="the folder to write")
    parser.add_argument("--format", required=True, choices=FORMATS)
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="of the written parameters; float16 holds what is at most 65,504 (as in SRC)",
    )
    _add_quantization(parser, "; --format t5jax only")
    parser.add_argument("--vocabulary", help="`bytes` or a SentencePiece file (that of SRC)")
    parser.add_argument(
        "--allow",
        action="append",
        default=[],
        metavar="PATTERN",
        help="regular expression of tensors that may be left out, or start from zeros; repeatable",
    )
    _add_set(parser, "SRC")
    parser.set_defaults(run=_convert)


def _convert(arguments: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.progress import track

    from t5jax.formats.detect import open_checkpoint, report_assumed, write_checkpoint
    from t5jax.ops.quantized import Scheme

    if user_path(arguments.target).exists():
        raise FileExistsError(f"{arguments.target} exists; choose another folder or delete it")
    _check_quantization(arguments)
    checkpoint = open_checkpoint(
        arguments.source,
        vocabulary=arguments.vocabulary,
        allow=arguments.allow,
        **_fields(arguments),
    )
    report_assumed(arguments.source, checkpoint)
    dtype = None if arguments.dtype is None else jnp.dtype(arguments.dtype)
    if arguments.quantize:
        source, scheme = checkpoint, Scheme(arguments.quantize, not arguments.float_head)
        checkpoint = dataclasses.replace(
            source,
            quantized=lambda dtype, mesh: source.params(
                dtype or np.float32, mesh, inference=True, quantize=scheme
            ),
        )
    console = Console(stderr=True)
    write_checkpoint(
        arguments.target,
        checkpoint,
        arguments.format,
        dtype=dtype,
        track=lambda names: track(
            list(names), "writing", console=console, disable=not console.is_terminal
        ),
    )
    count = sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values())
    print(f"{arguments.target}: {count:,} parameters in {len(checkpoint.tensors)} tensors")
    for kind, names in (("unused", checkpoint.unused), ("zeros for", checkpoint.missing)):
        for name in names:
            print(f"  {kind} {name}")
    if checkpoint.vocabulary is None:
        print("  without a vocabulary: give one with --vocabulary, or to load()")


# tasks


def _add_tasks(commands: Any) -> None:
    parser = commands.add_parser("tasks", help="list tasks, or show one task's examples")
    parser.add_argument("name", metavar="NAME", nargs="?", help="a pattern with * lists what fits")
    parser.add_argument("--split", default="train", help="split to show (%(default)s)")
    add_number(parser, "--n", int, "examples to show", default=3, least=1)
    add_number(parser, "--inputs", int, "tokens to cut inputs to; default: nothing is cut", least=1)
    add_number(parser, "--targets", int, "tokens to cut targets to", least=1)
    parser.add_argument("--vocabulary", default="bytes", help="as in a config (%(default)s)")
    parser.add_argument("--modules", default="", help="your task modules, divided by commas")
    parser.set_defaults(run=_tasks)


def _tasks(arguments: argparse.Namespace) -> None:
    standard_streams.need_stdout()
    from t5jax.vocabulary import make_vocabulary

    vocabulary = make_vocabulary(arguments.vocabulary)
    _import_tensorflow()
    import seqio

    from t5jax.config import LengthsConfig
    from t5jax.tasks import faults, registry

    registry.load_modules(names_of(arguments.modules))
    if arguments.name is None or "*" in arguments.name:
        listed = registry.listing(arguments.name or "*")
        width = max(len(name) for rows in listed.values() for name in rows)
        for heading, rows in listed.items():
            print(heading)
            for name, about in rows.items():
                print(f"  {name:{width}}  {about}".rstrip())
        return
    theirs = registry.seqio_vocabulary(vocabulary)
    provider = registry.with_vocabulary(arguments.name, theirs)
    if arguments.split not in provider.splits:
        raise ValueError(
            f"{arguments.name} has no split {arguments.split!r}; it has "
            f"{', '.join(sorted(provider.splits))}"
        )
    lengths = {
        name: length
        for name, length in (("inputs", arguments.inputs), ("targets", arguments.targets))
        if length is not None
    }
    if not lengths and registry.needs_lengths(provider):
        lengths = dataclasses.asdict(LengthsConfig())
    split = arguments.split
    for task in seqio.get_subtasks(provider):
        faults.check_features(task, lengths)
    with faults.reading(provider, split, lengths or None):
        dataset = provider.get_dataset(lengths or None, split, shuffle=False, seed=0, num_epochs=1)
        examples = dataset.take(arguments.n).as_numpy_iterator()
        for example in faults.checked(provider, split, lengths or None, examples):
            for name in ("inputs", "targets"):
                ids = example[name].tolist()
                written = example.get(f"{name}_pretokenized", b"").decode(errors="replace")
                text = written or vocabulary.decode(ids)
                print(f"{name:8} {text}\n{'':8} {' '.join(map(str, ids))}")
            print()


# vocabulary


def _add_vocabulary(commands: Any) -> None:
    parser = commands.add_parser(
        "vocabulary", help="train a SentencePiece model on the text of a task's train split"
    )
    parser.add_argument("name", metavar="NAME", help="task or mixture")
    parser.add_argument("output", metavar="OUTPUT.model")
    add_number(parser, "--size", int, "pieces", default=256, least=1)
    add_number(
        parser,
        "--words",
        int,
        "make the N most frequent words one piece each, whatever else is learnt",
        default=0,
        least=0,
        metavar="N",
    )
    add_number(parser, "--examples", int, "to learn from", default=100_000, least=1)
    parser.add_argument("--modules", default="", help="your task modules, divided by commas")
    parser.set_defaults(run=_vocabulary)


def _vocabulary(arguments: argparse.Namespace) -> None:
    _import_tensorflow()
    import seqio

    from t5jax.tasks import registry
    from t5jax.tasks.corpus import texts_of
    from t5jax.vocabulary import frequent_words, train_sentencepiece

    registry.load_modules(names_of(arguments.modules))
    # A mixture keeps the ids alone, so the text is read from its tasks, as much from each.
    tasks = seqio.get_subtasks(registry.get(arguments.name))
    texts = [
        text for task in tasks for text in texts_of(task, "train", arguments.examples // len(tasks))
    ]
    vocabulary = train_sentencepiece(
        texts,
        arguments.output,
        vocab_size=arguments.size,
        symbols=frequent_words(texts, arguments.words),
    )
    sample = texts[:: max(1, len(texts) // 2000)]
    ids = sum(len(vocabulary.encode(text)) for text in sample) / len(sample)
    print(f"{arguments.output}: {arguments.size} pieces, {ids:.1f} of them in a text on average")
