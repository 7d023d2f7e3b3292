"""transformers, with PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
import transformers
from transformers.trainer_pt_utils import LengthGroupedSampler

from contenders.inputs import random_ids, read_examples


def _load(folder: str, dtype: str) -> transformers.PreTrainedModel:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    transformers.logging.disable_progress_bar()
    kind = transformers.AutoModelForSeq2SeqLM
    return kind.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device).eval()


def decoding(folder: str, dtype: str, compiled: bool = False) -> Callable:
    """Greedy decoding, or beam search: ids of int[rows, outputs].

    `compiled`: with a static cache and torch.compile, as transformers' documentation advises.
    """
    model = _load(folder, dtype)
    options: dict = {}
    if compiled:
        # On a GPU, generate compiles by itself with a static cache; on a CPU it has to be told.
        options = {"cache_implementation": "static"}
        if model.device.type == "cpu":
            config = transformers.CompileConfig(mode="default", fullgraph=False)
            config._compile_all_devices = True
            options["compile_config"] = config

    def prepare(rows: int, inputs: int, outputs: int, beams: int) -> Callable[[], np.ndarray]:
        ids = torch.tensor(random_ids(folder, rows, inputs), device=model.device)

        def run() -> np.ndarray:
            with torch.inference_mode():
                found = model.generate(
                    ids, attention_mask=torch.ones_like(ids), do_sample=False,
                    num_beams=beams, max_new_tokens=outputs, min_new_tokens=outputs, **options,
                )  # fmt: skip
            return found[:, 1:].cpu().numpy()

        return run

    return prepare


def encoding(folder: str, dtype: str) -> Callable:
    """The encoder's hidden states, which are not returned."""
    encoder = _load(folder, dtype).get_encoder()

    def prepare(rows: int, inputs: int) -> Callable[[], None]:
        ids = torch.tensor(random_ids(folder, rows, inputs), device=encoder.device)

        def run() -> None:
            with torch.inference_mode():
                encoder(ids)[0].cpu()

        return run

    return prepare


def training(folder: str, dtype: str) -> Callable:
    """A step of AdamW, forward and backward; the loss is not returned."""

    def prepare(rows: int, inputs: int, targets: int, dropout: float) -> Callable[[], None]:
        kind = transformers.AutoModelForSeq2SeqLM
        model = kind.from_pretrained(folder, dtype=getattr(torch, dtype), dropout_rate=dropout)
        model = model.to("cuda" if torch.cuda.is_available() else "cpu").train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        ids = torch.tensor(random_ids(folder, rows, inputs), device=model.device)
        labels = torch.tensor(random_ids(folder, rows, targets, seed=1), device=model.device)

        def run() -> None:
            loss = model(input_ids=ids, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            float(loss)

        return run

    return prepare


def finetuning(folder: str, dtype: str) -> Callable:
    """A step of AdamW on examples of similar length, padded to the longest; the tokens in it.

    Batches are drawn as Trainer draws them with group_by_length, and shuffled: each of its runs of
    50 batches goes from long to short.
    """

    def prepare(examples: int, dropout: float, **_: object) -> Callable[[], int]:
        kind = transformers.AutoModelForSeq2SeqLM
        model = kind.from_pretrained(folder, dtype=getattr(torch, dtype), dropout_rate=dropout)
        model = model.to("cuda" if torch.cuda.is_available() else "cpu").train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        pairs = read_examples(folder)
        numbers = list(
            LengthGroupedSampler(
                examples,
                lengths=[len(inputs) for inputs, _ in pairs],
                generator=torch.Generator().manual_seed(0),
            )
        )
        batches = [numbers[i : i + examples] for i in range(0, len(numbers), examples)]
        order = itertools.cycle(np.random.default_rng(0).permutation(len(batches)))

        def run() -> int:
            batch = [pairs[number] for number in batches[next(order)]]
            inputs, targets = zip(*batch, strict=True)
            ids, mask = (_padded(inputs, fill, model.device) for fill in (0, None))
            labels = _padded(targets, -100, model.device)
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            float(loss)
            return sum(len(row) for pair in batch for row in pair)

        return run

    return prepare


def _padded(rows: Sequence[list[int]], fill: int | None, device: torch.device) -> torch.Tensor:
    """int64[B, longest], filled up with `fill`; with None the mask, 1 at tokens."""
    width = max(len(row) for row in rows)
    if fill is None:
        rows, fill = [[1] * len(row) for row in rows], 0
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows], device=device)
