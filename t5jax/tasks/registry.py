"""seqio's registries: tasks by name, with a run's vocabulary, and from users' modules."""

from __future__ import annotations

import atexit
import copy
import dataclasses
import fnmatch
import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import seqio
import tensorflow as tf

from t5jax import user_code
from t5jax.knobs import nearest
from t5jax.tasks import ranking
from t5jax.tasks.faults import reading
from t5jax.tasks.sentinels import sentinel_ids
from t5jax.tasks.wrapped import WrappedBytes, WrappedVocabulary
from t5jax.vocabulary import (
    AddedTokensVocabulary,
    ByteVocabulary,
    SentencePieceVocabulary,
    TokenizerJsonVocabulary,
    Vocabulary,
)

Provider: TypeAlias = seqio.Task | seqio.Mixture

_FILE_TASKS: dict[str, Callable[[Path], seqio.Task]] = {}


def add_file_task(kind: str, make: Callable[[Path], seqio.Task]) -> None:
    """Makes `KIND:FILE` a name of the unregistered task `make(FILE)`."""
    _FILE_TASKS[kind] = make


def task_names() -> list[str]:
    """The names of all registered tasks and mixtures, sorted."""
    return sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})


def get(name: str) -> Provider:
    """The task or mixture of a name, or of a `KIND:FILE`.

    Raises:
      ValueError: an unknown name (the message has the nearest names), or a fault in the file.
      FileNotFoundError: no such file.
    """
    names = task_names()
    if name in names:
        return seqio.get_mixture_or_task(name)
    kind, colon, file = name.partition(":")
    if colon and kind in _FILE_TASKS:
        return _FILE_TASKS[kind](Path(file))
    raise ValueError(_unknown(name))


def is_known(name: str) -> bool:
    """Whether the name is registered, or a `KIND:FILE` of a known kind."""
    kind, colon, _ = name.partition(":")
    return name in task_names() or bool(colon and kind in _FILE_TASKS)


def _unknown(name: str) -> str:
    names = task_names()
    none = (
        f"nor anything near it, of the {len(names)} that `t5jax tasks` lists; your own need "
        "--modules FILE.py (data.modules in a config)"
    )
    hint = nearest(name, names, most=3, cutoff=0.6, otherwise=none)
    return f"no task or mixture is called {name!r}; {hint}"


def listing(pattern: str) -> dict[str, dict[str, str]]:
    """Tasks with their metrics, and mixtures with their size, that match `pattern` ("glue_*").

    Raises:
      ValueError: no match; the message has the nearest names.
    """
    names = fnmatch.filter(task_names(), pattern)
    if not names:
        get(pattern)
    providers = [(name, seqio.get_mixture_or_task(name)) for name in names]
    listed = {
        "tasks": {
            name: " ".join(map(_metric_name, each.metric_fns))
            for name, each in providers
            if isinstance(each, seqio.Task)
        },
        "mixtures": {
            name: f"{len(each.tasks)} tasks"
            for name, each in providers
            if isinstance(each, seqio.Mixture)
        },
    }
    return {heading: rows for heading, rows in listed.items() if rows}


def _metric_name(metric: Callable) -> str:
    name = getattr(metric, "name", None) or getattr(metric, "__name__", None)
    return str(name or type(metric).__name__)


def needs_lengths(provider: Provider) -> bool:
    """Whether a preprocessor needs sequence lengths, as pre-training objectives do."""
    parameters = [
        inspect.signature(step).parameters.get("sequence_length")
        for task in seqio.get_subtasks(provider)
        for step in task.preprocessors
    ]
    return any(p is not None and p.default is inspect.Parameter.empty for p in parameters)


