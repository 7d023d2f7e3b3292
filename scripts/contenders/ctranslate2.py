"""CTranslate2, which reads transformers' models."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ctranslate2
import numpy as np

from contenders.inputs import random_ids

WORD = "w{}"  # each id is a word


def decoding(folder: str, dtype: str) -> Callable:
    """Greedy decoding, or beam search: ids of int[rows, outputs]."""
    converted = Path(folder) / "ctranslate2"
    if not converted.exists():
        # In a process of its own: the converter imports PyTorch.
        words = [sys.executable, "-c", f"from {__name__} import convert; convert({folder!r})"]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    translator = ctranslate2.Translator(
        str(converted),
        device="cuda" if ctranslate2.get_cuda_device_count() else "cpu",
        compute_type=dtype,
        intra_threads=os.cpu_count() or 1,
    )

    def prepare(rows: int, inputs: int, outputs: int, beams: int) -> Callable[[], np.ndarray]:
        words = [[WORD.format(i) for i in row] for row in random_ids(folder, rows, inputs).tolist()]

        def run() -> np.ndarray:
            results = translator.translate_batch(
                words, beam_size=beams, min_decoding_length=outputs, max_decoding_length=outputs,
                max_batch_size=0, max_input_length=0,
            )  # fmt: skip
            return np.array([[int(w[1:]) for w in r.hypotheses[0]] for r in results])

        return run

    return prepare


def convert(folder: str) -> None:
    """Writes FOLDER/ctranslate2."""
    import tempfile

    import transformers
    from tokenizers import Tokenizer, models

    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    # The converter needs a tokenizer.
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2}
    words |= {WORD.format(i): i for i in range(3, model.config.vocab_size)}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<unk>")),
        pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as whole:
        model.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        target = Path(folder) / "ctranslate2"
        ctranslate2.converters.TransformersConverter(whole).convert(str(target))