def with_vocabulary(name: str, vocabulary: seqio.Vocabulary) -> Provider:
    """The named task or mixture with every token feature in `vocabulary`.

    The result is not registered, and keeps its name, its tasks' names and their mixing rates.
    Features without tokens (PassThroughVocabulary) stay. An offline cache of tokens holds another
    vocabulary's ids, so the task is preprocessed on the fly.

    Raises:
      ValueError: an unknown name, or a task whose vocabulary cannot be replaced.
    """
    provider = get(name)
    if isinstance(provider, seqio.Task):
        return _task_with_vocabulary(provider, vocabulary)

    def rate_of(task: seqio.Task) -> float:
        return provider.get_rate(registered[task.name])

    # Flat: `tasks` includes submixtures' tasks, and seqio samples them by get_rate. Rates stay
    # functions, because some read the sizes of data sets.
    registered = {task.name: task for task in provider.tasks}
    for task in registered.values():
        _count_examples(task)
    return seqio.Mixture(
        provider.name,
        [(_task_with_vocabulary(task, vocabulary), rate_of) for task in registered.values()],
        sample_fn=provider._sample_fn,  # not public in seqio
    )


def _count_examples(task: seqio.Task) -> None:
    """Makes a task count its rows if its source does not know its size, as text files do not.

    Rates such as seqio.mixing_rate_num_examples need it. A split is read once, on demand.
    """
    known = task.num_input_examples

    @functools.cache
    def count(split: str) -> int:
        size = known(split)
        if size is None:
            with reading(task, split):
                rows = task.source.get_dataset(split, shuffle=False)
                if rows.cardinality() == tf.data.INFINITE_CARDINALITY:
                    raise ValueError(
                        f"task {task.name} has rows without end, so that no mixing rate can be "
                        "their number; give the mixture a number"
                    )
                size = int(rows.reduce(np.int64(0), lambda total, _: total + 1))
        return size

    if not hasattr(known, "cache_info"):  # not one of these already
        setattr(task, "num_input_examples", count)  # noqa: B010


def _task_with_vocabulary(task: seqio.Task, vocabulary: seqio.Vocabulary) -> seqio.Task:
    features = {
        name: feature
        if isinstance(feature.vocabulary, seqio.PassThroughVocabulary)
        else dataclasses.replace(feature, vocabulary=vocabulary)
        for name, feature in task.output_features.items()
    }
    same = features == dict(task.output_features)
    if same and _sentinels(features) == _sentinels(task.output_features):
        return task
    # Byte vocabularies with other sentinels are equal, and a cache of bytes stays valid.
    steps = list(task.preprocessors) if same else _uncached(task)
    replaced = task.replace(output_features=features, preprocessors=steps)
    if type(replaced) is not type(task):
        raise ValueError(
            f"task {task.name!r} is a {type(task).__name__}, and its replace() makes a plain "
            f"{type(replaced).__name__}; override replace() so that it can change its vocabulary"
        )
    return replaced


def _sentinels(features: Mapping[str, seqio.Feature]) -> dict[str, Sequence[int]]:
    """The sentinels of byte features."""
    return {
        name: list(sentinel_ids(feature.vocabulary))
        for name, feature in features.items()
        if isinstance(feature.vocabulary, seqio.ByteVocabulary)
    }


def _uncached(task: seqio.Task) -> list:
    """The task's preprocessors without an offline cache of tokens."""
    steps = list(task.preprocessors)
    for i, step in enumerate(steps):
        if isinstance(step, seqio.CacheDatasetPlaceholder):
            # A step with this argument gets the vocabularies from seqio: it may tokenize.
            if any("output_features" in inspect.signature(s).parameters for s in steps[:i]):
                if step.required:
                    raise ValueError(
                        f"task {task.name!r} requires its offline cache, which holds ids of "
                        "another vocabulary; use the vocabulary that it is registered with"
                    )
                return steps[:i] + steps[i + 1 :]
            break
    return steps


def evaluator(
    provider: Provider, feature_converter: seqio.FeatureConverter, **options: object
) -> seqio.Evaluator:
    """A seqio.Evaluator of a provider that need not be registered.

    seqio.Evaluator looks a name up in its constructor, so the provider is registered temporarily
    under a unique name. Results have the names of its tasks.
    """
    if isinstance(provider, seqio.Task):
        # Without TensorFlow's cache, which warns if only the first examples are read.
        provider = copy.copy(provider)
        read: Any = functools.partial(provider.get_dataset, try_in_mem_cache=False)
        setattr(provider, "get_dataset", read)  # noqa: B010
    registry = seqio.TaskRegistry if isinstance(provider, seqio.Task) else seqio.MixtureRegistry
    key = f"{provider.name}:{uuid.uuid4().hex}"
    registry.add_provider(key, provider)
    try:
        return seqio.Evaluator(key, feature_converter, **options)
    finally:
        registry.remove(key)


def seqio_vocabulary(vocabulary: Vocabulary) -> seqio.Vocabulary:
    """seqio's vocabulary with the same ids.

    seqio reads SentencePiece models from files: the vocabulary's file if it still holds the same
    model, else a copy that is deleted at exit. tokenizer.json and added tokens are wrapped.

    Raises:
      TypeError: an unknown class of vocabulary.
    """
    if isinstance(vocabulary, TokenizerJsonVocabulary | AddedTokensVocabulary):
        return WrappedVocabulary(vocabulary)
    if isinstance(vocabulary, ByteVocabulary):
        return WrappedBytes(vocabulary)
    if not isinstance(vocabulary, SentencePieceVocabulary):
        raise TypeError(f"seqio has no vocabulary like {vocabulary!r}")
    if vocabulary.path is not None and vocabulary.path.is_file():
        theirs = seqio.SentencePieceVocabulary(str(vocabulary.path), vocabulary.extra_ids)
        # seqio caches models by path, even if the file has changed.
        if _same_model(theirs, vocabulary):
            return theirs
    return seqio.SentencePieceVocabulary(str(_model_file(vocabulary.model)), vocabulary.extra_ids)


def _same_model(theirs: seqio.SentencePieceVocabulary, ours: SentencePieceVocabulary) -> bool:
    return theirs.tokenizer.serialized_model_proto() == ours.processor.serialized_model_proto()


@functools.cache
def _scratch() -> Path:
    folder = tempfile.mkdtemp(prefix="t5jax-vocabulary-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def _model_file(model: bytes) -> Path:
    path = _scratch() / f"{hashlib.sha256(model).hexdigest()[:16]}.model"
    if not path.exists():
        path.write_bytes(model)
    return path


def load_modules(names: Sequence[str]) -> Mapping[str, ModuleType]:
    """Imports users' task modules, each once, by dotted name or path of a .py file.

    Warns on stderr of a module that registers nothing.

    Returns:
      The modules by the given names.

    Raises:
      ValueError: a module cannot be imported (names module, cause and line), or a mixture has the
        name of a task.
    """
    modules = {name: _load_module(name) for name in names}
    if both := sorted(set(seqio.TaskRegistry.names()) & set(seqio.MixtureRegistry.names())):
        raise ValueError(f"{both[0]!r} is both a task and a mixture; rename one of them")
    return modules


def _load_module(name: str) -> ModuleType:
    before, imported = _registered(), set(sys.modules)
    try:
        module = _load_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except Exception as error:  # a user's module may raise anything
        raise ValueError(f"cannot import the task module {name!r}{_why(error)}") from error
    if module.__name__ not in imported and _registered() == before:
        print(
            f"warning: the module {name!r} registers no task, no mixture and no answers; "
            "seqio.TaskRegistry.add registers a task",
            file=sys.stderr,
        )
    if module.__file__ is not None:
        user_code.declare(module.__file__)
    return module


def _registered() -> tuple[object, ...]:
    """Everything that a module can register."""
    return task_names(), dict(ranking.declared()), dict(_FILE_TASKS)


def _why(error: Exception) -> str:
    place = user_code.place_of(error)
    cause = user_code.cause_of(error)
    if taken := re.search(r"duplicate provider: (\S+)", cause):
        cause += f": there is a {taken[1]!r} already; register it under another name"
    if missing := re.search(r"name not registered: (\S+)", cause):
        cause += f": {_unknown(missing[1])}"
    # Without a line in a user's code, the module was not found.
    named = f": {place}" if place else " (a dotted name, or a path that ends in .py)"
    return f"{named}: {cause}"


def _load_file(path: Path) -> ModuleType:
    path = path.resolve()
    # One module per file: running it twice would register its tasks twice, which seqio refuses.
    key = f"t5jax_user_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if key in sys.modules:
        return sys.modules[key]
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[key]
        raise
    return module
